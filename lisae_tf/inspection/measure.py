"""Trains and tests one cell through what `train` runs, and says how long each part takes.

A set's pictures are decoded once for the trainings that see the same ones, and go through the
backbone once: the seconds that this spares are counted to every training all the same.
"""

import gc
import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np

from lisae_tf import __version__
from lisae_tf.config.sections import Features
from lisae_tf.config.settings import Config, resolve
from lisae_tf.config.variants import ONE_CLASS
from lisae_tf.core.thresholds import choose_threshold
from lisae_tf.data.protocols import DEFAULT_FLAWS, DEFAULT_SYNTHETIC
from lisae_tf.detectors import make_detector
from lisae_tf.detectors.base import Detector
from lisae_tf.evaluation.metrics import Scored, by_kind, evaluate
from lisae_tf.experiments import experiment
from lisae_tf.features.places import Memo, remembering
from lisae_tf.grids import stored
from lisae_tf.grids.cells import TRAINING_VERSION
from lisae_tf.inspection.cells import InspectionCell, InspectionSet, Split
from lisae_tf.training.phase import TrainingOptions

FEATURES_KEPT = 3 * 2**30  # bytes, of one set
SPEED_SAMPLE = 64  # pictures, at most, that scoring is timed on


@lru_cache(maxsize=1)
def _memo(of: InspectionSet) -> Memo:
    """The features of the set that this process is at."""
    return Memo(FEATURES_KEPT)


def _seen(config: Config) -> str:
    """The settings that decide which pictures a training is given, made negatives included."""
    features = config.features and Features(made=config.features.made)
    negatives = DEFAULT_FLAWS if features else DEFAULT_SYNTHETIC
    chosen = {"features": features, "negatives": negatives, "variant": "lis"}
    names = ("dataset", "negative_dir", "seed", "data", *chosen)
    seen = config.model_copy(update=chosen).model_dump(exclude_none=True, include=set(names))
    return json.dumps(seen, sort_keys=True)


@lru_cache(maxsize=1)
def _load(of: InspectionSet, split: Split, seen: str) -> experiment.Loaded:
    with of.laid_out(split) as folders:
        loaded = experiment.load(resolve(json.loads(seen) | folders))
        notes = tuple(_plain(note, of, folders) for note in loaded.data.notes)
        data = replace(loaded.data, notes=notes)
        test = replace(
            loaded.test, notes=tuple(_plain(note, of, folders) for note in loaded.test.notes)
        )
    return replace(loaded, data=data, test=test)


def _plain(note: str, of: InspectionSet, folders: dict[str, str]) -> str:
    """A note without the place where the sets lie on this machine."""
    for folder in sorted({str(Path(f).parent) for f in folders.values()} | {str(of.root.parent)}):
        note = note.replace(f"{folder}/", "")
    return note


def load(cell: InspectionCell) -> experiment.Loaded:
    """The pictures of a cell: what it trains with alone, and what it is tested on."""
    loaded = _load(cell.of, cell.split, _seen(cell.config))
    if cell.config.variant in ONE_CLASS:
        loaded = replace(loaded, data=replace(loaded.data, negative=None, negative_masks=None))
    return loaded


def _busy() -> float:
    """Processes that ran or waited in the last minute; a training alone has about two."""
    return round(os.getloadavg()[0], 1)


def measure(cell: InspectionCell) -> dict:
    """Trains, tests and times one cell and writes its file.

    Raises:
        LisaeError: whatever is wrong with settings or data, or a failed training.
    """
    began, busy = time.perf_counter(), _busy()
    loaded = load(cell)
    memo = _memo(cell.of)
    with remembering(memo):
        detector = make_detector(cell.config)
        fitting, spared = time.perf_counter(), memo.spared
        detector.fit_data(loaded.data, TrainingOptions())
        backbone = memo.spared - spared
        fit_seconds = time.perf_counter() - fitting + backbone
        record = _tested(detector, loaded, cell)
    record |= _chosen(detector) | {
        "fit_seconds": round(fit_seconds, 2),
        "fit_spared_seconds": round(backbone, 2),  # of them, known from other trainings
        "pictures_per_second": round(_speed(detector, loaded.test.pixels), 2),
        "n_training": len(loaded.data.normal.fit),
        "machine": {"cores": os.cpu_count(), "load_before": busy, "load_after": _busy()},
        "seconds": {"training": round(fit_seconds, 2)},
        "duration": round(time.perf_counter() - began, 1),
        "notes": [*loaded.data.notes, *loaded.test.notes, *detector.notes],
        "epochs": [sum(row["phase"] == phase for row in detector.history) for phase in (1, 2)],
    }
    record |= {
        "set": cell.of.name,
        "row": cell.row.name,
        "split": cell.split.name,
        "real_negatives": list(cell.split.negatives),
        "seed": cell.config.seed,
        "config": cell.config.model_dump(),
        "config_hash": cell.config.digest(),
        "training_version": TRAINING_VERSION,
        "version": __version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    stored.write(cell.path, record)
    del detector
    gc.collect()
    return record


def _tested(detector: Detector, loaded: experiment.Loaded, cell: InspectionCell) -> dict:
    """What the test says, its threshold from held-out normal pictures as `train` takes it."""
    scores = detector.score(loaded.data.normal.calibration)
    fpr = cell.config.calibration.false_positive_rate
    detector.set_threshold(choose_threshold(scores, fpr, nearest=True))
    test, alpha = loaded.test, detector.threshold_.alpha
    scored = Scored(detector.score(test.pixels), test.is_anomaly)
    kinds = by_kind(scored, test.kinds, alpha)
    record = evaluate(scored, alpha) | {"auroc_phase1": None, "by_kind": kinds}
    record["auroc_mean_of_kinds"] = float(np.mean([found["auroc"] for found in kinds.values()]))
    if loaded.masks:
        record |= experiment.localise(detector, test, loaded.masks)[0]
    return record


def _chosen(detector: Detector) -> dict:
    """What it was trained against, and the held-out AUROC behind the choice."""
    choice = getattr(detector, "choice", None)
    if choice is None:
        return {"chosen_negatives": None}
    return {
        "chosen_negatives": choice.name, "chosen_why": choice.why, "chosen_auroc": choice.auroc,
    }  # fmt: skip


def _speed(detector: Detector, pixels: np.ndarray) -> float:
    """Pictures a second, from pixels to scores, after one call to warm up."""
    sample = pixels[:SPEED_SAMPLE]
    detector.score(sample[:1])
    began = time.perf_counter()
    detector.score(sample)
    return len(sample) / (time.perf_counter() - began)
