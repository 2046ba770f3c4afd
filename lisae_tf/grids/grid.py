"""Runs the cells of a table: what is stored is kept, what fails is named and stops nothing.

Cells with the same phase 1 form a group and run one after the other in one process, so that it
is trained once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lisae_tf.core.errors import LisaeError
from lisae_tf.grids.cells import Cell, Figures
from lisae_tf.grids.workers import Finished, Training, run_group
from lisae_tf.training.sharing import phase1_key

# A tiny version of every cell: the wiring, not the figures.
QUICK: dict[str, Any] = {
    "data": {"stopping_fraction": 0.3, "calibration_fraction": 0.3},
    "network": {"filters": [4, 8], "latent": 8},
    "feature_extraction": {"epochs": 1, "collapse_fraction": 0.0, "warmup_steps": 10},
    "latent_shaping": {"epochs": 1},
}
QUICK_TASKS = 1


@dataclass(frozen=True)
class Plan:
    """The cells that some figures need, each once, and figures that cannot be planned."""

    cells: tuple[Cell, ...]
    failures: dict[str, str]  # row and column -> why


def choose(figures: Figures, rows: Sequence[str] | None, columns: Sequence[str] | None) -> Figures:
    """The figures of some rows and columns; all where None.

    Raises:
        LisaeError: a row or column that the table does not have.
    """
    for kind, place, wanted in (("row", 0, rows), ("column", 1, columns)):
        known = list(dict.fromkeys(key[place] for key in figures))
        unknown = [name for name in wanted or () if name not in known]
        if unknown:
            raise LisaeError(f"there is no {kind} '{unknown[0]}'; it has {', '.join(known)}")
    return {
        (row, column): figure
        for (row, column), figure in figures.items()
        if (rows is None or row in rows) and (columns is None or column in columns)
    }


def plan(figures: Figures, seeds: Iterable[int], root: Path, *, quick: bool = False) -> Plan:
    """Every cell of the figures, by seed, then column, task and row."""
    failures: dict[str, str] = {}
    cells: dict[Path, Cell] = {}
    for seed in seeds:
        by_column: dict[str, list[list[Cell]]] = {}
        for (row, column), figure in figures.items():
            try:
                entries = figure.entries(root, seed, QUICK if quick else {})
            except LisaeError as error:
                failures[f"{row}, {column}"] = str(error)
                continue
            kept = entries[:QUICK_TASKS] if quick else entries
            by_column.setdefault(column, []).append([entry.cell for entry in kept])
        for rows in by_column.values():
            for task in zip(*rows, strict=True):
                cells |= {cell.path: cell for cell in task}
    return Plan(tuple(cells.values()), failures)


def groups(trainings: Iterable[Training]) -> list[list[Training]]:
    """Trainings with the same phase 1 together, in order of first appearance."""
    by_key: dict[str, list[Training]] = {}
    for training in trainings:
        by_key.setdefault(phase1_key(training.config), []).append(training)
    return list(by_key.values())


def run(
    cells: Sequence[Cell],
    data_dir: Path | None,
    jobs: int = 1,
    *,
    engine: str = "local",
    address: str | None = None,
) -> Iterator[Finished]:
    """Trains the cells that are not stored, and gives each as it is finished.

    Args:
        cells: of a plan.
        data_dir: folder of TensorFlow Datasets.
        jobs: worker processes; with one everything runs in this process.
        engine: "local", or "ray", where each group is a task on one core and `jobs` means nothing.
        address: of a Ray cluster.
    """
    waiting = groups(cell for cell in cells if cell.stored() is None)
    if engine == "ray":
        yield from _run_on_ray(waiting, data_dir, address)
    else:
        yield from run_groups(waiting, data_dir, jobs)


def _run_on_ray(
    waiting: Sequence[Sequence[Cell]], data_dir: Path | None, address: str | None
) -> Iterator[Finished]:
    from lisae_tf.core import ray_engine

    # A worker may stand in another folder.
    back = {cell.path.absolute(): cell for group in waiting for cell in group}
    apart = [[replace(cell, path=cell.path.absolute()) for cell in group] for group in waiting]
    work = partial(train_group, data_dir=data_dir and data_dir.absolute())
    for _, found in ray_engine.run(work, apart, address):
        for finished in found:
            yield replace(finished, cell=back[finished.cell.path])


def train_group(group: Sequence[Cell], data_dir: Path | None) -> list[Finished]:
    """One group in a Ray worker; what it stored before it was killed is not trained again."""
    from lisae_tf.grids.workers import use_cores

    use_cores(1)
    stored = {cell.path: cell.stored() for cell in group}
    done = [Finished(cell, stored[cell.path]) for cell in group if stored[cell.path]]
    return done + list(run_group([c for c in group if not stored[c.path]], data_dir))


def run_groups(
    waiting: Sequence[Sequence[Training]], data_dir: Path | None, jobs: int
) -> Iterator[Finished]:
    """Trains all groups, and gives each training as it is finished."""
    if jobs > 1 and waiting:
        from lisae_tf.grids import workers

        yield from workers.run(waiting, data_dir, min(jobs, len(waiting)))
        return
    for group in waiting:
        yield from run_group(group, data_dir)
