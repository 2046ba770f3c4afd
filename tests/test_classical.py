"""The detectors without a network give scikit-learn's own scores, kept as plain arrays."""

import dataclasses
import functools

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from training_fixtures import surface, tiny_config, tiny_data

from lisae_tf.core.arrays import load_arrays, save_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json, sha256, write_json
from lisae_tf.detectors import load_detector, make_detector
from lisae_tf.detectors.base import SIDECAR, WEIGHTS
from lisae_tf.detectors.oc_svm import machines
from lisae_tf.detectors.pixels import rows, thin
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
