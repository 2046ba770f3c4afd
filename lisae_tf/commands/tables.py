"""`benchmark table1 … appendix-a` and `all`: trains cells, with progress, and keeps them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.quiet import start_tensorflow

if TYPE_CHECKING:
    from rich.console import Console

    from lisae_tf.grids.cells import Cell
    from lisae_tf.grids.workers import Finished

RESULTS, QUICK_RESULTS = Path("results"), Path("runs/quick")
PAPER = ("table1", "table2", "table3", "appendix-a")
TABLES = (*PAPER, "synthetic")

out_option = click.option(
    "--out", type=shared.path,
    help=f"Folder of the result files; {RESULTS}, or {QUICK_RESULTS} with --quick.",
)  # fmt: skip
quick_option = click.option("--quick", is_flag=True, help="One task a column and tiny trainings.")
jobs_option = click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes."
)
seeds_option = click.option(
    "--seeds", type=click.IntRange(1, 10), default=1, show_default=True, help="How many."
)


def root_of(out: Path | None, quick: bool) -> Path:
    """Quick cells lie in a folder of their own, whatever --out says."""
    if quick:
        return out / "quick" if out else QUICK_RESULTS
    return out or RESULTS


def told(out: Path | None, quick: bool) -> str:
    """The options that lead the next command to the same folder."""
    return (" --quick" if quick else "") + (f" --out {out}" if out else "")


class CellProgress:
    """One bar over the cells of a grid; each cell is a line above it."""

    def __init__(self, console: "Console", total: int):
        from rich import progress

        self.total, self.done = total, 0
        self.console = console
        self._bar = progress.Progress(
            progress.TextColumn("cells"), progress.BarColumn(), progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(), progress.TimeRemainingColumn(),
            console=console, disable=not (console.is_terminal and total),
        )  # fmt: skip
        self._task = self._bar.add_task("cells", total=total)

    def __enter__(self) -> "CellProgress":
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()

    def step(self, line: str) -> None:
        """One more cell has ended."""
        self.done += 1
        self._bar.advance(self._task)
        self._bar.console.print(f"[{self.done}/{self.total}] {line}")


def run(
    cells: Sequence["Cell"], failures: dict[str, str], root: Path, data_dir: Path | None,
    jobs: int, engine: str = "local", address: str | None = None,
) -> None:  # fmt: skip
    """Trains the cells that are not stored, with progress, and ends with what failed.

    Args:
        cells: to train.
        failures: what could not even be planned, and why.
        root: folder below which the cells lie.
        data_dir: folder of TensorFlow Datasets.
        jobs: processes.
        engine: see `grid.run`.
        address: likewise.

    Raises:
        LisaeError: something failed, and there is no cell at all.
    """
    from lisae_tf.grids import grid

    missing = announce(cells, root, in_process=jobs == 1 and engine == "local")
    trainings = grid.run(cells, data_dir, jobs, engine=engine, address=address)
    follow(cells, failures, root, missing, trainings)


def announce(cells: Sequence["Cell"], root: Path, *, in_process: bool) -> int:
    """Says how many cells are to train, and starts TensorFlow where they do it here."""
    from lisae_tf.grids import stored

    stored.fold_all(root, (cell.path for cell in cells))
    missing = sum(cell.stored() is None for cell in cells)
    click.echo(f"{len(cells)} cells in {root}: {len(cells) - missing} stored, {missing} to train")
    if missing and in_process:
        start_tensorflow()
    return missing


def follow(
    cells: Sequence["Cell"], failures: dict[str, str], root: Path, missing: int,
    trainings: Iterable["Finished"],
) -> None:  # fmt: skip
    """Tells of each training as it ends, and at last of what failed.

    Args:
        cells: of the trainings.
        failures: what could not even be planned, and why.
        root: folder below which the cells lie.
        missing: how many trainings there are.
        trainings: what became of each, one after the other.

    Raises:
        LisaeError: something failed, and there is no cell at all.
    """
    from lisae_tf.grids import stored

    failures = dict(failures)
    with CellProgress(shared.console(), missing) as progress:
        for finished in trainings:
            place = str(finished.cell.path.relative_to(root)).removeprefix("cells/")
            if finished.error:
                failures[place] = finished.error
                progress.step(f"{place}: failed: {finished.error}")
                continue
            record = finished.record
            before = record["auroc_phase1"]
            first = "" if before is None else f"{before:.4f} -> "
            seconds = record["seconds"]["training"]
            progress.step(f"{place}: {first}{record['auroc']:.4f} ({seconds:.0f} s)")
    stored.fold_all(root, (cell.path for cell in cells))
    for place, reason in failures.items():
        click.echo(f"failed: {place}: {reason}")
    if failures and not any(cell.stored() for cell in cells):
        raise LisaeError("no cell could be trained; the reasons are above")


def _grid_options(command):
    """The options of every command that trains a table of the paper."""
    for option in (
        shared.data_dir,
        out_option,
        quick_option,
        shared.engine,
        jobs_option,
        seeds_option,
    ):
        command = option(command)
    return command


@click.command()
@click.option("--rows", help="Comma list; all by default.")
@click.option("--columns", help="Comma list; all by default.")
@click.option("--variants", help="Of table3 (lis) and appendix-a (lis,linsep); comma list.")
@_grid_options
def table(name: str, rows, columns, variants, seeds, jobs, engine, address, quick, out, data_dir):
    """Train what the table needs and is not stored yet; `benchmark report` shows it."""
    shared.refuse_address(engine, address)
    if variants and name not in ("table3", "appendix-a"):
        raise LisaeError(f"{name} takes --rows; --variants is for table3 and appendix-a")
    root = root_of(out, quick)
    lists = [shared.listed(value) for value in (rows, columns, variants)]
    cells, failures = _planned(name, *lists, seeds, root, quick)
    run(list(cells.values()), failures, root, data_dir, jobs, engine, address)
    click.echo(f"next: python cli.py benchmark report{told(out, quick)}")


@click.command("all")
@click.option("--variants", help="Train these alone, as in lis,linsep; all by default.")
@_grid_options
def all_tables(variants, seeds, jobs, engine, address, quick, out, data_dir):
    """Train what tables 1 to 3 and appendix A need, in one grid: tables share phase 1 too."""
    shared.refuse_address(engine, address)
    root, cells, failures = root_of(out, quick), {}, {}
    for name in PAPER:
        found, failed = _planned(name, None, None, None, seeds, root, quick)
        cells |= found
        failures |= failed
    known = {cell.config.variant for cell in cells.values()}
    wanted = set(shared.listed(variants) or known)
    if not wanted <= known:
        unknown, there = (", ".join(sorted(names)) for names in (wanted - known, known))
        raise LisaeError(f"no such variant in these tables: {unknown}; they have {there}")
    chosen = [cell for cell in cells.values() if cell.config.variant in wanted]
    run(chosen, failures, root, data_dir, jobs, engine, address)
    click.echo(f"next: python cli.py benchmark report{told(out, quick)}")


def _planned(
    name: str, rows: list[str] | None, columns: list[str] | None, variants: list[str] | None,
    seeds: int, root: Path, quick: bool,
) -> tuple[dict, dict[str, str]]:  # fmt: skip
    """The cells of a table by their path, and figures that cannot be planned."""
    from lisae_tf.grids import grid
    from lisae_tf.paper import tables

    if quick and name in ("table1", "table2") and rows is None:
        rows = list(tables.HEADLINE)
    usual = ["lis", "linsep"] if name == "appendix-a" else ["lis"]
    cells, failures = {}, {}
    for variant in variants or usual:
        chosen = grid.choose(tables.TABLES[name](variant), rows, columns)
        plan = grid.plan(chosen, range(seeds), root, quick=quick)
        cells |= {cell.path: cell for cell in plan.cells}
        failures |= plan.failures
    return cells, failures
