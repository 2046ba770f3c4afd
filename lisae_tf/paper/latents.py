"""The latent size of a model on a dataset, chosen on held-out training data.

Two fixed tasks, one seed. The AUROC on the test sets of those tasks is written beside the choice
as `best_latent` and decides nothing.
"""

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lisae_tf import __version__
from lisae_tf.config.settings import Config, dataset_settings, merge, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import update_json
from lisae_tf.data.tasks import load_test
from lisae_tf.evaluation.metrics import auroc
from lisae_tf.experiments import selection
from lisae_tf.experiments.experiment import score_test
from lisae_tf.grids import cells, grid
from lisae_tf.grids.cells import LATENTS, Column, Row, latent_choice, latent_key
from lisae_tf.paper import tables
from lisae_tf.training.sharing import SharedPhase1

SEED = 0


def fixed_tasks(column: Column) -> list[tuple[str, ...]]:
    """Two tasks of a column, one from each half."""
    count = len(column.tasks)
    return [column.tasks[3 * count // 10], column.tasks[8 * count // 10]]


class Choice:
    """The record of one model on one dataset, filled size by size."""

    def __init__(self, column: Column, row: Row, root: Path, over: dict[str, Any]):
        settings = dataset_settings(column.config) or {}
        self.negatives = settings.get("negatives", Config().negatives)
        self._settings = merge(merge(settings, {"variant": row.variant, "seed": SEED}), over)
        if row.negatives is not None:
            self._settings["negatives"] = row.negatives
        self.tasks = fixed_tasks(column)
        self.path, self.key = root / LATENTS, latent_key(column.config, row.variant)
        self.record = self._stored(latent_choice(root, column.config, row.variant)) or {
            "config": self.config(self.tasks[0], 1).model_dump(),
            "training_version": cells.TRAINING_VERSION, "version": __version__, "seed": SEED,
            "variant": row.variant, "tasks": [", ".join(task) for task in self.tasks],
            "trained": {}, "kinds": {},
        }  # fmt: skip
        self.record |= {"latent": None, "best_latent": None, "sizes": {}}

    def config(self, task: tuple[str, ...], size: int) -> Config:
        """The settings of one training."""
        own = {"normal_class": list(task), "network": {"latent": size}}
        return resolve(merge(self._settings, own))

    def _stored(self, record: dict | None) -> dict | None:
        """What an earlier call has trained, if with the same settings."""
        if record is None:
            return None
        try:
            same = resolve(record["config"]) == self.config(self.tasks[0], 1)
        except (KeyError, TypeError, LisaeError):
            return None
        return record if same and record["training_version"] == cells.TRAINING_VERSION else None

    def has(self, task: tuple[str, ...], size: int) -> bool:
        """Whether this training is there."""
        return ", ".join(task) in self.record["trained"].get(str(size), {})

    def add(self, task: tuple[str, ...], size: int, kind: str, found: dict) -> None:
        """One training more, written at once."""
        name = ", ".join(task)
        self.record["trained"].setdefault(str(size), {})[name] = found
        self.record["kinds"][name] = kind
        self._write()

    def close(self, sizes: Sequence[int]) -> bool:
        """Chooses a size, the smaller one where two are level; False where one is untrained."""
        means = {}
        for size in sizes:
            found = self.record["trained"].get(str(size), {}).values()
            if len(found) == len(self.tasks):
                means[size] = {
                    key: statistics.fmean(row[key] for row in found)
                    for key in ("auroc_left_out", "auroc_test")
                }
        if len(means) < len(sizes):
            return False

        def best(key: str) -> int:
            return max(means, key=lambda size: (means[size][key], -size))

        self.record |= {
            "sizes": {str(size): means[size] for size in means},
            "latent": best("auroc_left_out"),
            "best_latent": best("auroc_test"),
            "left_out": "; ".join(dict.fromkeys(self.record["kinds"].values())),
        }
        self._write()
        return True

    def _write(self) -> None:
        self.record["date"] = datetime.now(UTC).date().isoformat()
        update_json(self.path, self.key, self.record)


@dataclass(frozen=True)
class Trial:
    """One size of one row on one task."""

    row: str
    task: tuple[str, ...]
    size: int
    config: Config
    negatives: str  # those of the task, of which one kind is left out

    def train(self, data_dir: Path | None, shared: SharedPhase1) -> dict:
        """The kind left out and both figures; the test set is read after the model is fixed."""
        left = selection.leave_out(self.config, data_dir, negatives=self.negatives)
        detector = selection.fit(left, shared)
        figure = selection.measure(detector, left).auroc
        scored = score_test(detector, load_test(self.config, data_dir))[1]
        found = {"auroc_left_out": figure, "auroc_test": auroc(scored.normal, scored.anomaly)}
        del detector
        gc.collect()
        return {"kind": left.kind, "figures": found}


def choose(
    column: str,
    rows: Mapping[str, Row],
    sizes: Sequence[int],
    root: Path,
    data_dir: Path | None,
    say: Callable[[str], None],
    *,
    jobs: int = 1,
    quick: bool = False,
) -> dict[str, dict]:
    """Tries all sizes for each row and writes one record a row; continues what is there.

    Returns:
        The record of each row.

    Raises:
        LisaeError: some size could not be trained.
    """
    over = grid.QUICK if quick else {}
    choices = {name: Choice(tables.COLUMNS[column], row, root, over) for name, row in rows.items()}
    # Rows side by side: AE and LIS-AE have the same phase 1.
    waiting = [
        [
            Trial(row, task, size, choice.config(task, size), choice.negatives)
            for row, choice in choices.items()
            if not choice.has(task, size)
        ]
        for task in fixed_tasks(tables.COLUMNS[column])
        for size in sizes
    ]
    for finished in grid.run_groups([group for group in waiting if group], data_dir, jobs):
        trial, record = finished.cell, finished.record
        place = f"{column}, {trial.row}, {', '.join(trial.task)}, latent {trial.size}"
        if record is None:
            say(f"{place}: failed: {finished.error}")
            continue
        choices[trial.row].add(trial.task, trial.size, record["kind"], record["figures"])
        say(f"{place}: {record['figures']['auroc_left_out']:.4f} against {record['kind']}")
    failed = [choice.key for choice in choices.values() if not choice.close(sizes)]
    if failed:
        raise LisaeError(
            f"not every size could be trained for {failed[0]}, so none is chosen there; the "
            "reasons are above, leave such a size out of --sizes"
        )
    return {name: choice.record for name, choice in choices.items()}
