"""The pictures of `score --parts`: where they stand, what they hold, and the digest of that.

Runs without TensorFlow.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import sha256
from lisae_tf.data import picture_files, picture_tables, pictures
from lisae_tf.exported import score_files

BATCH_SIZE, BATCH_BYTES = 256, 2**26  # encoded pictures held at a time, unless one alone has more
LARGEST = 2**30  # bytes of a file that is read whole
LISTING = "_files.jsonl"
ARRAY = ".npy"


@dataclass(frozen=True)
class Part:
    """Some pictures: rows of a list of files, a Parquet table, a TFRecord file or an array."""

    number: int
    source: str  # the file whose rows they are
    rows: tuple[int, int]
    begin: int = 0  # byte of a list or a TFRecord file where the first row begins

    @property
    def name(self) -> str:
        """Of its file."""
        return score_files.part_name(self.number)

    @property
    def size(self) -> int:
        """How many pictures."""
        return self.rows[1] - self.rows[0]

    @property
    def listed(self) -> bool:
        """Whether they are rows of a list of files."""
        return Path(self.source).name == LISTING


@dataclass(frozen=True)
class Batch:
    """Some pictures of a part: their names, and encoded bytes, a file each, or array rows."""

    names: list[str]
    contents: Sequence[bytes | Path] | np.ndarray

    def digest(self) -> bytes:
        """SHA-256 of all that the pictures' scores come from."""
        if isinstance(self.contents, np.ndarray):
            kind = f"{self.contents.dtype.str} {self.contents.shape}".encode()
            return hashlib.sha256(kind + self.contents.tobytes()).digest()
        each = (_digest(content) for content in self.contents)
        return hashlib.sha256(b"".join(each)).digest()

    def decoded(self, shape: tuple[int, int, int], depth: int | None) -> pictures.Decoded:
        """As pictures of the model's own shape."""
        if isinstance(self.contents, np.ndarray):
            pixels = self.contents.reshape(-1, *shape)
            source = self.names[0].rpartition("#")[0]
            return pictures.Decoded(pictures.array_to_uint8(pixels, source), self.names, {})
        return pictures.decode_all(
            self.contents, shape[:2], shape[2], names=self.names, depth=depth, skip_bad=True
        )


def _digest(content: bytes | Path) -> bytes:
    """Of one picture; of a file that cannot be read, no bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    try:
        return bytes.fromhex(sha256(content))
    except (OSError, LisaeError):
        return b""


def is_table(path: Path) -> bool:
    """Whether a path has rows of its own: an array, a Parquet table or a TFRecord file."""
    return path.suffix.lower() == ARRAY or picture_tables.is_table(path)


def _array(path: Path) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise LisaeError(f"{path} is no array of pictures; check it") from error
    if not array.ndim:
        raise LisaeError(f"{path} is no array of pictures; check it")
    return array


def pieces(path: Path, size: int) -> Iterator[tuple[int, int, int]]:
    """As `picture_tables.pieces`, of arrays too."""
    if path.suffix.lower() != ARRAY:
        yield from picture_tables.pieces(path, size)
        return
    rows = len(_array(path))
    for start in range(0, rows, size):
        yield start, min(start + size, rows), 0


def write_list(
    paths: Iterable[Path], listing: Path, part_size: int
) -> Iterator[tuple[int, int, int]]:
    """Writes the path of each file, a line of JSON each; gives rows and first byte of each part."""
    with open(listing, "wb") as stream:
        first, begin, row = 0, 0, 0
        for row, file in enumerate(picture_files.files_of(paths), 1):
            stream.write(json.dumps(str(file)).encode() + b"\n")
            if row - first == part_size:
                yield first, row, begin
                first, begin = row, stream.tell()
        if row > first:
            yield first, row, begin


def batches(part: Part, shape: tuple[int, int, int] | None = None) -> Iterator[Batch]:
    """The part's pictures; batches begin at its first one, whoever reads it.

    Args:
        part: where they stand.
        shape: (H, W, C) that the rows of an array must have; any without it.

    Raises:
        LisaeError: a damaged table or array, or an array of another shape.
    """
    source, (start, end) = Path(part.source), part.rows
    if source.suffix.lower() == ARRAY:
        if shape is not None:
            pictures.load_array(source, shape)
        array = _array(source)
        for first in range(start, end, BATCH_SIZE):
            rows = np.array(array[first : min(first + BATCH_SIZE, end)])
            yield Batch([f"{source}#{row}" for row in range(first, first + len(rows))], rows)
        return
    names, contents, held = [], [], 0
    for name, content in _files(part) if part.listed else _rows(part):
        size = len(content) if isinstance(content, bytes) else 0
        if names and (len(names) == BATCH_SIZE or held + size > BATCH_BYTES):
            yield Batch(names, contents)
            names, contents, held = [], [], 0
        names.append(name)
        contents.append(content)
        held += size
    if names:
        yield Batch(names, contents)


def _rows(part: Part) -> Iterator[tuple[str, bytes]]:
    rows = picture_tables.encoded(Path(part.source), *part.rows, part.begin)
    for row, encoded in enumerate(rows, part.rows[0]):
        yield f"{part.source}#{row}", encoded


def _files(part: Part) -> Iterator[tuple[str, bytes | Path]]:
    with open(part.source, "rb") as stream:
        stream.seek(part.begin)
        names = [json.loads(line) for line in islice(stream, part.size)]
    for name in names:
        yield name, _content(Path(name))


def _content(path: Path) -> bytes | Path:
    """What is scored is what was digested; a file that cannot be read is left to the decoder."""
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST:
            return path.read_bytes()
    except OSError:
        pass
    return path


def digest(batches_: Iterable[Batch]) -> str:
    """One SHA-256 for all pictures of a part."""
    total = hashlib.sha256()
    for batch in batches_:
        total.update(batch.digest())
    return total.hexdigest()
