"""Laws that every trained detector keeps: nothing but a picture itself decides its score.

A law takes a trained detector, twenty pictures and an empty folder. `test_detectors` and
`test_tiling` hold theirs to it; the laws say nothing of how good a score is.
"""

import keras
import numpy as np
import onnxruntime
import pytest
from training_fixtures import as_bytes

from lisae_tf.core.arrays import BATCH_SIZE
from lisae_tf.core.errors import LisaeError
from lisae_tf.detectors import load_detector
from lisae_tf.detectors.base import CONFIG, SIDECAR, WEIGHTS
from lisae_tf.model.scoring import scoring_graph

# Float32 sums in another order; the linear case's small scores are differences of large numbers.
RTOL, ATOL = 1e-5, 1e-7


def assert_close(found, expected, rtol=RTOL):
    """To `rtol`; where scores take both signs, of the usual score: zero is a point like any."""
    usual = np.median(np.abs(expected)) if np.min(expected) < 0 else 0
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=max(ATOL, rtol * usual))


def scores_of(detector, pictures):
    found = detector.score(pictures)
    assert (found.shape, found.dtype) == ((20,), np.float32)
    assert len(np.unique(found)) > 10  # or the order would say nothing
    return found


def order_says_nothing(detector, pictures, place):
    order = np.random.default_rng(0).permutation(20)
    assert_close(detector.score(pictures[order]), scores_of(detector, pictures)[order])
    if detector.has_maps:
        maps = detector.error_maps(pictures)
        found = detector.error_maps(pictures[order])
        np.testing.assert_allclose(found, maps[order], rtol=1e-4, atol=1e-6 * maps.max())


def company_and_batches_say_nothing(detector, pictures, place):
    score, scores = detector.score, scores_of(detector, pictures)
    assert_close(np.concatenate([score(each[None]) for each in pictures[:7]]), scores[:7])
    assert_close(score(pictures[3:16]), scores[3:16])
    many = np.concatenate([pictures] * (BATCH_SIZE // 20 + 1))
    assert len(many) > BATCH_SIZE
    assert_close(score(many)[-20:], scores)
    assert score(pictures[:0]).shape == (0,)


def scoring_changes_nothing(detector, pictures, place):
    images, scores = pictures.copy(), scores_of(detector, pictures)
    before = as_bytes(detector.arrays())
    assert before
    np.testing.assert_array_equal(detector.score(images), scores)
    np.testing.assert_array_equal(images, pictures)
    assert as_bytes(detector.arrays()) == before


def nothing_is_lost_on_disk(detector, pictures, place):
    detector.save(place)
    assert sorted(path.name for path in place.iterdir()) == sorted([CONFIG, SIDECAR, WEIGHTS])
    loaded = load_detector(place)
    assert as_bytes(loaded.arrays()) == as_bytes(detector.arrays())
    assert (loaded.shape, loaded.threshold_) == (detector.shape, detector.threshold_)
    for one, other in zip(
        loaded.score_phases(pictures), detector.score_phases(pictures), strict=True
    ):
        assert (one is None) == (other is None)
        np.testing.assert_array_equal(one, other)
    if detector.has_maps:
        maps = detector.error_maps(pictures)
        np.testing.assert_array_equal(loaded.error_maps(pictures), maps)


def other_arrays_than_pictures_as_trained_on_are_refused(detector, pictures, place):
    height, width, channels = detector.shape
    for wrong in (
        np.zeros((2, height, width, 4 - channels), np.uint8),
        np.zeros((2, height + 4, width, channels), np.uint8),
        np.zeros((2, height, width, channels), np.float32),
        np.zeros((height, width, channels), np.uint8),
        [[1]],
    ):
        with pytest.raises(LisaeError, match="pictures must be uint8"):
            detector.score(wrong)


def keras_stores_and_loads_the_graph(detector, pictures, place):
    detector.graph.save(place / "graph.keras")
    loaded = keras.saving.load_model(place / "graph.keras")
    found, expected = (each(pictures, training=False) for each in (loaded, detector.graph))
    assert found.keys() == expected.keys() >= {"score", "is_anomaly"}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def an_export_scores_and_decides_alike(detector, pictures, place):
    from export import onnx_format
    from export.exportable import Exportable

    scores, alpha = scores_of(detector, pictures), detector.threshold_.alpha
    graph = scoring_graph(detector.inference(), error_map=detector.has_maps)
    record = {"metadata": {}, "version": 1, "threshold": detector.threshold_.to_json()}
    path = onnx_format.write(Exportable(detector, graph, "m", "uint8", record), place, None)
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"image": pictures}), strict=True))
    assert_close(found["score"], scores, rtol=1e-4)
    clear = np.abs(scores - alpha) > 1e-3 * np.abs(scores)
    assert clear.sum() > 10
    np.testing.assert_array_equal(found["is_anomaly"][clear], scores[clear] > alpha)
    assert ("error_map" in found) == detector.has_maps


OF_ALL = (
    order_says_nothing,
    company_and_batches_say_nothing,
    scoring_changes_nothing,
    nothing_is_lost_on_disk,
    other_arrays_than_pictures_as_trained_on_are_refused,
)
OF_GRAPHS = (keras_stores_and_loads_the_graph, an_export_scores_and_decides_alike)
