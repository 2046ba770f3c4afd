"""`python -m benchmarks`: one command for each group of comparisons."""

import json
import os
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.quiet import start_tensorflow

_quick = click.option(
    "--quick", is_flag=True, help="Tiny and once: tries the wiring, stores nothing."
)


class _Group(click.Group):
    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except LisaeError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
def main() -> None:
    """Measure this package beside what people would use instead."""


def _peers() -> None:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise LisaeError("the comparisons need PyTorch; pip install '.[bench]'") from error
    torch.set_flush_denormal(True)  # as TensorFlow does; of the whole process, so not on import


def _measured(rows, quick: bool) -> None:
    from benchmarks import measure, render

    for row in rows:
        click.echo(measure.line(row))
    if not quick:
        measure.store(rows)
        render.write()


def _groups() -> dict:
    from benchmarks import growth, scoring, training

    return {
        "training": training.run,
        "task": training.run_task,
        "scoring": scoring.run,
        "parts": scoring.run_parts,
        "memory": growth.peak_memory,
    }


def _group(name: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @_quick
    @shared.data_dir
    def command(quick, data_dir):
        _peers()
        start_tensorflow()
        _measured(_groups()[name](data_dir, quick), quick)

    return command


for _name, _text in {
    "training": "Both phases: PyTorch, and bfloat16.",
    "task": "A whole MNIST task: plain Keras.",
    "scoring": "Arrays, folders, one picture, start-up, int8.",
    "parts": "Scores in Parquet parts: Ray, and Parquet tables.",
    "memory": "Peak memory of training.",
}.items():
    main.add_command(_group(_name, _text))


@main.command("all")
@_quick
@shared.data_dir
def everything(quick, data_dir):
    """Every comparison but the grid, and the growth of cost."""
    _peers()
    start_tensorflow()
    from benchmarks import growth

    for measured in _groups().values():
        _measured(measured(data_dir, quick), quick)
    if not quick:
        growth.measure(data_dir, quick)
        _measured([], quick)


@main.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/grid"), show_default=True
)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--stored", type=click.Path(path_type=Path),
    help="Train nothing: add up the seconds in the result files of this folder.",
)  # fmt: skip
@_quick
@shared.data_dir
def grid(out, jobs, stored, quick, data_dir):
    """All AE, LIS-AE and LinSep rows of the paper's tables, against an hour."""
    from benchmarks import grid as whole

    if stored:
        _measured(whole.stored(stored, jobs), quick)
        return
    if out.exists() and any(out.iterdir()):
        raise LisaeError(
            f"{out} holds cells already, which would not be trained; name an empty one"
        )
    _measured(whole.run(out, data_dir, jobs, quick), quick)


@main.command("growth")
@shared.data_dir
def growing(data_dir):
    """Time and memory for 1, 2, 4, 8 times the pictures and 1, 2, 4 times the width."""
    from benchmarks import growth

    growth.measure(data_dir, False)
    _measured([], False)


@main.command("known-flaws")
@click.option("--data-dir", type=shared.path, required=True, help="Sets in MVTec's layout.")
def known_flaws(data_dir):
    """What a few known flaws gain on inspection sets."""
    start_tensorflow()
    from benchmarks import known_flaws as flaws

    flaws.measure(data_dir)


@main.command()
@click.argument("dataset", type=click.Choice(["mnist", "cifar10"]))
@click.option("--before", is_flag=True, help="Without oneDNN, and one step in a call.")
@_quick
@shared.data_dir
def profile(dataset, before, quick, data_dir):
    """Where a step of phase 1 spends its time."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0" if before else "1"
    start_tensorflow()
    from benchmarks import profile as steps

    click.echo(steps.write(dataset, data_dir, quick, before=before))
    _measured([], quick)


@main.command()
def render():
    """Write benchmarks/README.md from the figures."""
    from benchmarks import render as page

    click.echo(f"wrote {page.write()}")


@main.command("desk-picture")
def desk_picture():
    """Write docs/desk.png: the desk on pictures that anyone can make."""
    from benchmarks import render as page

    click.echo(f"wrote {page.desk()}")


@main.command(hidden=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("width", type=int)
def child(file, width):
    """One training in this process; prints its cost."""
    start_tensorflow()
    from benchmarks import growth

    click.echo(json.dumps(growth.train(file, width)))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
