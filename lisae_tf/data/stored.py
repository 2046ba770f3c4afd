"""Pictures in a temporary file instead of in memory: rows are read when they are asked for.

A file that is read, not mapped: what is mapped counts as memory until somebody else wants it.
Runs without TensorFlow.
"""

import os
import tempfile
import weakref
from collections.abc import Sequence

import numpy as np

LIMIT = 2**29  # bytes of one set of pictures, beyond which it goes to a file


class _File:
    """An open file without a name, which vanishes with its last user."""

    def __init__(self, row: int):
        self.row = row  # bytes of one
        self._stream = tempfile.TemporaryFile(prefix="lisae-pictures-")  # noqa: SIM115
        self._handle = self._stream.fileno()
        weakref.finalize(self, self._stream.close)

    def write(self, number: int, data: bytes) -> None:
        """One row, from any thread."""
        os.pwrite(self._handle, data, number * self.row)

    def read(self, number: int) -> bytes:
        """One row, from any thread."""
        return os.pread(self._handle, self.row, number * self.row)


class StoredPictures:
    """uint8 (N, H, W, C) as far as it is needed: single rows and slices are arrays.

    Indexing with many rows, bool (N,) or int (M,), gives another `StoredPictures` on the same file.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, shape: tuple[int, int, int], files: list[_File], rows: np.ndarray):
        self._picture, self._files = tuple(shape), files
        self._rows = rows  # int (N, 2): which file, which row of it

    @classmethod
    def empty(cls, count: int, shape: tuple[int, int, int]) -> "StoredPictures":
        """Room for `count` pictures."""
        rows = np.column_stack([np.zeros(count, np.int64), np.arange(count)])
        return cls(shape, [_File(int(np.prod(shape)))], rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (len(self._rows), *self._picture)

    @property
    def nbytes(self) -> int:
        """Of all pictures, were they in memory."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self._rows)

    def __setitem__(self, index: int, picture: np.ndarray) -> None:
        file, row = self._rows[index]
        self._files[file].write(int(row), np.ascontiguousarray(picture, np.uint8).tobytes())

    def _read(self, rows: np.ndarray) -> np.ndarray:
        data = b"".join(self._files[file].read(int(row)) for file, row in rows)
        return np.frombuffer(bytearray(data), np.uint8).reshape(len(rows), *self._picture)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self._read(self._rows[index])
        if isinstance(index, int | np.integer):
            return self._read(self._rows[index][None])[0]
        return StoredPictures(self._picture, self._files, self._rows[np.asarray(index)])

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype=None, copy=None):
        return self._read(self._rows).astype(dtype or np.uint8, copy=False)


Pictures = np.ndarray | StoredPictures


def concatenated(parts: Sequence[Pictures]) -> Pictures:
    """The pictures of all parts, in a file where some of them are."""
    if not any(isinstance(part, StoredPictures) for part in parts):
        return np.concatenate(parts)
    files: list[_File] = []
    rows = []
    for part in map(_stored, parts):
        rows.append(part._rows + np.array([len(files), 0]))
        files += part._files
    return StoredPictures(parts[0].shape[1:], files, np.concatenate(rows))


def _stored(pictures: Pictures) -> StoredPictures:
    if isinstance(pictures, StoredPictures):
        return pictures
    kept = StoredPictures.empty(len(pictures), pictures.shape[1:])
    for number, picture in enumerate(pictures):
        kept[number] = picture
    return kept
