"""What the classical detectors share: pictures as rows of 0-1 pixels, no network, plain arrays."""

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np

from lisae_tf.core.arrays import batches
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import full_scale
from lisae_tf.detectors.base import Detector
from lisae_tf.model.checkpoints import Arrays


def thin(images: np.ndarray, limit: int) -> np.ndarray:
    """Every k-th picture, with the smallest k that leaves no more than `limit`."""
    return images[:: max(1, -(-len(images) // limit))]


def rows(images: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Pictures as rows on the 0-1 scale: uint8 (N, ...) -> floats (N, m); rows as they are."""
    return images.reshape(len(images), -1).astype(dtype) / full_scale(images)


def check_arrays(arrays: Arrays, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    """Refuses stored arrays of other names, shapes (None is any length) or with NaN in them.

    Raises:
        LisaeError: they do not fit.
    """
    fits = set(arrays) == set(shapes) and all(
        len(arrays[name].shape) == len(shape)
        and all(w in (None, n) for w, n in zip(shape, arrays[name].shape, strict=True))
        and np.isfinite(arrays[name]).all()
        for name, shape in shapes.items()
    )
    if not fits:
        raise LisaeError("the stored arrays do not fit the configuration; train again")


class PixelDetector(Detector):
    """A detector on rows of pixels; a subclass gives `_score_rows`, float32 (N, m) -> (N,)."""

    @abstractmethod
    def _score_rows(self, x: np.ndarray) -> np.ndarray:
        """Float32 (N, m) in 0-1 -> (N,)."""

    def _score(self, images: np.ndarray) -> np.ndarray:
        parts = [self._score_rows(rows(part)) for part in batches(images)]
        return np.concatenate([np.empty(0), *parts]).astype(np.float32)
