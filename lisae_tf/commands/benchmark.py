"""`benchmark`: tables and figures of the paper and of inspection sets, the report, any dataset."""

from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.commands import tables as trained
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.quiet import start_tensorflow


class _Benchmarks(click.Group):
    """The commands below; every other name is a dataset's."""

    def list_commands(self, ctx):
        return [*trained.TABLES, "all", "latent", "tuning", "inspection", "figures", "report"]

    def get_command(self, ctx, name):
        if name in trained.TABLES:
            return _bound(trained.table, name)
        own = {
            "all": trained.all_tables, "latent": _latent, "tuning": _tuning, "figures": _figures,
            "inspection": _inspection, "report": _report,
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


def _known_column(name: str) -> None:
    from lisae_tf.paper.tables import COLUMNS

    if name not in COLUMNS:
        raise LisaeError(f"there is no column '{name}'; there are {', '.join(COLUMNS)}")


@click.command("latent")
@click.argument("column")
@click.option(
    "--rows", default="AE (own latent),LIS-AE,LinSep-LIS-AE", show_default=True,
    help="Rows of the table to choose a size for; comma list.",
)  # fmt: skip
@click.option("--sizes", default="4,8,16,32,64,128", show_default=True, help="Sizes to try.")
@trained.jobs_option
@trained.quick_option
@trained.out_option
@shared.data_dir
def _latent(column: str, rows, sizes, jobs, quick, out, data_dir):
    """Choose a latent size for each row of COLUMN on held-out training data."""
    from lisae_tf.paper import tables

    _known_column(column)
    listed = shared.listed(sizes)
    if not listed or not all(size.isdecimal() and int(size) for size in listed):
        raise LisaeError(f"--sizes {sizes}: give whole numbers, as in 8,16,32")
    start_tensorflow()
    from lisae_tf.paper import latents

    known = tables.ROWS
    for row in shared.listed(rows):
        if row not in known:
            raise LisaeError(f"there is no row '{row}'; there are {', '.join(known)}")
    chosen = {row: known[row] for row in shared.listed(rows)}
    root = trained.root_of(out, quick)
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
@click.option(
    "--trials", type=click.IntRange(1), default=12, show_default=True, help="For each column."
)
@trained.jobs_option
@trained.out_option
@shared.data_dir
def _tuning(columns, trials, jobs, out, data_dir):
    """Tune LIS-AE from the folder defaults on held-out training data, and test both settings."""
    from lisae_tf.paper.tables import COLUMNS

    wanted = shared.listed(columns) or list(COLUMNS)
    for column in wanted:
        _known_column(column)
    start_tensorflow()
    from lisae_tf.paper import column_tuning, tuning_table

    root = out or trained.RESULTS
    cells = {}
    for column in wanted:
        column_tuning.choose(column, root, trials, data_dir, jobs, click.echo)
        found = tuning_table.cells_of(root, column).values()
        cells |= {cell.path: cell for both in found for cell in both}
    trained.run(list(cells.values()), {}, root, data_dir, jobs)
    click.echo(f"next: python cli.py benchmark report{trained.told(out, False)}")


def _seeds(text: str) -> list[int]:
    """Whole numbers of a comma list, each once.

    Raises:
        LisaeError: something else.
    """
    parts = shared.listed(text)
    if not parts or not all(part.isdecimal() for part in parts):
        raise LisaeError(f"--seeds {text}: give whole numbers, as in 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


@click.command("inspection")
@click.option(
    "--data-dir", type=shared.path, required=True,
    help="Folder that holds a folder for each set, in MVTec's layout.",
)  # fmt: skip
@click.option("--sets", help="Comma list; all by default.")
@click.option("--rows", help="Comma list; all by default. A wrong name lists them.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Comma list.")
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True,
    help="Sets at a time, a process each.",
)  # fmt: skip
@click.option(
    "--out", type=shared.path, default=trained.RESULTS / "inspection", show_default=True,
    help="Folder of the result files.",
)  # fmt: skip
def _inspection(data_dir: Path, sets, rows, seeds, jobs, out: Path):
    """Train and test each row on every set of DIR, a file each, and write the table."""
    from lisae_tf.core.files import make_folder, write_text
    from lisae_tf.grids import grid
    from lisae_tf.inspection import cells, report
    from lisae_tf.inspection.cells import find_sets
    from lisae_tf.inspection.records import chosen

    numbers, systems = _seeds(seeds), chosen(shared.listed(rows))
    failures, groups = {}, []
    for each in find_sets(data_dir, shared.listed(sets)):
        try:
            groups.append(cells.cells_of(each, systems, numbers, out))
        except LisaeError as error:
            failures[each.name] = str(error)
    planned = [cell for group in groups for cell in group]
    missing = trained.announce(planned, out, in_process=jobs == 1)
    waiting = [[cell for cell in group if cell.stored() is None] for group in groups]
    trainings = grid.run_groups([group for group in waiting if group], data_dir, jobs)
    trained.follow(planned, failures, out, missing, trainings)
    write_text(make_folder(out) / "table.md", text := report.render(out))
    click.echo("\n" + text)


@click.command("figures")
@trained.quick_option
@trained.out_option
@shared.data_dir
def _figures(quick, out, data_dir):
    """Train for the pictures of figures 2 and 4 and draw them; `benchmark report` shows them."""
    start_tensorflow()
    from lisae_tf.grids import grid
    from lisae_tf.paper import reconstructions
    from lisae_tf.paper.report import FIGURES

    folder = trained.root_of(out, quick) / FIGURES
    over = grid.QUICK if quick else {}
    for path in reconstructions.make_all(folder, data_dir, over, click.echo):
        click.echo(f"wrote {path}")


@click.command("report")
@trained.quick_option
@trained.out_option
@click.option(
    "--text",
    type=shared.path,
    help="RESULTS.md, or within --out where that is given.",
)
def _report(quick, out, text):
    """Write summary.json, RESULTS.md and the figures from the stored cells alone."""
    from lisae_tf.grids import grid
    from lisae_tf.paper import report

    root = trained.root_of(out, quick)
    text = text or (root / "RESULTS.md" if quick or out else Path("RESULTS.md"))
    for path in report.write(root, text, grid.QUICK if quick else {}):
        click.echo(f"wrote {path}")


@click.command()
@click.option("--variants", default="lis,linsep", show_default=True, help="Comma list.")
@trained.seeds_option
@click.option("--classes", help="Normal classes, comma list; all by default.")
@click.option("--set", "assigned", multiple=True, metavar="PATH=VALUE", help="Change one setting.")
@trained.jobs_option
@shared.engine
@click.option(
    "--out", type=shared.path, default=trained.RESULTS, show_default=True,
    help="Folder of the result files.",
)  # fmt: skip
@shared.data_dir
def _dataset(name: str, variants, seeds, classes, assigned, jobs, engine, address, out, data_dir):
    """Train and test each class of configs/NAME.yaml in turn and print the table."""
    shared.refuse_address(engine, address)
    from lisae_tf.config import settings as config

    over = config.assignments(assigned)
    start_tensorflow()
    from lisae_tf.paper import one_dataset

    chosen = list(
        one_dataset.cells(
            name, shared.listed(variants), range(seeds), out,
            classes=shared.listed(classes), over=over, data_dir=data_dir,
        )
    )  # fmt: skip
    trained.run(chosen, {}, out, data_dir, jobs, engine, address)
    results = one_dataset.stored(chosen)
    text = one_dataset.table(results)
    if len(results) == len(chosen) and classes is None:
        options = f" --variants {variants}" if variants != "lis,linsep" else ""
        options += f" --seeds {seeds}" if seeds > 1 else ""
        options += "".join(f" --set {item}" for item in assigned)
        one_dataset.write_table(
            out / name / "table.md", text, f"python cli.py benchmark {name}{options}"
        )
    click.echo("\n" + text)
