"""`score`: pictures in, one CSV or JSON line each out, in bounded memory."""

import csv
import io
import json
import os
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
@shared.model
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv")
@click.option("--out", type=click.Path(path_type=Path), help="File; standard output by default.")
@click.option("--skip-bad", is_flag=True, help="Leave unreadable pictures out.")
def command(
    paths: tuple[Path, ...], run: str | None, model: Path | None, form: str, out: Path | None,
    skip_bad: bool,
):  # fmt: skip
    """Score pictures: files, folders or .npy arrays.

    With --model, an ONNX or TFLite file needs no TensorFlow.
    """
    from lisae_tf.files import replacing

    if model is not None:
        from lisae_tf.runtimes import open_model

        if run is not None:
            raise LisaeError("--run and --model exclude each other; give one of them")
        scorer = open_model(model)
        alpha = scorer.threshold
    else:
        start_tensorflow()
        from lisae_tf import runs
        from lisae_tf.detectors import load_detector

        scorer = load_detector(runs.find_run(run))
        alpha = scorer.threshold_.alpha
    rows = scored_rows(scorer, alpha, paths, skip_bad)
    # A file name need not be UTF-8; it is written as it is.
    if out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")
        try:
            write_rows(rows, sys.stdout, form)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            # What is still buffered cannot be written either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise LisaeError(
                f"cannot write the scores: {error.strerror}; free some space and score again"
            ) from error
    else:
        options = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
        with replacing(out) as temporary, open(temporary, "w", **options) as stream:
            write_rows(rows, stream, form)


def scored_rows(scorer, alpha: float, paths: tuple[Path, ...], skip_bad: bool) -> Iterator[dict]:
    """One record for each picture; unreadable ones are named on standard error.

    Args:
        scorer: a detector or an exported model: anything with `shape` and `score`.
        alpha: its threshold.
        paths: files, folders and `.npy` arrays.
        skip_bad: leave unreadable pictures out.
    """
    from lisae_tf import pictures

    for path in paths:
        if not path.exists():
            raise LisaeError(f"{path} does not exist; check the path")
    for batch in pictures.stream(paths, scorer.shape, skip_bad=skip_bad):
        for reason in batch.bad.values():
            click.echo(f"left out: {reason}", err=True)
        scores = scorer.score(batch.pixels)
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
