"""`benchmark`: every task of a dataset, resumable, one result file each."""

from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.errors import LisaeError
from lisae_tf.quiet import start_tensorflow


@click.command("benchmark")
@click.argument("name")
@click.option("--variants", default="lis,linsep", show_default=True, help="Comma list.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--classes", help="Normal classes, comma list; all by default.")
@click.option("--set", "assigned", multiple=True, metavar="PATH=VALUE", help="Change one setting.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True,
    help="Folder of the result files.",
)  # fmt: skip
@shared.data_dir
def command(name: str, variants: str, seeds: int, classes: str | None, assigned, out, data_dir):
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
