"""Drawn negatives: generated strokes, and the polarity of ink and paper (sections 3.2, 5.1)."""

import numpy as np

GENERATED_COUNT = 10_000


def background_is_bright(pixels: np.ndarray) -> bool:
    """Whether the median pixel of the pictures' borders is nearer to white than to black."""
    border = np.concatenate(
        [pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1
    )
    return float(np.median(border)) > 127.5


def match_polarity(pixels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Inverts drawings whose paper is bright where that of `like` is dark, or the reverse."""
    return 255 - pixels if background_is_bright(pixels) != background_is_bright(like) else pixels


def draw(name: str, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Generated negatives, uint8 (`GENERATED_COUNT`, H, W, C).

    Args:
        name: of the generator, in `protocols.GENERATED`.
        shape: (H, W, C).
        seed: of the run.
    """
    import tensorflow as tf

    from lisae_tf.data.augmentation import random_strokes

    generators = {"strokes": random_strokes}
    batches = [
        generators[name](1000, shape, tf.constant([seed, batch], tf.int32)).numpy()
        for batch in range(GENERATED_COUNT // 1000)
    ]
    return np.concatenate(batches)
