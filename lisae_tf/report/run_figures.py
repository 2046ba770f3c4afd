"""Which figures a run gets, and of which of its pictures."""

from pathlib import Path

import numpy as np

from lisae_tf.core.files import make_folder
from lisae_tf.data.parts import TestData
from lisae_tf.detectors.base import Detector
from lisae_tf.detectors.graph import AutoencoderDetector
from lisae_tf.evaluation.metrics import Scored
from lisae_tf.report import figures
from lisae_tf.report.error_maps import full_red, overlay

SHOWN = 5  # pictures of each side in the reconstruction grid
MAP_SIDE = 1.8  # inches of a picture with its errors: small flaws are to be seen


def shown(test: TestData, count: int) -> tuple[np.ndarray, int]:
    """Rows of `count` evenly spaced normal pictures and as many anomalies, each class in turn.

    Returns:
        Rows of the test, normal first, and how many of them are normal.
    """
    truth = test.is_anomaly
    normal = np.flatnonzero(~truth)
    normal = normal[np.linspace(0, len(normal) - 1, min(count, len(normal))).astype(int)]
    labels = np.asarray(test.kinds if any(test.kinds) else test.labels)
    by_class = [np.flatnonzero(truth & (labels == name)) for name in dict.fromkeys(labels[truth])]
    anomaly: list[int] = []
    depth = 0
    while len(anomaly) < min(count, int(truth.sum())):
        anomaly += [rows[len(rows) // 2 - depth] for rows in by_class if len(rows) > depth]
        depth += 1
    return np.concatenate([normal, np.asarray(anomaly[:count], np.int64)]), len(normal)


def draw(
    detector: Detector, test: TestData, before: Scored | None, after: Scored, folder: Path
) -> None:
    """Writes every figure of a run; what needs anomalies is left out without them."""
    make_folder(folder)
    chosen, n_normal = shown(test, SHOWN)
    if len(chosen) and isinstance(detector, AutoencoderDetector):
        pixels = np.asarray(test.pixels[chosen])
        rows = [("input", pixels)]
        if phase1 := detector.phase1_detector():
            rows.append(("phase 1", phase1.reconstruct(pixels)))
        if detector.config.variant != "ae":
            rows.append((detector.config.variant, detector.reconstruct(pixels)))
        names = [Path(test.labels[index]).name for index in chosen]
        figures.reconstructions(folder / "reconstructions.png", rows, names, n_normal)
    alpha = detector.threshold_.alpha
    if len(chosen) and detector.has_maps:
        pixels = np.asarray(test.pixels[chosen])
        maps = detector.error_maps(pixels)
        share = detector.highest_share
        drawn = [overlay(*pair, alpha, share) for pair in zip(pixels, maps, strict=True)]
        names = [Path(test.labels[index]).name for index in chosen]
        rows = [("input", pixels), ("error map", np.stack(drawn))]
        # The scale in numbers, for the threshold may be set anew and these are not drawn again.
        red = f"an error of {full_red(alpha, share):.3g}" if alpha > 0 else "its highest error"
        figures.reconstructions(
            folder / "error_maps.png", rows, names, n_normal, MAP_SIDE, f"; fully red: {red}"
        )
    if len(after.anomaly) and len(after.normal):
        figures.roc(folder / "roc.png", before, after)
    draw_threshold(before, after, alpha, folder)
    if detector.history:
        figures.training_curves(folder / "training_curves.png", detector.history)


def draw_threshold(before: Scored | None, after: Scored, alpha: float, folder: Path) -> None:
    """Writes the figures that show the threshold among the scores, which need no pictures."""
    make_folder(folder)
    if len(after.scores):
        figures.score_histograms(folder / "score_histograms.png", before, after, alpha)
    if len(after.anomaly) and len(after.normal):
        figures.trade_off(folder / "trade_off.png", before, after, alpha)
