"""The embedded dataset: ten photographs that the scikit-image wheel carries, as grey patches.

Each photograph is cut along its width into bands, one after the other, for training, stopping,
calibration and test; a patch lies inside one band, so no pixel is in two parts.
"""

from importlib import resources
from pathlib import Path

import numpy as np

from lisae_tf import pictures
from lisae_tf.errors import LisaeError

PATCH = 32
STRIDE = 8
PHOTOGRAPHS = {
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "moon": "moon.png",
    "cell": "cell.png",
    "coins": "coins.png",
    "page": "page.png",
    "immunohistochemistry": "ihc.png",
    "hubble_deep_field": "hubble_deep_field.jpg",
    "camera": "camera.png",
}
# Shares of a photograph's width.
BANDS = {"train": (0.0, 0.6), "stopping": (0.6, 0.7), "calibration": (0.7, 0.8), "test": (0.8, 1.0)}


def photograph(name: str) -> np.ndarray:
    """One photograph as uint8 (H, W, 1).

    Raises:
        LisaeError: scikit-image is missing or does not carry it.
    """
    try:
        path = resources.files("skimage") / "data" / PHOTOGRAPHS[name]
    except ModuleNotFoundError as error:
        raise LisaeError(
            "the dataset 'surfaces' needs scikit-image; install it with pip"
        ) from error
    if not path.is_file():
        raise LisaeError(
            f"this scikit-image has no {PHOTOGRAPHS[name]}; install a version from 0.22 to 0.26"
        )
    return pictures.decode(Path(str(path)), channels=1)


def columns(width: int, band: str) -> tuple[int, int]:
    """First column and the one past the last of a band, at least one patch wide."""
    edges = [0]
    for name in BANDS:
        wanted = round(BANDS[name][1] * width)
        edges.append(max(wanted, edges[-1] + PATCH))
    edges[-1] = width
    for index in range(len(edges) - 2, 0, -1):
        edges[index] = min(edges[index], edges[index + 1] - PATCH)
    place = list(BANDS).index(band)
    return edges[place], edges[place + 1]


def patches(name: str, band: str) -> np.ndarray:
    """All patches of one band, uint8 (N, 32, 32, 1), every eighth pixel."""
    picture = photograph(name)
    first, end = columns(picture.shape[1], band)
    windows = np.lib.stride_tricks.sliding_window_view(picture[:, first:end, 0], (PATCH, PATCH))
    return windows[::STRIDE, ::STRIDE].reshape(-1, PATCH, PATCH, 1)
