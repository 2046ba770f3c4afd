"""The gate on few pictures: one of them is a large share, and says nothing."""

from types import SimpleNamespace

import numpy as np
import pytest

from export.bounds import BOUNDS
from export.parity import _on_real

NORMAL = np.linspace(0.5, 0.8, 4)
ANOMALOUS = np.linspace(1.3, 3.0, 10)


def failures(quantization, moved: dict[int, float]) -> list[str]:
    """Of an export whose scores are the trained ones but for some, by row."""
    scores = np.concatenate([NORMAL, ANOMALOUS]).astype(np.float32)
    found = scores.copy()
    for row, score in moved.items():
        found[row] = score
    truth = np.arange(14) >= 4
    samples = SimpleNamespace(real=scores, is_anomaly=truth, anomalies="test", is_test=truth | True)
    model = SimpleNamespace(run=lambda _: {"score": found, "is_anomaly": found > 1}, threshold=1.0)
    detector = SimpleNamespace(score=lambda pictures: scores)
    gathered = []
    exportable = SimpleNamespace(detector=detector, alpha=1.0)
    _on_real(model, exportable, samples, BOUNDS[quantization], gathered)
    return gathered


@pytest.mark.parametrize("quantization", ["fp16", "int8"])
def test_one_decision_and_one_swapped_pair_pass_where_scores_are_free(quantization):
    assert failures(quantization, {}) == []
    assert failures(quantization, {4: 0.79}) == []  # the mildest anomaly: below one normal picture
    assert failures(quantization, {4: 0.65}) == ["AUROC 0.9500 instead of 1.0000"]
    assert failures(quantization, {4: 0.81, 5: 0.82}) == ["14.3 % of the decisions differ"]


def test_nothing_may_differ_where_nothing_is_rounded():
    assert failures(None, {4: 0.79}) == [
        "AUROC 0.9750 instead of 1.0000", "7.1 % of the decisions differ"
    ]  # fmt: skip


def encoded_failures(monkeypatch, off: float) -> tuple[dict, list[str]]:
    """Of a model to which one level means half of its score, `off` by a share in its own graph."""
    from export import parity_bytes

    def scores(pixels):
        return (1e-3 + np.asarray(pixels, np.float64).mean((1, 2, 3)) % 1).astype(np.float32)

    def run(signature, inputs, names=None):
        pixels = parity_bytes._decode(inputs["image_bytes"], model.shape, 8).numpy()
        return {"score": scores(pixels) * np.float32(1 + off)}

    loaded = SimpleNamespace(signatures={"score_bytes": None}, run=run)
    model = SimpleNamespace(shape=(12, 12, 1), depth=8, score=scores, loaded=loaded)
    monkeypatch.setattr(parity_bytes, "_check_examples", lambda *_: None)
    real = np.random.default_rng(0).integers(0, 255, (8, 12, 12, 1), np.uint8)
    gathered = []
    record = parity_bytes.check_encoded(model, None, SimpleNamespace(real=real), gathered)
    return record, gathered


def test_a_model_that_sees_every_level_is_exported_and_a_wrong_graph_is_not(monkeypatch):
    record, found = encoded_failures(monkeypatch, 0.0)
    assert found == []
    assert max(each["worst_relative"] for each in record["formats"].values()) > 0.01  # and is told
    _, found = encoded_failures(monkeypatch, 1e-3)
    assert [each.split(":")[0] for each in found] == [
        "PNG bytes do not score as their own pixels", "JPEG bytes do not score as their own pixels"
    ]  # fmt: skip
