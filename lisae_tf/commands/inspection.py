"""`benchmark inspection`: the rows of the inspection tables on each set in a folder."""

from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.commands import tables as trained
from lisae_tf.core.errors import LisaeError

RESULTS = trained.RESULTS / "inspection"


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
    "--out", type=shared.path, default=RESULTS, show_default=True,
    help="Folder of the result files.",
)  # fmt: skip
def command(data_dir: Path, sets, rows, seeds, jobs, out: Path):
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
