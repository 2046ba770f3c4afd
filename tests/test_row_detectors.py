"""`lis-knn`, and `knn` and `mahalanobis`, the rivals on rows of features."""

import itertools

import keras
import numpy as np
import pytest
from scipy.spatial.distance import cdist, mahalanobis
from training_fixtures import as_bytes, tiny_config

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.detectors import knn, load_detector, make_detector
from lisae_tf.detectors.knn import NearestDistance, greedy_coreset
from lisae_tf.model.linear import RIDGE
from lisae_tf.training.phase import TrainingOptions

M = 6


def rows(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    turn = np.random.default_rng(1).normal(size=(M, M))
    return (random.normal(size=(count, M)) @ turn + 3).astype(np.float32)


def fitted(variant: str, x: np.ndarray, negative: np.ndarray | None = None, **over):
    detector = make_detector(tiny_config(variant=variant, **over))
    sides = [None if y is None else Parts(y, y[:5], y[:5]) for y in (x, negative)]
    detector.fit_data(TrainingData(*sides), TrainingOptions())
    return detector


@pytest.mark.parametrize(("dimensions", "at_once"), [(M, 4096), (100, 4096), (M, 7), (M, 1)])
def test_each_row_of_the_bank_is_the_farthest_from_those_before(monkeypatch, dimensions, at_once):
    monkeypatch.setattr(knn, "_FARTHEST", at_once)
    x = rows(300)
    chosen = greedy_coreset(x, 40, dimensions, seed=0)
    assert len(chosen) == len(set(chosen.tolist())) == 40
    for count in range(1, 40):
        nearest = cdist(x, x[chosen[:count]]).min(axis=1)
        assert nearest[chosen[count]] == pytest.approx(nearest.max(), rel=1e-3)


def test_a_larger_bank_covers_better_than_random_rows_do():
    x = rows(500)
    chosen = greedy_coreset(x, 100, 100, seed=0)
    reach = [cdist(x, x[chosen[:count]]).min(axis=1).max() for count in (5, 20, 50, 100)]
    assert all(a > 1.2 * b for a, b in itertools.pairwise(reach))
    at_random = np.random.default_rng(0).choice(500, 100, replace=False)
    assert reach[-1] < 0.7 * cdist(x, x[at_random]).min(axis=1).max()


def test_the_choice_is_the_seeds_and_takes_no_row_twice():
    x = np.repeat(rows(10), 30, axis=0)  # copies
    chosen = greedy_coreset(x, 200, 3, seed=0)
    assert len(set(chosen.tolist())) == 200
    assert len(np.unique(x[chosen[:10]], axis=0)) == 10  # all different ones first
    np.testing.assert_array_equal(greedy_coreset(x, 200, 3, seed=0), chosen)
    assert greedy_coreset(x, 200, 3, seed=1).tolist() != chosen.tolist()
    assert sorted(greedy_coreset(rows(7), 20, 3, seed=0)) == list(range(7))


@pytest.mark.parametrize(("neighbours", "at_once"), [(1, 512), (4, 512), (1, 7), (4, 7), (9, 7)])
def test_a_score_is_the_mean_distance_from_the_nearest_of_the_bank(
    neighbours, at_once, monkeypatch
):
    monkeypatch.setattr(knn, "_AT_ONCE", at_once)
    x, new = rows(400), rows(50, seed=2) * 2
    detector = fitted("knn", x, knn={"bank": 60, "neighbours": neighbours})
    bank = detector.arrays()["bank"]
    assert bank.shape == (60, M)
    assert {row.tobytes() for row in bank} <= {row.tobytes() for row in x}
    expected = np.sort(cdist(new, bank), axis=1)[:, :neighbours].mean(axis=1)
    np.testing.assert_allclose(detector.score(new), expected, rtol=1e-3)


def test_a_row_of_the_bank_lies_at_distance_0_from_it():
    bank = rows(20)
    x = keras.Input((M,))
    graph = keras.Model(x, NearestDistance(bank, 1)(x))
    found = np.asarray(graph(bank))
    assert np.isfinite(found).all() and found.max() < 0.02


def test_fewer_rows_than_neighbours_are_all_averaged():
    x = rows(5)
    detector = fitted("knn", x, knn={"neighbours": 9})
    new = rows(3, seed=2)
    np.testing.assert_allclose(detector.score(new), cdist(new, x).mean(axis=1), rtol=1e-3)


def test_lis_knn_measures_where_negatives_have_most_energy():
    x, negative, new = rows(400), rows(300, seed=3) * [1, 5, 1, 1, 3, 1], rows(50, seed=2)
    detector = fitted(
        "lis-knn", x, negative, lis_knn={"bank": 60, "neighbours": 4, "directions": 3}
    )
    directions, bank = (detector.arrays()[name] for name in ("directions", "bank"))
    assert directions.shape == (M, 3) and bank.shape == (60, 3)
    moment = x.T @ x / len(x)
    moment += RIDGE * np.trace(moment) / M * np.eye(M)
    energies = np.linalg.eigvals(np.linalg.solve(moment, negative.T @ negative / len(negative)))
    np.testing.assert_allclose(directions.T @ moment @ directions, np.eye(3), atol=1e-3)
    np.testing.assert_allclose(
        np.mean(np.square(negative @ directions), axis=0), np.sort(energies.real)[: -4 : -1],
        rtol=1e-3,
    )  # fmt: skip
    expected = np.sort(cdist(new @ directions, bank), axis=1)[:, :4].mean(axis=1)
    np.testing.assert_allclose(detector.score(new), expected, rtol=1e-3, atol=1e-3)


def test_lis_knn_sees_a_small_change_where_normals_are_steady():
    random = np.random.default_rng(0)
    spread = np.float32([9, 9, 9, 9, 9, 0.1])
    x, new = (random.normal(size=(n, M)).astype(np.float32) * spread for n in (500, 100))
    changed = new + np.float32([0, 0, 0, 0, 0, 1])
    negative = x + np.float32([0, 0, 0, 0, 0, 2])
    shaped = fitted("lis-knn", x, negative, lis_knn={"directions": 1, "bank": 100})
    assert shaped.score(changed).min() > shaped.score(new).max()
    plain = fitted("knn", x, knn={"bank": 100})
    assert plain.score(changed).mean() == pytest.approx(plain.score(new).mean(), rel=0.1)


def test_the_squared_mahalanobis_distance_is_scipys():
    x, new = rows(2000), rows(20, seed=2) * 2
    detector = fitted("mahalanobis", x)
    covariance = np.cov(x.T, bias=True)
    covariance += RIDGE * np.trace(covariance) / M * np.eye(M)
    inverse, mean = np.linalg.inv(covariance), x.mean(axis=0)
    expected = [mahalanobis(each, mean, inverse) ** 2 for each in new]
    np.testing.assert_allclose(detector.score(new), expected, rtol=1e-3)
    # Normal rows lie at m on average, which the ridge lowers a little.
    assert 0.8 * M < detector.score(x).mean() < M


def test_a_feature_that_never_changes_is_no_division_by_zero():
    x = rows(200)
    x[:, 2] = 1
    detector = fitted("mahalanobis", x)
    new = x[:2].copy()
    new[0, 2] = 2
    scores = detector.score(new)
    assert np.isfinite(scores).all() and scores[0] > 10 * scores[1]


@pytest.mark.parametrize("variant", ["knn", "lis-knn", "mahalanobis"])
def test_a_detector_of_rows_survives_the_disk(variant, tmp_path):
    x, new = rows(200), rows(30, seed=2)
    detector = fitted(variant, x, 2 * x, knn={"bank": 50}, lis_knn={"bank": 50})
    detector.save(tmp_path)
    loaded = load_detector(tmp_path)
    assert as_bytes(loaded.arrays()) == as_bytes(detector.arrays())
    np.testing.assert_array_equal(loaded.score(new), detector.score(new))
    wrong = {name: array[..., :2] for name, array in detector.arrays().items()}
    with pytest.raises(LisaeError, match="do not fit the configuration; train again"):
        loaded.restore(wrong)


@pytest.mark.parametrize("variant", ["knn", "lis-knn", "mahalanobis"])
def test_pixels_are_refused_in_one_sentence(variant):
    pixels = np.zeros((30, 8, 8, 1), np.uint8)
    with pytest.raises(LisaeError, match=f"{variant} works on features, not on pixels") as refused:
        fitted(variant, pixels)
    assert "--features none" in str(refused.value) and "\n" not in str(refused.value)
