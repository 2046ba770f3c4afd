"""The cells of a table: a training and its file each, and which of them make one figure.

A cell is stale when its settings or `TRAINING_VERSION` differ. Reading needs no TensorFlow.
"""

import gc
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lisae_tf import __version__
from lisae_tf.config.settings import Config, dataset_settings, merge, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json
from lisae_tf.grids import stored

if TYPE_CHECKING:
    from lisae_tf.training.sharing import SharedPhase1

# Raised by hand whenever the same settings would train to other weights.
TRAINING_VERSION = 5
# Earlier versions whose results still count; what shows them names the version. In phase 2 of 4,
# drawings that are augmented were two fixed copies of each, and sums of floats had another order.
STILL_COUNTED = (4,)
KEPT = (
    "auroc", "auroc_phase1", "auroc_negatives", "average_precision", "fpr_at_95_tpr",
    "false_positive_rate", "detection_rate", "n_normal", "n_anomaly", "normal", "negatives",
    "protocol", "restart_seeds", "epochs", "seconds", "notes",
)  # fmt: skip
LATENTS = "latents.json"  # the choices of latent sizes, below the folder of the results
Tasks = tuple[tuple[str, ...], ...]


def counts(record: dict) -> bool:
    """Whether a stored result is of this version of the training, or of one that is still shown."""
    return record.get("training_version") in (TRAINING_VERSION, *STILL_COUNTED)


def version_of(record: dict) -> str:
    """The version that made a result, and that of its training unless it is today's."""
    training = record["training_version"]
    earlier = "" if training == TRAINING_VERSION else f" with training version {training}"
    return f"{record['version']}{earlier}"


@dataclass(frozen=True)
class Cell:
    """One training: a configuration and where its result lies."""

    config: Config
    path: Path

    def stored(self) -> dict | None:
        """The result, if it is there and not stale."""
        record = stored.read(self.path)
        if record is None:
            return None
        try:
            # A setting that came later stood at its default before.
            same = resolve(record["config"]).settings_read() == self.config.settings_read()
        except (KeyError, TypeError, LisaeError):
            return None
        return record if same and counts(record) else None

    def train(self, data_dir: Path | None, shared: "SharedPhase1 | None" = None) -> dict:
        """See `run_cell`."""
        return run_cell(self, data_dir, shared)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text)


def cell_of(config: Config, root: Path) -> Cell:
    """The cell of a configuration, wherever it is used: one training, one file."""
    normal = "-".join(map(str, config.normal_class or [0]))
    folder = (config.dataset, config.protocol, config.variant, config.negatives)
    place = root.joinpath("cells", *map(_slug, folder))
    return Cell(config, place / f"{_slug(normal)}-seed{config.seed}.json")


def run_cell(cell: Cell, data_dir: Path | None, shared: "SharedPhase1 | None" = None) -> dict:
    """Trains and tests one cell and writes its file.

    Args:
        cell: what to train and where its result goes.
        data_dir: folder of TensorFlow Datasets.
        shared: keeps phase 1 between cells that would train the same one.

    Raises:
        LisaeError: whatever is wrong with settings or data, or a failed training.
    """
    from lisae_tf.experiments import experiment

    loaded = experiment.load(cell.config, data_dir)
    outcome = experiment.run(cell.config, loaded, shared=shared)
    record = {key: outcome.metrics[key] for key in KEPT}
    record |= {
        "outliers": outliers(outcome.test.labels, outcome.after, outcome.before),
        "detection": detection(outcome.after, outcome.before),
        "held_out_loss": held_out_loss(outcome.detector.history),
        "config": cell.config.model_dump(),
        "config_hash": cell.config.digest(),
        "training_version": TRAINING_VERSION,
        "version": __version__,
        "seed": cell.config.seed,
        "latent": cell.config.network.latent,
        "date": datetime.now(UTC).date().isoformat(),
        "scores_sha256": hashlib.sha256(outcome.after.scores.tobytes()).hexdigest(),
    }
    stored.write(cell.path, record)
    # Models and functions refer to each other; a grid must not wait for the collector.
    del outcome, loaded
    gc.collect()
    return record


def held_out_loss(history: list[dict]) -> dict[str, float]:
    """The smallest loss on held-out pictures of each phase that looks at them; a GAN does not."""
    losses: dict[str, list[float]] = {}
    for row in history:
        if "val_loss" in row:
            losses.setdefault(f"phase{row['phase']}", []).append(row["val_loss"])
    return {phase: min(found) for phase, found in losses.items()}


def outliers(labels, after, before) -> dict[str, dict[str, float | int | None]]:
    """AUROC of each outlier class, at the end and after phase 1, and its number of pictures."""
    from lisae_tf.evaluation.metrics import auroc_by_class

    by_class = auroc_by_class(after, labels)
    if before:
        for name, row in auroc_by_class(before, labels).items():
            by_class[name]["auroc_phase1"] = row["auroc"]
    return by_class


def detection(after, before) -> dict[str, list[float]]:
    """The trade-off of figure 3 at the end and after phase 1; figures are drawn from it."""
    from lisae_tf.evaluation.metrics import detection_curve

    stages = {"final": after} | ({"phase1": before} if before else {})
    return {name: detection_curve(scored) for name, scored in stages.items()}


@dataclass(frozen=True)
class Row:
    """One system: a variant, its negatives (None: the configuration's), and when it is scored."""

    variant: str
    negatives: str | None = None
    phase1: bool = False  # the figure is the AUROC after phase 1


@dataclass(frozen=True)
class Column:
    """One dataset: its configuration and the normal classes of each task."""

    config: str
    tasks: Tasks


@cache
def _settings(name: str) -> dict[str, Any]:
    settings = dataset_settings(name)
    if settings is None:
        raise LisaeError(f"there is no configs/{name}.yaml to benchmark")
    return settings


@dataclass(frozen=True)
class Entry:
    """One task's AUROC: a cell, and what of it counts."""

    cell: Cell
    phase1: bool
    outliers: tuple[str, ...] | None  # classes to test on; None: all of the cell's test

    def auroc(self, record: dict) -> float:
        """The figure in the cell's record."""
        key = "auroc_phase1" if self.phase1 else "auroc"
        if self.outliers is None:
            return record[key]
        rows = [record["outliers"][name] for name in self.outliers]
        return sum(row[key] * row["n"] for row in rows) / sum(row["n"] for row in rows)


@dataclass(frozen=True)
class Figure:
    """What one figure is the mean of: the same system on each task of a column."""

    column: Column
    row: Row
    protocol: str | None = None  # None: the configuration's
    own_half: bool = False  # test on the other classes of the normal class's half alone

    def entries(self, root: Path, seed: int, over: dict[str, Any]) -> list[Entry]:
        """The cells of one seed, task by task.

        Args:
            root: folder of the results, which also holds the latent sizes chosen.
            seed: of the trainings.
            over: settings laid over everything else.

        Raises:
            LisaeError: no such configuration or variant.
        """
        settings = _settings(self.column.config)
        own: dict[str, Any] = {"variant": self.row.variant, "seed": seed}
        if self.row.negatives is not None:
            own["negatives"] = self.row.negatives
        if self.protocol is not None:
            own["protocol"] = self.protocol
        latent = chosen_latent(root, self.column.config, self.row.variant)
        if latent is not None:
            own["network"] = {"latent": latent}
        settings = merge(merge(settings, own), over)
        found = []
        for task in self.column.tasks:
            config = resolve(settings | {"normal_class": list(task)}, self.column.config)
            outliers = self._half_of(task) if self.own_half else None
            found.append(Entry(cell_of(config, root), self.row.phase1, outliers))
        return found

    def _half_of(self, task: tuple[str, ...]) -> tuple[str, ...]:
        names = [name for names in self.column.tasks for name in names]
        middle = len(names) // 2
        half = names[:middle] if task[0] in names[:middle] else names[middle:]
        return tuple(name for name in half if name not in task)


def latent_key(config: str, variant: str) -> str:
    """The key of a model on a dataset in the file of latent sizes."""
    return f"{config}/{variant}"


def latent_choice(root: Path, config: str, variant: str) -> dict | None:
    """The record of the choice of the latent size of a model on a dataset; None where none is."""
    path = root / LATENTS
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    choices = _latents(path.absolute(), status.st_ino, status.st_mtime_ns)
    return choices.get(latent_key(config, variant))


@lru_cache(maxsize=4)
def _latents(path: Path, *_state: int) -> dict[str, dict]:
    return read_json(path)


def chosen_latent(root: Path, config: str, variant: str) -> int | None:
    """The latent size chosen on held-out training data; None: as the configuration says."""
    record = latent_choice(root, config, variant)
    return record["latent"] if record else None


# By (row, column), as they are printed.
Figures = dict[tuple[str, str], Figure]
