"""Detectors without a network: scikit-learn's own scores, and the rivals on rows of features."""

import dataclasses
import functools
import itertools

import keras
import numpy as np
import pytest
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from training_fixtures import as_bytes, surface, tiny_config, tiny_data

from lisae_tf.core.arrays import load_arrays, save_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json, sha256, write_json
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.detectors import knn, load_detector, make_detector
from lisae_tf.detectors.base import SIDECAR, WEIGHTS
from lisae_tf.detectors.knn import NearestDistance, greedy_coreset
from lisae_tf.detectors.oc_svm import machines
from lisae_tf.detectors.pixels import rows, thin
from lisae_tf.model.linear import RIDGE
from lisae_tf.model.networks import build_linear_networks
from lisae_tf.training.phase import TrainingOptions

DATA = tiny_data()
NEW = np.concatenate([surface("gravel", 30, "test"), surface("camera", 30, "test")])
ONE_LEAF = 1000  # more than the training pictures: with a tree KernelDensity is off far from them
CLASSICAL = ("kde", "if", "oc-svm")


@functools.cache
def fitted(variant):
    detector = make_detector(tiny_config(variant=variant))
    detector.fit_data(DATA, TrainingOptions())
    return detector


def changed(variant, **section):
    name = {"kde": "kde", "if": "isolation_forest", "oc-svm": "oc_svm"}[variant]
    detector = make_detector(tiny_config(variant=variant, **{name: section}))
    detector.fit_data(DATA, TrainingOptions())
    return detector


def test_kde_is_scikit_learns_density():
    detector = fitted("kde")
    density = KernelDensity(bandwidth=detector.bandwidth_, leaf_size=ONE_LEAF)
    density.fit(rows(DATA.normal.fit))
    np.testing.assert_allclose(detector.score(NEW), -density.score_samples(rows(NEW)), rtol=1e-5)


def test_no_other_bandwidth_makes_held_out_normals_likelier():
    settings = fitted("kde").config.kde
    ends = settings.smallest_bandwidth, settings.largest_bandwidth
    grid = np.geomspace(*ends, settings.bandwidths)
    held_out, x = rows(DATA.normal.stopping), rows(DATA.normal.fit)
    likelihood = [
        KernelDensity(bandwidth=h, leaf_size=ONE_LEAF).fit(x).score(held_out) for h in grid
    ]
    assert fitted("kde").bandwidth_ == grid[np.argmax(likelihood)]
    assert fitted("kde").notes == []


def test_a_bandwidth_at_the_end_of_the_grid_is_a_note():
    detector = changed("kde", smallest_bandwidth=0.5, bandwidths=3)
    assert detector.bandwidth_ == 0.5
    assert "kde.smallest_bandwidth may be set further out" in detector.notes[0]


def test_the_forest_is_scikit_learns():
    forest = IsolationForest(n_estimators=100, max_samples=256, random_state=0)
    forest.fit(rows(DATA.normal.fit))
    for detector in (fitted("if"), make_detector(tiny_config(variant="if"))):
        if detector.shape is None:  # and rebuilt from its arrays
            detector.shape = DATA.shape
            detector.restore(fitted("if").arrays())
        expected = -forest.score_samples(rows(NEW))
        np.testing.assert_allclose(detector.score(NEW), expected, rtol=1e-6)


def test_another_seed_grows_another_forest():
    other = make_detector(tiny_config(variant="if", seed=1))
    other.fit_data(DATA, TrainingOptions())
    assert not np.array_equal(other.score(NEW), fitted("if").score(NEW))


def test_a_forest_of_few_pictures_takes_them_all():
    assert np.all(changed("if", max_samples=10_000).arrays()["samples"][:, 0] == 320)


def test_the_machine_is_scikit_learns_with_the_sign_turned():
    detector = fitted("oc-svm")
    machine = OneClassSVM(gamma=detector.gamma_, nu=0.1).fit(rows(DATA.normal.fit))
    expected = -machine.decision_function(rows(NEW))
    np.testing.assert_allclose(detector.score(NEW), expected, rtol=1e-5, atol=1e-6)


def test_the_scale_is_the_largest_under_which_held_out_normals_are_outliers_as_nu_says():
    settings = fitted("oc-svm").config.oc_svm
    x, held_out = rows(DATA.normal.fit), rows(DATA.normal.stopping)
    gammas = np.sort(settings.scales) / (x.shape[1] * np.var(x, dtype=np.float64))
    shares = [
        np.mean(OneClassSVM(gamma=g, nu=settings.nu).fit(x).predict(held_out) < 0) for g in gammas
    ]
    allowed = settings.nu + 2 * np.sqrt(settings.nu * (1 - settings.nu) / len(held_out))
    agreeing = gammas[np.array(shares) <= allowed]
    assert 0 < len(agreeing) < len(gammas)  # the rule decides something
    assert fitted("oc-svm").gamma_ == pytest.approx(agreeing.max())


def test_where_no_scale_agrees_with_nu_the_smoothest_is_taken():
    detector = changed("oc-svm", scales=[500.0, 200.0])
    variance = np.var(rows(DATA.normal.fit), dtype=np.float64)
    assert detector.gamma_ == pytest.approx(200 / (1024 * variance))


@pytest.mark.parametrize("variant", ["kde", "oc-svm"])
def test_large_training_sets_are_thinned_by_a_fixed_stride(variant):
    detector = changed(variant, max_pictures=100)  # 320 pictures: every fourth
    few = {row.tobytes() for row in rows(DATA.normal.fit[::4])}
    if variant == "kde":
        kept = rows(detector.arrays()["pixels"])
        assert len(kept) == 80
    else:
        kept = detector.arrays()["vectors"]
        assert 0 < len(kept) < 80
    assert {row.tobytes() for row in kept} <= few


@pytest.mark.parametrize("count, limit, left", [(10, 10, 10), (10, 9, 5), (10, 3, 3), (10, 1, 1)])
def test_thinning_keeps_to_the_limit(count, limit, left):
    assert len(thin(np.arange(count), limit)) == left


@pytest.mark.parametrize("variant", CLASSICAL)
def test_negatives_change_nothing(variant):
    without = make_detector(tiny_config(variant=variant))
    without.fit(surface("gravel", 200))
    given = make_detector(tiny_config(variant=variant))
    given.fit(surface("gravel", 200), surface("coins", 200))
    np.testing.assert_array_equal(without.score(NEW), given.score(NEW))


@pytest.mark.parametrize("variant", CLASSICAL)
@pytest.mark.parametrize("spoil", ["missing", "short", "nan"])
def test_arrays_that_do_not_fit_are_refused(variant, spoil, tmp_path):
    fitted(variant).save(tmp_path)
    arrays, _ = load_arrays(tmp_path / WEIGHTS)
    name = next(iter(arrays))
    if spoil == "missing":
        del arrays[name]
    elif spoil == "short":
        arrays[name] = arrays[name][:, :-1]
    else:
        name = {"kde": "bandwidth", "if": "threshold", "oc-svm": "coefficients"}[variant]
        arrays[name] = arrays[name] * np.nan
    save_arrays(tmp_path / WEIGHTS, arrays)
    record = read_json(tmp_path / SIDECAR)
    record["sha256"][WEIGHTS] = sha256(tmp_path / WEIGHTS)
    write_json(tmp_path / SIDECAR, record)
    with pytest.raises(LisaeError, match="do not fit the configuration; train again"):
        load_detector(tmp_path)


@pytest.mark.parametrize("child", [0, 10_000])
def test_trees_that_lead_back_or_out_are_refused(child):
    arrays = {name: array.copy() for name, array in fitted("if").arrays().items()}
    arrays["right"][0, 0] = child
    detector = make_detector(tiny_config(variant="if"))
    detector.shape = DATA.shape
    with pytest.raises(LisaeError, match="trees do not fit"):
        detector.restore(arrays)


def test_the_machines_of_each_scale_are_those_of_scikit_learn():
    settings = fitted("oc-svm").config.oc_svm.model_copy(update={"scales": [8.0, 1.0]})
    called = [each.predict(rows(NEW)) < 0 for each in machines(DATA.normal.fit, settings)]
    x = rows(DATA.normal.fit)
    for row, scale in zip(called, (1.0, 8.0), strict=True):
        gamma = scale / (x.shape[1] * np.var(x, dtype=np.float64))
        machine = OneClassSVM(gamma=gamma, nu=0.1).fit(x)
        np.testing.assert_array_equal(row, machine.predict(rows(NEW)) < 0)


def test_the_linear_autoencoder_is_principal_component_analysis():
    detector = fitted("linear-ae")
    pca = PCA(detector.config.network.latent, svd_solver="full").fit(rows(DATA.normal.fit))
    expected = pca.inverse_transform(pca.transform(rows(NEW)))
    np.testing.assert_allclose(
        detector.reconstruct(NEW).reshape(60, -1), expected, rtol=1e-3, atol=1e-4
    )
    errors = np.mean(np.square(expected - rows(NEW)), axis=1)
    np.testing.assert_allclose(detector.score(NEW), errors, rtol=1e-3)


def test_no_linear_network_trained_on_squared_error_gets_below_it():
    """Training from its weights gains nothing; training from others ends at its error."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    small = dataclasses.replace(DATA.normal, fit=DATA.normal.fit[:, ::4, ::4])
    detector = make_detector(tiny_config(variant="linear-ae", network={"latent": 2}))
    detector.fit_data(dataclasses.replace(DATA, normal=small), TrainingOptions())
    best = float(np.mean(detector.score(small.fit)))
    x = small.fit.astype(np.float32) / 255
    for steps, rate, solved in ((20, 1e-2, detector.networks()), (700, 2e-2, None)):
        parts = build_linear_networks(detector.shape, 2, use_bias=True)
        for network, source in zip(parts, solved or (), strict=solved is not None):
            network.set_weights(source.get_weights())
        inputs = keras.Input(detector.shape)
        model = keras.Model(inputs, parts[2](parts[1](parts[0](inputs))))
        optimizer = keras.optimizers.Adam(rate)
        model.compile(optimizer, "mean_squared_error", steps_per_execution=20)
        model.fit(tf.data.Dataset.from_tensors((x, x)).repeat(steps), shuffle=False, verbose=0)
        reached = float(model.evaluate(x, x, batch_size=len(x), verbose=0))
        assert reached > best * (1 - 1e-5)
    assert reached < best * 1.02


def test_a_latent_beyond_the_data_is_refused():
    detector = make_detector(tiny_config(variant="linear-ae", network={"latent": 321}))
    with pytest.raises(LisaeError, match=r"network\.latent must be at most 320"):
        detector.fit_data(DATA, TrainingOptions())


M = 6


def cloud(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    turn = np.random.default_rng(1).normal(size=(M, M))
    return (random.normal(size=(count, M)) @ turn + 3).astype(np.float32)


def fitted_on(variant: str, x: np.ndarray, negative: np.ndarray | None = None, **over):
    detector = make_detector(tiny_config(variant=variant, **over))
    sides = [None if y is None else Parts(y, y[:5], y[:5]) for y in (x, negative)]
    detector.fit_data(TrainingData(*sides), TrainingOptions())
    return detector


@pytest.mark.parametrize(("dimensions", "at_once"), [(M, 4096), (100, 4096), (M, 7), (M, 1)])
def test_each_row_of_the_bank_is_the_farthest_from_those_before(monkeypatch, dimensions, at_once):
    monkeypatch.setattr(knn, "_FARTHEST", at_once)
    x = cloud(300)
    chosen = greedy_coreset(x, 40, dimensions, seed=0)
    assert len(chosen) == len(set(chosen.tolist())) == 40
    for count in range(1, 40):
        nearest = cdist(x, x[chosen[:count]]).min(axis=1)
        assert nearest[chosen[count]] == pytest.approx(nearest.max(), rel=1e-3)


def test_a_larger_bank_covers_better_than_random_rows_do():
    x = cloud(500)
    chosen = greedy_coreset(x, 100, 100, seed=0)
    reach = [cdist(x, x[chosen[:count]]).min(axis=1).max() for count in (5, 20, 50, 100)]
    assert all(a > 1.2 * b for a, b in itertools.pairwise(reach))
    at_random = np.random.default_rng(0).choice(500, 100, replace=False)
    assert reach[-1] < 0.7 * cdist(x, x[at_random]).min(axis=1).max()


def test_the_choice_is_the_seeds_and_takes_no_row_twice():
    x = np.repeat(cloud(10), 30, axis=0)  # copies
    chosen = greedy_coreset(x, 200, 3, seed=0)
    assert len(set(chosen.tolist())) == 200
    assert len(np.unique(x[chosen[:10]], axis=0)) == 10  # all different ones first
    np.testing.assert_array_equal(greedy_coreset(x, 200, 3, seed=0), chosen)
    assert greedy_coreset(x, 200, 3, seed=1).tolist() != chosen.tolist()
    assert sorted(greedy_coreset(cloud(7), 20, 3, seed=0)) == list(range(7))


@pytest.mark.parametrize(("neighbours", "at_once"), [(1, 512), (4, 512), (1, 7), (4, 7), (9, 7)])
def test_a_score_is_the_mean_distance_from_the_nearest_of_the_bank(
    neighbours, at_once, monkeypatch
):
    monkeypatch.setattr(knn, "_AT_ONCE", at_once)
    x, new = cloud(400), cloud(50, seed=2) * 2
    detector = fitted_on("knn", x, knn={"bank": 60, "neighbours": neighbours})
    bank = detector.arrays()["bank"]
    assert bank.shape == (60, M)
    assert {row.tobytes() for row in bank} <= {row.tobytes() for row in x}
    expected = np.sort(cdist(new, bank), axis=1)[:, :neighbours].mean(axis=1)
    np.testing.assert_allclose(detector.score(new), expected, rtol=1e-3)


def test_a_row_of_the_bank_lies_at_distance_0_from_it():
    bank = cloud(20)
    x = keras.Input((M,))
    graph = keras.Model(x, NearestDistance(bank, 1)(x))
    found = np.asarray(graph(bank))
    assert np.isfinite(found).all() and found.max() < 0.02


def test_fewer_rows_than_neighbours_are_all_averaged():
    x = cloud(5)
    detector = fitted_on("knn", x, knn={"neighbours": 9})
    new = cloud(3, seed=2)
    np.testing.assert_allclose(detector.score(new), cdist(new, x).mean(axis=1), rtol=1e-3)


def test_lis_knn_measures_where_negatives_have_most_energy():
    x, negative, new = cloud(400), cloud(300, seed=3) * [1, 5, 1, 1, 3, 1], cloud(50, seed=2)
    detector = fitted_on(
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
    shaped = fitted_on("lis-knn", x, negative, lis_knn={"directions": 1, "bank": 100})
    assert shaped.score(changed).min() > shaped.score(new).max()
    plain = fitted_on("knn", x, knn={"bank": 100})
    assert plain.score(changed).mean() == pytest.approx(plain.score(new).mean(), rel=0.1)


def test_the_squared_mahalanobis_distance_is_scipys():
    x, new = cloud(2000), cloud(20, seed=2) * 2
    detector = fitted_on("mahalanobis", x)
    covariance = np.cov(x.T, bias=True)
    covariance += RIDGE * np.trace(covariance) / M * np.eye(M)
    inverse, mean = np.linalg.inv(covariance), x.mean(axis=0)
    expected = [mahalanobis(each, mean, inverse) ** 2 for each in new]
    np.testing.assert_allclose(detector.score(new), expected, rtol=1e-3)
    # Normal cloud lie at m on average, which the ridge lowers a little.
    assert 0.8 * M < detector.score(x).mean() < M


def test_a_feature_that_never_changes_is_no_division_by_zero():
    x = cloud(200)
    x[:, 2] = 1
    detector = fitted_on("mahalanobis", x)
    new = x[:2].copy()
    new[0, 2] = 2
    scores = detector.score(new)
    assert np.isfinite(scores).all() and scores[0] > 10 * scores[1]


@pytest.mark.parametrize("variant", ["knn", "lis-knn", "mahalanobis"])
def test_a_detector_of_rows_survives_the_disk(variant, tmp_path):
    x, new = cloud(200), cloud(30, seed=2)
    detector = fitted_on(variant, x, 2 * x, knn={"bank": 50}, lis_knn={"bank": 50})
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
        fitted_on(variant, pixels)
    assert "--features none" in str(refused.value) and "\n" not in str(refused.value)
