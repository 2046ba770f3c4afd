"""`report`: one HTML file about a run that opens offline: figures, pictures, how to serve it.

All is embedded. Reads what the run wrote, and the test pictures where they are still there.
"""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib import colormaps
from PIL import Image

from lisae_tf.config.settings import FOLDER, Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import write_text
from lisae_tf.core.intervals import CONFIDENCE, wilson
from lisae_tf.data.parts import TestData
from lisae_tf.data.roots import moved
from lisae_tf.data.tasks import reopen
from lisae_tf.detectors import load_detector
from lisae_tf.detectors.base import Detector
from lisae_tf.detectors.graph import AutoencoderDetector
from lisae_tf.evaluation.metrics import (
    UNLIKELY,
    Scored,
    auroc,
    auroc_interval,
    chance_of_alarms,
    fpr_at_tpr,
)
from lisae_tf.evaluation.verdict import known_line, rate_to_type, verdict
from lisae_tf.report.error_maps import resized
from lisae_tf.runs import folders as runs

SHOWN = 8  # pictures of each kind
RESAMPLES = 400
# Title, and whether it takes a whole line.
FIGURES = {
    "score_histograms.png": ("Scores of the test pictures", True),
    "roc.png": ("ROC", False),
    "trade_off.png": ("Accuracy on normal pictures and anomalies over the threshold", False),
    "training_curves.png": ("Training", True),
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
    scored: Scored, measure: Callable[[Scored], float], seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a metric, normals and anomalies resampled apart."""
    generator = np.random.default_rng(seed)
    normal, anomaly = scored.normal, scored.anomaly
    truth = np.repeat([False, True], [len(normal), len(anomaly)])
    values = []
    for _ in range(RESAMPLES):
        drawn = [generator.choice(side, len(side)) for side in (normal, anomaly)]
        values.append(measure(Scored(np.concatenate(drawn), truth)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _rate(name: str, called: np.ndarray, note: str) -> Metric:
    return Metric(name, float(called.mean()), *wilson(int(called.sum()), len(called)), note)


def metrics_of(scored: Scored, alpha: float) -> list[Metric]:
    """What can be measured on the test, each with its 95 % interval."""
    found = []
    if len(scored.normal) and len(scored.anomaly):
        area = auroc(scored.normal, scored.anomaly)
        interval = auroc_interval(area, len(scored.normal), len(scored.anomaly))
        found.append(Metric("AUROC", area, *interval, "Newcombe"))
        interval = bootstrap(scored, fpr_at_tpr)
        name = "false alarms where 95 % of the anomalies are found"
        found.append(Metric(name, fpr_at_tpr(scored), *interval, "bootstrap"))
    if len(scored.anomaly):
        found.append(_rate("anomalies found at the threshold", scored.anomaly > alpha, "Wilson"))
    if len(scored.normal):
        found.append(_rate("false alarms at the threshold", scored.normal > alpha, "Wilson"))
    return found


def _png(pixels: np.ndarray) -> str:
    """uint8 (H, W) or (H, W, C) as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, format="PNG")
    return _uri(buffer.getvalue())


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def chosen(scored: Scored, alpha: float, there: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Which test pictures are shown, by heading; a heading without pictures is left out.

    Args:
        scored: the test.
        alpha: threshold.
        there: rows whose pictures can be shown; all by default.
    """
    scores, truth = scored.scores, scored.is_anomaly
    groups = {
        "Highest scores": np.argsort(-scores, kind="stable"),
        "Nearest to the threshold": np.argsort(np.abs(scores - alpha), kind="stable"),
        "Lowest scores": np.argsort(scores, kind="stable"),
    }
    if truth.any():
        missed = np.flatnonzero(truth & (scores <= alpha))
        groups["Missed anomalies"] = missed[np.argsort(scores[missed], kind="stable")]
    alarms = np.flatnonzero(~truth & (scores > alpha))
    groups["False alarms"] = alarms[np.argsort(-scores[alarms], kind="stable")]
    if there is not None:
        groups = {name: rows[np.isin(rows, there)] for name, rows in groups.items()}
    return {name: rows[:SHOWN] for name, rows in groups.items() if len(rows)}


def _cards(
    rows: np.ndarray, detector: Detector, test: TestData, scored: Scored, alpha: float
) -> list[dict[str, Any]]:
    """A picture, what is made of it and its error map, its score and what it is.

    Rows are those of the run's test scores; `test.rows` says which picture each belongs to.
    """
    at = [int(np.flatnonzero(test.rows == row)[0]) for row in rows]
    pixels = np.asarray(test.pixels[at])
    views = [("picture", [_png(each) for each in pixels])]
    if isinstance(detector, AutoencoderDetector):
        made = detector.reconstruct(pixels)
        views.append(("rebuilt", [_png(np.rint(255 * each).astype(np.uint8)) for each in made]))
    if detector.has_maps:
        error = resized(detector.error_maps(pixels), pixels.shape[1:3])
        views.append(("error", [_png(heat(each)) for each in error]))
    return [
        {
            "views": [(name, images[k]) for name, images in views],
            "label": test.labels[at[k]],
            "score": float(scored.scores[row]),
            "flagged": bool(scored.scores[row] > alpha),
            "anomaly": bool(scored.is_anomaly[row]),
        }
        for k, row in enumerate(rows)
    ]


def heat(error: np.ndarray) -> np.ndarray:
    """An error map, float (H, W), in colours, uint8 (H, W, 3); each on its own scale."""
    return (colormaps["magma"](error / max(error.max(), 1e-12))[..., :3] * 255).astype(np.uint8)


def _test_pictures(
    run: Path, config: Config, data_dir: Path | None, scored: Scored
) -> tuple[TestData | None, str | None]:
    """The test pictures that are still those that were tested, and why there are not all."""
    try:
        # Files left out of the test are left out again.
        test = reopen(run, config, data_dir, skip_bad=True).test()
    except LisaeError as error:
        return None, f"The test pictures cannot be read: {error}"
    if test.rows is None:
        test = replace(test, rows=np.arange(len(test.is_anomaly)))
        if not np.array_equal(test.is_anomaly, scored.is_anomaly):
            return None, "The test pictures are not those that the run was tested on."
    if len(test.rows) < len(scored.scores):
        lost = len(scored.scores) - len(test.rows)
        return test, f"{lost} of the tested pictures are gone or changed, and are not shown."
    return test, None


def render(folder: Path, data_dir: Path | None = None, data_roots: Sequence[str] = ()) -> str:
    """The report of a completed run as one HTML text.

    Args:
        folder: of the run.
        data_dir: folder of TensorFlow Datasets, for runs on named data.
        data_roots: folders of the run's pictures that have moved, each "OLD=NEW".

    Raises:
        LisaeError: the run is incomplete or damaged.
    """
    record = runs.read_metrics(folder)
    detector = load_detector(folder)
    stored = runs.read_scores(folder)
    scored = Scored(stored["test"], stored["is_anomaly"])
    alpha = detector.threshold_.alpha
    alarms = int(np.sum(scored.normal > alpha))
    config = moved(detector.config, data_roots)
    test, reason = _test_pictures(folder, config, data_dir, scored)
    groups = {}
    if test is not None:
        groups = {
            name: _cards(rows, detector, test, scored, alpha)
            for name, rows in chosen(scored, alpha, test.rows).items()
        }
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
        run=folder.name,
        folder=folder,
        record=record,
        config=detector.config,
        settings=detector.config.to_yaml(read=True),
        verdict=verdict(record, features=detector.config.features is not None),
        known=known_line(record["known"]) + rate_to_type(record["known"])
        if record.get("known")
        else None,
        own_folders=detector.config.dataset == FOLDER,
        threshold=detector.threshold_,
        metrics=metrics_of(scored, alpha),
        alarms=alarms,
        count=len(scored.normal),
        chance=chance_of_alarms(detector.threshold_, alarms, len(scored.normal)),
        unlikely=UNLIKELY,
        figures=figures,
        groups=groups,
        reason=reason,
        shape=detector.shape,
    )


def write(
    folder: Path, out: Path, data_dir: Path | None = None, data_roots: Sequence[str] = ()
) -> None:
    """Writes the report, whole or not at all."""
    write_text(out, render(folder, data_dir, data_roots))
