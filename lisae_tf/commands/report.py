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
    """Write one HTML file: metrics, figures, how to serve it, and all test pictures to look at."""
    start_tensorflow()
    from lisae_tf.commands.desk import desk_of_run
    from lisae_tf.core.files import make_folder, write_text
    from lisae_tf.desk import reported
    from lisae_tf.detectors import load_detector
    from lisae_tf.runs.files import REPORT

    folder = shared.open_run(run)
    place = out or folder / REPORT
    make_folder(place.parent)
    detector = load_detector(folder)
    pictures, reason = reported.tested(folder, detector.config, data_dir, data_roots)
    write_text(place, reported.page(folder, desk_of_run(folder, detector, pictures), reason))
    click.echo(f"wrote {place}")
