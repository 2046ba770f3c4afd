"""What `report` says of a run, as HTML: verdict, metrics, figures, how to use it.

Reads what the run wrote; no picture is scored. The page around it is `lisae_tf/desk/reported.py`.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
import numpy as np

from lisae_tf.config.settings import FOLDER
from lisae_tf.core.thresholds import CONFIDENCE, wilson
from lisae_tf.detectors.base import Detector
from lisae_tf.evaluation.metrics import (
    UNLIKELY,
    Scored,
    auroc,
    auroc_interval,
    chance_at_rate,
    fpr_at_tpr,
    independent,
)
from lisae_tf.evaluation.verdict import known_line, rate_to_type, verdict
from lisae_tf.runs import folders as runs

RESAMPLES = 400
# Title, and whether it is a row of pictures that may be wider than the page.
FIGURES = {
    "score_histograms.png": ("Scores of the test pictures", False),
    "roc.png": ("ROC", False),
    "trade_off.png": ("Accuracy on normal pictures and anomalies over the threshold", False),
    "training_curves.png": ("Training", False),
    "reconstructions.png": ("Reconstructions", True),
    "error_maps.png": ("Where the errors lie", True),
}


@dataclass(frozen=True)
class Metric:
    """A figure with its confidence interval."""

    name: str
    value: float
    low: float
    high: float
    note: str


def bootstrap(
    scored: Scored,
    measure: Callable[[Scored], float],
    counts: tuple[int, int] | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of a metric, normals and anomalies resampled apart.

    Args:
        scored: of the test.
        measure: the metric.
        counts: of pictures that are drawn from each side; all by default.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    counts = counts or (len(scored.normal), len(scored.anomaly))
    sides = list(zip((scored.normal, scored.anomaly), counts, strict=True))
    truth = np.repeat([False, True], counts)
    values = []
    for _ in range(RESAMPLES):
        drawn = [generator.choice(side, count) for side, count in sides]
        values.append(measure(Scored(np.concatenate(drawn), truth)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _rate(name: str, called: np.ndarray, count: int) -> Metric:
    share = float(called.mean())
    return Metric(name, share, *wilson(round(share * count), count), "Wilson")


def metrics_of(scored: Scored, alpha: float, counts: tuple[int, int] | None = None) -> list[Metric]:
    """What can be measured on the test, each with its 95 % interval.

    Args:
        scored: of the test.
        alpha: the threshold.
        counts: of the normal pictures and anomalies that intervals go by, see `independent`; all
            by default.
    """
    found, counts = [], counts or (len(scored.normal), len(scored.anomaly))
    if len(scored.normal) and len(scored.anomaly):
        area = auroc(scored.normal, scored.anomaly)
        interval = auroc_interval(area, *counts)
        found.append(Metric("AUROC", area, *interval, "Newcombe"))
        interval = bootstrap(scored, fpr_at_tpr, counts)
        name = "false alarms where 95 % of the anomalies are found"
        found.append(Metric(name, fpr_at_tpr(scored), *interval, "bootstrap"))
    if len(scored.anomaly):
        found.append(_rate("anomalies found at the threshold", scored.anomaly > alpha, counts[1]))
    if len(scored.normal):
        found.append(_rate("false alarms at the threshold", scored.normal > alpha, counts[0]))
    return found


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def render(folder: Path, detector: Detector) -> str:
    """The report of a completed run as HTML, up to the heading of its pictures.

    Args:
        folder: of the run.
        detector: the run's.

    Raises:
        LisaeError: the run is incomplete or damaged.
    """
    record = runs.read_metrics(folder)
    stored = runs.read_scores(folder)
    scored = Scored(stored["test"], stored["is_anomaly"])
    alpha = detector.threshold_.alpha
    alarms = int(np.sum(scored.normal > alpha))
    figures = [
        (title, _uri((folder / "figures" / name).read_bytes()), wide)
        for name, (title, wide) in FIGURES.items()
        if (folder / "figures" / name).is_file()
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        files("lisae_tf.report").joinpath("templates/report.html").read_text(encoding="utf-8")
    )
    return template.render(
        folder=folder,
        record=record,
        settings=detector.config.to_yaml(read=True),
        verdict=verdict(record, features=detector.config.features is not None),
        known=known_line(record["known"]) + rate_to_type(record["known"])
        if record.get("known")
        else None,
        own_folders=detector.config.dataset == FOLDER,
        threshold=detector.threshold_,
        metrics=metrics_of(scored, alpha, independent(record)),
        alarms=alarms,
        count=len(scored.normal),
        chance=chance_at_rate(
            detector.threshold_, alarms / max(1, len(scored.normal)), independent(record)[0]
        ),
        unlikely=UNLIKELY,
        figures=figures,
        shape=detector.shape,
    )
