"""`data check`: what is in the folders and what training would do to it, before any training."""

import json
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError


@click.group("data")
def command() -> None:
    """Look at folders of pictures before training on them."""


@command.command("check")
@shared.normal_dir
@shared.negative_dir
@shared.negative_mask_dir
@shared.ignore_mask
@shared.anomaly_dir
@shared.test_dir
@shared.mask_dir
@shared.known_dir
@shared.mvtec
@shared.features
@shared.group_by
@shared.tiles
@shared.config_file
@shared.assigned
@click.option("--skip-bad", is_flag=True, help="Check as for train --skip-bad.")
@click.option(
    "--json", "json_file", type=shared.path,
    help="Write everything found to this file; - prints it instead of the table.",
)  # fmt: skip
def check(tile, stride, input_size, config_file, assigned, skip_bad, json_file, **folders):
    """Count, compare and read everything once: sizes, unreadable files, copies, leaks.

    Ends with exit code 1 where training would stop.
    """
    if not (folders["normal_dir"] or folders["mvtec"]):
        raise LisaeError(
            "data check needs a folder of normal pictures; name it with --normal-dir or --mvtec"
        )
    folders["data"] = shared.tile_settings(tile, stride, input_size)
    from lisae_tf.experiments.settling import settle

    config, _ = settle(folders, config_file, assigned)
    from lisae_tf.core.files import make_folder, write_json
    from lisae_tf.data.data_check import check as check_data

    report = check_data(config, skip_bad=skip_bad)
    if json_file == Path("-"):
        click.echo(json.dumps(report.as_json(), indent=1))
    else:
        _show(report)
        if json_file is not None:
            make_folder(json_file.parent)
            write_json(json_file, report.as_json())
    if report.errors:
        raise LisaeError(
            f"training would stop: {'; '.join(report.errors)}"
            + ("" if skip_bad or not _unreadable(report) else "; --skip-bad leaves bad files out")
        )


def _unreadable(report) -> int:
    return sum(len(found.unreadable) for found in report.sets.values())


def _show(report) -> None:
    from rich.table import Table

    console = shared.console()
    height, width = report.size
    colour = "grey" if report.channels == 1 else "RGB"
    line = f"training sees {width}x{height} {colour} pictures"
    if report.tiles:
        down, across = report.tiles["grid"]
        line += f", each as {down * across} tiles of {report.tiles['side']} pixels ({down} rows)"
    console.print(line)
    if report.ignored_share is not None:
        console.print(f"{100 * report.ignored_share:.1f} % of each picture does not count")
    table = Table()
    for head in ("set", "files", "usable", "kind", "number", "what is done to it"):
        table.add_column(head, justify="right" if head in ("files", "usable", "number") else "left")
    for name, found in report.sets.items():
        first = [name, f"{found.files}", f"{found.usable}"]
        for kind, count in list(found.kinds.items())[:KINDS]:
            table.add_row(*first, kind, f"{count}", found.treatment[kind])
            first = ["", "", ""]
        more = list(found.kinds.values())[KINDS:]
        if more or not found.kinds:
            table.add_row(*first, f"{len(more)} other kinds", f"{sum(more)}", "")
    console.print(table)
    for found in report.sets.values():
        for reason in found.unreadable.values():
            console.print(f"unreadable: {reason}")
        for mask, picture in found.masks.items():
            console.print(f"looks like a mask: {mask} of {picture}")
    for name, found in report.sets.items():
        if name in ("negative", "known", "anomaly") and set(found.by_kind) - {""}:
            kinds = (f"{kind or 'no folder'} {n}" for kind, n in found.by_kind.items())
            console.print(f"kinds of {name} pictures: {', '.join(kinds)}")
    for line in report.warnings:
        console.print(f"note: {line}")
    if not report.errors:
        console.print("training would start")


KINDS = 6  # of each set that the table shows; the JSON has all
