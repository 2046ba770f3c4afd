"""How well maps of errors show where anomalies are: pixel AUROC and per-region overlap."""

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import measure
from sklearn.metrics import roc_auc_score

from lisae_tf.data import picture_files, pictures
from lisae_tf.errors import LisaeError

PRO_LIMIT = 0.3  # largest false-positive rate of pixels that counts
_THRESHOLDS = 500
PROPORTIONS = 0.02  # of a picture and its mask may differ by so much: rounded when scaled


def pixel_auroc(maps: np.ndarray, masks: np.ndarray) -> float:
    """AUROC of single pixels.

    Args:
        maps: float32 (N, H, W), higher where the anomaly is thought to be.
        masks: bool (N, H, W), where it is.
    """
    return float(roc_auc_score(masks.ravel(), maps.ravel()))


def per_region_overlap(maps: np.ndarray, masks: np.ndarray, limit: float = PRO_LIMIT) -> float:
    """PRO (Bergmann et al. 2020, "Uninformed students", section 4): each region counts the same.

    The mean share of a connected region above a threshold, over the share of anomaly-free pixels
    above it, integrated up to `limit` and divided by it.

    Args:
        maps: float32 (N, H, W).
        masks: bool (N, H, W).
        limit: of the false-positive rate of pixels.

    Returns:
        0 to 1.
    """
    regions = [
        np.sort(own_map[labels == number])
        for own_map, mask in zip(maps, masks, strict=True)
        if mask.any()
        for labels in [measure.label(mask)]
        for number in range(1, labels.max() + 1)
    ]
    free = np.sort(maps[~masks])
    # Thresholds that let through evenly spaced shares of the free pixels, up to the limit.
    shares = np.linspace(0, limit, _THRESHOLDS)
    thresholds = np.quantile(free, 1 - shares)

    def above(values: np.ndarray) -> np.ndarray:
        return 1 - np.searchsorted(values, thresholds, side="right") / len(values)

    overlap = np.mean([above(region) for region in regions], axis=0)
    rates = above(free)
    # Ties may let through less than asked for; the curve goes on flat to the limit.
    rates, overlap = np.append(rates, limit), np.append(overlap, overlap[-1])
    return float(np.trapezoid(overlap, rates) / limit)


def read_masks(
    folder: Path, anomalies: list[Path], anomaly_dir: Path, size: tuple[int, int]
) -> np.ndarray:
    """The mask of each anomaly, a picture of the same name with the anomaly in white.

    Args:
        folder: of the masks, laid out as `anomaly_dir`; the ending may differ.
        anomalies: pictures below `anomaly_dir`.
        anomaly_dir: their folder.
        size: (H, W) of the pictures as the detector sees them.

    Returns:
        bool (N, H, W).

    Raises:
        LisaeError: a mask is missing, unreadable, of other proportions, or empty.
    """
    found = {path.relative_to(folder).with_suffix(""): path for path in picture_files.find(folder)}
    masks = np.empty((len(anomalies), *size), bool)
    for row, picture in zip(masks, anomalies, strict=True):
        name = picture.relative_to(anomaly_dir).with_suffix("")
        if name not in found:
            raise LisaeError(f"{folder} holds no mask {name}.png for {picture}; add it")
        mask = pictures.decode(found[name], channels=1)[..., 0]
        (height, width), (own_height, own_width) = pictures.decode(picture).shape[:2], mask.shape
        if abs(own_height * width / (own_width * height) - 1) > PROPORTIONS:
            raise LisaeError(
                f"{found[name]} is {own_width}x{own_height}, other proportions than the "
                f"{width}x{height} of {picture}; draw the mask over the picture"
            )
        white = Image.fromarray(np.where(mask > 127, 255, 0).astype(np.uint8))
        # A thin defect must not fall between two pixels of a small picture.
        row[:] = np.asarray(white.resize(size[::-1], Image.Resampling.BOX)) > 0
        if not row.any():
            raise LisaeError(f"{found[name]} marks nothing; draw the anomaly in white on black")
    return masks
