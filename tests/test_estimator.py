"""Detectors in scikit-learn's interface and in PyOD's."""

import io
import warnings
from functools import cache

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator
from training_fixtures import TINY, surface

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import side_indices
from lisae_tf.detectors import DETECTORS, load_detector
from lisae_tf.detectors.graph import AutoencoderDetector
from lisae_tf.interfaces.estimator import LISAEDetector
from lisae_tf.interfaces.tabular import Standardiser, synthetic_rows

# Of many settings for few samples; they have tests of their own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.* is set, but .* does not read it:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*calibration samples? supports?:UserWarning"),
]
QUICK = {"epochs": 2, "shaping_epochs": 2}
SMALL = {
    **QUICK,
    "latent": 8,
    "settings": {"network": {"filters": [4, 8]}, "feature_extraction": TINY["feature_extraction"]},
}


def ring(count, seed=0, radius=3.0):
    """Feature rows: a noisy circle in the first two features, and a third that is their product."""
    generator = np.random.default_rng(seed)
    angle = generator.uniform(0, 2 * np.pi, count)
    x = radius * np.cos(angle) + generator.normal(0, 0.1, count)
    y = radius * np.sin(angle) + generator.normal(0, 0.1, count)
    return np.stack([x, y, x * y], axis=1)


@pytest.fixture(scope="module")
def fitted():
    """Estimators by variant on the same rows, each fitted once."""
    return cache(lambda variant: LISAEDetector(variant, **QUICK).fit(ring(300)))


def checked(estimator):
    """What `check_estimator` says: names by status, with the reason of what did not pass."""
    with warnings.catch_warnings():
        # Scikit-learn's checks pass class labels as y, which outlier detectors ignore.
        warnings.filterwarnings("ignore", "y holds labels", UserWarning)
        # And few samples.
        warnings.filterwarnings("ignore", ".*calibration samples? supports?", UserWarning)
        found = check_estimator(estimator, on_fail=None, on_skip=None)
    by_status = {"passed": {}, "skipped": {}, "failed": {}}
    for each in found:
        reason = str(each["exception"]) if each["exception"] else None
        by_status[each["status"]][each["check_name"]] = reason
    assert len(by_status["passed"]) > 30
    return by_status


def test_check_estimator():
    assert checked(LISAEDetector("kde"))["failed"] == {}


@pytest.mark.slow("dozens of trainings of networks; the same checks pass with kde")
@pytest.mark.parametrize("variant", ["lis", "linsep", "ae"])
def test_check_estimator_with_networks(variant, measured):
    found = checked(LISAEDetector(variant))
    measured(passed=sorted(found["passed"]), skipped=found["skipped"], failed=found["failed"])
    assert found["failed"] == {}


# Each trains a network of a family of which the default run has another one: lis, bce and anogan.
ALIKE = {
    "ae", "linsep", "linsep-fused", "vae", "mem-ae", "sig-repnn", "anogan-fm", "hsc", "deep-sad",
    "oc-dsvdd",
}  # fmt: skip
FAMILY = pytest.mark.slow("another training of a family of networks that has a fast one")


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=FAMILY) if v in ALIKE else v for v in DETECTORS]
)
def test_every_detector_takes_feature_rows(variant):
    normal = ring(400)
    settings = {"anogan": {"epochs": 1, "encoder_epochs": 1, "critic_steps": 2}}
    estimator = LISAEDetector(variant, **QUICK, settings=settings).fit(normal)
    scores = estimator.decision_function(ring(50, seed=1))
    assert scores.shape == (50,)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 40
    far = estimator.decision_function(np.full((1, 3), 40.0))
    assert far[0] < np.quantile(scores, 0.1)


PIXELS = pytest.mark.slow("networks trained on pixels, which linear-lis shows to arrive")


@pytest.mark.parametrize(
    "variant", ["linear-lis", "if", *(pytest.param(v, marks=PIXELS) for v in ("lis", "bce"))]
)
def test_pictures(variant):
    estimator = LISAEDetector(variant, **SMALL)
    normal, negative = (surface(name, 300)[:, ::2, ::2] for name in ("gravel", "coins"))
    estimator.fit(normal, negative=negative)
    test = surface("gravel", 60, "test")[:, ::2, ::2]
    scores = estimator.score_samples(test)
    np.testing.assert_array_equal(-scores, estimator.detector_.score(test).astype(np.float64))
    # A last axis of one channel may be left out.
    np.testing.assert_array_equal(estimator.score_samples(test[..., 0]), scores)


def test_signs_are_scikit_learns(fitted):
    estimator = fitted("ae")
    near, far = ring(20, seed=1), ring(20, seed=1, radius=30.0)
    assert estimator.score_samples(near).min() > estimator.score_samples(far).max()
    np.testing.assert_array_equal(estimator.predict(far), -1)
    decisions = estimator.decision_function(near)
    np.testing.assert_array_equal(decisions, estimator.score_samples(near) - estimator.offset_)
    np.testing.assert_array_equal(estimator.predict(near), np.where(decisions < 0, -1, 1))
    assert estimator.offset_ == -estimator.detector_.threshold_.alpha


def test_labels_of_minus_one_are_negatives():
    normal, negative = ring(300), ring(200, seed=1, radius=1.5)
    by_label = LISAEDetector("linear-lis").fit(
        np.concatenate([normal, negative]), np.repeat([1, -1], [300, 200])
    )
    by_name = LISAEDetector("linear-lis").fit(normal, negative=negative)
    synthetic = LISAEDetector("linear-lis").fit(normal)
    test = ring(30, seed=2)
    np.testing.assert_array_equal(by_label.score_samples(test), by_name.score_samples(test))
    assert not np.array_equal(by_label.score_samples(test), synthetic.score_samples(test))


def quadrants(count, seed, sign):
    """A plane in six features: two of its quadrants, or with sign −1 the two others."""
    generator = np.random.default_rng(seed)
    plane = generator.uniform(-1, 1, (count, 2))
    plane[:, 1] = sign * np.abs(plane[:, 1]) * np.sign(plane[:, 0])
    rows = plane @ np.array([[1, 0.5, 0, 2, 1, 0], [0, -0.5, 1, 1, 0, 1]])
    return rows + generator.normal(0, 0.02, rows.shape)


@pytest.mark.slow("two whole trainings; test_autoencoder has the push, labels the way there")
def test_negatives_push_away_what_the_autoencoder_reconstructs():
    normal, negative = quadrants(600, 0, 1), quadrants(600, 1, -1)
    held_out = quadrants(200, 2, 1), quadrants(200, 3, -1)
    truth = np.repeat([1, 0], 200)
    found = {}
    for variant in ("ae", "lis"):
        estimator = LISAEDetector(variant, latent=4).fit(normal, negative=negative)
        scores = np.concatenate([estimator.score_samples(side) for side in held_out])
        found[variant] = roc_auc_score(truth, scores)
    assert found["lis"] > 0.9
    assert found["lis"] > found["ae"] + 0.02


def test_wrong_labels_are_refused_and_class_labels_ignored_with_a_warning():
    rows = ring(50)
    with pytest.raises(ValueError, match=r"\+1 for normal and -1"):
        LISAEDetector("kde").fit(rows, np.resize([0, 1, -1], 50))
    with pytest.raises(ValueError, match="one label for each"):
        LISAEDetector("kde").fit(rows, [1, 1])
    with pytest.warns(UserWarning, match="ignored: every sample is taken as normal"):
        LISAEDetector("kde").fit(rows, np.resize([0, 1], 50))


@pytest.mark.parametrize(
    ("pictures", "sentence"),
    [
        (np.zeros((9, 8, 8, 1), np.float32), "must be uint8"),
        (np.zeros((9, 8, 8, 1, 1), np.uint8), "must be uint8"),
        (np.zeros((2, 8, 8, 1), np.uint8), "at least 4"),
    ],
)
def test_pictures_of_another_kind_are_refused(pictures, sentence):
    with pytest.raises(LisaeError, match=sentence):
        LISAEDetector("kde").fit(pictures)


def test_pictures_and_rows_do_not_mix():
    estimator = LISAEDetector("kde").fit(ring(50))
    with pytest.raises(ValueError, match="feature rows must be float32"):
        estimator.score_samples(np.zeros((3, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="features"):
        estimator.score_samples(ring(5)[:, :2])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"variant": "lisp"}, "did you mean 'lis'"),
        ({"latent": -1}, "network.latent"),
        ({"settings": {"latent_shaping": {"gama": 1.0}}}, "gamma"),
        ({"synthetic": "noise"}, "synth:"),
    ],
)
def test_settings_are_checked_when_fitted(settings, sentence):
    estimator = LISAEDetector(**({"variant": "lis"} | settings))  # never when made
    with pytest.raises(ValueError, match=sentence):
        estimator.fit(surface("gravel", 20))


def test_a_score_is_bit_equal_alone_and_in_company(fitted):
    estimator = fitted("ae")
    test = ring(20, seed=1)
    alone = np.concatenate([estimator.score_samples(row[None]) for row in test])
    np.testing.assert_array_equal(alone, estimator.score_samples(test))


@pytest.mark.parametrize("variant", ["ae", "kde"])
def test_joblib_and_the_detectors_own_file_keep_scores(variant, fitted, tmp_path):
    estimator = fitted(variant)
    test = ring(20, seed=1)
    stored = io.BytesIO()
    joblib.dump(estimator, stored)
    stored.seek(0)
    again = joblib.load(stored)
    np.testing.assert_array_equal(again.score_samples(test), estimator.score_samples(test))
    np.testing.assert_array_equal(again.predict(test), estimator.predict(test))
    estimator.detector_.save(tmp_path)
    assert load_detector(tmp_path).threshold_ == estimator.detector_.threshold_
    assert not hasattr(clone(estimator), "detector_")


def test_rows_are_explained_by_their_reconstruction(fitted):
    estimator = fitted("ae")
    detector = estimator.detector_
    assert isinstance(detector, AutoencoderDetector)
    rows = estimator._standardise(ring(20, seed=1))
    errors = np.mean(np.square(detector.reconstruct(rows) - rows), axis=1)
    np.testing.assert_allclose(detector.score(rows), errors, rtol=1e-5)


def test_grid_search_in_a_pipeline():
    x, y = load_breast_cancer(return_X_y=True)
    labels = np.where(y == 1, 1, -1)
    search = GridSearchCV(
        make_pipeline(MinMaxScaler(), LISAEDetector("linear-lis")),
        {"lisaedetector__gamma": [0.5, 2.0], "lisaedetector__latent": [2, 8]},
        scoring="roc_auc",
        cv=StratifiedKFold(2),
    ).fit(x, labels)
    assert search.best_score_ > 0.9
    assert len(set(search.cv_results_["mean_test_score"])) > 1


def test_pyod():
    pytest.importorskip("pyod", reason="PyOD is not installed (extra `pyod`)")
    from pyod.models.iforest import IForest

    from lisae_tf.interfaces.pyod_estimator import LISAEPyOD

    train, near, far = ring(300), ring(50, seed=1), ring(50, seed=2, radius=1.0)
    truth = np.repeat([0, 1], 50)
    found = {}
    for detector in (LISAEPyOD(LISAEDetector("kde"), contamination=0.05), IForest(random_state=0)):
        detector.fit(train)
        assert detector.decision_scores_.shape == (300,)
        scores = detector.decision_function(np.concatenate([near, far]))
        found[type(detector).__name__] = roc_auc_score(truth, scores)
        assert set(detector.predict(far)) <= {0, 1}
    assert detector.labels_.sum() > 0
    assert found["LISAEPyOD"] > 0.99
    ours = LISAEPyOD(LISAEDetector("kde"), contamination=0.05).fit(train)
    assert ours.labels_.sum() == 15  # 5 % of 300
    np.testing.assert_array_equal(
        ours.decision_function(near), -ours.estimator_.score_samples(near)
    )
    assert ours.predict_proba(near).shape == (50, 2)
    # Settings within are reached as in a Pipeline, and the one that was given is not fitted.
    ours.set_params(estimator__false_positive_rate=0.2)
    assert ours.estimator.false_positive_rate == 0.2
    assert not hasattr(ours.estimator, "detector_")


def test_standardised_rows_have_mean_0_and_spread_1():
    rows = np.random.default_rng(0).normal(5, 3, (1000, 4))
    rows[:, 3] = 7  # constant
    found = Standardiser.of(rows)(rows)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(axis=0), [1, 1, 1, 0], atol=1e-6)


def test_synthetic_rows_keep_ranges_and_lose_what_binds_features():
    normal = Standardiser.of(ring(4000))(ring(4000))
    found = synthetic_rows(normal, seed=0)
    assert found.shape == normal.shape
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, synthetic_rows(normal, seed=0))
    margin = 0.5 * np.ptp(normal, axis=0) + 1e-5
    assert np.all(found >= normal.min(axis=0) - margin)
    assert np.all(found <= normal.max(axis=0) + margin)
    drawn = np.isin(found, normal).all(axis=1)  # the half of permuted features
    assert 0.45 < drawn.mean() < 0.55
    product = found[drawn][:, 0] * found[drawn][:, 1]
    assert abs(np.corrcoef(product, found[drawn][:, 2])[0, 1]) < 0.1
    assert np.corrcoef(normal[:, 0] * normal[:, 1], normal[:, 2])[0, 1] > 0.95


@pytest.mark.parametrize("variant", ["kde", "linear-lis"])
def test_calibration_rows_change_nothing_but_the_threshold(variant):
    normal = ring(200)
    row = np.arange(len(normal))
    *_, held_out = side_indices(len(row), LISAEDetector()._config(normal, 0).data, seed=0, stream=0)
    odd = normal.copy()
    odd[held_out] = 1000.0 + np.arange(len(held_out))[:, None]
    fitted, spoilt = (LISAEDetector(variant, **QUICK).fit(each) for each in (normal, odd))
    for name, array in fitted.detector_.arrays().items():
        np.testing.assert_array_equal(array, spoilt.detector_.arrays()[name], err_msg=name)
    np.testing.assert_array_equal(fitted._standardise.mean, spoilt._standardise.mean)
    np.testing.assert_array_equal(fitted._standardise.std, spoilt._standardise.std)
    assert spoilt.detector_.threshold_.alpha > fitted.detector_.threshold_.alpha


def test_no_negative_that_is_trained_on_is_made_of_a_calibration_picture():
    normal = surface("gravel", 60)[:, :8, :8]
    *_, held_out = side_indices(60, LISAEDetector()._config(normal, 0).data, seed=0, stream=0)
    odd = normal.copy()
    odd[held_out] = np.arange(len(held_out), dtype=np.uint8)[:, None, None, None]
    estimator = LISAEDetector(synthetic="synth:flip")
    config = estimator._config(normal, 0)
    parts, spoilt = (estimator._divided(each, each[:0], config, True) for each in (normal, odd))
    for side, other in ((parts.normal, spoilt.normal), (parts.negative, spoilt.negative)):
        np.testing.assert_array_equal(side.fit, other.fit)
        np.testing.assert_array_equal(side.stopping, other.stopping)
        assert not np.array_equal(side.calibration, other.calibration)


def test_copies_of_a_sample_stay_together():
    rows = np.repeat(ring(50), 4, axis=0)
    estimator = LISAEDetector("kde")
    data = estimator._divided(rows, rows[:0], estimator._config(rows, 0), False)
    parts = [data.normal.fit, data.normal.stopping, data.normal.calibration]
    seen = [{row.tobytes() for row in part} for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 50
    # For the threshold a copy counts once.
    assert [len(part) / len(rows) for part, rows in zip(parts, seen, strict=True)] == [4, 4, 1]


def test_near_copies_of_a_picture_stay_together():
    pictures = np.random.default_rng(0).integers(20, 230, (40, 16, 16, 1), np.uint8)
    again = pictures + np.random.default_rng(1).integers(0, 2, pictures.shape, np.uint8)
    both = np.concatenate([pictures, again])
    estimator = LISAEDetector("kde")
    data = estimator._divided(both, both[:0], estimator._config(both, 0), False)
    row_of = {picture.tobytes(): row % 40 for row, picture in enumerate(both)}
    parts = [data.normal.fit, data.normal.stopping, data.normal.calibration]
    seen = [[row_of[picture.tobytes()] for picture in part] for part in parts]
    assert sum(len(set(part)) for part in seen) == len(set.union(*map(set, seen))) == 40
    # For the threshold a near copy counts once.
    assert [len(part) / len(set(part)) for part in seen] == [2, 2, 1]


def test_a_rate_that_too_few_samples_support_is_told():
    promised = r"1 calibration sample supports a false-positive rate of 0\.500 .*, not 0\.01"
    with pytest.warns(UserWarning, match=promised):
        found = LISAEDetector("kde", false_positive_rate=0.01).fit(surface("gravel", 8))
    assert found.detector_.threshold_.guaranteed_fpr == 0.5


@pytest.mark.parametrize(
    ("options", "unread"),
    [
        ({"gamma": 5.0}, ["latent_shaping.gamma"]),
        ({"epochs": 3, "latent": 2}, ["network.latent", "feature_extraction.epochs"]),
        ({"settings": {"oc_svm": {"nu": 0.1}}}, ["oc_svm.nu"]),
        ({"synthetic": "synth:flip"}, ["synthetic"]),
        ({"settings": {"kde": {"max_pictures": 100}}}, []),
    ],
)
def test_a_setting_that_is_never_read_is_told(options, unread):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        LISAEDetector("kde", **options).fit(ring(200))
    assert [str(each.message) for each in told] == [
        f"{path} is set, but kde does not read it" for path in unread
    ]
    assert {each.filename for each in told} <= {__file__}
