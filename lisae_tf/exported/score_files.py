"""Rows of scores as CSV and as Parquet parts: written here and nowhere else, and read again.

Runs without TensorFlow.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import as_utf8, refuse_special, replacing
from lisae_tf.data import picture_tables

FIELDS = ("path", "score", "threshold", "is_anomaly")
# As on standard output, a file name need not be UTF-8.
TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}


def write_csv(
    rows: Iterable[dict], stream, fields: tuple[str, ...] = FIELDS, *, header: bool = True
) -> None:
    """A header and a line for each row; what a row has as None, or lacks, stays empty."""
    writer = csv.DictWriter(stream, fields, lineterminator="\n")
    if header:
        writer.writeheader()
    for row in rows:
        decision = {True: "true", False: "false", None: ""}[row["is_anomaly"]]
        writer.writerow(row | {"is_anomaly": decision})


def part_name(number: int) -> str:
    """Of the file of a part."""
    return f"part-{number:06d}{picture_tables.PARQUET}"


def write_part(
    path: Path, columns: Mapping[str, list], threshold: float, about: Mapping[str, str]
) -> None:
    """Writes a Parquet part, whole or not at all.

    Args:
        path: its file.
        columns: of equal lengths: "path", "score", "is_anomaly", "reason" and, where it is known,
            "time"; a picture that could not be read has a reason alone.
        threshold: of all rows.
        about: what the file says of itself; see `about_part`.

    Raises:
        LisaeError: it cannot be written, or PyArrow is missing.
    """
    parquet = picture_tables.parquet()
    import pyarrow

    kinds = {
        "path": pyarrow.string(), "score": pyarrow.float32(), "threshold": pyarrow.float64(),
        "is_anomaly": pyarrow.bool_(), "reason": pyarrow.string(), "time": pyarrow.string(),
    }  # fmt: skip
    columns = {**columns, "threshold": [threshold] * len(columns["path"])}
    for name in ("path", "reason"):
        columns[name] = [text if text is None else as_utf8(text) for text in columns[name]]
    table = pyarrow.table(
        {name: pyarrow.array(columns[name], kinds[name]) for name in kinds if name in columns}
    )
    with replacing(path) as temporary:
        parquet.write_table(table.replace_schema_metadata(dict(about)), temporary)


def about_part(path: Path) -> dict[str, str]:
    """What a stored part says of itself; nothing where it is damaged or absent."""
    try:
        found = picture_tables.parquet().read_schema(path).metadata or {}
    except (OSError, ValueError):  # pyarrow's own errors among them
        return {}
    return {key.decode(): value.decode(errors="replace") for key, value in found.items()}


def read(path: Path) -> np.ndarray:
    """The scores that `score` or `watch` wrote, in order; pictures with a reason have none.

    Args:
        path: CSV, JSON lines, a Parquet part or the folder of all parts.

    Returns:
        float64 (N,).

    Raises:
        LisaeError: no such file, or a line or part without a finite score, which is named.
    """
    if path.is_dir() or path.suffix.lower() == picture_tables.PARQUET:
        return _of_parts(path)
    refuse_special(path)
    try:
        with open(path, **TEXT) as stream:
            first = stream.readline()
            stream.seek(0)
            if first.lstrip().startswith("{"):
                rows = (json.loads(line) for line in stream if line.strip())
                return _finite(rows, path, first_line=1)
            return _finite(csv.DictReader(stream), path, first_line=2)
    except FileNotFoundError as error:
        raise LisaeError(f"{path} does not exist; check the path") from error
    except (json.JSONDecodeError, csv.Error) as error:
        raise LisaeError(
            f"{path} is no file that score wrote ({error}); give its CSV or JSON lines"
        ) from error


def _of_parts(path: Path) -> np.ndarray:
    """Those of `score --parts`; pictures that could not be read have none."""
    parts = sorted(path.glob(f"*{picture_tables.PARQUET}")) if path.is_dir() else [path]
    if not parts:
        raise LisaeError(
            f"the folder {path} holds no part that score --parts wrote; give the folder named there"
        )
    parquet, found = picture_tables.parquet(), []
    for part in parts:
        try:
            column = parquet.read_table(part, columns=["score"]).column("score")
            scores = column.drop_null().to_numpy().astype(np.float64)
        except Exception as error:  # damaged files raise all kinds
            raise LisaeError(
                f"{part} is damaged or no part of score --parts; remove it and score again"
            ) from error
        if not np.isfinite(scores).all():
            raise LisaeError(f"{part} holds scores that are not finite; score its pictures again")
        found.append(scores)
    return np.concatenate(found)


def _finite(rows: Iterator[dict], path: Path, *, first_line: int) -> np.ndarray:
    scores = []
    for line, row in enumerate(rows, start=first_line):
        if isinstance(row, dict) and row.get("reason"):
            continue
        try:
            score = float(row["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise LisaeError(
                f"{path}, line {line}: no score; give a CSV or JSON lines with a field 'score'"
            ) from error
        if not math.isfinite(score):
            raise LisaeError(f"{path}, line {line}: the score is {score}; leave such lines out")
        scores.append(score)
    return np.array(scores, np.float64)
