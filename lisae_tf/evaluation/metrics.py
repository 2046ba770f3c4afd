"""Metrics of a trained detector: the only reader of anomaly labels.

Nothing that trains or chooses imports it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats
from sklearn import metrics

from lisae_tf.core.thresholds import CONFIDENCE, Threshold

UNLIKELY = 0.01  # false alarms of a lower probability are no chance


@dataclass(frozen=True)
class Scored:
    """Test scores of one model, float32 (N,), with the truth beside them, bool (N,)."""

    scores: np.ndarray
    is_anomaly: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        """Scores of normal pictures."""
        return self.scores[~self.is_anomaly]

    @property
    def anomaly(self) -> np.ndarray:
        """Scores of anomalies."""
        return self.scores[self.is_anomaly]


def independent(record: Mapping[str, Any]) -> tuple[int, int]:
    """The normal pictures and the anomalies of a test, each group of copies counted once.

    Intervals and chances go by these: a part photographed twice says no more than once.

    Args:
        record: `n_normal` and `n_anomaly`, and where there are groups `n_normal_groups` and
            `n_anomaly_groups`, in which a picture that stands alone is one.
    """
    return (
        record.get("n_normal_groups", record["n_normal"]),
        record.get("n_anomaly_groups", record["n_anomaly"]),
    )


def auroc(normal: np.ndarray, anomaly: np.ndarray) -> float | None:
    """Area under the ROC curve; None where one side is empty."""
    if not len(normal) or not len(anomaly):
        return None
    truth = np.repeat([0, 1], [len(normal), len(anomaly)])
    return float(metrics.roc_auc_score(truth, np.concatenate([normal, anomaly])))


def auroc_interval(area: float, n_normal: int, n_anomaly: int) -> tuple[float, float]:
    """The `CONFIDENCE` interval of an AUROC, wide where there are few pictures, even at 1.

    Where the true area would have such a one at its edge (Newcombe 2006, method 5, with the
    variance of Hanley and McNeil 1982).

    Args:
        area: AUROC.
        n_normal: pictures, 1 or more.
        n_anomaly: likewise.
    """
    z = stats.norm.ppf(0.5 + CONFIDENCE / 2)
    mean = (n_normal + n_anomaly) / 2 - 1

    def excess(true: float) -> float:
        more = 1 + mean * (1 - true) / (2 - true) + mean * true / (1 + true)
        return (true - area) ** 2 - z**2 * true * (1 - true) * more / (n_normal * n_anomaly)

    tiny = 1e-9
    low = optimize.brentq(excess, 0, area - tiny) if area > tiny else 0.0
    high = optimize.brentq(excess, area + tiny, 1) if area < 1 - tiny else 1.0
    return float(low), float(high)


def known_found(
    flaws: np.ndarray, threshold: Threshold, calibration: np.ndarray
) -> dict[str, float | int | None]:
    """What a threshold does to known flaws, and at which rate it would find them all.

    Args:
        flaws: scores, float (M,), one or more.
        threshold: α.
        calibration: scores of normal pictures that α may be chosen from, float (N,).

    Returns:
        `n`, `found`, and `fpr_for_all`, the lowest rate of `choose_threshold` that finds all; None
        where the lowest flaw scores below every normal picture.
    """
    above = int(np.sum(calibration >= flaws.min()))
    n = len(calibration)
    return {
        "n": len(flaws),
        "found": int(np.sum(flaws > threshold.alpha)),
        "fpr_for_all": _rate_of(above + 1, n) if above < n else None,
    }


def _rate_of(k: int, n: int) -> float:
    """A rate of few digits for which α is the k-th highest of n scores."""
    scale = 1000
    while (up := -(-k * scale // (n + 1))) * (n + 1) >= (k + 1) * scale:
        scale *= 10
    return up / scale


def auroc_by_class(scored: Scored, labels: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """`auroc` against the anomalies of each class alone, and their number `n`.

    AUROC is a mean over anomalies, so the mean weighted with `n` is the one over some classes.
    """
    named = np.asarray(labels)[scored.is_anomaly]
    return {
        str(name): {
            "auroc": auroc(scored.normal, scored.anomaly[named == name]),
            "n": int(np.sum(named == name)),
        }
        for name in np.unique(named)
    }


def by_kind(
    scored: Scored, kinds: Sequence[str], alpha: float
) -> dict[str, dict[str, float | int | None]]:
    """`auroc_by_class` of each kind of anomaly, with the share that is found at the threshold.

    Args:
        scored: test scores and truth.
        kinds: of each picture, (N,).
        alpha: the threshold.

    Returns:
        By kind `auroc`, `n` and `detection_rate`; {} where the anomalies are of no named kind.
    """
    named = np.asarray(kinds)[scored.is_anomaly] if len(kinds) else np.array([])
    if not any(named):
        return {}
    found = auroc_by_class(scored, kinds)
    for name, row in found.items():
        row["detection_rate"] = float(np.mean(scored.anomaly[named == name] > alpha))
    return found


def by_folder(
    scored: Scored, counts: Mapping[str, int], threshold: Threshold, share: float = 1.0
) -> dict[str, dict[str, float | int | None]]:
    """False alarms in each folder of normal pictures.

    Args:
        scored: test scores and truth; normal pictures folder by folder.
        counts: of each folder's normal pictures, in this order.
        threshold: α, and what it rests on.
        share: groups of copies for each normal picture.

    Returns:
        By folder `n`, `alarms`, `false_positive_rate` and `chance_of_false_alarms`; {} where the
        pictures are of one folder alone.
    """
    counts = {folder: n for folder, n in counts.items() if n}
    if len(counts) < 2 or sum(counts.values()) != len(scored.normal):
        return {}
    called = np.split(scored.normal > threshold.alpha, np.cumsum(list(counts.values()))[:-1])
    return {
        folder: {
            "n": len(own),
            "alarms": int(own.sum()),
            "false_positive_rate": float(own.mean()),
            "chance_of_false_alarms": chance_at_rate(
                threshold, float(own.mean()), round(share * len(own))
            ),
        }
        for folder, own in zip(counts, called, strict=True)
    }


def folder_remarks(
    found: Mapping[str, Mapping[str, float | int | None]], asked: float | None
) -> list[str]:
    """One sentence on each folder with more false alarms than chance allows.

    Args:
        found: see `by_folder`.
        asked: the false-positive rate that the threshold was chosen for; None for one that was set
            by hand, from which nothing follows.
    """
    return [
        f"{row['alarms']} of the {row['n']} normal test pictures of {folder} are called anomalous, "
        f"more than chance allows where {100 * asked:g} % are asked for: they are unlike the other "
        "normal pictures; give more of them, or train them a model of their own"
        for folder, row in found.items()
        if asked is not None and row["chance_of_false_alarms"] < UNLIKELY
    ]


def fpr_at_tpr(scored: Scored, tpr: float = 0.95) -> float:
    """The lowest false-positive rate at which at least `tpr` of the anomalies are found."""
    fprs, tprs, _ = metrics.roc_curve(scored.is_anomaly, scored.scores, drop_intermediate=False)
    return float(fprs[np.argmax(tprs >= tpr)])


def evaluate(scored: Scored, alpha: float) -> dict[str, float | int | None]:
    """The metrics of one detector at its threshold.

    Args:
        scored: test scores and truth.
        alpha: the threshold; a score above it is called an anomaly.

    Returns:
        `auroc`, `average_precision`, `fpr_at_95_tpr`, `false_positive_rate`, `detection_rate`,
        `n_normal`, `n_anomaly`; what needs anomalies is None without them.
    """
    has_anomalies = bool(len(scored.anomaly)) and bool(len(scored.normal))
    ap = (
        metrics.average_precision_score(scored.is_anomaly, scored.scores) if has_anomalies else None
    )
    return {
        "auroc": auroc(scored.normal, scored.anomaly),
        "average_precision": None if ap is None else float(ap),
        "fpr_at_95_tpr": fpr_at_tpr(scored) if has_anomalies else None,
        "false_positive_rate": float(np.mean(scored.normal > alpha))
        if len(scored.normal)
        else None,
        "detection_rate": float(np.mean(scored.anomaly > alpha)) if has_anomalies else None,
        "n_normal": len(scored.normal),
        "n_anomaly": len(scored.anomaly),
    }


def _accuracies(scored: Scored, alphas: np.ndarray) -> np.ndarray:
    """For each α the share judged rightly on each side: float (len(alphas), 2)."""
    return np.asarray([(np.mean(scored.normal <= a), np.mean(scored.anomaly > a)) for a in alphas])


def accuracy_trade_off(scored: Scored, points: int = 201) -> np.ndarray:
    """Figure 3: for α over the range of scores, the share judged rightly on each side.

    Returns:
        float (points, 3): α, accuracy on normal pictures, accuracy on anomalies.
    """
    alphas = np.quantile(scored.scores, np.linspace(0, 1, points))
    return np.column_stack([alphas, _accuracies(scored, alphas)])


def detection_curve(scored: Scored, points: int = 51) -> list[float]:
    """Figure 3 in few numbers, for result files.

    Returns:
        The accuracy on anomalies at the α that accepts a share of 0, …, 1 of the normal
        pictures, `points` shares evenly spaced; four decimals.
    """
    alphas = np.quantile(scored.normal, np.linspace(0, 1, points))
    return np.round(_accuracies(scored, alphas)[:, 1], 4).tolist()


def chance_at_rate(threshold: Threshold, rate: float | None, count: int) -> float | None:
    """`chance_of_alarms` of so large a share of `count` normal pictures; 1 of none."""
    return chance_of_alarms(threshold, round((rate or 0) * count), count)


def chance_of_alarms(threshold: Threshold, alarms: int, count: int) -> float | None:
    """How likely so many false alarms or more are, where nothing but chance is at work.

    With α the k-th highest of n calibration scores, the number of `count` new normal pictures
    above it has a beta-binomial distribution with parameters k and n + 1 − k (Wilks, 1941).

    Args:
        threshold: α, with n and k / (n + 1).
        alarms: normal pictures above α.
        count: all normal pictures.

    Returns:
        The probability; None for a threshold that was set by hand, from which nothing follows.
    """
    if threshold.by_hand:
        return None
    n = threshold.n_calibration
    k = round(threshold.guaranteed_fpr * (n + 1))
    return float(stats.betabinom.sf(alarms - 1, count, k, n + 1 - k))
