"""What every detector in the registry does once it has learnt, and the laws that it keeps."""

import contextlib
import functools

import detector_laws
import numpy as np
import pytest
import tensorflow as tf
from conftest import WHOLE_EPOCH, steps_of_an_epoch
from training_fixtures import surface, tiny_config

from lisae_tf.config import variants
from lisae_tf.config.settings import merge, resolve
from lisae_tf.config.variants import GRAPHLESS
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.augmentation import random_flip_left_right, random_flip_up_down, random_strokes
from lisae_tf.detectors import DETECTORS, base, load_detector, make_detector
from lisae_tf.detectors.base import CONFIG, WEIGHTS
from lisae_tf.detectors.encoders import EncoderDetector
from lisae_tf.detectors.graph import GraphDetector, RowDetector
from lisae_tf.grids.cells import held_out_loss
from lisae_tf.model.checkpoints import set_weights, weights_of
from lisae_tf.model.networks import scale
from lisae_tf.training.phase import TrainingOptions
from lisae_tf.training.sharing import SharedPhase1

GRAPHED = [name for name in DETECTORS if name not in GRAPHLESS]
# A phase 2 follows; `ae` stops before it.
PHASED = ["ae", "lis", "linsep", "linsep-fused", "linear-lis"]
SOLVED = ["linear-lis", "linear-ae", "mahalanobis", "knn", "lis-knn"]
NETWORKS = [name for name in GRAPHED if name not in SOLVED]
# The score is the error of the reconstruction and nothing else.
ERROR_ALONE = [
    "ae", "lis", "linsep", "linear-lis", "anogan", "linear-ae", "vae", "mem-ae", "sig-repnn",
]  # fmt: skip
ERRORS = [*ERROR_ALONE, "linsep-fused", "anogan-fm"]  # the error is a part of it
ROWS = ["mahalanobis", "knn", "lis-knn"]
PHASE_1 = SharedPhase1()
# Colour, and what has a graph of pixels elsewhere.
ON_FEATURES = "linear-lis on features"
KINDS = [*DETECTORS, ON_FEATURES]

ENCODER = "an encoder with a head as bce is; test_encoders trains it"
LATENT_LAYER = "a latent layer of its own as vae has; test_adversarial tests it"
ADVERSARIAL = "trains a generator and a critic first; test_adversarial trains it"
PLACES = "works on places as lis-knn does; test_classical and test_places fit it"
# What is long, and tested beside the slow tests by another of its kind and by files of its own.
ELSEWHERE = {
    "ae": "phase 1 of lis and nothing else",
    "linsep": "the same networks and losses as linsep-fused",
    "oc-dsvdd": ENCODER, "deep-sad": ENCODER, "hsc": ENCODER,
    "anogan": ADVERSARIAL, "anogan-fm": ADVERSARIAL,
    "mem-ae": LATENT_LAYER, "sig-repnn": LATENT_LAYER,
    "mahalanobis": PLACES, "knn": PLACES,
    ON_FEATURES: "works on places as lis-knn does; test_places fits it",
}  # fmt: skip


def each_of(kinds, slow=None):
    """A parameter for each; the slow ones with the reason."""
    reasons = ELSEWHERE | (slow or {})
    marks = {kind: [pytest.mark.slow(reasons[kind])] for kind in kinds if kind in reasons}
    return [pytest.param(kind, marks=marks.get(kind, ())) for kind in kinds]


@pytest.fixture(params=each_of(DETECTORS))
def variant(request):
    return request.param


def settings(variant):
    """As short as may be; an encoder without a decoder says nothing before it has learnt."""
    over = {
        "variant": variant, "latent_shaping": {"epochs": 1},
        "feature_extraction": {"epochs": 1, "warmup_steps": 2},
        "anogan": {"epochs": 1, "critic_steps": 1, "encoder_epochs": 1},
    }  # fmt: skip
    if issubclass(DETECTORS[variant], EncoderDetector):
        over["feature_extraction"] = {"epochs": 2, "batch_size": 16, "learning_rate": 5e-3}
        epochs = 4 if variant == "deep-sad" else 2
        over["hypersphere"] = {"epochs": epochs, "learning_rate": 3e-3}
    if issubclass(DETECTORS[variant], RowDetector):  # pixels are none of theirs
        over["features"] = {"taps": ["block_1", "block_2"]}
    return tiny_config(**over)


@functools.cache
def fitted(variant):
    """Takes a phase 1 over that the variant before has trained too (test_distribution)."""
    options = functools.partial(TrainingOptions, shared=PHASE_1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "TrainingOptions", options)
        return fit(make_detector(settings(variant)), "gravel", "coins")


def fit(detector, normal, negative):
    """Without negatives where the detector needs none."""
    negatives = surface(negative, 300) if detector.needs_negatives else None
    whole = isinstance(detector, EncoderDetector)  # says nothing before it has learnt
    with steps_of_an_epoch(WHOLE_EPOCH) if whole else contextlib.nullcontext():
        return detector.fit(surface(normal, 300), negatives)


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


@pytest.mark.parametrize("variant", each_of(NETWORKS))
def test_weights_under_other_names_are_refused(variant):
    model = fitted(variant).model
    stored = weights_of(model)
    first, *rest = stored
    with pytest.raises(LisaeError, match="do not fit"):
        set_weights(model, {"other": stored[first]} | {name: stored[name] for name in rest})
    set_weights(model, dict(reversed(stored.items())))  # the order says nothing
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(value, stored[name])


# The sums are of files, whatever a detector stores in them.
FILES_ALIKE = dict.fromkeys({*DETECTORS} - {"lis", "kde"}, "the same files as those of lis and kde")


@pytest.mark.parametrize("variant", each_of(DETECTORS, FILES_ALIKE))
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_altered_files_are_refused_before_parsing(variant, tmp_path, name):
    fitted(variant).save(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LisaeError, match="altered"):
        load_detector(tmp_path)


@pytest.mark.parametrize("variant", each_of(GRAPHED))
def test_the_graph_decides_by_the_threshold(variant, pictures):
    detector = fitted(variant)
    assert detector.graph.input.dtype == "uint8"
    outputs = detector.graph(pictures)
    alpha = np.float32(detector.threshold_.alpha)
    np.testing.assert_array_equal(outputs["is_anomaly"], outputs["score"].numpy() > alpha)


def test_maps_are_there_or_refused(variant):
    detector = fitted(variant)
    assert detector.has_maps == (variant in ERRORS + ROWS)
    if not detector.has_maps:
        with pytest.raises(LisaeError, match=f"{variant} scores whole pictures and has no maps"):
            detector.require_maps()


@pytest.mark.parametrize("variant", each_of(ERRORS))
def test_maps_are_squared_errors(variant, pictures):
    detector = fitted(variant)
    maps = detector.error_maps(pictures)
    assert (maps.shape, maps.dtype) == ((80, 32, 32), np.float32)
    errors = np.square(detector.reconstruct(pictures) - pictures / 255)
    np.testing.assert_allclose(maps, errors.mean(axis=3), rtol=1e-4, atol=1e-6)
    same = np.allclose(detector.score(pictures), maps.mean(axis=(1, 2)), rtol=1e-4)
    assert same == (variant in ERROR_ALONE)


@pytest.mark.parametrize("variant", each_of(ROWS))
def test_maps_of_places_have_the_score_as_their_mean(variant, pictures):
    maps = fitted(variant).error_maps(pictures)
    assert (maps.shape, maps.dtype) == ((80, 8, 8), np.float32)
    np.testing.assert_allclose(fitted(variant).score(pictures), maps.mean(axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize("variant", each_of(ERROR_ALONE))
def test_the_score_is_that_of_the_printed_formula_to_the_last_bit(variant, pictures):
    detector = fitted(variant)
    encoder, latent, decoder = detector.networks()

    @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 1), tf.uint8)])
    def formula(image):
        x = scale((32, 32, 1))(image)
        x_hat = decoder(latent(encoder(x)))
        return tf.reduce_mean(tf.square(x_hat - x), axis=(1, 2, 3))

    np.testing.assert_array_equal(detector.score(pictures), formula(pictures))


# They pool as another of their class does, in the same layer.
POOLED_ALIKE = dict.fromkeys(["vae", "linear-ae"], "pooled in the same layer as the map of lis")


@pytest.mark.parametrize("variant", each_of(DETECTORS, POOLED_ALIKE))
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
    if variant in ERROR_ALONE:
        highest = np.sort(maps.reshape(80, -1), axis=1)[:, -20:]  # of 1,024 places
        np.testing.assert_allclose(other.score(pictures), highest.mean(axis=1), rtol=1e-5)


def test_phase_2_changed_the_scores_where_there_is_one(variant, pictures):
    before, after = fitted(variant).score_phases(pictures)
    assert (before is not None) == (variant in PHASED)
    if variant in PHASED:
        assert np.array_equal(before, after) == (variant == "ae")


def test_its_history_can_be_recorded(variant):
    history = fitted(variant).history
    lowest = held_out_loss(history)
    assert set(lowest) <= {f"phase{row['phase']}" for row in history}
    assert bool(lowest) == bool(history)
    assert all(np.isfinite(loss) for loss in lowest.values())


def test_misuse_has_a_remedy(variant):
    detector = make_detector(tiny_config(variant=variant))
    with pytest.raises(LisaeError, match="not been trained"):
        detector.score(surface("gravel", 2))
    if detector.needs_negatives:
        with pytest.raises(LisaeError, match="needs negative pictures"):
            detector.fit(surface("gravel", 100))


def test_what_has_a_graph_is_what_the_table_says():
    assert {name for name in DETECTORS if issubclass(DETECTORS[name], GraphDetector)} == {
        name for name, row in variants.ROWS.items() if row.graph
    }


@pytest.mark.parametrize("flip", [random_flip_left_right, random_flip_up_down])
def test_flipped_twice_a_picture_is_itself(flip):
    seed = np.int32([3, 5])
    images = np.asarray(random_strokes(24, (20, 24, 1), seed), np.float32)
    once = flip(images, seed)
    assert not np.array_equal(once, images)
    np.testing.assert_array_equal(flip(once, seed), images)


# The laws


@functools.cache
def of(kind):
    """The detector, and how its sides are fitted to it."""
    if kind != ON_FEATURES:
        return fitted(kind), fit
    features = {"taps": ["block_1", "block_2"], "places": 1000, "made": 20}
    config = tiny_config(variant="linear-lis", network={"latent": 4}, features=features,
                         scoring={"highest_share": 0.05})  # fmt: skip

    def fit_colour(detector, *sides):
        normal, negative = (np.repeat(surface(side, 100), 3, axis=3) for side in sides)
        return detector.fit(normal, negative)

    return fit_colour(make_detector(config), "gravel", "coins"), fit_colour


def looks(detector):
    """Ten pictures as those that it was trained on, and ten others."""
    images = np.concatenate([surface("gravel", 10, "test"), surface("camera", 10, "test")])
    return np.repeat(images, detector.shape[2], axis=3)


def laws():
    for each in each_of(KINDS):
        (kind,) = each.values
        graph = detector_laws.OF_GRAPHS * (kind not in GRAPHLESS)
        for law in detector_laws.OF_ALL + graph:
            yield pytest.param(law, kind, marks=each.marks, id=f"{kind}-{law.__name__}")


@pytest.mark.parametrize("law, kind", [*laws()])
def test_each_detector_keeps_each_law(law, kind, tmp_path):
    detector, _ = of(kind)
    law(detector, looks(detector), tmp_path)


TRAINED_ALIKE = {
    "linsep-fused": "two more trainings of two phases, which those of lis are as well",
    "vae": "two more trainings of phase 1, which those of lis begin with",
    "bce": "two more trainings of whole epochs; test_encoders resumes one to the same weights",
    "linear-lis": "a formula twice more; linear-ae and lis-knn are fitted by theirs",
}


@pytest.mark.parametrize("kind", each_of(KINDS, TRAINED_ALIKE))
def test_a_second_fit_forgets_the_first_and_a_seed_repeats(kind):
    """Without the sections that the variant does not read, so that reading one would fail."""
    detector, fit_sides = of(kind)
    images, given = looks(detector), detector.config
    unread = given.model_dump().keys() - given.settings_read().keys()
    again = make_detector(given.model_copy(update=dict.fromkeys(unread)))
    other = fit_sides(again, "brick", "coins").score(images)
    assert not np.array_equal(other, detector.score(images))
    found = fit_sides(again, "gravel", "coins").score(images)
    np.testing.assert_array_equal(found, detector.score(images))
