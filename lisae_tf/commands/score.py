"""`score`: pictures in, one CSV or JSON line each out, in bounded memory."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.errors import LisaeError
from lisae_tf.quiet import start_tensorflow

FIELDS = ("path", "score", "threshold", "is_anomaly")


@click.command("score")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@shared.run
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv")
@click.option("--out", type=click.Path(path_type=Path), help="File; standard output by default.")
@click.option("--skip-bad", is_flag=True, help="Leave unreadable pictures out.")
def command(paths: tuple[Path, ...], run: str | None, form: str, out: Path | None, skip_bad: bool):
    """Score pictures: files, folders or .npy arrays."""
    start_tensorflow()
    from lisae_tf import runs
    from lisae_tf.detectors import load_detector
    from lisae_tf.files import replacing

    detector = load_detector(runs.find_run(run))
    rows = scored_rows(detector, paths, skip_bad)
    if out is None:
        write_rows(rows, sys.stdout, form)
    else:
        with replacing(out) as temporary, open(temporary, "w", newline="") as stream:
            write_rows(rows, stream, form)


def scored_rows(detector, paths: tuple[Path, ...], skip_bad: bool) -> Iterator[dict]:
    """One record for each picture; unreadable ones are named on standard error."""
    from lisae_tf import pictures

    for path in paths:
        if not path.exists():
            raise LisaeError(f"{path} does not exist; check the path")
    alpha = detector.threshold_.alpha
    for batch in pictures.stream(paths, detector.shape, skip_bad=skip_bad):
        for reason in batch.bad.values():
            click.echo(f"left out: {reason}", err=True)
        scores = detector.score(batch.pixels)
        for name, score in zip(batch.names, scores.tolist(), strict=True):
            yield {"path": name, "score": score, "threshold": alpha, "is_anomaly": score > alpha}


def write_rows(rows: Iterator[dict], stream, form: str) -> None:
    """CSV with a header, or JSON lines."""
    if form == "jsonl":
        for row in rows:
            stream.write(json.dumps(row) + "\n")
        return
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {"is_anomaly": str(row["is_anomaly"]).lower()})
