"""`report`: one HTML file about a run, to read offline and to pass on."""

from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.quiet import start_tensorflow


@click.command("report")
@shared.run
@shared.data_dir
@shared.data_root
@click.option("--out", type=shared.path, help="HTML file; report.html in the run by default.")
def command(
    run: Path | None, data_dir: Path | None, data_roots: tuple[str, ...], out: Path | None
):  # fmt: skip
    """Write one HTML file: metrics, figures, telling pictures, error maps, how to serve it."""
    start_tensorflow()
    from lisae_tf.core.files import make_folder
    from lisae_tf.report import run_report
    from lisae_tf.runs.files import REPORT

    folder = shared.open_run(run)
    place = out or folder / REPORT
    make_folder(place.parent)
    run_report.write(folder, place, data_dir, data_roots)
    click.echo(f"wrote {place}")
