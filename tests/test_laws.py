"""Laws that every detector keeps, on pixels, tiles and features: a table of laws, one of detectors.

A training here is as short as it may be: the laws say nothing of how good a score is.
"""

import functools

import keras
import numpy as np
import onnxruntime
import pytest
from conftest import steps_of_an_epoch
from training_fixtures import as_bytes, tiny_config

from lisae_tf.config.variants import ROWS
from lisae_tf.core.arrays import BATCH_SIZE
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.augmentation import random_flip_left_right, random_flip_up_down, random_strokes
from lisae_tf.detectors import DETECTORS, load_detector, make_detector
from lisae_tf.detectors.base import CONFIG, SIDECAR, WEIGHTS
from lisae_tf.detectors.graph import GraphDetector
from lisae_tf.detectors.rows import RowDetector
from lisae_tf.model.scoring import scoring_graph

SHORT = {
    "network": {"latent": 4, "filters": [2, 2]},
    "feature_extraction": {"epochs": 1, "batch_size": 16, "warmup_steps": 2},
    "latent_shaping": {"epochs": 1, "batch_size": 16},
    "hypersphere": {"epochs": 1},
    "anogan": {"epochs": 1, "critic_steps": 1, "encoder_epochs": 1},
    "knn": {"bank": 50},
    "lis_knn": {"bank": 50},
}
FEATURES = {"features": {"taps": ["block_1", "block_2"], "places": 1000, "made": 20}}
TILES = {"data": {"size": [8, 12], "tile": 8, "stride": 4}}
# Settings and shape of the pictures of each detector.
KINDS = {
    name: ({"variant": name} | FEATURES, (32, 32, 3))
    if issubclass(DETECTORS[name], RowDetector)
    else ({"variant": name}, (8, 8, 1))
    for name in ROWS
} | {
    "lis on tiles": ({"variant": "lis"} | TILES, (8, 12, 1)),
    "bce on tiles": ({"variant": "bce"} | TILES, (8, 12, 1)),
    "linear-lis on features": (
        {"variant": "linear-lis", "scoring": {"highest_share": 0.05}} | FEATURES, (32, 32, 3)
    ),
}  # fmt: skip
# They train as one of the others does: `ae` as `lis`, the rest with another head, latent or cut.
TRAINED_ALIKE = {
    "ae", "linsep-fused", "mem-ae", "sig-repnn", "anogan-fm", "bce", "hsc", "oc-dsvdd",
    "lis on tiles", "bce on tiles",
}  # fmt: skip
# Float32 sums in another order; the linear case's small scores are differences of large numbers.
RTOL, ATOL = 1e-5, 1e-7


def assert_close(found, expected, rtol=RTOL):
    """To `rtol`; where scores take both signs, of the usual score: zero is a point like any."""
    usual = np.median(np.abs(expected)) if np.min(expected) < 0 else 0
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=max(ATOL, rtol * usual))


def noise(kind, count, level, seed):
    random = np.random.default_rng(seed)
    return (random.random((count, *KINDS[kind][1])) * 60 + level).astype(np.uint8)


def fit(detector, kind, level):
    negative = noise(kind, 40, 150, 1) if ROWS[detector.config.variant].negatives else None
    with steps_of_an_epoch(5):
        return detector.fit(noise(kind, 60, level, 0), negative)


@functools.cache
def fitted(kind):
    return fit(make_detector(tiny_config(**SHORT | KINDS[kind][0])), kind, 60)


@functools.cache
def pictures(kind):
    """As it was trained on, and others."""
    return np.concatenate([noise(kind, 10, 60, 2), noise(kind, 10, 120, 3)])


@functools.cache
def scores(kind):
    found = fitted(kind).score(pictures(kind))
    assert (found.shape, found.dtype) == ((20,), np.float32)
    assert len(np.unique(found)) > 10  # or the order would say nothing
    return found


# The laws


def order_says_nothing(kind, place):
    order = np.random.default_rng(0).permutation(20)
    assert_close(fitted(kind).score(pictures(kind)[order]), scores(kind)[order])
    if fitted(kind).has_maps:
        maps = fitted(kind).error_maps(pictures(kind))
        found = fitted(kind).error_maps(pictures(kind)[order])
        np.testing.assert_allclose(found, maps[order], rtol=1e-4, atol=1e-6 * maps.max())


def company_and_batches_say_nothing(kind, place):
    score, images = fitted(kind).score, pictures(kind)
    assert_close(np.concatenate([score(each[None]) for each in images[:7]]), scores(kind)[:7])
    assert_close(score(images[3:16]), scores(kind)[3:16])
    many = np.concatenate([images] * (BATCH_SIZE // 20 + 1))
    assert len(many) > BATCH_SIZE
    assert_close(score(many)[-20:], scores(kind))
    assert score(images[:0]).shape == (0,)


def scoring_changes_nothing(kind, place):
    detector, images = fitted(kind), pictures(kind).copy()
    before = as_bytes(detector.arrays())
    assert before
    np.testing.assert_array_equal(detector.score(images), scores(kind))
    np.testing.assert_array_equal(images, pictures(kind))
    assert as_bytes(detector.arrays()) == before


def nothing_is_lost_on_disk(kind, place):
    detector = fitted(kind)
    detector.save(place)
    assert sorted(path.name for path in place.iterdir()) == sorted([CONFIG, SIDECAR, WEIGHTS])
    loaded = load_detector(place)
    assert as_bytes(loaded.arrays()) == as_bytes(detector.arrays())
    assert (loaded.shape, loaded.threshold_) == (detector.shape, detector.threshold_)
    for one, other in zip(
        loaded.score_phases(pictures(kind)), detector.score_phases(pictures(kind)), strict=True
    ):
        assert (one is None) == (other is None)
        np.testing.assert_array_equal(one, other)
    if detector.has_maps:
        maps = detector.error_maps(pictures(kind))
        np.testing.assert_array_equal(loaded.error_maps(pictures(kind)), maps)


def keras_stores_and_loads_the_graph(kind, place):
    detector = fitted(kind)
    detector.graph.save(place / "graph.keras")
    loaded = keras.saving.load_model(place / "graph.keras")
    found, expected = (
        each(pictures(kind), training=False) for each in (loaded, detector.graph)
    )  # fmt: skip
    assert found.keys() == expected.keys() >= {"score", "is_anomaly"}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def an_export_scores_and_decides_alike(kind, place):
    from export import onnx_format
    from export.exportable import Exportable

    detector = fitted(kind)
    graph = scoring_graph(detector.inference(), error_map=detector.has_maps)
    record = {"metadata": {}, "version": 1, "threshold": detector.threshold_.to_json()}
    path = onnx_format.write(Exportable(detector, graph, "m", "uint8", record), place, None)
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"image": pictures(kind)}), strict=True))
    assert_close(found["score"], scores(kind), rtol=1e-4)
    clear = np.abs(scores(kind) - detector.threshold_.alpha) > 1e-3 * np.abs(scores(kind))
    assert clear.sum() > 10
    decided = scores(kind) > detector.threshold_.alpha
    np.testing.assert_array_equal(found["is_anomaly"][clear], decided[clear])
    assert ("error_map" in found) == detector.has_maps


def other_arrays_than_pictures_as_trained_on_are_refused(kind, place):
    height, width, channels = KINDS[kind][1]
    for wrong in (
        np.zeros((2, height, width, 4 - channels), np.uint8),
        np.zeros((2, height + 4, width, channels), np.uint8),
        np.zeros((2, height, width, channels), np.float32),
        np.zeros((height, width, channels), np.uint8),
        [[1]],
    ):
        with pytest.raises(LisaeError, match="pictures must be uint8"):
            fitted(kind).score(wrong)


def a_second_fit_forgets_the_first_and_a_seed_repeats(kind, place):
    """Without the sections that the variant does not read, so that reading one would fail."""
    given = fitted(kind).config
    unread = given.model_dump().keys() - given.settings_read().keys()
    again = make_detector(given.model_copy(update=dict.fromkeys(unread)))
    other = fit(again, kind, 20).score(pictures(kind))
    assert not np.array_equal(other, scores(kind))
    np.testing.assert_array_equal(fit(again, kind, 60).score(pictures(kind)), scores(kind))


OF_ALL = (
    order_says_nothing,
    company_and_batches_say_nothing,
    scoring_changes_nothing,
    nothing_is_lost_on_disk,
    other_arrays_than_pictures_as_trained_on_are_refused,
    a_second_fit_forgets_the_first_and_a_seed_repeats,
)
OF_GRAPHS = (keras_stores_and_loads_the_graph, an_export_scores_and_decides_alike)


def cases():
    for kind, (settings, _) in KINDS.items():
        for law in OF_ALL + OF_GRAPHS * ROWS[settings["variant"]].graph:
            slow = law is a_second_fit_forgets_the_first_and_a_seed_repeats
            marks = [pytest.mark.slow] * (slow and kind in TRAINED_ALIKE)
            yield pytest.param(law, kind, marks=marks, id=f"{kind}-{law.__name__}")


@pytest.mark.parametrize("law, kind", [*cases()])
def test_each_detector_keeps_each_law(law, kind, tmp_path):
    law(kind, tmp_path)


def test_what_has_a_graph_is_what_the_table_says():
    assert {name for name in ROWS if issubclass(DETECTORS[name], GraphDetector)} == {
        name for name, row in ROWS.items() if row.graph
    }


@pytest.mark.parametrize("flip", [random_flip_left_right, random_flip_up_down])
def test_flipped_twice_a_picture_is_itself(flip):
    seed = np.int32([3, 5])
    images = np.asarray(random_strokes(24, (20, 24, 1), seed), np.float32)
    once = flip(images, seed)
    assert not np.array_equal(once, images)
    np.testing.assert_array_equal(flip(once, seed), images)
