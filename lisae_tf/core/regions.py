"""Regions of pictures: how much of each place they cover, and what of a picture does not count.

Where pictures do not count they are covered by one grey level before anything looks at them, so
that what lies there changes nothing, not even through its neighbours. Runs without TensorFlow.
"""

import numpy as np

from lisae_tf.core.errors import LisaeError

FILL = 128  # the level that pictures get where they do not count
MOST = 0.5  # of a pixel or a place: from so large an ignored share on it does not count


def covered_shares(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Which share of each place of a grid a mask covers: bool (H, W) -> float (h, w)."""
    (height, width), (h, w) = mask.shape, grid
    rows, columns = (np.arange(n) * side // n for n, side in ((h, height), (w, width)))
    sizes = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    sums = np.add.reduceat(np.add.reduceat(mask.astype(np.float32), rows, 0), columns, 1)
    return sums / sizes


def counted_places(ignored: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Which places of a grid count: those of which less than half is ignored.

    Args:
        ignored: bool (H, W).
        grid: (h, w).

    Returns:
        bool (h, w).

    Raises:
        LisaeError: none does.
    """
    counted = covered_shares(ignored, grid) < MOST
    if not counted.any():
        raise LisaeError(
            f"regions that do not count leave none of the {grid[0]}x{grid[1]} places of a picture; "
            "make the white of the mask smaller"
        )
    return counted


def covered(images: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """A copy of pictures, uint8 (N, H, W, C), with `FILL` where they do not count, bool (H, W)."""
    found = np.array(images)
    found[:, ignored] = FILL
    return found
