"""Gaussian kernel density on pixels (Parzen 1962): a score is −log p(x).

The bandwidth is the one of a logarithmic grid under which held-out normals are likeliest.
"""

import math

import numpy as np
from scipy.special import logsumexp
from sklearn.metrics.pairwise import euclidean_distances

from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.pixels import PixelDetector, check_arrays, rows, thin
from lisae_tf.model.checkpoints import Arrays
from lisae_tf.training.phase import TrainingOptions


def log_density(squared: np.ndarray, bandwidth: float, size: int) -> np.ndarray:
    """The logarithm of p(x) from squared distances, as scikit-learn's `KernelDensity` gives it.

    From all distances, as that class does with a single leaf. Its tree is no faster in so many
    dimensions, and far from the training pictures its bounds cancel and it returns a constant.

    Args:
        squared: ‖x − x_i‖², float (N, M).
        bandwidth: h.
        size: m, the number of values in a picture.

    Returns:
        float (N,).
    """
    volume = size * (math.log(bandwidth) + math.log(2 * math.pi) / 2)
    near = logsumexp(-squared / (2 * bandwidth**2), axis=1)
    return near - math.log(squared.shape[1]) - volume


class KernelDensityDetector(PixelDetector):
    """`kde`."""

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        settings = self.config.kde
        grid = np.geomspace(
            settings.smallest_bandwidth, settings.largest_bandwidth, settings.bandwidths
        )
        self.shape, size = data.shape, math.prod(data.shape)
        self._keep(thin(data.normal.fit, settings.max_pictures).reshape(-1, size))
        squared = self._squared(rows(data.normal.stopping))
        likelihood = [np.mean(log_density(squared, h, size)) for h in grid]
        best = int(np.argmax(likelihood))
        self.bandwidth_ = float(grid[best])
        self.notes = []
        if len(grid) > 1 and best in (0, len(grid) - 1):
            end = "smallest" if best == 0 else "largest"
            self.notes.append(
                f"held-out normals are likeliest at the {end} bandwidth tried, "
                f"{self.bandwidth_:g}; kde.{end}_bandwidth may be set further out"
            )

    def _keep(self, pixels: np.ndarray) -> None:
        self._pixels, self._x = pixels, rows(pixels, np.float64)

    def _squared(self, x: np.ndarray) -> np.ndarray:
        # Float64 on both sides is faster here: float32 is summed in float64, piece by piece.
        return euclidean_distances(x.astype(np.float64), self._x, squared=True)

    def _score_rows(self, x: np.ndarray) -> np.ndarray:
        return -log_density(self._squared(x), self.bandwidth_, x.shape[1])

    def arrays(self) -> Arrays:
        return {"pixels": self._pixels, "bandwidth": np.float64(self.bandwidth_)}

    def restore(self, arrays: Arrays) -> None:
        check_arrays(arrays, {"pixels": (None, math.prod(self.shape)), "bandwidth": ()})
        self._keep(arrays["pixels"])
        self.bandwidth_ = float(arrays["bandwidth"])
