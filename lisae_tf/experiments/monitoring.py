"""Whether new scores still look like the calibration scores, and whether α should be set again.

Knows neither pictures nor models; needs SciPy, not TensorFlow.
"""

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import refuse_special
from lisae_tf.data import picture_tables

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


def compare(
    calibration: np.ndarray,
    window: np.ndarray,
    *,
    alpha: float,
    expected_rate: float,
    significance: float = 0.01,
    smallest: float = 0.1,
) -> Drift:
    """The two-sample Kolmogorov-Smirnov test (SciPy) of new scores against calibration scores.

    Args:
        calibration: float (N,), scores of normal pictures.
        window: float (M,), new scores; a few anomalies among them are no drift.
        alpha: the threshold.
        expected_rate: share of normal pictures above it that calibration promises.
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
    test = stats.ks_2samp(calibration, window, method="auto")
    return Drift(
        len(calibration), len(window), float(test.statistic), float(test.pvalue),
        float(np.median(calibration)), float(np.median(window)), expected_rate,
        float(np.mean(window > alpha)),
        bool(test.pvalue < significance and test.statistic >= smallest),
    )  # fmt: skip


def read_scores(path: Path) -> np.ndarray:
    """The scores that `score` wrote, in order.

    Args:
        path: CSV, JSON lines, a Parquet part or the folder of all parts.

    Returns:
        float64 (N,).

    Raises:
        LisaeError: no such file, or a line or part without a finite score, which is named.
    """
    if path.is_dir() or path.suffix.lower() == picture_tables.PARQUET:
        return _of_parts(path)
    refuse_special(path)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            if first.lstrip().startswith("{"):
                rows = (json.loads(line) for line in stream if line.strip())
                return _finite(rows, path, first_line=1)
            return _finite(csv.DictReader(stream), path, first_line=2)
    except FileNotFoundError as error:
        raise LisaeError(f"{path} does not exist; check the path") from error
    except (json.JSONDecodeError, csv.Error) as error:
        raise LisaeError(
            f"{path} is no file that score wrote ({error}); give its CSV or JSON lines"
        ) from error


def _of_parts(path: Path) -> np.ndarray:
    """Those of `score --parts`; pictures that could not be read have none."""
    parts = sorted(path.glob(f"*{picture_tables.PARQUET}")) if path.is_dir() else [path]
    if not parts:
        raise LisaeError(
            f"the folder {path} holds no part that score --parts wrote; give the folder named there"
        )
    parquet, found = picture_tables.parquet(), []
    for part in parts:
        try:
            column = parquet.read_table(part, columns=["score"]).column("score")
            scores = column.drop_null().to_numpy().astype(np.float64)
        except Exception as error:  # damaged files raise all kinds
            raise LisaeError(
                f"{part} is damaged or no part of score --parts; remove it and score again"
            ) from error
        if not np.isfinite(scores).all():
            raise LisaeError(f"{part} holds scores that are not finite; score its pictures again")
        found.append(scores)
    return np.concatenate(found)


def _finite(rows, path: Path, *, first_line: int) -> np.ndarray:
    scores = []
    for line, row in enumerate(rows, start=first_line):
        try:
            score = float(row["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise LisaeError(
                f"{path}, line {line}: no score; give a CSV or JSON lines with a field 'score'"
            ) from error
        if not math.isfinite(score):
            raise LisaeError(f"{path}, line {line}: the score is {score}; leave such lines out")
        scores.append(score)
    return np.array(scores, np.float64)
