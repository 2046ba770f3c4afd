"""The Mahalanobis distance of a place's features from those of normal places.

What PaDiM (Defard et al. 2021) measures, with one Gaussian for all places instead of one for each.
"""

import keras
import numpy as np
from keras import ops
from scipy import linalg

from lisae_tf.core.arrays import Arrays
from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.graph import RowDetector
from lisae_tf.detectors.pixels import check_arrays
from lisae_tf.model.checkpoints import OwnLayer
from lisae_tf.model.linear import RIDGE, second_moment
from lisae_tf.training.phase import TrainingOptions


class SquaredDistance(OwnLayer):
    """‖Wᵀ(x − μ)‖² of each row: (N, m) -> (N,)."""

    def __init__(self, mean: np.ndarray, whitening: np.ndarray, **kwargs):
        super().__init__(**({"trainable": False} | kwargs))
        self._mean, self._whitening = mean, whitening

    def call(self, x):
        y = ops.matmul(x - ops.convert_to_tensor(self._mean), self._whitening)
        return ops.sum(ops.square(y), axis=-1)

    def get_config(self):
        return super().get_config() | {"mean": self._mean, "whitening": self._whitening}


class MahalanobisDetector(RowDetector):
    """`mahalanobis`: no training but a mean and a covariance."""

    meaning = "squared Mahalanobis distance from normal features"

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        x = data.normal.fit
        self.require_rows(data)
        self.shape = data.shape
        self._mean = x.mean(axis=0, dtype=np.float64)
        covariance = second_moment(x - self._mean)
        m = len(covariance)
        covariance += RIDGE * np.trace(covariance) / m * np.eye(m)
        # Σ⁻¹ = W Wᵀ.
        self._whitening = linalg.cholesky(linalg.inv(covariance), lower=True).astype(np.float32)
        self._mean = self._mean.astype(np.float32)
        self._make_graph()

    def inference(self) -> keras.Model:
        x = keras.Input(self.shape, name="x")
        distance = SquaredDistance(self._mean, self._whitening, name="score")
        return keras.Model(x, {"score": distance(x)})

    def arrays(self) -> Arrays:
        return {"mean": self._mean, "whitening": self._whitening}

    def restore(self, arrays: Arrays) -> None:
        m = self.shape[0]
        check_arrays(arrays, {"mean": (m,), "whitening": (m, m)})
        self._mean, self._whitening = arrays["mean"], arrays["whitening"]
        self._make_graph()
