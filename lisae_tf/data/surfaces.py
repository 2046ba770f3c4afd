"""The embedded dataset: ten photographs that the scikit-image wheel carries, as grey patches.

Each photograph is cut along its width into bands, one after the other, for training, stopping,
calibration and test; a patch lies inside one band, so no pixel is in two parts.
"""

from importlib import resources
from pathlib import Path

import numpy as np

from lisae_tf.core.errors import LisaeError
from lisae_tf.data import pictures

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
# Shares of a photograph's width, from left to right. Training and test alternate, because the
# two sides of a photograph differ (the camera man has the sky on the left).
BANDS = (
    ("train", 0.2),
    ("stopping", 0.1),
    ("train", 0.2),
    ("test", 0.1),
    ("calibration", 0.1),
    ("train", 0.2),
    ("test", 0.1),
)
MAX_PATCHES = 2000  # of one photograph in one part, so that the largest does not outweigh the rest


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


def bands(width: int, part: str) -> list[tuple[int, int]]:
    """First column and the one past the last of each band of a part."""
    edges = np.round(np.cumsum([0, *(share for _, share in BANDS)]) * width).astype(int)
    spans = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [span for (name, _), span in zip(BANDS, spans, strict=True) if name == part]


def patches(name: str, part: str) -> np.ndarray:
    """The patches of one part of a photograph, every eighth pixel, uint8 (N, 32, 32, 1)."""
    picture = photograph(name)[:, :, 0]
    cut = []
    for first, end in bands(picture.shape[1], part):
        windows = np.lib.stride_tricks.sliding_window_view(picture[:, first:end], (PATCH, PATCH))
        cut.append(windows[::STRIDE, ::STRIDE].reshape(-1, PATCH, PATCH, 1))
    found = np.concatenate(cut)
    kept = np.linspace(0, len(found) - 1, min(len(found), MAX_PATCHES)).astype(int)
    return found[kept]
