"""The stored cells as figures: what each figure of each table comes to, from the cells alone."""

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lisae_tf.config.variants import VARIANTS
from lisae_tf.core.errors import LisaeError
from lisae_tf.grids import stored
from lisae_tf.grids.cells import Cell, Figure, latent_choice, version_of
from lisae_tf.paper import tables, tuning_table

DIGITS = 6  # kept in the summary


@dataclass
class Summed:
    """One figure: the AUROC of each task by seed, and their mean where all tasks are there."""

    tasks: tuple[str, ...]
    by_seed: dict[int, dict[str, float]] = field(default_factory=dict)
    latents: set[int] = field(default_factory=set)

    @property
    def whole(self) -> list[dict[str, float]]:
        """The tasks of each seed that has them all."""
        return [found for found in self.by_seed.values() if len(found) == len(self.tasks)]

    @property
    def complete(self) -> list[float]:
        """The mean over all tasks of each seed that has them all."""
        return [statistics.fmean(found.values()) for found in self.whole]

    @property
    def shown(self) -> list[dict[str, float]]:
        """The seeds whose tasks are shown one by one: the whole ones, else those begun."""
        return self.whole or list(self.by_seed.values())

    @property
    def mean(self) -> float | None:
        """Over complete seeds."""
        return round(statistics.fmean(self.complete), DIGITS) if self.complete else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over complete seeds; None for one."""
        enough = len(self.complete) > 1
        return round(statistics.stdev(self.complete), DIGITS) if enough else None

    @property
    def found(self) -> int:
        """Tasks that any seed has."""
        return len(set().union(*self.by_seed.values())) if self.by_seed else 0

    def task(self, name: str) -> float | None:
        """The mean of one task over the seeds that are shown."""
        values = [found[name] for found in self.shown if name in found]
        return statistics.fmean(values) if values else None

    def __str__(self) -> str:
        """The mean, with its spread where there are seeds; else what is there of it."""
        if not self.by_seed:
            return "–"
        if self.mean is None:
            return f"{self.found} of {len(self.tasks)} tasks"
        return f"{self.mean:.4f}" + ("" if self.std is None else f" ± {self.std:.4f}")

    def to_json(self) -> dict[str, Any]:
        """As in `summary.json`."""
        return {"mean": self.mean, "std": self.std, "seeds": len(self.complete)}


class Results:
    """All figures of all tables that the cells below a folder give."""

    def __init__(self, root: Path, over: dict[str, Any]):
        self.root, self.over = root, over
        self._records: dict[Path, dict | None] = {}
        found = stored.paths(root / "cells")
        self.seeds = sorted({int(path.stem.rpartition("-seed")[2]) for path in found})
        self.variants = {path.parts[-3] for path in found}

    def record(self, cell: Cell) -> dict | None:
        """A cell's record; None where it is missing or stale."""
        if cell.path not in self._records:
            self._records[cell.path] = cell.stored()
        return self._records[cell.path]

    def figure(self, figure: Figure) -> Summed:
        """What the cells give for one figure."""
        summed = Summed(tuple(", ".join(task) for task in figure.column.tasks))
        for seed in self.seeds:
            try:
                entries = figure.entries(self.root, seed, self.over)
            except LisaeError:  # a variant that this version does not have
                continue
            for name, entry in zip(summed.tasks, entries, strict=True):
                record = self.record(entry.cell)
                if record:
                    summed.by_seed.setdefault(seed, {})[name] = entry.auroc(record)
                    summed.latents.add(record["latent"])
        return summed

    @cached_property
    def by_table(self) -> dict[str, dict[tuple[str, str], Summed]]:
        """Tables 1 to 3 by (row, column); table 3 of other systems where there are cells."""
        found = {
            name: {key: self.figure(f) for key, f in tables.TABLES[name]("lis").items()}
            for name in ("table1", "table2", "table3")
        }
        for variant in VARIANTS:
            if variant != "lis" and variant in self.variants:
                other = {key: self.figure(f) for key, f in tables.table3(variant).items()}
                if any(summed.by_seed for summed in other.values()):
                    found[f"table3_{variant}"] = other
        return found

    @cached_property
    def synthetic(self) -> dict[tuple[str, str], Summed]:
        """Made negatives by (row, column), of those generators that some cell has."""
        found = {key: self.figure(figure) for key, figure in tables.synthetic("lis").items()}
        missing = set(tables.MADE) - {row for (row, _), summed in found.items() if summed.by_seed}
        if missing == set(tables.MADE):
            return {}
        return {key: summed for key, summed in found.items() if key[0] not in missing}

    @cached_property
    def tuning(self) -> dict[tuple[str, str], Summed]:
        """Folder defaults and tuned settings by (row, column); empty where nothing is tuned."""
        found: dict[tuple[str, str], Summed] = {}
        for name, column in tables.COLUMNS.items():
            for row, cells in tuning_table.cells_of(self.root, name).items():
                summed = Summed(tuple(", ".join(task) for task in column.tasks))
                for task, cell in zip(summed.tasks, cells, strict=True):
                    if record := self.record(cell):
                        summed.by_seed.setdefault(tuning_table.SEED, {})[task] = record["auroc"]
                        summed.latents.add(record["latent"])
                found[row, name] = summed
        return found if any(row == tuning_table.TUNED for row, _ in found) else {}

    @cached_property
    def appendix(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """Variant, positive, negative set, outlier class -> mean AUROC over seeds."""
        paper_name = {name: paper for paper, name in tables.CIFAR10.items()}
        found: dict = {}
        for label, variant in tables.APPENDIX_VARIANTS.items():
            for (negative, positive), figure in tables.appendix_a(variant).items():
                by_class = self._outliers(figure)
                if by_class:
                    named = {paper_name[name]: value for name, value in by_class.items()}
                    found.setdefault(label, {}).setdefault(positive, {})[negative] = named
        return found

    def _outliers(self, figure: Figure) -> dict[str, float]:
        key = "auroc_phase1" if figure.row.phase1 else "auroc"
        values: dict[str, list[float]] = {}
        for seed in self.seeds:
            record = self.record(figure.entries(self.root, seed, self.over)[0].cell)
            for name, row in (record or {"outliers": {}})["outliers"].items():
                values.setdefault(name, []).append(row[key])
        return {name: round(statistics.fmean(found), DIGITS) for name, found in values.items()}

    def latents(self) -> Iterator[tuple[str, str, dict]]:
        """Column, row and record of each choice of a latent size."""
        for name, column in tables.COLUMNS.items():
            for row, system in tables.ROWS.items():
                # A choice is one of the row with the usual negatives.
                own = not system.phase1 and system.negatives in (None, "none")
                record = own and latent_choice(self.root, column.config, system.variant)
                if record and record["latent"] is not None:  # else the choice is under way
                    yield name, row, record

    def summary(self) -> dict[str, Any]:
        """`summary.json`: complete figures alone."""
        summary: dict[str, Any] = {}
        for name, figures in self.by_table.items():
            rows: dict[str, dict] = {}
            for (row, column), summed in figures.items():
                if summed.mean is not None:
                    rows.setdefault(row, {})[column] = summed.to_json()
            summary[name] = rows
        for name, figures in (("synthetic", self.synthetic), ("tuning", self.tuning)):
            for (row, column), summed in figures.items():
                if summed.mean is not None:
                    rows = summary.setdefault(name, {})
                    rows.setdefault(row, {})[column] = summed.to_json()
        return summary | {"appendix_a_cifar10": self.appendix}

    def versions(self) -> Counter:
        """How many of the cells read each version made."""
        return Counter(version_of(record) for record in self._records.values() if record)
