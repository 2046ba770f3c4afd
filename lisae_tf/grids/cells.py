"""One training of a benchmark and its result file, written whole.

A cell is stale when its resolved configuration, as far as its variant reads it, or
`TRAINING_VERSION` differs. Reading cells needs no TensorFlow.
"""

import gc
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lisae_tf import __version__
from lisae_tf.config.settings import Config, resolve
from lisae_tf.core.errors import LisaeError
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
