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
    artefact = SimpleNamespace(detector=detector, alpha=1.0)
    _on_real(model, artefact, samples, BOUNDS[quantization], gathered)
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
