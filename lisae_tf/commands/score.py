"""`score`: pictures in, one CSV or JSON line each out, in bounded memory."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.quiet import start_tensorflow


@click.command("score")
@click.argument("paths", nargs=-1, type=shared.path)
@shared.listed_pictures
@shared.run
@shared.model
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True,
    help="A row, or a JSON object on a line, for each picture.",
)  # fmt: skip
@click.option("--out", type=shared.path, help="File; standard output by default.")
@click.option(
    "--maps", type=shared.path,
    help="Also write a PNG of each picture with its errors in red into this folder.",
)  # fmt: skip
@click.option("--skip-bad", is_flag=True, help="Leave unreadable pictures out.")
@click.option(
    "--parts", type=shared.path,
    help="Write Parquet files of --part-size pictures into this folder; run again to go on.",
)  # fmt: skip
@click.option(
    "--part-size", type=click.IntRange(1), default=10_000, show_default=True,
    help="Pictures in a part.",
)  # fmt: skip
@shared.engine
def command(
    paths: tuple[Path, ...], listed: Path | None, run: Path | None, model: Path | None, form: str,
    out: Path | None,
    maps: Path | None, skip_bad: bool, parts: Path | None, part_size: int, engine: str,
    address: str | None,
):  # fmt: skip
    """Score pictures: files, folders or .npy arrays; with --parts also Parquet and TFRecord files.

    With --model, an ONNX or TFLite file needs no TensorFlow.
    """
    from lisae_tf.core.files import replacing
    from lisae_tf.data import picture_files
    from lisae_tf.exported.score_files import FIELDS, TEXT

    if listed is not None:
        paths += tuple(picture_files.read(listed))
    if not paths:
        raise click.UsageError("there is nothing to score; name files or folders, or --list FILE")
    shared.refuse_address(engine, address)
    shared.tell_others(paths)
    if parts is not None:
        if out is not None or maps is not None:
            raise LisaeError("--parts writes tables only; leave --out and --maps out")
        _score_in_parts(paths, run, model, parts, part_size, skip_bad, engine, address)
        return
    if engine == "ray":
        raise LisaeError("--engine ray writes parts; name their folder with --parts")
    if model is not None:
        from lisae_tf.exported.runtimes import open_model

        shared.refuse_both(run, model)
        scorer = open_model(model)
        alpha = scorer.threshold
    else:
        start_tensorflow()
        from lisae_tf.detectors import load_detector

        scorer = load_detector(shared.open_run(run))
        alpha = scorer.threshold_.alpha
    fields = FIELDS if maps is None else (*FIELDS, "map")
    rows = scored_rows(scorer, alpha, paths, skip_bad, maps)
    if out is None:
        try:
            write_rows(rows, sys.stdout, form, fields)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            # What is still buffered cannot be written either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise LisaeError(
                f"cannot write the scores: {error.strerror}; make that possible, or name a file "
                "with --out, and score again"
            ) from error
    else:
        with replacing(out) as temporary, open(temporary, "w", **TEXT) as stream:
            write_rows(rows, stream, form, fields)


def _score_in_parts(
    paths: tuple[Path, ...], run: Path | None, model: Path | None, folder: Path, part_size: int,
    skip_bad: bool, engine: str, address: str | None,
) -> None:  # fmt: skip
    """Scores what is missing in the folder; unreadable pictures have a row with the reason."""
    from lisae_tf.experiments import bulk

    shared.refuse_both(run, model)
    scorer = bulk.scorer_of(None if model is not None else shared.open_run(run), model)
    found = bulk.claim(folder, paths, part_size, scorer)
    outcomes = bulk.score(
        found, folder, scorer, engine=engine, address=address,
        say=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    stored = sum(outcome.stored for outcome in outcomes)
    unreadable = sum(outcome.unreadable for outcome in outcomes)
    click.echo(
        f"{len(found)} parts in {folder}: {stored} stored, {len(found) - stored} scored", err=True
    )
    if unreadable and not skip_bad:
        raise LisaeError(
            f"{unreadable} pictures could not be read; the column 'reason' says why, and "
            "--skip-bad takes that for success"
        )


def scored_rows(
    scorer, alpha: float, paths: tuple[Path, ...], skip_bad: bool, maps: Path | None = None
) -> Iterator[dict]:
    """One record for each picture; unreadable ones are named on standard error.

    Args:
        scorer: a detector or an exported model: anything with `shape`, `depth` and `score`.
        alpha: its threshold.
        paths: files, folders and `.npy` arrays.
        skip_bad: leave unreadable pictures out.
        maps: folder of the pictures with their errors; none are written without it.

    Raises:
        LisaeError: a path that is missing or unreadable, or maps where there are none.
    """
    from lisae_tf.data import pictures

    if maps is not None:
        scorer.require_maps()
    number = 0
    for batch in pictures.stream(paths, scorer.shape, depth=scorer.depth, skip_bad=skip_bad):
        shared.tell_reading(batch, scorer)
        for reason in batch.bad.values():
            click.echo(f"left out: {reason}", err=True)
        scores = scorer.score(batch.pixels)
        written = [{}] * len(batch.names)
        if maps is not None:
            written = [{"map": name} for name in _write_maps(scorer, alpha, batch, maps, number)]
        number += len(batch.names)
        for name, score, more in zip(batch.names, scores.tolist(), written, strict=True):
            row = {"path": name, "score": score, "threshold": alpha, "is_anomaly": score > alpha}
            yield row | more


def _write_maps(scorer, alpha: float, batch, folder: Path, first: int) -> Iterator[str]:
    """Writes the overlays of a batch, numbered as their rows are; gives their paths."""
    from PIL import Image

    from lisae_tf.core.files import make_folder, replacing
    from lisae_tf.data.picture_files import SUFFIXES
    from lisae_tf.data.pictures import decode
    from lisae_tf.report.error_maps import overlay

    make_folder(folder, "--maps")
    errors = scorer.error_maps(batch.pixels)
    for k, (name, error) in enumerate(zip(batch.names, errors, strict=True)):
        file = Path(name)
        # Rows of an array have no file; they are drawn at the model's size.
        picture = (
            decode(file, depth=scorer.depth) if file.suffix.lower() in SUFFIXES else batch.pixels[k]
        )
        place = folder / f"{first + k:06d}-{file.stem}.png"
        with replacing(place) as temporary:
            drawn = overlay(picture, error, alpha, scorer.highest_share)
            Image.fromarray(drawn).save(temporary)
        yield str(place)


def write_rows(rows: Iterator[dict], stream, form: str, fields: tuple[str, ...]) -> None:
    """CSV with a header, or JSON lines."""
    from lisae_tf.exported import score_files

    if form == "jsonl":
        for row in rows:
            stream.write(json.dumps(row) + "\n")
        return
    score_files.write_csv(rows, stream, fields)
