"""`LISAEDetector(features=...)` on arrays of pictures."""

import io

import feature_fixtures
import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from lisae_tf.core.errors import LisaeError
from lisae_tf.interfaces.estimator import LISAEDetector

pytestmark = pytest.mark.filterwarnings("ignore:.*calibration samples? supports?:UserWarning")
SMALL = {"features": {"places": 2000, "made": 20}, "data": {"calibration_fraction": 0.2}}


@pytest.fixture(scope="module")
def sides():
    return feature_fixtures.parts(40), feature_fixtures.parts(20, flaw=True, seed=1)


def make(**more):
    more = {"latent": 8, "settings": SMALL} | more
    return LISAEDetector("linear-lis", features="efficientnet_lite0", **more)


def test_features_find_flaws_and_survive_copies(sides):
    normal, flawed = sides
    detector = clone(make())
    assert detector.get_params()["features"] == "efficientnet_lite0"
    assert LISAEDetector().get_params()["features"] == "none"
    detector.fit(normal)
    test = np.concatenate([feature_fixtures.parts(10, seed=9), flawed])
    scores = detector.score_samples(test)
    assert roc_auc_score([1] * 10 + [0] * 20, scores) > 0.95
    # What own folders get, with the parameters over it.
    config = detector.detector_.config
    assert (config.network.latent, config.latent_shaping.closed_form) == (8, True)
    assert config.scoring.highest_share < 1
    stream = io.BytesIO()
    joblib.dump(detector, stream)
    stream.seek(0)
    np.testing.assert_allclose(joblib.load(stream).score_samples(test), scores, rtol=1e-5)


def test_given_negatives_join_made_ones(sides):
    normal, flawed = sides
    detector = make(settings=SMALL | {"features": SMALL["features"] | {"negatives": "both"}})
    detector.fit(normal, negative=flawed)
    assert detector.detector_.choice.name == "both"
    labelled = np.concatenate([normal, flawed])
    again = clone(detector).fit(labelled, np.repeat([1, -1], [len(normal), len(flawed)]))
    np.testing.assert_allclose(
        again.score_samples(flawed), detector.score_samples(flawed), rtol=1e-4
    )


def test_negatives_given_to_a_detector_itself_are_real_ones(sides):
    from lisae_tf.config.settings import resolve
    from lisae_tf.detectors import make_detector

    features = SMALL["features"] | {"negatives": "real"}
    config = resolve({"variant": "linear-lis", "features": features, "network": {"latent": 8},
                      "latent_shaping": {"closed_form": True}})  # fmt: skip
    detector = make_detector(config).fit(*sides)
    assert detector.choice.name == "real"


@pytest.mark.parametrize(
    ("x", "more", "words"),
    [
        (np.zeros((20, 5)), {}, "features are of pictures"),
        (feature_fixtures.parts(20), {"features": "nonsense"}, "convnext_tiny"),
        (feature_fixtures.parts(20), {"synthetic": "noise"}, "synth:"),
    ],
)
def test_what_cannot_be_is_said(x, more, words):
    with pytest.raises(LisaeError, match=words):
        make().set_params(**more).fit(x)


def test_pyod_takes_it_too(sides):
    pytest.importorskip("pyod")
    from lisae_tf.interfaces.pyod_estimator import LISAEPyOD

    normal, flawed = sides
    detector = LISAEPyOD(make()).fit(normal)
    assert detector.decision_function(flawed).mean() > detector.decision_scores_.mean()
