"""How well maps of errors show where anomalies are: pixel AUROC and per-region overlap."""

import numpy as np
from skimage import measure

PRO_LIMIT = 0.3  # largest false-positive rate of pixels that counts
_THRESHOLDS = 500


def pixel_auroc(free: np.ndarray, marked: np.ndarray) -> float:
    """AUROC of single pixels: the chance that a marked one is above a free one, ties half.

    Args:
        free: float32 (F,), the map's values where there is no anomaly, sorted.
        marked: float32 (M,), those where there is one.
    """
    marked = np.sort(marked)
    below = [np.searchsorted(free, marked, side).mean() for side in ("left", "right")]
    return float(np.mean(below) / len(free))


def per_region_overlap(
    free: np.ndarray, maps: np.ndarray, masks: np.ndarray, limit: float = PRO_LIMIT
) -> float:
    """PRO (Bergmann et al. 2020, "Uninformed students", section 4): each region counts the same.

    The mean share of a connected region above a threshold, over the share of anomaly-free pixels
    above it, integrated up to `limit` and divided by it.

    Args:
        free: float32 (F,), the values of anomaly-free pixels, sorted.
        maps: float32 (N, H, W).
        masks: bool (N, H, W).
        limit: of the false-positive rate of pixels.

    Returns:
        0 to 1: 1 if every region is above all free pixels, 0 for maps of one value.
    """
    regions = [
        np.sort(own_map[labels == number])
        for own_map, mask in zip(maps, masks, strict=True)
        if mask.any()
        for labels in [measure.label(mask)]
        for number in range(1, labels.max() + 1)
    ]
    # Thresholds that let through evenly spaced shares of the free pixels, up to the limit.
    shares = np.linspace(0, limit, _THRESHOLDS)
    # Thresholds are values that occur, rounded up: none lets through more than its share.
    thresholds = free[np.ceil((1 - shares) * (len(free) - 1)).astype(int)]

    def above(values: np.ndarray) -> np.ndarray:
        return 1 - np.searchsorted(values, thresholds, side="right") / len(values)

    overlap = np.mean([above(region) for region in regions], axis=0)
    rates = above(free)
    # The first threshold lets no free pixel through, so the curve begins at a rate of 0. Ties may
    # let through less than asked for; then it goes on flat to the limit: what no threshold
    # reaches is not credited.
    rates, overlap = np.append(rates, limit), np.append(overlap, overlap[-1])
    return float(np.trapezoid(overlap, rates) / limit)


def pixel_figures(
    maps: np.ndarray,
    is_anomaly: np.ndarray,
    marked: np.ndarray,
    ignored: np.ndarray | None = None,
) -> dict[str, float | int]:
    """Both figures, over normal pictures, which are free all over, and anomalies with masks.

    Args:
        maps: float32 (N, H, W), of all test pictures.
        is_anomaly: bool (N,).
        marked: bool (M, H, W), the masks of the M anomalies in their order; an anomaly whose mask
            marks nothing is left out.
        ignored: pixels of all pictures that do not count, bool (H, W); None where all do.

    Returns:
        `pixel_auroc`, `per_region_overlap` and `n_masks`; {} where nothing is marked, or all is.
    """
    masks = np.zeros(maps.shape, bool)
    there = np.ones(maps.shape[1:], bool) if ignored is None else ~ignored
    masks[is_anomaly] = marked & there
    counted = ~is_anomaly | masks.any(axis=(1, 2))
    maps, masks = maps[counted], masks[counted]
    free = maps[~masks & there]
    if not masks.any() or not len(free):
        return {}
    free.sort()  # nearly all of the work
    return {
        "pixel_auroc": pixel_auroc(free, maps[masks]),
        "per_region_overlap": per_region_overlap(free, maps, masks),
        "n_masks": int(masks.any(axis=(1, 2)).sum()),
    }
