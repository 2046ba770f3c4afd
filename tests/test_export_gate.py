"""The gate of exports, and kinds of files in the exported graph."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import serving_fixtures as toy
import tensorflow as tf
from PIL import Image
from test_kinds_of_files import READ, cases, png
from test_what_is_lost import sixteen

from export.parity import BOUNDS, _on_real
from export.savedmodel import decode_pictures
from lisae_tf.data.pictures import decode, portable
from lisae_tf.exported.saved_model import load
from lisae_tf.exported.signatures import RequestError
from lisae_tf.serving import inference
from lisae_tf.serving.limits import Limits
from lisae_tf.serving.scores import ScoringClient

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


def in_graph(data, shape, depth=None):
    return decode_pictures(tf.constant([data]), shape, depth).numpy()[0]


@pytest.mark.parametrize("data, _pixels", cases(READ))
@pytest.mark.parametrize("channels", [1, 3])
def test_the_graph_decodes_what_is_sent_as_files_are_decoded(data, _pixels, channels):
    expected = decode(data, channels=channels)
    np.testing.assert_array_equal(in_graph(portable(data), expected.shape), expected)


@pytest.mark.parametrize("depth", [8, 12, 15, 16, None])
def test_the_graph_has_the_depth(depth):
    levels = np.random.default_rng(0).integers(0, 2**16, (40, 30)) >> (16 - (depth or 16))
    levels[3] = 65535
    data = sixteen(levels)
    for channels in (1, 3):
        expected = decode(data, channels=channels, depth=depth)
        np.testing.assert_array_equal(in_graph(data, expected.shape, depth), expected)


@pytest.mark.parametrize("depth", [12, None])
def test_the_graph_alone_lays_alpha_over_white(depth):
    """For clients that are not ours; other kinds have no depth."""
    random = np.random.default_rng(0)
    for kind, channels in ((4, 2), (6, 4)):
        samples = random.integers(0, 256, (9, 8, channels))
        stream = io.BytesIO()
        Image.fromarray(samples.astype(np.uint8)).save(stream, "PNG")
        for data in (stream.getvalue(), png(samples.astype(np.uint16) * 257, kind)):
            np.testing.assert_array_equal(
                in_graph(data, (9, 8, 3), depth), decode(data, channels=3, depth=depth)
            )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return load(toy.write_model(folder, 1), folder, toy.NAME, 1)


def files(image):
    """One picture in kinds of files that TensorFlow reads otherwise or not at all."""
    tags = Image.Exif()
    tags[274] = 6
    upright, turned = Image.fromarray(image), Image.fromarray(np.rot90(image).copy())
    for picture, kind, options in (
        (upright, "TIFF", {}), (upright, "BMP", {}), (upright, "WEBP", {"lossless": True}),
        (turned, "PNG", {"exif": tags}), (turned, "TIFF", {"exif": tags}),
    ):  # fmt: skip
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        yield stream.getvalue()


def test_the_server_reads_every_kind_as_files_are_read(served):
    image = toy.pictures(1)[0]
    encoded = list(files(image))
    expected = np.repeat(toy.expected(image[None]), len(encoded))
    given = {"image_bytes": inference.strings(encoded)}
    found = inference.predict(served, Limits(), "score_bytes", given)
    np.testing.assert_allclose(found["score"], expected, rtol=1e-5)
    examples = []
    for data in encoded:
        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
        features = tf.train.Features(feature={"image_bytes": value})
        examples.append(tf.train.Example(features=features).SerializeToString())
    found = inference.regress(served, Limits(), "regress", examples)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_server_refuses_several_pages_in_one_sentence(served):
    stream = io.BytesIO()
    page = Image.fromarray(toy.pictures(1)[0])
    page.save(stream, "TIFF", save_all=True, append_images=[page])
    given = {"image_bytes": inference.strings([stream.getvalue()])}
    with pytest.raises(RequestError, match="save each as a file of its own"):
        inference.predict(served, Limits(), "score_bytes", given)


class Recording(ScoringClient):
    """Keeps what it would send."""

    def predict(self, inputs, signature=""):
        self.sent = inputs["image_bytes"]
        return {"score": np.zeros(len(self.sent)), "is_anomaly": np.zeros(len(self.sent), bool)}

    def status(self):
        return []


def test_the_clients_send_what_any_server_reads():
    image = toy.pictures(1)[0]
    client = Recording(toy.NAME)
    plain = toy.png(image)
    client.score_encoded([plain, *files(image), b"no picture"])
    assert client.sent[0] is plain and client.sent[-1] == b"no picture"
    for data in client.sent[:-1]:
        np.testing.assert_array_equal(tf.io.decode_png(data, 3), image)
