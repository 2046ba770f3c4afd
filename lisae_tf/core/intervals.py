"""Confidence intervals of shares. Runs without TensorFlow and SciPy."""

import math
from statistics import NormalDist

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def wilson(count: int, total: int) -> tuple[float, float]:
    """The `CONFIDENCE` interval of a share (Wilson 1927); 0 to 1 where nothing was counted.

    `desk/static/counts.js` has the same formula.

    Args:
        count: how many of them.
        total: of how many, 0 or more.
    """
    if not total:
        return 0.0, 1.0
    share, spread = count / total, Z * Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt((share * (1 - share) + spread / 4) / total)
    # At the edges rounding must not cut the share itself off.
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)
