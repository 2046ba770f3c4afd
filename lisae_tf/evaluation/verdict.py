"""Whether a run's test allows to act on it, in one sentence, and what to try next.

Runs without TensorFlow, on what `metrics.json` holds.
"""

import math
from collections.abc import Mapping
from typing import Any

from lisae_tf.config.settings import FOLDER
from lisae_tf.config.variants import LOSSES
from lisae_tf.core.thresholds import wilson
from lisae_tf.evaluation.metrics import UNLIKELY, auroc_interval, independent

LOST = 0.01  # of AUROC in phase 2, from which on it is worth a word
RAISED = 3.0  # times the error of held-out normal pictures after phase 1
FEW_FOUND = 0.5  # of the anomalies, below which a detector misses too many
MOST_FOUND = 0.95  # of the anomalies, below which more of them are worth some false alarms
WEAK = 0.8  # of a kind's anomalies, below which it is named where others are found more often
TELLS_APART = 0.9  # AUROC, from which on another threshold finds many more
CERTAIN = 1.96  # standard errors


def beyond_chance(auroc: float, n_normal: int, n_anomaly: int) -> bool:
    """Whether an AUROC is higher than scores without any meaning would reach at 95 %.

    By the normal approximation of the Mann-Whitney statistic, without ties.
    """
    deviation = math.sqrt((n_normal + n_anomaly + 1) / (12 * n_normal * n_anomaly))
    return auroc - 0.5 > CERTAIN * deviation


def verdict(metrics: Mapping[str, Any], *, features: bool) -> list[str]:
    """A sentence on the test, then what to try, the likeliest gain first; plain text.

    Args:
        metrics: as in `metrics.json`.
        features: whether the run sees pretrained features.
    """
    auroc, found = metrics["auroc"], metrics["detection_rate"]
    if auroc is None:
        return [
            "verdict: not tested on anomalies, so how many it finds is not known",
            "try: a few flawed pictures, ten are a beginning: --anomaly-dir DIR",
            *_copies(metrics),
            *_raised(metrics),
        ]
    alarms = f"{100 * metrics['false_positive_rate']:.1f} % false alarms"
    finds = f"finds {100 * found:.1f} % of the anomalies at {alarms}"
    if not beyond_chance(auroc, *independent(metrics)):
        said = [
            f"verdict: may be no better than chance ({metrics['n_normal']} normal, "
            f"{metrics['n_anomaly']} anomalies): do not act on it"
        ]
        said += [f"try: {step}" for step in _steps(metrics, features)]
    elif found < FEW_FOUND:
        said = [f"verdict: misses more than half: {finds}"]
        said += [f"try: {step}" for step in _steps(metrics, features)]
    else:
        said = [f"verdict: {finds}"]
        # A threshold that was set by hand is the user's choice.
        if found < MOST_FOUND and metrics["threshold_requested_fpr"] is not None:
            said += [f"try: {step}" for step in _lower_threshold(metrics)]
    if "known" in metrics:
        n_normal, n = independent(metrics)
        low, high = wilson(round(found * n), n)
        area = auroc_interval(auroc, n_normal, n)
        said.insert(
            1,
            f"note: measured on {metrics['n_anomaly']} anomalies, none of which chose settings: "
            f"at 95 % confidence {100 * low:.0f} to {100 * high:.0f} % of such are found, and the "
            f"AUROC lies from {area[0]:.3f} to {area[1]:.3f}",
        )
    said += _copies(metrics) + _weak_kinds(metrics)
    before, lower = metrics["auroc_phase1"], _lower_gamma(metrics)
    if metrics["variant"] in LOSSES and before is not None and auroc < before - LOST:
        said.append(
            "note: phase 2 lowered the AUROC, so the negatives are of another kind than these "
            f"anomalies: try more like them, {lower}, or --variant ae"
        )
    said += _raised(metrics)
    chance = metrics.get("chance_of_false_alarms")
    if chance is not None and chance < UNLIKELY:
        said.append(
            "note: these are more false alarms than chance allows: the normal test pictures are "
            "unlike those that the threshold was set on. Set it on such as you will have: "
            "python cli.py calibrate --normal-dir NEW_PICTURES"
        )
    return said


def _copies(metrics: Mapping[str, Any]) -> list[str]:
    """A word on a test with groups of copies, which say no more than one picture each."""
    n = metrics["n_normal"] + metrics["n_anomaly"]
    copies = n - sum(independent(metrics))
    if not copies:
        return []
    return [
        f"note: {copies} of the {n} test pictures are copies or near copies of others there, or of "
        "one group: intervals and chances count each group once"
    ]


def _lower_gamma(metrics: Mapping[str, Any]) -> str:
    """The option under which phase 2 asks less of the negatives."""
    gamma = "gamma_times=3" if metrics["dataset"] == FOLDER else "gamma=0.01"
    return f"--set latent_shaping.{gamma}"


def _weak_kinds(metrics: Mapping[str, Any]) -> list[str]:
    """The kinds that are found less often than all anomalies together, beyond chance."""
    share = independent(metrics)[1] / max(1, metrics["n_anomaly"])
    weak = [
        f"{kind} ({100 * row['detection_rate']:.1f} % of {row['n']})"
        for kind, row in metrics.get("by_kind", {}).items()
        if row["detection_rate"] < WEAK
        and _highest(row["detection_rate"], share * row["n"]) < metrics["detection_rate"]
    ]
    if not weak:
        return []
    return [
        f"note: it often misses {', '.join(weak)}: do not rely on it for these. More pixels "
        "(a larger data.size, or --tile) may help, and pictures of like flaws as --negative-dir"
    ]


def _highest(rate: float, count: float) -> float:
    """The upper end of the interval of a rate among so many."""
    count = max(1, round(count))
    return wilson(round(rate * count), count)[1]


def _raised(metrics: Mapping[str, Any]) -> list[str]:
    """A word on phase 2 where it spoiled the normal pictures; runs made before have no figure."""
    times = metrics.get("normal_error_times")
    if metrics["variant"] not in LOSSES or times is None or times < RAISED:
        return []
    return [
        f"note: phase 2 raised the error of held-out normal pictures {times:.1f}-fold, so it "
        "forgot some of what is normal: try negatives that are less like the normal pictures, "
        f"{_lower_gamma(metrics)}, or --variant ae"
    ]


def interval(metrics: Mapping[str, Any]) -> str:
    """The interval of the AUROC in words; "" without anomalies."""
    if metrics["auroc"] is None:
        return ""
    low, high = auroc_interval(metrics["auroc"], *independent(metrics))
    return f"95 %: {low:.3f} to {high:.3f}"


def known_line(known: Mapping[str, Any]) -> str:
    """How many of the known flaws that are not in the test the threshold finds.

    Args:
        known: as in `metrics.json`, see `metrics.known_found`.
    """
    return (
        f"known flaws outside the test: {known['found']} of {known['n']} score above the threshold"
    )


def rate_to_type(known: Mapping[str, Any]) -> str:
    """The rest of that sentence where it misses some: the rate at which it finds all."""
    if known["found"] == known["n"]:
        return ""
    rate = known["fpr_for_all"]
    if rate is None:
        return "; no false-alarm rate of the calibration pictures finds all"
    return (
        f"; all would at {100 * rate:.1f} % false alarms on held-out normal pictures: "
        f"calibrate --fpr {rate}"
    )


def _steps(metrics: Mapping[str, Any], features: bool) -> list[str]:
    """What may help a detector that misses too much."""
    steps = _lower_threshold(metrics)
    if metrics["dataset"] != FOLDER:
        return [*steps, "other negatives (--negatives) or another --variant"]
    if not features:
        steps.append("pretrained features: leave --features none out")
    if features and metrics["variant"] != "lis-knn":
        steps.append("the variant that is best on most sets of parts: --variant lis-knn")
    steps.append("more pixels where flaws are small: a larger data.size, or --tile")
    if str(metrics["negatives"]).startswith("synth:"):
        steps.append("flawed pictures of two kinds or more, others than the tested: --negative-dir")
    return steps


def _lower_threshold(metrics: Mapping[str, Any]) -> list[str]:
    """How to find more with the same scores, where they tell anomalies apart."""
    asked = metrics["threshold_requested_fpr"]
    if asked is None:  # set by hand
        return ["a threshold for a false-positive rate: calibrate --fpr 0.05"]
    if metrics["auroc"] < TELLS_APART and metrics["false_positive_rate"] >= asked / 2:
        return []
    fpr = min(0.5, 2 * asked)
    if fpr <= asked:
        return []
    return [f"a lower threshold finds more, with more false alarms: calibrate --fpr {fpr:g}"]
