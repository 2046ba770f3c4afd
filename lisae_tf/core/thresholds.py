"""The threshold α of section 3.4, from held-out normal scores alone; intervals of shares.

Runs without TensorFlow and SciPy: an exported model is calibrated by the same rule.
"""

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from lisae_tf.core.errors import LisaeError

_ROUNDING = 1e-9  # k / (n + 1) and the rate asked for may be one number written twice
CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True)
class Threshold:
    """α, the false-positive rate asked for, the one guaranteed, and on how many normals.

    One that was set by hand rests on no scores: both rates are None, and `n_calibration` is 0. The
    same holds where a quantised file keeps the threshold of its run, which has other scores.
    """

    alpha: float
    requested_fpr: float | None
    guaranteed_fpr: float | None
    n_calibration: int

    @property
    def by_hand(self) -> bool:
        """Whether it was set by hand and guarantees nothing."""
        return self.guaranteed_fpr is None

    def shortfall(self, what: str = "picture") -> str | None:
        """What is promised instead of the rate asked for, in words; None where that is promised."""
        if self.by_hand or self.guaranteed_fpr <= self.requested_fpr + _ROUNDING:
            return None
        support = f"{what} supports" if self.n_calibration == 1 else f"{what}s support"
        return (
            f"{self.n_calibration} calibration {support} a false-positive rate of "
            f"{self.guaranteed_fpr:.3f} at the lowest, not {self.requested_fpr:g}"
        )

    def to_json(self) -> dict[str, float | int | None]:
        """A plain record."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, float | int | None]) -> "Threshold":
        """What `to_json` gave.

        Raises:
            TypeError, ValueError: another record.
        """
        threshold = cls(**record)
        rates = (threshold.requested_fpr, threshold.guaranteed_fpr)
        known = (threshold.alpha,) if rates == (None, None) else (threshold.alpha, *rates)
        if not all(type(rate) is float and math.isfinite(rate) for rate in known):
            raise ValueError("a threshold that is no finite number")
        if type(threshold.n_calibration) is not int:
            raise ValueError("a count that is no whole number")
        return threshold


def set_by_hand(alpha: float, scores: np.ndarray) -> Threshold:
    """α as the user wants it, without a guarantee.

    Args:
        alpha: the threshold.
        scores: float (N,), such as it is compared with.

    Raises:
        LisaeError: no finite number, or a negative one where scores are never negative.
    """
    if not math.isfinite(alpha) or (alpha < 0 and np.min(scores, initial=0) >= 0):
        raise LisaeError(
            f"the threshold must be a number like the scores, which begin at 0, not {alpha:g}"
        )
    return Threshold(float(alpha), None, None, 0)


def smallest_fpr(n_calibration: int) -> float:
    """The lowest false-positive rate that `n_calibration` normal pictures can support."""
    return 1 / (n_calibration + 1)


def choose_threshold(scores: np.ndarray, fpr: float, *, nearest: bool = False) -> Threshold:
    """α such that a new normal picture scores above it with probability at most `fpr`.

    With n exchangeable normal scores, a new one exceeds the k-th largest of them with
    probability at most k / (n + 1) (split conformal prediction, Vovk et al. 2005, section 4.1);
    k is the largest that keeps this at or below `fpr`.

    Args:
        scores: float (N,), higher means more anomalous.
        fpr: false-positive rate, above 0 and below 1.
        nearest: take the lowest rate that N supports instead of refusing.

    Raises:
        LisaeError: no finite scores, or N too small for `fpr`.
    """
    scores = np.sort(np.asarray(scores, np.float64).ravel())[::-1]
    n = len(scores)
    if not 0 < fpr < 1:
        raise LisaeError(f"the false-positive rate must lie between 0 and 1, not {fpr}")
    if n == 0 or not np.isfinite(scores).all():
        raise LisaeError("calibration needs at least one normal picture, with finite scores")
    k = math.floor(fpr * (n + 1) + _ROUNDING)
    if k < 1:
        if not nearest:
            raise LisaeError(
                f"{n} calibration pictures support a false-positive rate of "
                f"{smallest_fpr(n):.4f} at the lowest; ask for that, or calibrate with at least "
                f"{math.ceil(1 / fpr - 1e-9) - 1} normal pictures for {fpr}"
            )
        k = 1
    k = min(k, n)
    return Threshold(float(scores[k - 1]), float(fpr), k / (n + 1), n)


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
