"""Encoded pictures inside Parquet tables and TFRecord files, read row by row. No TensorFlow.

The pictures stand in a column, or feature, called "image" as the bytes of picture files.
"""

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from lisae_tf.core import messages
from lisae_tf.core.errors import LisaeError, install

COLUMN = "image"
PARQUET, TFRECORD = ".parquet", ".tfrecord"


def is_table(path: Path) -> bool:
    """Whether the name is that of a table; shards are called NAME.tfrecord-00000-of-00010."""
    return path.suffix.lower() == PARQUET or TFRECORD in path.name.lower()


def parquet():
    """The module `pyarrow.parquet`.

    Raises:
        LisaeError: it is not installed.
    """
    try:
        from pyarrow import parquet as module
    except ModuleNotFoundError as error:
        raise LisaeError(f"Parquet needs the package 'pyarrow'; {install('ray')}") from error
    return module


def pieces(path: Path, size: int) -> Iterator[tuple[int, int, int]]:
    """First row, one past the last, and byte where the first begins, `size` rows at a time.

    Raises:
        LisaeError: damaged, or without encoded pictures.
    """
    if path.suffix.lower() == PARQUET:
        rows = _rows_of_parquet(path)
        for first in range(0, rows, size):
            yield first, min(first + size, rows), 0
        return
    first, begin, row, place = 0, 0, 0, 0
    for row, place in enumerate(_ends(path), 1):
        if row - first == size:
            yield first, row, begin
            first, begin = row, place
    if row > first:
        yield first, row, begin


def encoded(path: Path, first: int, last: int, begin: int) -> Iterator[bytes]:
    """Encoded pictures of rows `first` to `last`; of a row without one, no bytes.

    Args:
        path: the table.
        first: row.
        last: one past the last row.
        begin: as `pieces` gives it.

    Raises:
        LisaeError: damaged in these rows.
    """
    if path.suffix.lower() == PARQUET:
        yield from _encoded_of_parquet(path, first, last)
        return
    with open(path, "rb") as stream:
        stream.seek(begin)
        for row in range(first, last):
            length = _length(stream, path)
            record = _sound(stream, length, f"record {row} of {path}")
            yield _image_of_example(record, f"record {row} of {path}")


def _rows_of_parquet(path: Path) -> int:
    module = parquet()
    try:
        file = module.ParquetFile(path)
    except Exception as error:  # damaged files raise all kinds
        raise LisaeError(f"{path} is not a Parquet file; check it") from error
    if COLUMN not in file.schema_arrow.names:
        raise LisaeError(
            f"{path} has no column '{COLUMN}' of encoded pictures; it has "
            f"{', '.join(file.schema_arrow.names)}"
        )
    kind = str(file.schema_arrow.field(COLUMN).type)
    if not kind.startswith(("binary", "large_binary", "struct<bytes: binary")):
        raise LisaeError(
            f"the column '{COLUMN}' of {path} is of type {kind}; it must hold encoded pictures"
        )
    return file.metadata.num_rows


def _encoded_of_parquet(path: Path, first: int, last: int) -> Iterator[bytes]:
    """One row group in memory at a time."""
    file = parquet().ParquetFile(path)
    begin = 0
    for group in range(file.num_row_groups):
        end = begin + file.metadata.row_group(group).num_rows
        if end > first and begin < last:
            try:
                column = file.read_row_group(group, columns=[COLUMN]).column(COLUMN)
            except Exception as error:  # damaged files raise all kinds
                raise LisaeError(
                    f"rows {begin} to {end - 1} of {path} are damaged; write that file again"
                ) from error
            low, high = max(first - begin, 0), min(last - begin, end - begin)
            for value in column.slice(low, high - low):
                found = value.as_py()
                yield (found["bytes"] if isinstance(found, dict) else found) or b""
        begin = end


# TFRecord: length (8 bytes), its checksum (4), the record, its checksum (4); little-endian.


def _masked(data: bytes) -> int:
    from google_crc32c import value

    checksum = value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _damaged(what: str) -> LisaeError:
    return LisaeError(f"{what} is damaged; write that file again, uncompressed")


def _length(stream, path: Path) -> int | None:
    """Of the record that begins here; None at the end of the file."""
    place = stream.tell()
    header = stream.read(12)
    if not header:
        return None
    if len(header) < 12 or _masked(header[:8]) != struct.unpack("<I", header[8:])[0]:
        raise _damaged(f"{path} (from byte {place} on)")
    return struct.unpack("<Q", header[:8])[0]


def _ends(path: Path) -> Iterator[int]:
    """One past the last byte of each record; the records themselves are not read."""
    try:
        import google_crc32c  # noqa: F401
    except ModuleNotFoundError as error:
        raise LisaeError(
            f"TFRecord files need the package 'google-crc32c'; {install('ray')}"
        ) from error
    size = path.stat().st_size
    with open(path, "rb") as stream:
        while (length := _length(stream, path)) is not None:
            place = stream.tell() + length + 4
            if place > size:
                raise _damaged(f"{path} (its last record)")
            stream.seek(place)
            yield place


def _sound(stream, length: int, what: str) -> bytes:
    record, checksum = stream.read(length), stream.read(4)
    if len(checksum) < 4 or _masked(record) != struct.unpack("<I", checksum)[0]:
        raise _damaged(what)
    return record


@cache
def _example() -> type:
    """tf.train.Example, as far as it holds bytes; TensorFlow alone comes with its class."""
    return messages.declare(
        {
            "Example": {"features": (1, "Features")},
            "Features": {"feature": (1, "repeated Entry")},
            "Entry": {"key": (1, "bytes"), "value": (2, "Feature")},
            "Feature": {"bytes_list": (1, "BytesList")},
            "BytesList": {"value": (1, "repeated bytes")},
        }
    )["Example"]


def _image_of_example(record: bytes, what: str) -> bytes:
    """The first value of the feature "image" of a tf.train.Example."""
    try:
        entries = messages.parse(_example(), record).features.feature
    except ValueError as error:
        raise LisaeError(f"{what} holds no tf.train.Example; check the file") from error
    found = {entry.key.decode(errors="replace"): entry.value.bytes_list.value for entry in entries}
    if COLUMN not in found:
        raise LisaeError(
            f"{what} has no feature '{COLUMN}' of encoded pictures; it has {', '.join(found)}"
        )
    return next(iter(found[COLUMN]), b"")
