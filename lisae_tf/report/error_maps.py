"""Maps of errors at other resolutions than their own, and pictures with their errors in red.

Runs without TensorFlow.
"""

import numpy as np
from PIL import Image

# Times α: an error of so much is drawn fully red, whatever the picture. A mean over the whole
# map lies far below the error of an anomaly; a mean of the highest places is of their own size.
FULL_RED, FULL_RED_HIGHEST = 10.0, 2.0
LARGEST = 1024  # pixels of an overlay's longer side


def resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps at another resolution, bilinearly.

    Args:
        maps: float32 (N, h, w).
        size: (H, W).

    Returns:
        float32 (N, H, W); `maps` itself where they have the size already.
    """
    if maps.shape[1:] == tuple(size):
        return maps
    found = np.empty((len(maps), *size), np.float32)
    for row, error_map in zip(found, maps, strict=True):
        row[:] = Image.fromarray(error_map).resize(size[::-1], Image.Resampling.BILINEAR)
    return found


def full_red(alpha: float, highest_share: float = 1.0) -> float:
    """The error that is drawn fully red.

    Args:
        alpha: the threshold.
        highest_share: of a map's places, whose mean is the score.

    Returns:
        `FULL_RED` · α for the mean of the whole map, down to `FULL_RED_HIGHEST` · α for that of
        the highest places alone, in proportion to the share.
    """
    return alpha * (FULL_RED_HIGHEST + (FULL_RED - FULL_RED_HIGHEST) * highest_share)


def redness(
    error: np.ndarray, size: tuple[int, int], alpha: float, highest_share: float = 1.0
) -> np.ndarray:
    """How red each place of a map is drawn.

    Args:
        error: float32 (h, w), the map.
        size: (H, W) to draw it at.
        alpha: the threshold, which sets the scale: see `full_red`.
        highest_share: of the map's places, whose mean is the score.

    Returns:
        float32 (H, W), 0 to 1.
    """
    # A score may be no error, and then its threshold sets no scale; the highest error does.
    full = full_red(alpha, highest_share) if alpha > 0 else max(float(error.max()), 1e-12)
    return resized(np.clip(error / full, 0, 1).astype(np.float32)[None], size)[0]


def overlay(
    picture: np.ndarray, error: np.ndarray, alpha: float, highest_share: float = 1.0
) -> np.ndarray:
    """The picture in grey with its errors in red.

    Args:
        picture: uint8 (H, W, C), of any size: the original.
        error: float32 (h, w), its map, of any size too.
        alpha: the threshold, which sets the scale: see `full_red`.
        highest_share: of the map's places, whose mean is the score.

    Returns:
        uint8 (H, W, 3), at most `LARGEST` on a side.
    """
    image = Image.fromarray(picture.squeeze()).convert("L")
    image.thumbnail((LARGEST, LARGEST))
    share = redness(error, image.size[::-1], alpha, highest_share)[..., None]
    grey = np.repeat(np.asarray(image, np.float32)[..., None], 3, axis=2)
    return np.rint(grey * (1 - share) + np.array([255, 0, 0]) * share).astype(np.uint8)
