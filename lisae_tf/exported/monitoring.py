"""Whether new scores still look like the calibration scores, and whether α should be set again.

Needs SciPy, not TensorFlow.
"""

from dataclasses import asdict, dataclass

import numpy as np

from lisae_tf.core.errors import LisaeError
from lisae_tf.exported import model_record, packed
from lisae_tf.exported.model_record import Record

MIN_SCORES = 20  # fewer show nothing


@dataclass(frozen=True)
class Drift:
    """How a window of new scores differs from the calibration scores."""

    n_calibration: int
    n_window: int
    statistic: float  # Kolmogorov-Smirnov: largest difference of the distribution functions
    p_value: float  # of a statistic so large where nothing has drifted
    median_calibration: float
    median_window: float
    expected_rate: float  # share of normal scores above α that calibration promises
    flagged_rate: float  # share of the window above α
    drifted: bool

    def as_json(self) -> dict:
        """A plain record."""
        return asdict(self)

    def advice(self) -> str:
        """One sentence on what to do."""
        if not self.drifted:
            return "the scores look like the calibration scores; leave the threshold as it is"
        side = "higher" if self.median_window >= self.median_calibration else "lower"
        return (
            f"the scores have drifted, they are {side} than the calibration scores; look at the "
            "pictures that are flagged, and where they are normal, set the threshold again with "
            "calibrate --normal-dir (new normal pictures), or train again"
        )


def of_record(record: Record) -> tuple[np.ndarray, float, float | None] | None:
    """Calibration scores of an exported model, its threshold and the rate that this guarantees.

    None where it keeps no scores of its own; the rate is None where α was set by hand.
    """
    kept = record.get("calibration_scores")
    if kept is None:
        return None
    threshold = model_record.threshold_of(record)
    return packed.unpack_scores(kept), threshold.alpha, threshold.guaranteed_fpr


def compare(
    calibration: np.ndarray,
    window: np.ndarray,
    *,
    alpha: float,
    expected_rate: float | None,
    significance: float = 0.01,
    smallest: float = 0.1,
) -> Drift:
    """The two-sample Kolmogorov-Smirnov test (SciPy) of new scores against calibration scores.

    Args:
        calibration: float (N,), scores of normal pictures.
        window: float (M,), new scores; a few anomalies among them are no drift.
        alpha: the threshold.
        expected_rate: share of normal pictures above it that calibration promises; None where α
            was set by hand, which promises what it does to the calibration scores.
        significance: a p-value below it counts.
        smallest: so does only a statistic of at least this: with many scores any trifle is
            significant.

    Raises:
        LisaeError: too few scores on either side.
    """
    more = {"calibration": "calibrate with more --normal-dir pictures", "window": "score more"}
    for name, scores in (("calibration", calibration), ("window", window)):
        if len(scores) < MIN_SCORES:
            raise LisaeError(
                f"the {name} has {len(scores)} scores; a comparison needs at least {MIN_SCORES}: "
                f"{more[name]}"
            )
    from scipy import stats

    if expected_rate is None:
        expected_rate = float((calibration > alpha).mean())
    test = stats.ks_2samp(calibration, window, method="auto")
    return Drift(
        len(calibration), len(window), float(test.statistic), float(test.pvalue),
        float(np.median(calibration)), float(np.median(window)), expected_rate,
        float(np.mean(window > alpha)),
        bool(test.pvalue < significance and test.statistic >= smallest),
    )  # fmt: skip
