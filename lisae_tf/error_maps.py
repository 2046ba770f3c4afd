"""Where in a picture the error lies: maps from pictures and their reconstructions, and overlays.

Runs without TensorFlow.
"""

import numpy as np
from PIL import Image

FULL_RED = 10.0  # times α: an error of so much is drawn fully red, whatever the picture
LARGEST = 1024  # pixels of an overlay's longer side


def error_maps(pixels: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """The squared error of each pixel, mean over channels; its mean over pixels is the score.

    Args:
        pixels: uint8 (N, H, W, C).
        reconstruction: float32 (N, H, W, C) in 0-1.

    Returns:
        float32 (N, H, W).
    """
    return np.square(pixels / np.float32(255) - reconstruction).mean(axis=3)


def overlay(picture: np.ndarray, error: np.ndarray, alpha: float) -> np.ndarray:
    """The picture in grey with its errors in red.

    Args:
        picture: uint8 (h, w, C), of any size: the original.
        error: float32 (H, W), its map.
        alpha: the threshold, which sets the scale.

    Returns:
        uint8 (h, w, 3), at most `LARGEST` on a side.
    """
    image = Image.fromarray(picture.squeeze()).convert("L")
    image.thumbnail((LARGEST, LARGEST))
    # Scores that are no errors have thresholds that say nothing of errors.
    full = FULL_RED * alpha if alpha > 0 else max(float(error.max()), 1e-12)
    scaled = np.clip(error / full, 0, 1).astype(np.float32)
    red = Image.fromarray(scaled).resize(image.size, Image.Resampling.BILINEAR)
    share = np.asarray(red)[..., None]
    grey = np.repeat(np.asarray(image, np.float32)[..., None], 3, axis=2)
    return np.rint(grey * (1 - share) + np.array([255, 0, 0]) * share).astype(np.uint8)
