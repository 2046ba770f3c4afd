"""README's Python is run as it stands, on small pictures."""

import re
from pathlib import Path

import numpy as np
import pytest
from training_fixtures import surface

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def small(name, count):
    return surface(name, count)[:, :8, :8]


@pytest.fixture(scope="module")
def left():
    """What the examples leave behind, in order; the linear case takes the place of networks."""
    from lisae_tf.interfaces import estimator

    class Quick(estimator.LISAEDetector):
        def _config(self, X, seed):
            return super()._config(X, seed).model_copy(update={"variant": "linear-lis"})

    names = {
        "normal": small("gravel", 60),
        "negative": np.concatenate([small("coins", 20), small("brick", 20)]),
        "kinds": ["coins"] * 20 + ["brick"] * 20,
        "images": small("page", 5),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(estimator, "LISAEDetector", Quick)
        for block in BLOCKS:
            exec(compile(block, "README.md", "exec"), names)
    return names


pytestmark = pytest.mark.filterwarnings("ignore:.*calibration samples? supports?:UserWarning")


def test_the_detector_of_the_example_is_fitted(left):
    assert len(BLOCKS) == 2
    assert left["detector"].predict(left["images"]).shape == (5,)


def test_gamma_is_chosen_by_kinds_that_the_training_has_not_seen(left):
    search, y, groups = (left[name] for name in ("search", "y", "groups"))
    assert set(search.best_params_) == {"gamma"}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    kinds = np.asarray(groups, object)
    for trained, measured in search.cv.split(left["X"], y, groups):
        told_apart = [set(kinds[rows[y[rows] == -1]]) for rows in (trained, measured)]
        assert all(told_apart)
        assert not set.intersection(*told_apart)
        assert (y[measured] == 1).sum() > 10
