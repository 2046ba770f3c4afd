"""What one printed figure is the mean of: a system trained on each task of a dataset.

Reads configurations and the latent sizes chosen; the tables themselves are in `tables`.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lisae_tf.config.settings import dataset_settings, merge, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json
from lisae_tf.grids.cells import Cell, cell_of

LATENTS = "latents.json"  # the choices of latent sizes, below the folder of the results
Tasks = tuple[tuple[str, ...], ...]


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
