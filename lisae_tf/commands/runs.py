"""`runs`: which runs there are, and where they differ."""

from collections.abc import Sequence
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError


@click.group("runs")
def command():
    """List runs, and compare them."""


@command.command("list")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
def list_command(folder: Path):
    """Name, date, data, variant, AUROC, threshold and state of each run in FOLDER (runs)."""
    from lisae_tf.experiments import run_list

    found = run_list.list_runs(folder)
    if not found:
        raise LisaeError(f"{folder} holds no run; train first or name another folder")
    _table([run_list.TITLES, *(each.row() for each in found)])


@command.command("compare")
@click.argument("run_folders", metavar="RUN RUN...", nargs=-1, required=True)
def compare_command(run_folders: tuple[str, ...]):
    """Settings that differ, and figures side by side."""
    from lisae_tf.experiments import run_list

    if len(run_folders) < 2:
        raise LisaeError("one run has nothing to compare with; name two or more")
    folders = [shared.open_run(run) for run in run_folders]
    settings, figures = run_list.differing_settings(folders), run_list.figures(folders)
    _table([("", *run_folders), *((name, *map(_word, row)) for name, row in figures.items())])
    click.echo()
    if settings:
        _table([("", *run_folders), *((name, *map(_word, row)) for name, row in settings.items())])
    else:
        click.echo("the settings are the same")
    if note := run_list.pictures_note(folders):
        click.echo(f"note: {note}")


def _word(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest word; the last as it is."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]).rstrip())
