"""One contract for every detector in the registry."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import WHOLE_EPOCH, steps_of_an_epoch
from training_fixtures import surface, tiny_config

from lisae_tf.config.settings import merge, resolve
from lisae_tf.config.variants import GRAPHLESS
from lisae_tf.core.errors import LisaeError
from lisae_tf.detectors import DETECTORS, load_detector, make_detector
from lisae_tf.detectors.base import CONFIG, SIDECAR, WEIGHTS
from lisae_tf.detectors.encoders import EncoderDetector
from lisae_tf.detectors.graph import AutoencoderDetector, GraphDetector
from lisae_tf.detectors.places import PlacesDetector
from lisae_tf.detectors.rows import RowDetector
from lisae_tf.grids.cells import held_out_loss
from lisae_tf.model.checkpoints import set_weights, weights_of
from lisae_tf.model.networks import scale

# Float32 sums in another order; the linear case's small scores are differences of large numbers.
RTOL, ATOL = 1e-5, 1e-7


def assert_close(found, expected):
    """To `RTOL`; where scores take both signs, of the usual score: zero is a point like any."""
    usual = np.median(np.abs(expected)) if np.min(expected) < 0 else 0
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=max(ATOL, RTOL * usual))


@pytest.fixture(params=DETECTORS)
def variant(request):
    return request.param


# They train as one of the others does: `ae` as `lis`, the rest with another head or latent layer.
TRAINED_ALIKE = {
    "ae", "linsep-fused", "mem-ae", "sig-repnn", "anogan-fm", "bce", "hsc", "oc-dsvdd",
}  # fmt: skip


def settings(variant, seed=0):
    """The tiny settings; an encoder without a decoder says nothing before it has learnt."""
    over = {"variant": variant, "seed": seed}
    if issubclass(DETECTORS[variant], EncoderDetector):
        over["feature_extraction"] = {"epochs": 2, "batch_size": 16, "learning_rate": 5e-3}
        over["hypersphere"] = {"epochs": 4, "learning_rate": 3e-3}
    if issubclass(DETECTORS[variant], RowDetector):  # pixels are none of theirs
        over["features"] = {"taps": ["block_1", "block_2"]}
    return tiny_config(**over)


@functools.cache
def fitted(variant, seed=0):
    return fit(make_detector(settings(variant, seed)), "gravel", "coins", 300)


def fit(detector, normal, negative, count):
    """Without negatives where the detector needs none."""
    negatives = surface(negative, count) if detector.needs_negatives else None
    whole = isinstance(detector, EncoderDetector)  # says nothing before it has learnt
    with steps_of_an_epoch(WHOLE_EPOCH) if whole else contextlib.nullcontext():
        return detector.fit(surface(normal, count), negatives)


@pytest.fixture
def pictures():
    return np.concatenate([surface("gravel", 40, "test"), surface("camera", 40, "test")])


def test_scores_are_finite_distinct_floats(variant, pictures):
    scores = fitted(variant).score(pictures)
    assert scores.dtype == np.float32
    assert scores.shape == (80,)
    assert np.all(np.isfinite(scores))
    assert len(np.unique(scores)) == 80


def test_an_obvious_anomaly_ranks_above_normals(variant):
    normal = fitted(variant).score(surface("gravel", 100, "test"))
    radius = np.hypot(*(np.indices((32, 32)) - 15.5))
    ring = np.abs(radius - 10) < 2
    obvious = (255 * ring[None, :, :, None]).astype(np.uint8)
    assert fitted(variant).score(obvious)[0] > np.quantile(normal, 0.95)


def test_a_graph_is_stored_and_loaded_by_keras(variant, pictures, tmp_path):
    if variant in GRAPHLESS:
        return
    detector = fitted(variant)
    detector.graph.save(tmp_path / "graph.keras")
    loaded = keras.saving.load_model(tmp_path / "graph.keras")
    found, expected = (each(pictures, training=False) for each in (loaded, detector.graph))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_weights_under_other_names_are_refused(variant):
    model = getattr(fitted(variant), "model", None)
    if model is None:
        return
    stored = weights_of(model)
    first, *rest = stored
    with pytest.raises(LisaeError, match="do not fit"):
        set_weights(model, {"other": stored[first]} | {name: stored[name] for name in rest})
    set_weights(model, dict(reversed(stored.items())))  # the order says nothing
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(value, stored[name])


def test_a_score_does_not_depend_on_its_company(variant, pictures):
    detector = fitted(variant)
    together = detector.score(pictures)
    order = np.random.default_rng(0).permutation(80)
    alone = np.concatenate([detector.score(p[None]) for p in pictures[:7]])
    assert_close(alone, together[:7])
    assert_close(detector.score(pictures[order]), together[order])
    assert_close(detector.score(pictures[13:50]), together[13:50])


def test_scoring_changes_nothing(variant, pictures):
    detector, copy = fitted(variant), pictures.copy()
    before = {name: a.tobytes() for name, a in detector.arrays().items()}
    first = detector.score(pictures)
    np.testing.assert_array_equal(detector.score(pictures), first)
    np.testing.assert_array_equal(pictures, copy)
    assert {name: a.tobytes() for name, a in detector.arrays().items()} == before


# Three trainings of each, the longest of the tests here.
@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow) if name in TRAINED_ALIKE else name
     for name in DETECTORS],
)  # fmt: skip
def test_a_second_fit_forgets_the_first_and_a_seed_repeats(variant, pictures):
    """Without the sections that the variant does not read, so that reading one would fail."""
    given = settings(variant)
    unread = given.model_dump().keys() - given.settings_read().keys()
    again = make_detector(given.model_copy(update=dict.fromkeys(unread)))
    fit(again, "grass", "page", 200)
    other = again.score(pictures)
    fit(again, "gravel", "coins", 300)
    np.testing.assert_array_equal(again.score(pictures), fitted(variant).score(pictures))
    assert not np.array_equal(other, again.score(pictures))


def test_save_and_load_keep_scores_and_threshold(variant, pictures, tmp_path):
    detector = fitted(variant)
    detector.save(tmp_path)
    loaded = load_detector(tmp_path)
    np.testing.assert_array_equal(loaded.score(pictures), detector.score(pictures))
    assert loaded.threshold_ == detector.threshold_
    before, again = detector.phase1_detector(), loaded.phase1_detector()
    assert (before is None) == (again is None)
    if before:
        np.testing.assert_array_equal(again.score(pictures), before.score(pictures))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([CONFIG, SIDECAR, WEIGHTS])


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_altered_files_are_refused_before_parsing(variant, tmp_path, name):
    fitted(variant).save(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LisaeError, match="altered"):
        load_detector(tmp_path)


def test_the_graph_decides_by_the_threshold(variant, pictures):
    detector = fitted(variant)
    if not isinstance(detector, GraphDetector):
        pytest.skip("no graph")
    assert detector.graph.input.dtype == "uint8"
    outputs = detector.graph(pictures)
    alpha = np.float32(detector.threshold_.alpha)
    np.testing.assert_array_equal(outputs["is_anomaly"], outputs["score"].numpy() > alpha)


def test_maps_explain_the_score(variant, pictures):
    detector = fitted(variant)
    assert detector.has_maps == isinstance(detector, AutoencoderDetector | PlacesDetector)
    if not detector.has_maps:
        with pytest.raises(LisaeError, match=f"{variant} scores whole pictures and has no maps"):
            detector.require_maps()
        return
    maps = detector.error_maps(pictures)
    if isinstance(detector, PlacesDetector):
        assert (maps.shape, maps.dtype) == ((80, 8, 8), np.float32)
        np.testing.assert_allclose(detector.score(pictures), maps.mean(axis=(1, 2)), rtol=1e-4)
        return
    assert (maps.shape, maps.dtype) == ((80, 32, 32), np.float32)
    errors = np.square(detector.reconstruct(pictures) - pictures / 255)
    np.testing.assert_allclose(maps, errors.mean(axis=3), rtol=1e-4, atol=1e-6)
    if type(detector).inference is AutoencoderDetector.inference:
        # Of the others more than the error makes the score.
        np.testing.assert_allclose(detector.score(pictures), maps.mean(axis=(1, 2)), rtol=1e-4)


def test_the_score_is_that_of_the_printed_formula_to_the_last_bit(variant, pictures):
    detector = fitted(variant)
    if getattr(type(detector), "inference", None) is not AutoencoderDetector.inference:
        return
    encoder, latent, decoder = detector.networks()

    @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 1), tf.uint8)])
    def formula(image):
        x = scale((32, 32, 1))(image)
        x_hat = decoder(latent(encoder(x)))
        return tf.reduce_mean(tf.square(x_hat - x), axis=(1, 2, 3))

    np.testing.assert_array_equal(detector.score(pictures), formula(pictures))


def test_another_pooling_changes_the_score_and_not_the_map(variant, pictures):
    detector = fitted(variant)
    share = {"scoring": {"highest_share": 0.02}}
    other = make_detector(resolve(merge(detector.config.model_dump(), share)))
    other.shape = detector.shape
    other.restore(detector.arrays())
    if not detector.has_maps:
        np.testing.assert_array_equal(other.score(pictures), detector.score(pictures))
        return
    maps = other.error_maps(pictures)
    np.testing.assert_array_equal(maps, detector.error_maps(pictures))
    assert not np.allclose(other.score(pictures), detector.score(pictures), rtol=1e-3)
    assert "highest 2 % of places" in other.meaning
    if type(detector).inference is AutoencoderDetector.inference:
        highest = np.sort(maps.reshape(80, -1), axis=1)[:, -20:]  # of 1,024 places
        np.testing.assert_allclose(other.score(pictures), highest.mean(axis=1), rtol=1e-5)


def test_phase_2_changed_the_scores_where_there_is_one(variant, pictures):
    detector = fitted(variant)
    before = detector.phase1_detector()
    if before is None:
        return
    same = np.array_equal(before.score(pictures), detector.score(pictures))
    assert same == (not detector.needs_negatives)


def test_its_history_can_be_recorded(variant):
    history = fitted(variant).history
    lowest = held_out_loss(history)
    assert set(lowest) <= {f"phase{row['phase']}" for row in history}
    assert bool(lowest) == bool(history)
    assert all(np.isfinite(loss) for loss in lowest.values())


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 32, 32, 1), np.float32),
     np.zeros((32, 32, 1), np.uint8), [[1]]],
    ids=["channels", "dtype", "rank", "list"],
)  # fmt: skip
def test_wrong_pictures_are_refused(variant, wrong):
    with pytest.raises(LisaeError, match="pictures must be uint8"):
        fitted(variant).score(wrong)


def test_misuse_has_a_remedy(variant):
    detector = make_detector(tiny_config(variant=variant))
    with pytest.raises(LisaeError, match="not been trained"):
        detector.score(surface("gravel", 2))
    if detector.needs_negatives:
        with pytest.raises(LisaeError, match="needs negative pictures"):
            detector.fit(surface("gravel", 100))
