"""A detector at each place of a picture: pixels to maps and scores, on disk and back."""

import numpy as np
import pytest

from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.thresholds import choose_threshold
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.data.synthetic import made_with_masks
from lisae_tf.detectors import load_detector, make_detector
from lisae_tf.detectors.linear import LinearDetector
from lisae_tf.detectors.places import PlacesDetector, evenly
from lisae_tf.features.places import remembering
from lisae_tf.training.phase import TrainingOptions

SHAPE, GRID = (64, 64, 3), (8, 8)
SPOT = (20, 44)  # the middle of place (2, 5)


def textured(count: int, seed: int) -> np.ndarray:
    """One material: waves of any phase, and noise; uint8 (N, 64, 64, 3)."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    waves = np.sin((rows / 4 + columns / 6) + random.uniform(0, 6, (count, 1, 1)))
    grey = 110 + 30 * waves[..., None] + random.normal(0, 6, (count, *SHAPE))
    return (grey * [1.0, 0.9, 0.7]).clip(0, 255).astype(np.uint8)


def spotted(count: int, seed: int, change: int = 90) -> np.ndarray:
    """The material with a round spot of six pixels across, brighter or darker."""
    rows, columns = np.mgrid[:64, :64]
    inside = (rows + 0.5 - SPOT[0]) ** 2 + (columns + 0.5 - SPOT[1]) ** 2 <= 9
    pictures = textured(count, seed).astype(int) + change * inside[..., None]
    return pictures.clip(0, 255).astype(np.uint8)


def settings(variant: str = "linear-lis", **features):
    return resolve(
        {
            "variant": variant,
            "features": {"places": 4000, "taps": ["block_4"]} | features,
            "network": {"latent": 8},
            "latent_shaping": {"closed_form": True},
            "knn": {"bank": 200},
            "scoring": {"highest_share": 0.05},
        }
    )


@pytest.fixture(scope="module")
def data():
    """Normal pictures, and flaws made in them with their masks."""
    normal = Parts(textured(40, 0), textured(12, 1), textured(20, 2))
    made, masks = made_with_masks(["flaws"], normal, seed=0, most=30)
    return TrainingData(normal, made, negative_masks=masks)


@pytest.fixture(scope="module", autouse=True)
def memory():
    """No picture goes twice through the backbone."""
    with remembering(10**9):
        yield


def fit(config, data) -> PlacesDetector:
    detector = make_detector(config)
    detector.fit_data(data, TrainingOptions())
    return detector


@pytest.fixture(scope="module")
def detector(data):
    found = fit(settings(), data)
    found.set_threshold(choose_threshold(found.score(data.normal.calibration), 0.1))
    return found


@pytest.fixture(scope="module")
def without_negatives(data):
    return fit(settings(negatives="none"), data)


def highest(maps: np.ndarray, share: float = 0.05) -> np.ndarray:
    flat = np.sort(maps.reshape(len(maps), -1), axis=1)
    return flat[:, -max(1, round(share * flat.shape[1])) :].mean(axis=1)


def test_a_score_is_the_mean_of_the_highest_places_of_the_map(detector):
    images = np.concatenate([textured(3, 7), spotted(2, 8)])
    maps = detector.error_maps(images)
    assert detector.has_maps
    assert (maps.shape, maps.dtype) == ((5, *GRID), np.float32)
    np.testing.assert_allclose(detector.score(images), highest(maps), rtol=1e-5)


def test_the_whole_graph_gives_what_the_two_steps_give(detector):
    images = np.concatenate([textured(3, 7), spotted(2, 8)])
    whole = detector.graph(images)
    np.testing.assert_allclose(whole["score"], detector.score(images), rtol=1e-5)
    alpha = detector.threshold_.alpha
    np.testing.assert_array_equal(whole["is_anomaly"], detector.score(images) > alpha)
    inferred = detector.inference()(images.astype(np.float32) / 255)
    np.testing.assert_allclose(inferred["error_map"], detector.error_maps(images), rtol=1e-3)


def test_no_pictures_have_no_scores_and_no_maps(detector):
    none = np.empty((0, *SHAPE), np.uint8)
    assert detector.score(none).shape == (0,)
    assert detector.error_maps(none).shape == (0, *GRID)
    assert [each.shape for each in detector.score_phases(none)] == [(0,), (0,)]


def test_a_planted_spot_is_found_where_it_is(detector, data):
    normal, odd = textured(30, 9), spotted(10, 10)
    scores, found = detector.score(normal), detector.score(odd)
    assert found.min() > max(scores.max(), detector.score(data.normal.calibration).max())
    assert found.min() > detector.threshold_.alpha
    maps = detector.error_maps(odd)
    place = np.array(SPOT) * GRID // SHAPE[:2]
    at = np.column_stack(np.unravel_index(maps.reshape(10, -1).argmax(axis=1), GRID))
    assert np.abs(at - place).max() <= 1
    assert np.median(np.abs(at - place).max(axis=1)) == 0


def test_an_ordinary_places_error_is_1(detector, without_negatives, data):
    for each in (detector, without_negatives):
        maps = each.error_maps(data.normal.stopping)
        assert float(maps.mean()) == pytest.approx(1, rel=1e-3)


def test_scores_of_both_phases_are_those_of_passes_of_their_own(detector):
    images = np.concatenate([textured(10, 7), spotted(9, 8)])
    before, after = detector.score_phases(images)
    np.testing.assert_allclose(before, detector.phase1_detector().score(images), rtol=1e-6)
    np.testing.assert_allclose(after, detector.score(images), rtol=1e-6)
    assert np.corrcoef(before, after)[0, 1] < 0.999  # phase 2 changed something


def test_phase_1_is_the_detector_without_negatives(detector, without_negatives):
    """Up to its unit, for the same places are its normal ones."""
    images = spotted(5, 8)
    before = detector.phase1_detector().score(images)
    ratio = before / without_negatives.score(images)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-2)


def test_it_says_what_it_was_trained_against(detector, without_negatives):
    assert detector.choice.name == "made"
    assert detector.notes[0] == detector.choice.why
    assert detector.record["trained_against"]["chosen"] == "made"
    assert without_negatives.choice.why == "negatives: none, as features.negatives says"
    assert without_negatives.record["trained_against"]["chosen"] == "none"
    assert "mean over the highest 5 % of places" in detector.meaning


@pytest.mark.parametrize("which", ["detector", "without_negatives"])
def test_the_choice_is_on_disk_and_what_lacks_a_part_is_refused(which, request, tmp_path):
    detector = request.getfixturevalue(which)
    detector.save(tmp_path)
    loaded = load_detector(tmp_path)
    assert loaded.choice.name == detector.choice.name
    if which == "without_negatives":  # which has no phase 2 to come before
        assert isinstance(loaded._inner, LinearDetector)
        return
    arrays = detector.arrays()
    for broken in ({"usual"}, {"negatives"}, {"features:mean"}):
        with pytest.raises(LisaeError, match="train again"):
            loaded.restore({name: a for name, a in arrays.items() if name not in broken})
    with pytest.raises(LisaeError, match="train again"):
        loaded.restore(arrays | {"negatives": np.int64(9)})


MAHALANOBIS = pytest.param(
    "mahalanobis", marks=pytest.mark.slow("a detector of rows in the same places as knn")
)


@pytest.mark.parametrize("variant", ["knn", MAHALANOBIS])
def test_rivals_need_no_negatives_and_have_maps_too(variant, data):
    rival = fit(settings(variant), TrainingData(data.normal, None))
    assert rival.has_maps and rival.choice is None
    maps = rival.error_maps(data.normal.stopping)
    assert float(maps.mean()) == pytest.approx(1, rel=1e-3)
    assert rival.score(spotted(5, 8)).min() > rival.score(textured(20, 9)).max()
    assert rival.score_phases(spotted(2, 8))[0] is None


def test_real_negatives_beside_made_ones_are_judged_by_their_kinds(data):
    kinds = {"bright": 90, "dark": -80}
    pictures = np.concatenate([spotted(12, 20 + k, kinds[name]) for k, name in enumerate(kinds)])
    names = np.repeat(list(kinds), 12)
    real = Parts(pictures, pictures[:2], pictures[:2])
    both = TrainingData(
        data.normal, real, negative_kinds=Parts(names, names[:2], names[:2]),
        made=data.negative, made_masks=data.negative_masks,
    )  # fmt: skip
    detector = fit(settings(), both)
    assert set(detector.choice.auroc) == {"made", "real", "both", "none"}
    assert all(set(each) == set(kinds) for each in detector.choice.auroc.values())
    assert detector.record["trained_against"]["auroc"] == detector.choice.auroc
    assert detector.score(spotted(5, 8)).min() > detector.score(textured(20, 9)).max()


def test_negatives_that_are_not_there_cannot_be_trained_against(data):
    with pytest.raises(LisaeError, match=r"features\.negatives=real, but linear-lis has only made"):
        fit(settings(negatives="real"), data)


def test_made_negatives_that_show_nothing_are_refused(data):
    nothing = Parts(*(np.zeros(each.shape[:3], bool) for each in (
        data.negative.fit, data.negative.stopping, data.negative.calibration
    )))  # fmt: skip
    unseen = TrainingData(data.normal, data.negative, negative_masks=nothing)
    with pytest.raises(LisaeError, match="the made negatives look like the normal pictures"):
        fit(settings(), unseen)


def test_rows_have_no_places():
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    with pytest.raises(LisaeError, match="features are of pictures; leave the section features"):
        fit(settings("knn"), TrainingData(Parts(rows, rows, rows), None))


def test_a_part_of_many_is_spread_over_all():
    np.testing.assert_array_equal(evenly(5, 10), range(5))
    np.testing.assert_array_equal(evenly(100, 3), [0, 49, 99])
