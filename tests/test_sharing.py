"""Phase 1 is shared exactly where it would be the same, and changes nothing where it is."""

import numpy as np
import pytest
from training_fixtures import surface, tiny_config, tiny_data

from lisae_tf.data.datasets import DecodedPictures
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.detectors import make_detector
from lisae_tf.training.convergence import ResumePoint
from lisae_tf.training.phase import TrainingOptions
from lisae_tf.training.sharing import SharedPhase1, phase1_key

GRAVEL = {"dataset": "surfaces", "normal_class": ["gravel"], "negatives": "other-half"}


def key(**over):
    return phase1_key(tiny_config(**(GRAVEL | over)))


def test_linsep_never_shares_over_negative_sets_and_lis_always_does():
    sets = ["other-half", "supervised", "surfaces:coins", "strokes", "none"]
    assert len({key(variant="lis", negatives=name) for name in sets}) == 1
    assert len({key(variant="linsep", negatives=name) for name in sets}) == len(sets)
    # What "supervised" means hangs on the protocol and on the anomaly classes.
    meant = [{}, {"protocol": "one-class"}, {"anomaly_class": ["moon"]}]
    keys = {key(variant="linsep", negatives="supervised", **over) for over in meant}
    assert len(keys) == 3


@pytest.mark.parametrize(
    "over",
    [
        {"seed": 1},
        {"normal_class": ["brick"]},
        {"dataset": "mnist"},
        {"protocol": "two-class"},
        {"network": {"latent": 9}},
        {"network": {"decoder_filters": [4, 4]}},
        {"feature_extraction": {"epochs": 4}},
        {"data": {"mirror": True}},
        {"data": {"stopping_fraction": 0.2}},
    ],
)
def test_what_phase_1_sees_is_in_the_key(over):
    for variant in ("lis", "linsep"):
        assert key(variant=variant) != key(variant=variant, **over)


@pytest.mark.parametrize(
    "over",
    [
        {"latent_shaping": {"gamma": 0.9}},
        {"calibration": {"false_positive_rate": 0.2}},
        {"scoring": {"highest_share": 0.1}},
    ],
)
def test_what_phase_1_does_not_see_is_not(over):
    for variant in ("lis", "linsep"):
        assert key(variant=variant) == key(variant=variant, **over)


def test_variants_share_where_they_minimise_the_same():
    assert key(variant="ae", negatives="none") == key(variant="lis")
    assert key(variant="linsep") != key(variant="lis")
    assert key(variant="linear-lis") not in {key(variant="lis"), key(variant="linsep")}
    weight = {"feature_extraction": {"linsep_weight": 0.7}}
    assert key(variant="lis") == key(variant="lis", **weight)
    assert key(variant="linsep") != key(variant="linsep", **weight)
    assert key(variant="anogan") == key(variant="anogan-fm")
    assert key(variant="anogan") != key(variant="anogan", anogan={"epochs": 4})
    assert key(variant="anogan") not in {key(variant="lis"), key(variant="vae")}


@pytest.mark.slow("two adversarial trainings; that their keys are equal stays in the fast set")
def test_both_anogans_share_their_gan():
    shared = SharedPhase1()
    detectors = [fitted(name, "none", tiny_data(), shared) for name in ("anogan", "anogan-fm")]
    assert phases(detectors[0]) == phases(detectors[1])
    alone = fitted("anogan-fm", "none", tiny_data())
    pictures = surface("coins", 20, "test")
    np.testing.assert_array_equal(detectors[1].score(pictures), alone.score(pictures))


def other_negatives(data: TrainingData) -> TrainingData:
    stopping, calibration = surface("moon", 40, "stopping"), surface("moon", 40, "calibration")
    return TrainingData(data.normal, Parts(surface("moon", 320), stopping, calibration))


def fitted(variant, negatives, data, shared=None):
    detector = make_detector(tiny_config(**(GRAVEL | {"variant": variant, "negatives": negatives})))
    detector.fit_data(data, TrainingOptions(shared=shared))
    return detector


def phases(detector):
    return [row["seconds"] for row in detector.history if row["phase"] == 1]


def test_a_shared_phase_1_gives_the_scores_of_an_unshared_one():
    coins, moon = tiny_data(), other_negatives(tiny_data())
    shared = SharedPhase1()
    first = fitted("lis", "surfaces:coins", coins, shared)
    second = fitted("lis", "surfaces:moon", moon, shared)
    alone = fitted("lis", "surfaces:moon", moon)
    assert phases(first) == phases(second)  # the very same epochs, trained once
    assert phases(first) != phases(alone)
    pictures = np.concatenate([surface("gravel", 20, "test"), surface("page", 20, "test")])
    assert np.array_equal(second.score(pictures), alone.score(pictures))
    assert not np.array_equal(first.score(pictures), second.score(pictures))
    before = second.phase1_detector().score(pictures)
    assert np.array_equal(before, alone.phase1_detector().score(pictures))


def test_one_of_another_key_is_not_found(tmp_path):
    def linsep(negatives):
        return tiny_config(**(GRAVEL | {"variant": "linsep", "negatives": negatives}))

    shared = SharedPhase1()
    shared.keep(linsep("surfaces:coins"), ResumePoint(None, phase=2))
    assert shared.find(linsep("surfaces:coins"), tmp_path).phase == 2
    assert shared.find(linsep("surfaces:moon"), tmp_path) is None


@pytest.mark.slow("two whole trainings; that another key finds nothing is above")
def test_linsep_trains_its_own_phase_1_for_each_negative_set():
    shared = SharedPhase1()
    first = fitted("linsep", "surfaces:coins", tiny_data(), shared)
    second = fitted("linsep", "surfaces:moon", other_negatives(tiny_data()), shared)
    assert phases(first) != phases(second)


def test_pictures_are_decoded_once_and_memory_is_bounded():
    whole = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2, 1)
    decoded = []

    def decode(indices):
        decoded.extend(indices.tolist())
        return whole[indices]

    kept = DecodedPictures(limit=2 * whole.nbytes)
    for indices in (np.array([1, 3]), np.array([3, 4]), np.array([1, 3, 4])):
        found = kept.pixels("a", whole.shape, indices, decode)
        assert np.array_equal(found, whole[indices])
        found[:] = 0  # a copy: spoils nothing
    assert decoded == [1, 3, 4]
    for key_ in "bc":  # the first part has to go
        kept.pixels(key_, whole.shape, np.array([0]), decode)
    kept.pixels("a", whole.shape, np.array([1]), decode)
    assert decoded == [1, 3, 4, 0, 0, 1]
    nothing = DecodedPictures(limit=0)
    for _ in range(2):
        nothing.pixels("a", whole.shape, np.array([5]), decode)
    assert decoded[-2:] == [5, 5]
