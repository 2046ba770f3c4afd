"""The fast path of phase 2: the frozen encoder's output, computed once for each picture."""

import os
import tempfile
from pathlib import Path

import numpy as np

from lisae_tf.autoencoder import LatentInsensitiveAutoencoder


def encode(
    model: LatentInsensitiveAutoencoder,
    images: np.ndarray,
    memory_budget: int,
    folder: Path,
    batch_size: int = 512,
) -> np.ndarray:
    """S = ℰ(x) for each picture (equation 1).

    Args:
        model: whose encoder is frozen from here on.
        images: uint8 (N, H, W, C).
        memory_budget: bytes; a larger result is memory-mapped.
        folder: where such a file goes; the caller removes it.
        batch_size: of one encoder call.

    Returns:
        float32 (N, S), in memory or memory-mapped.
    """
    shape = (len(images), model.encoder.output_shape[1])
    if 4 * shape[0] * shape[1] > memory_budget:
        handle, name = tempfile.mkstemp(suffix=".features", dir=folder)
        os.close(handle)
        features = np.memmap(name, np.float32, "w+", shape=shape)
    else:
        features = np.empty(shape, np.float32)
    for start in range(0, len(images), batch_size):
        features[start : start + batch_size] = model.features_of(images[start : start + batch_size])
    return features
