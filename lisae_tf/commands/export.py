"""`export`: the scoring graph of a completed run as SavedModel, ONNX or TFLite."""

from pathlib import Path

import click

from export import FORMATS, QUANTIZATIONS, export_run
from lisae_tf.commands import options as shared
from lisae_tf.core.quiet import start_tensorflow
from lisae_tf.exported.model_record import DTYPES


@click.command("export")
@click.option(
    "--format", "form", type=click.Choice([*FORMATS, "all"]), default="onnx", show_default=True
)
@click.option("--quantize", type=click.Choice(QUANTIZATIONS), help="TFLite only.")
@click.option(
    "--input", "dtype", type=click.Choice(DTYPES), default="uint8", show_default=True,
    help="Pixels 0-255, or floats 0-1.",
)  # fmt: skip
@shared.run
@click.option(
    "--out", type=shared.path, default=Path("models"), show_default=True,
    help="Folder of all exports.",
)  # fmt: skip
@click.option("--name", help="Name of the model; that of the run folder by default.")
@shared.data_dir
@shared.data_root
def command(form, quantize, dtype, run, out, name, data_dir, data_roots):
    """Export a trained detector and prove that it scores as before."""
    start_tensorflow()
    exported = export_run(
        shared.open_run(run), list(FORMATS) if form == "all" else [form], out,
        name=name, quantize=quantize, dtype=dtype, data_dir=data_dir, data_roots=data_roots,
        say=click.echo,
    )  # fmt: skip
    for each in exported:
        click.echo(f"wrote {each.path}")
    last = exported[-1].path
    click.echo(f"next: python cli.py score --model {last} YOUR_PICTURES")
    if form == "savedmodel":
        click.echo(f"or: python cli.py serve --model {last.parent}")
