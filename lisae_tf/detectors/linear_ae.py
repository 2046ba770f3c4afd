"""The linear autoencoder as its best solution: the principal components of normal pictures.

No linear encoder and decoder, biases included, reconstruct with a smaller squared error (Baldi &
Hornik 1989), so nothing is trained: x̂ = μ + U_r U_rᵀ (x − μ), in the graph of the linear case.
"""

import math

import numpy as np
from sklearn.decomposition import PCA

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.graph import AutoencoderDetector
from lisae_tf.detectors.linear_lis import MAX_PICTURES
from lisae_tf.detectors.pixels import check_arrays, rows, thin
from lisae_tf.model.checkpoints import Arrays
from lisae_tf.model.networks import build_linear_networks
from lisae_tf.training.phase import TrainingOptions


class LinearDetector(AutoencoderDetector):
    """`linear-ae`."""

    def networks(self):
        return self._networks

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        data = self._seen(data)
        x = rows(thin(data.normal.fit, MAX_PICTURES), np.float64)
        latent = self.config.network.latent
        if latent > min(x.shape):
            raise LisaeError(
                f"network.latent must be at most {min(x.shape)} here: a picture has "
                f"{x.shape[1]} values and there are {x.shape[0]} pictures"
            )
        found = PCA(latent, svd_solver="covariance_eigh").fit(x)
        self.shape = data.shape
        self._build(found.components_.astype(np.float32), found.mean_.astype(np.float32))

    def _build(self, components: np.ndarray, mean: np.ndarray) -> None:
        self._components, self._mean = components, mean
        self._networks = build_linear_networks(self.shape, len(components), use_bias=True)
        _, latent, decoder = self._networks
        latent.set_weights([components.T, -components @ mean])
        decoder.set_weights([components, mean])
        self._make_graph()

    def arrays(self) -> Arrays:
        return {"components": self._components, "mean": self._mean}

    def restore(self, arrays: Arrays) -> None:
        size = math.prod(self.shape)
        check_arrays(arrays, {"components": (self.config.network.latent, size), "mean": (size,)})
        self._build(arrays["components"], arrays["mean"])
