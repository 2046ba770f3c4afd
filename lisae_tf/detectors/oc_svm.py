"""The one-class support vector machine (Schölkopf et al. 2001) with a Gaussian kernel.

A score is the decision function with the sign turned. The kernel's inverse length scale is the
largest of those tried, hence the tightest description, under which held-out normals are outliers
about as often as ν promises: no more often than ν plus two standard errors of that count.
"""

import math
from collections.abc import Iterator

import numpy as np
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import OneClassSVM

from lisae_tf.config import sections
from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.pixels import PixelDetector, check_arrays, rows, thin
from lisae_tf.model.checkpoints import Arrays
from lisae_tf.training.phase import TrainingOptions


def machines(normal: np.ndarray, settings: sections.OneClassSVM) -> Iterator[OneClassSVM]:
    """A fitted machine for each scale, smallest first.

    Args:
        normal: uint8 (N, H, W, C).
        settings: ν, scales and the limit on N.
    """
    x = rows(thin(normal, settings.max_pictures))
    unit = 1 / (x.shape[1] * max(float(x.var(dtype=np.float64)), 1e-12))
    for scale in sorted(settings.scales):
        yield OneClassSVM(gamma=scale * unit, nu=settings.nu, cache_size=500).fit(x)


class OneClassSVMDetector(PixelDetector):
    """`oc-svm`."""

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        settings = self.config.oc_svm
        held_out = rows(data.normal.stopping)
        nu = settings.nu
        allowed = nu + 2 * math.sqrt(nu * (1 - nu) / len(held_out))
        chosen = None
        for machine in machines(data.normal.fit, settings):
            outliers = float(np.mean(machine.decision_function(held_out) < 0))
            if chosen is None or outliers <= allowed:
                chosen = machine
        self.shape = data.shape
        self._vectors = chosen.support_vectors_.astype(np.float32)
        self._coefficients = chosen.dual_coef_[0]
        self._intercept, self.gamma_ = float(chosen.intercept_[0]), float(chosen.gamma)

    def _score_rows(self, x: np.ndarray) -> np.ndarray:
        kernel = rbf_kernel(x.astype(np.float64), self._vectors, self.gamma_)
        return -(kernel @ self._coefficients + self._intercept)

    def arrays(self) -> Arrays:
        return {
            "vectors": self._vectors,
            "coefficients": self._coefficients,
            "intercept": np.float64(self._intercept),
            "gamma": np.float64(self.gamma_),
        }

    def restore(self, arrays: Arrays) -> None:
        count = len(arrays.get("vectors", ()))
        size = math.prod(self.shape)
        check_arrays(
            arrays,
            {"vectors": (count, size), "coefficients": (count,), "intercept": (), "gamma": ()},
        )
        self._vectors, self._coefficients = arrays["vectors"], arrays["coefficients"]
        self._intercept, self.gamma_ = float(arrays["intercept"]), float(arrays["gamma"])
