"""The fast path of phase 2: the frozen encoder's output, computed once for each picture."""

import os
import tempfile
from pathlib import Path

import numpy as np

from lisae_tf.model.autoencoder import LatentInsensitiveAutoencoder


class FeatureFile:
    """Float32 rows (N, S) in a file, mapped for one batch at a time: they never fill memory."""

    dtype = np.dtype(np.float32)

    def __init__(self, path: str, shape: tuple[int, int]):
        self.path, self.shape = path, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        return np.memmap(self.path, self.dtype, "r", shape=self.shape)[rows]


Features = np.ndarray | FeatureFile


def encode(
    model: LatentInsensitiveAutoencoder,
    images: np.ndarray,
    memory_budget: int,
    folder: Path,
    batch_size: int = 512,
) -> Features:
    """The encoder's output s = ℰ(x) for each picture (equation 1).

    Args:
        model: whose encoder is frozen from here on.
        images: uint8 (N, H, W, C).
        memory_budget: bytes; a larger result stays in a file.
        folder: where such a file goes; the caller removes it.
        batch_size: of one encoder call.

    Returns:
        float32 (N, S), in memory or in a file.
    """
    shape = (len(images), model.encoder.output_shape[1])
    starts = range(0, len(images), batch_size)
    batches = (model.features_of(images[k : k + batch_size]).numpy() for k in starts)
    if 4 * shape[0] * shape[1] > memory_budget:
        handle, name = tempfile.mkstemp(suffix=".features", dir=folder)
        with os.fdopen(handle, "wb") as file:
            for batch in batches:
                file.write(batch)
        return FeatureFile(name, shape)
    features = np.empty(shape, np.float32)
    for start, batch in zip(starts, batches, strict=True):
        features[start : start + batch_size] = batch
    return features
