"""One run from settings to metrics: data, detector, threshold, test, in this order.

The only place where training and evaluation meet; nothing learned here flows back.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from lisae_tf import __version__
from lisae_tf.config.settings import FOLDER, Config
from lisae_tf.core.arrays import save_arrays
from lisae_tf.core.files import write_json
from lisae_tf.core.thresholds import choose_threshold
from lisae_tf.data.datasets import open_dataset
from lisae_tf.data.folders import here
from lisae_tf.data.groups import count_groups
from lisae_tf.data.manifest import Manifest
from lisae_tf.data.masks import Masks
from lisae_tf.data.parts import TestData, TrainingData
from lisae_tf.data.protocols import make_task, synthetic_generators
from lisae_tf.data.tasks import TaskData, load_masks
from lisae_tf.detectors import make_detector
from lisae_tf.detectors.base import Detector
from lisae_tf.evaluation.metrics import (
    Scored,
    auroc,
    by_folder,
    by_kind,
    chance_at_rate,
    evaluate,
    folder_remarks,
    independent,
    known_found,
)
from lisae_tf.experiments.continuation import Before
from lisae_tf.features.places import remembering
from lisae_tf.report.error_maps import resized
from lisae_tf.runs.files import CHECKPOINT, FIGURES, HISTORY, METRICS, SCORES, changing
from lisae_tf.training.distribution import is_chief
from lisae_tf.training.phase import TrainingOptions
from lisae_tf.training.sharing import SharedPhase1

FEATURES_KEPT = 2**28  # bytes of pictures' features, which several steps of a run ask for


@dataclass
class Outcome:
    """What a run produced, in memory."""

    detector: Detector
    metrics: dict
    test: TestData
    before: Scored | None  # after phase 1, where there are two phases
    after: Scored
    notes: list[str] = field(default_factory=list)
    known: np.ndarray | None = None  # scores of the known flaws that choose settings


@dataclass
class Loaded:
    """Training and test pictures of one task, and the seconds that reading took."""

    data: TrainingData
    test: TestData
    data_dir: Path | None
    seconds: float
    masks: Masks | None = None  # of the anomalies
    manifest: Manifest | None = None  # of folders
    since: tuple[str, ...] = ()  # what has become of an earlier run's pictures


def load(
    config: Config,
    data_dir: Path | None = None,
    *,
    skip_bad: bool = False,
    kept: Manifest | None = None,
    ignored: np.ndarray | None = None,
) -> Loaded:
    """Reads and checks everything before a second of training is spent.

    Args:
        config: settings.
        data_dir: of TensorFlow Datasets.
        skip_bad: whether unreadable pictures of folders are left out.
        kept: pictures of an earlier run, which keep their parts.
        ignored: what does not count in an earlier run, bool (H, W), instead of reading its mask.

    Raises:
        LisaeError: whatever is wrong with settings or data.
    """
    began = time.perf_counter()
    opened = TaskData(config, data_dir, skip_bad=skip_bad, kept=kept, ignored=ignored)
    data = opened.training()
    make_detector(config).require_negatives(data)
    test = opened.test()
    masks, listed = load_masks(config, test), opened.manifest()
    seconds = time.perf_counter() - began
    return Loaded(data, test, data_dir, seconds, masks, listed, tuple(opened.since))


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the block's duration to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.get(name, 0.0) + time.perf_counter() - began
            self.seconds[name] = round(spent, 3)


def describe(config: Config, data_dir: Path | None) -> dict[str, object]:
    """Dataset, normal classes and negatives in words, for the record."""
    if config.dataset == FOLDER:
        config = here(config)
        normal, negatives = config.normal_dirs, config.negatives
        if config.negative_dir:
            made = f"+{negatives}" if synthetic_generators(negatives) else ""
            negatives = f"{config.negative_dir}{made}"
    else:
        names = open_dataset(config.dataset, data_dir).class_names
        task = make_task(config.protocol, config.normal_class, config.anomaly_class, names)
        normal, negatives = [names[c] for c in task.normal], config.negatives
    return {
        "dataset": config.dataset,
        "normal": normal,
        "negatives": negatives,
        "protocol": config.protocol,
        "variant": config.variant,
        "seed": config.seed,
    }


def score_test(detector: Detector, test: TestData) -> tuple[Scored | None, Scored]:
    """Test scores as phase 1 left the detector, where there is one, and as it is."""
    before, after = (
        None if scores is None else Scored(scores, test.is_anomaly)
        for scores in detector.score_phases(test.pixels)
    )
    return before, after


def times_as_high(before: Scored | None, after: Scored) -> float | None:
    """The mean score of held-out normal pictures at the end, in those of phase 1.

    None without two phases, or where a mean score is 0 or below, as of scores that are no errors.
    """
    if before is None or not len(after.normal):
        return None
    then, now = float(before.normal.mean()), float(after.normal.mean())
    return now / then if then > 0 and now > 0 else None


def _groups(config: Config, test: TestData) -> dict[str, int]:
    """How many groups of copies each side of a test has, a picture alone being one.

    {} where no picture is in one, and of named datasets, whose test sets are given.
    """
    if config.dataset != FOLDER:
        return {}
    counts = []
    for side in (~test.is_anomaly, test.is_anomaly):
        names = [name for name, ours in zip(test.groups, side, strict=True) if ours]
        counts.append(count_groups(test.pixels[side], names))
    if sum(counts) == len(test.is_anomaly):
        return {}
    return {"n_normal_groups": counts[0], "n_anomaly_groups": counts[1]}


def measure(
    detector: Detector,
    data: TrainingData,
    before: Scored | None,
    after: Scored,
    test: TestData,
) -> dict[str, object]:
    """Everything in `metrics.json` that depends on scores."""
    found = evaluate(after, detector.threshold_.alpha) | _groups(detector.config, test)
    n_normal, _ = independent(found)
    folders = by_folder(
        after, dict(zip(here(detector.config).normal_dirs, test.normal_counts, strict=False)),
        detector.threshold_, n_normal / max(1, len(after.normal)),
    )  # fmt: skip
    held_out = None
    if data.negative is not None:
        # How far held-out negatives stand off: no measure of anomalies.
        held_out = auroc(after.normal, detector.score(data.negative.calibration))
    return {
        **found,
        "auroc_phase1": auroc(before.normal, before.anomaly) if before else None,
        "auroc_negatives": held_out,
        "normal_error_times": times_as_high(before, after),
        "chance_of_false_alarms": chance_at_rate(
            detector.threshold_, found["false_positive_rate"], n_normal
        ),
        "threshold": detector.threshold_.alpha,
        "by_kind": by_kind(after, test.kinds, detector.threshold_.alpha),
        **({"by_folder": folders} if folders else {}),
        "threshold_guaranteed_fpr": detector.threshold_.guaranteed_fpr,
        "threshold_requested_fpr": detector.threshold_.requested_fpr,
        "n_calibration": detector.threshold_.n_calibration,
    }


def localise(
    detector: Detector, test: TestData, masks: Masks
) -> tuple[dict[str, float | int], list[str]]:
    """How well the maps of errors show where the anomalies are, with masks for them.

    Masks have the pictures' resolution, and maps are resized to it; pixels that do not count for
    the detector are left out.

    Returns:
        See `localisation.pixel_figures`; and why there are none, where that is so.
    """
    from lisae_tf.evaluation.localisation import pixel_figures

    if not detector.has_maps:
        why = f"{detector.config.variant} scores whole pictures and has no maps of errors"
        return {}, [f"no pixel figures: {why}"]
    if not masks.known.any():
        return {}, ["no pixel figures: no mask marks anything"]
    maps = resized(detector.error_maps(test.pixels), detector.shape[:2])
    return pixel_figures(maps, test.is_anomaly, masks.marked, detector.ignored), []


@remembering(FEATURES_KEPT)
def run(
    config: Config,
    loaded: Loaded,
    folder: Path | None = None,
    *,
    callbacks: tuple = (),
    say: Callable[[str], None] = lambda line: None,
    shared: SharedPhase1 | None = None,
    before: Before | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> Outcome:
    """Trains, calibrates and evaluates; writes the run folder unless `folder` is None.

    Args:
        config: resolved settings.
        loaded: pictures for these settings.
        folder: claimed already (`runs.claim`); a checkpoint in it is continued.
        callbacks: Keras callbacks for both phases.
        say: takes one line of progress.
        shared: gives phase 1 to runs that would train the same one.
        before: the run that this one continues.
        strategy: of several devices or workers; the chief alone writes the run folder.
    """
    data, test = loaded.data, loaded.test
    watch = Stopwatch()
    watch.seconds["data"] = round(loaded.seconds, 3)
    detector = make_detector(config)
    with watch.stage("training"):
        checkpoint = folder / CHECKPOINT if folder else None
        initial = before.detector.weights_to_continue() if before else None
        options = TrainingOptions(checkpoint, callbacks, say, shared, initial, strategy)
        detector.fit_data(data, options)
    for row in detector.history:
        stage = f"phase{row['phase']}"
        watch.seconds[stage] = round(watch.seconds.get(stage, 0.0) + row["seconds"], 3)
    with watch.stage("calibration"):
        calibration_scores = detector.score(data.normal.calibration)
        fpr = config.calibration.false_positive_rate
        detector.set_threshold(choose_threshold(calibration_scores, fpr, nearest=True))
    notes = [*loaded.since, *data.notes, *test.notes, *detector.notes]
    if shortfall := detector.threshold_.shortfall():
        notes.append(shortfall)
    with watch.stage("evaluation"):
        phase1, after = score_test(detector, test)
        measured = measure(detector, data, phase1, after, test)
        notes += folder_remarks(measured.get("by_folder", {}), fpr)
        # Known flaws may have chosen other settings.
        metrics = describe(detector.config, loaded.data_dir) | measured
        known = None
        if data.known is not None:
            known = detector.score(data.known)
            metrics["known"] = known_found(known, detector.threshold_, calibration_scores)
        if loaded.masks:
            figures, why_not = localise(detector, test, loaded.masks)
            metrics |= figures
            notes += [*loaded.masks.notes, *why_not]
        if before:
            metrics["continued"] = before.compare(detector, test, after.scores)
    if detector.ignored is not None:
        metrics["ignored_share"] = float(detector.ignored.mean())
    metrics |= detector.record
    metrics |= {
        "restart_seeds": detector.restart_seeds,
        "epochs": [sum(row["phase"] == phase for row in detector.history) for phase in (1, 2)],
        "version": __version__,
        "config_hash": detector.config.digest(),
        "notes": notes,
        "seconds": watch.seconds,
    }
    outcome = Outcome(detector, metrics, test, phase1, after, notes, known)
    if folder and is_chief(strategy):
        _write(outcome, folder, calibration_scores, watch)
    return outcome


def _write(outcome: Outcome, folder: Path, calibration_scores: np.ndarray, watch: Stopwatch):
    """The run folder, all of it in one step."""
    from lisae_tf.report.figures import draw

    with changing(folder) as staged:
        outcome.detector.save(staged)
        write_json(staged / HISTORY, outcome.detector.history)
        scores = {
            "calibration": calibration_scores,
            "test": outcome.after.scores,
            "is_anomaly": outcome.after.is_anomaly,
        }
        if outcome.metrics["by_kind"]:
            scores["kind"] = np.asarray(outcome.test.kinds)
        if outcome.known is not None:
            scores["known"] = outcome.known
        if outcome.before:
            scores["test_phase1"] = outcome.before.scores
        save_arrays(staged / SCORES, scores)
        with watch.stage("figures"):
            draw(outcome.detector, outcome.test, outcome.before, outcome.after, staged / FIGURES)
        write_json(staged / METRICS, outcome.metrics)
    (folder / CHECKPOINT).unlink(missing_ok=True)
