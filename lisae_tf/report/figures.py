"""The figures of one run: which they are, and how each is drawn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib import ticker
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn import metrics

from lisae_tf.core.files import as_utf8, make_folder
from lisae_tf.core.plots import AFTER, ANOMALY, BEFORE, DPI, NORMAL, STYLE, save
from lisae_tf.data.parts import TestData
from lisae_tf.detectors.base import Detector
from lisae_tf.detectors.graph import AutoencoderDetector
from lisae_tf.evaluation.metrics import Scored, accuracy_trade_off
from lisae_tf.report.error_maps import full_red, overlay

WIDEST = 15  # characters that fit above a picture
GAP, FRAME = 8, 2  # pixels between pictures and around each
NARROWEST = 70  # pixels of a column, for the name above it
_NORMAL, _ANOMALY = (np.array(to_rgb(colour)) * 255 for colour in (NORMAL, ANOMALY))
SHOWN = 5  # pictures of each side in the reconstruction grid
MAP_SIDE = 1.8  # inches of a picture with its errors: small flaws are to be seen


def reconstructions(
    path: Path,
    rows: Sequence[tuple[str, np.ndarray]],
    columns: Sequence[str],
    n_normal: int,
    side: float = 0.95,
    note: str = "",
) -> None:
    """Figure 4: inputs above what each phase makes of them.

    Args:
        path: of the PNG.
        rows: (label, pictures in 0-1 or uint8, (N, H, W, C)) from top to bottom.
        columns: what stands above each of the N columns.
        n_normal: how many of the columns, from the left, are normal.
        side: of a picture, in inches.
        note: what else the title says.
    """
    drawn = _sized(rows[0][1].shape[1:3], round(side * DPI))
    height, width = drawn[0] + 2 * FRAME + GAP, max(drawn[1] + 2 * FRAME, NARROWEST) + GAP
    canvas = np.full((len(rows) * height, len(columns) * width, 3), 255, np.uint8)
    for line, (_, images) in enumerate(rows):
        for column, image in enumerate(images):
            framed = np.full((height - GAP, drawn[1] + 2 * FRAME, 3), _NORMAL, np.uint8)
            if column >= n_normal:
                framed[:] = _ANOMALY
            framed[FRAME:-FRAME, FRAME:-FRAME] = _drawn(image, drawn)
            top = line * height
            left = column * width + (width - GAP - framed.shape[1]) // 2
            canvas[top : top + height - GAP, left : left + framed.shape[1]] = framed
    size = (canvas.shape[1] / DPI + 1, canvas.shape[0] / DPI + 0.6)
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    axis.imshow(canvas)
    axis.spines[:].set_visible(False)
    axis.xaxis.tick_top()
    axis.tick_params(length=0, pad=2)
    # A name may hold a $, which is no formula.
    axis.set_xticks(
        width * np.arange(len(columns)) + width / 2, [_fitting(name) for name in columns],
        fontsize=7, parse_math=False,
    )  # fmt: skip
    centres = height * np.arange(len(rows)) + height / 2
    axis.set_yticks(centres, [label for label, _ in rows], fontsize=9)
    figure.suptitle(f"blue: normal, red: anomaly{note}", fontsize=9)
    save(figure, path)


def _sized(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Height and width in pixels of the figure: the longer side is given."""
    return tuple(max(1, round(longest * side / max(size))) for side in size)


def _drawn(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture of 0-1 or uint8, (H, W, C), as uint8 (h, w, 3); pixels that grow stay squares."""
    if image.dtype != np.uint8:
        image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    way = Image.Resampling.NEAREST if image.shape[0] < size[0] else Image.Resampling.BOX
    picture = Image.fromarray(image.squeeze()).convert("RGB")
    return np.asarray(picture.resize(size[::-1], way))


def _fitting(name: str) -> str:
    shown = as_utf8(name)
    return shown if len(shown) <= WIDEST else f"…{shown[1 - WIDEST :]}"


def _stages(before: Scored | None, after: Scored) -> list[tuple[Scored, str, str]]:
    """Scores, colour and name of each stage; detectors without two phases have one."""
    if before is None:
        return [(after, AFTER, "final")]
    return [(before, BEFORE, "phase 1"), (after, AFTER, "phase 2")]


def _below_one_another(count: int) -> Sequence[plt.Axes]:
    """Plots of a figure that is no wider than a phone shows it legibly."""
    return plt.subplots(count, 1, figsize=(4, 2.8 * count), squeeze=False, layout="constrained")[1][
        :, 0
    ]


def score_histograms(path: Path, before: Scored | None, after: Scored, alpha: float) -> None:
    """Score distributions after phase 1 (where there is one) and at the end, with α."""
    stages = _stages(before, after)
    with plt.rc_context(STYLE):
        axes = _below_one_another(len(stages))
        for axis, (scored, _, title) in zip(axes, stages, strict=True):
            low, high = scored.scores.min(), scored.scores.max()
            if low > 0:
                bins = np.logspace(np.log10(low), np.log10(high) + 1e-6, 60)
            else:
                bins = np.linspace(low, high, 60)
            for scores, colour, name in (
                (scored.normal, NORMAL, "normal"), (scored.anomaly, ANOMALY, "anomaly"),
            ):  # fmt: skip
                if len(scores):
                    axis.hist(
                        scores, bins, color=colour, alpha=0.6, label=name, histtype="stepfilled",
                        weights=np.full(len(scores), 1 / len(scores)),
                    )  # fmt: skip
            axis.set(xlabel="score", ylabel="share of pictures")
            axis.set_title(title, loc="left", pad=16)  # above the legend
            if low > 0:
                axis.set_xscale("log")
                # Less than a decade or so would have no labels, or all of them on one another.
                steps = (1, 2, 5) if high < 50 * low else (1,)
                axis.xaxis.set_major_locator(ticker.LogLocator(subs=steps))
                axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
                axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes[-1].axvline(alpha, color="black", linestyle="--", label=f"α = {alpha:.3g}")
        axes[-1].legend(
            frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=8,
            borderaxespad=0, columnspacing=1, handlelength=1.5,
        )  # fmt: skip
        save(axes[0].figure, path)


def roc(path: Path, before: Scored | None, after: Scored) -> None:
    """ROC curves after phase 1 (where there is one) and at the end."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(3.6, 3.4), layout="constrained")
        for scored, colour, name in _stages(before, after):
            fpr, tpr, _ = metrics.roc_curve(scored.is_anomaly, scored.scores)
            area = metrics.auc(fpr, tpr)
            axis.plot(fpr, tpr, color=colour, label=f"{name}: {area:.3f}")
        axis.plot([0, 1], [0, 1], color="#cccccc", linewidth=0.8)
        axis.set(xlabel="false-positive rate", ylabel="detection rate", title="ROC")
        axis.legend(frameon=False, loc="lower right", title="AUROC")
        save(figure, path)


def trade_off(path: Path, before: Scored | None, after: Scored, alpha: float) -> None:
    """Figure 3: accuracy on anomalies against accuracy on normal pictures over α."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(3.8, 3.4), layout="constrained")
        for scored, colour, name in _stages(before, after):
            _, normal, anomaly = accuracy_trade_off(scored).T
            axis.plot(normal, anomaly, color=colour, label=name)
        point = np.mean(after.normal <= alpha), np.mean(after.anomaly > alpha)
        axis.plot(*point, "o", color="black", label=f"α = {alpha:.3g}")
        axis.set(
            xlabel="accuracy on normal", ylabel="accuracy on anomalies", title="trade-off over α"
        )
        axis.legend(frameon=False, loc="lower left")
        save(figure, path)


def training_curves(path: Path, history: Sequence[dict]) -> None:
    """Errors of normal and negative pictures over the epochs; the loss where there are none."""
    with plt.rc_context(STYLE):
        phases = sorted({row["phase"] for row in history})
        axes = _below_one_another(len(phases))
        for axis, phase in zip(axes, phases, strict=True):
            rows = [row for row in history if row["phase"] == phase]
            epochs = np.arange(1, len(rows) + 1)
            curves = [
                (f"{side}_error", colour, side)
                for side, colour in (("normal", NORMAL), ("negative", ANOMALY))
            ]
            errors = "normal_error" in rows[0]
            for name, colour, label in curves if errors else [("loss", AFTER, "loss")]:
                if name in rows[0]:
                    axis.plot(epochs, [row[name] for row in rows], ".-", color=colour, label=label)
                if f"val_{name}" in rows[0]:
                    axis.plot(
                        epochs, [row[f"val_{name}"] for row in rows], ".--", color=colour,
                        label=f"{label}, held out",
                    )  # fmt: skip
            axis.set(title=f"phase {phase}", xlabel="epoch", ylabel="error e" if errors else "loss")
            axis.set_yscale("log" if errors else "linear")
            axis.legend(frameon=False, fontsize=8, loc="best")
        save(axes[0].figure, path)


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
        reconstructions(folder / "reconstructions.png", rows, names, n_normal)
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
        reconstructions(
            folder / "error_maps.png", rows, names, n_normal, MAP_SIDE, f"; fully red: {red}"
        )
    if len(after.anomaly) and len(after.normal):
        roc(folder / "roc.png", before, after)
    draw_threshold(before, after, alpha, folder)
    if detector.history:
        training_curves(folder / "training_curves.png", detector.history)


def draw_threshold(before: Scored | None, after: Scored, alpha: float, folder: Path) -> None:
    """Writes the figures that show the threshold among the scores, which need no pictures."""
    make_folder(folder)
    if len(after.scores):
        score_histograms(folder / "score_histograms.png", before, after, alpha)
    if len(after.anomaly) and len(after.normal):
        trade_off(folder / "trade_off.png", before, after, alpha)
