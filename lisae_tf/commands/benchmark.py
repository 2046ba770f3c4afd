"""`benchmark`: the paper's tables and figures, latent sizes, the report, or any dataset."""

from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.errors import LisaeError
from lisae_tf.quiet import start_tensorflow

RESULTS, QUICK_RESULTS = Path("results"), Path("runs/quick")
PAPER = ("table1", "table2", "table3", "appendix-a")
TABLES = (*PAPER, "synthetic")

_out = click.option(
    "--out", type=click.Path(path_type=Path),
    help=f"Folder of the result files; {RESULTS}, or {QUICK_RESULTS} with --quick.",
)  # fmt: skip
_quick = click.option("--quick", is_flag=True, help="One task a column and tiny trainings.")
_jobs = click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes."
)
_rows = click.option("--rows", help="Comma list; all by default.")


def _root(out: Path | None, quick: bool) -> Path:
    """Quick cells lie in a folder of their own, whatever --out says."""
    if quick:
        return out / "quick" if out else QUICK_RESULTS
    return out or RESULTS


class _Benchmarks(click.Group):
    """The commands below; every other name is a dataset's."""

    def list_commands(self, ctx):
        return [*TABLES, "all", "latent", "tuning", "figures", "report"]

    def get_command(self, ctx, name):
        if name in TABLES:
            return _bound(_table, name)
        own = {
            "all": _all, "latent": _latent, "tuning": _tuning, "figures": _figures,
            "report": _report,
        }  # fmt: skip
        return own.get(name) or _bound(_dataset, name)


def _bound(command: click.Command, name: str) -> click.Command:
    """A command whose function is also told under which name it was called."""

    def call(**options):
        return command.callback(name=name, **options)

    return click.Command(name, callback=call, params=command.params, help=command.help)


@click.group("benchmark", cls=_Benchmarks)
def command() -> None:
    """Compute the paper's tables, or every task of configs/NAME.yaml: benchmark NAME."""


def _grid_options(command):
    """The options of every command that trains whole tables."""
    seeds = click.option(
        "--seeds", type=click.IntRange(1, 10), default=1, show_default=True, help="How many."
    )
    for option in (shared.data_dir, _out, _quick, shared.engine, _jobs, seeds):
        command = option(command)
    return command


@click.command()
@_rows
@click.option("--columns", help="Comma list; all by default.")
@click.option("--variants", help="Of table3 (lis) and appendix-a (lis,linsep); comma list.")
@_grid_options
def _table(name: str, rows, columns, variants, seeds, jobs, engine, address, quick, out, data_dir):
    """Train what the table needs and is not stored yet; `benchmark report` shows it."""
    shared.refuse_address(engine, address)
    if variants and name not in ("table3", "appendix-a"):
        raise LisaeError(f"{name} takes --rows; --variants is for table3 and appendix-a")
    root = _root(out, quick)
    lists = [shared.listed(value) for value in (rows, columns, variants)]
    cells, failures = _planned(name, *lists, seeds, root, quick)
    _run(list(cells.values()), failures, root, data_dir, jobs, engine, address)
    click.echo(f"next: python cli.py benchmark report{_told(out, quick)}")


@click.command("all")
@click.option("--variants", help="Train these alone, as in lis,linsep; all by default.")
@_grid_options
def _all(variants, seeds, jobs, engine, address, quick, out, data_dir):
    """Train what tables 1 to 3 and appendix A need, in one grid: tables share phase 1 too."""
    shared.refuse_address(engine, address)
    root, cells, failures = _root(out, quick), {}, {}
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
    _run(chosen, failures, root, data_dir, jobs, engine, address)
    click.echo(f"next: python cli.py benchmark report{_told(out, quick)}")


def _planned(
    name: str, rows: list[str] | None, columns: list[str] | None, variants: list[str] | None,
    seeds: int, root: Path, quick: bool,
) -> tuple[dict, dict[str, str]]:  # fmt: skip
    """The cells of a table by their path, and figures that cannot be planned."""
    from lisae_tf import grid, tables

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


def _known_column(name: str) -> None:
    from lisae_tf.tables import COLUMNS

    if name not in COLUMNS:
        raise LisaeError(f"there is no column '{name}'; there are {', '.join(COLUMNS)}")


def _told(out: Path | None, quick: bool) -> str:
    return (" --quick" if quick else "") + (f" --out {out}" if out else "")


def _run(
    cells, failures: dict[str, str], root: Path, data_dir: Path | None, jobs: int,
    engine: str, address: str | None,
) -> None:  # fmt: skip
    """Trains with progress; ends with what failed."""
    from rich.console import Console

    from lisae_tf import grid
    from lisae_tf.grid_progress import CellProgress

    missing = sum(cell.stored() is None for cell in cells)
    click.echo(f"{len(cells)} cells in {root}: {len(cells) - missing} stored, {missing} to train")
    if missing and jobs == 1 and engine == "local":
        start_tensorflow()
    failures = dict(failures)
    with CellProgress(Console(highlight=False, soft_wrap=True), missing) as progress:
        for finished in grid.run(cells, data_dir, jobs, engine=engine, address=address):
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
    for place, reason in failures.items():
        click.echo(f"failed: {place}: {reason}")
    if failures and not any(cell.stored() for cell in cells):
        raise LisaeError("no cell could be trained; the reasons are above")


@click.command("latent")
@click.argument("column")
@click.option("--rows", default="AE (own latent),LIS-AE,LinSep-LIS-AE", show_default=True)
@click.option("--sizes", default="4,8,16,32,64,128", show_default=True, help="Sizes to try.")
@_jobs
@_quick
@_out
@shared.data_dir
def _latent(column: str, rows, sizes, jobs, quick, out, data_dir):
    """Choose a latent size for each row of COLUMN on held-out training data."""
    from lisae_tf import tables

    _known_column(column)
    listed = shared.listed(sizes)
    if not listed or not all(size.isdecimal() and int(size) for size in listed):
        raise LisaeError(f"--sizes {sizes}: give whole numbers, as in 8,16,32")
    start_tensorflow()
    from lisae_tf import latents

    known = tables.ROWS
    for row in shared.listed(rows):
        if row not in known:
            raise LisaeError(f"there is no row '{row}'; there are {', '.join(known)}")
    chosen = {row: known[row] for row in shared.listed(rows)}
    root = _root(out, quick)
    found = latents.choose(
        column, chosen, [int(size) for size in listed], root, data_dir, click.echo,
        jobs=jobs, quick=quick,
    )  # fmt: skip
    for row, record in found.items():
        click.echo(
            f"{column}, {row}: latent {record['latent']} "
            f"(best on the test sets: {record['best_latent']}, not used)"
        )


@click.command("tuning")
@click.option("--columns", help="Comma list; all by default.")
@click.option("--trials", type=click.IntRange(2), default=12, show_default=True, help="A column.")
@_jobs
@_out
@shared.data_dir
def _tuning(columns, trials, jobs, out, data_dir):
    """Tune LIS-AE from the folder defaults on held-out training data, and test both settings."""
    from lisae_tf.tables import COLUMNS

    wanted = shared.listed(columns) or list(COLUMNS)
    for column in wanted:
        _known_column(column)
    start_tensorflow()
    from lisae_tf import tuned, tuned_columns

    root = out or RESULTS
    cells = []
    for column in wanted:
        tuned_columns.choose(column, root, trials, data_dir, jobs, click.echo)
        cells += [cell for found in tuned.cells_of(root, column).values() for cell in found]
    _run(cells, {}, root / tuned.FOLDER, data_dir, jobs, "local", None)
    click.echo(f"next: python cli.py benchmark report{_told(out, False)}")


@click.command("figures")
@_quick
@_out
@shared.data_dir
def _figures(quick, out, data_dir):
    """Train for the pictures of figures 2 and 4 and draw them; `benchmark report` shows them."""
    start_tensorflow()
    from lisae_tf import grid, paper_pictures
    from lisae_tf.report import FIGURES

    folder = _root(out, quick) / FIGURES
    over = grid.QUICK if quick else {}
    for path in paper_pictures.make_all(folder, data_dir, over, click.echo):
        click.echo(f"wrote {path}")


@click.command("report")
@_quick
@_out
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="RESULTS.md, or within --out where that is given.",
)
def _report(quick, out, text):
    """Write summary.json, RESULTS.md and the figures from the stored cells alone."""
    from lisae_tf import grid, report

    root = _root(out, quick)
    text = text or (root / "RESULTS.md" if quick or out else Path("RESULTS.md"))
    for path in report.write(root, text, grid.QUICK if quick else {}):
        click.echo(f"wrote {path}")


@click.command()
@click.option("--variants", default="lis,linsep", show_default=True, help="Comma list.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--classes", help="Normal classes, comma list; all by default.")
@click.option("--set", "assigned", multiple=True, metavar="PATH=VALUE", help="Change one setting.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True,
    help="Folder of the result files.",
)  # fmt: skip
@shared.data_dir
def _dataset(name: str, variants: str, seeds: int, classes: str | None, assigned, out, data_dir):
    """Train and test each class of configs/NAME.yaml in turn and print the table."""
    from lisae_tf import config

    over = config.assignments(assigned)
    start_tensorflow()
    from lisae_tf import benchmark

    chosen = list(
        benchmark.cells(
            name, shared.listed(variants), range(seeds), out,
            classes=shared.listed(classes), over=over, data_dir=data_dir,
        )
    )  # fmt: skip
    results = benchmark.run(chosen, data_dir, click.echo)
    if not results:
        raise LisaeError(f"no task of {name} could be trained; the reasons are above")
    text = benchmark.table(results)
    if len(results) == len(chosen) and classes is None:
        options = f" --variants {variants}" if variants != "lis,linsep" else ""
        options += f" --seeds {seeds}" if seeds > 1 else ""
        options += "".join(f" --set {item}" for item in assigned)
        benchmark.write_table(
            out / name / "table.md", text, f"python cli.py benchmark {name}{options}"
        )
    click.echo("\n" + text)
