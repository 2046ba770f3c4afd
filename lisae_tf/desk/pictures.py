"""The pictures on the desk: names, scores, what is known of each, and how it is read again.

Runs without TensorFlow.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import refuse_special
from lisae_tf.data import pictures
from lisae_tf.data.layout import kind_of

NORMAL, ANOMALY, UNKNOWN = 0, 1, -1
_ARRAY = ".npy"


@dataclass(frozen=True)
class Pictures:
    """Scored pictures.

    Attributes:
        names: absolute paths; of a row of an array or a named dataset with "#" and its number.
        scores: float32 (N,).
        truth: int8 (N,): `NORMAL`, `ANOMALY` or `UNKNOWN`.
        kinds: of each, "" where there is none.
        digests: SHA-256 that the bytes of each must have; None where any will do.
        rows: uint8 (N, H, W, C), of pictures that have no files.
    """

    names: Sequence[str]
    scores: np.ndarray
    truth: np.ndarray
    kinds: Sequence[str]
    digests: Sequence[str] | None = None
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def folders(self) -> list[str]:
        """Those that the pictures lie in, sorted."""
        return sorted({os.path.dirname(name) for name in self.names})

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Where a picture stands, by name."""
        return {name: index for index, name in enumerate(self.names)}

    def source(self, index: int, shape: tuple[int, int, int]) -> Path | np.ndarray:
        """The file of a picture, or its uint8 (H, W, C) where it is a row.

        Args:
            index: of the picture.
            shape: (H, W, C) that the model takes.

        Raises:
            LisaeError: an array that is gone or is another.
        """
        if self.rows is not None:
            return np.asarray(self.rows[index])
        name = self.names[index]
        array, _, row = name.rpartition("#")
        if not (array.lower().endswith(_ARRAY) and row.isdigit()):
            return Path(name)
        found = pictures.load_array(Path(array), shape)[int(row) : int(row) + 1]
        if not len(found):
            raise LisaeError(f"{name} is gone; restore {array}")
        return pictures.array_to_uint8(found, array)[0]

    def content(self, index: int, shape: tuple[int, int, int]) -> bytes | np.ndarray:
        """The encoded bytes of a picture, or its pixels where it is a row.

        Raises:
            LisaeError: it is gone, cannot be read, or is another than was scored.
        """
        source = self.source(index, shape)
        if isinstance(source, np.ndarray):
            return source
        refuse_special(source)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise LisaeError(f"{source} cannot be read ({error.strerror}); put it back") from error
        if self.digests is not None and sha256(data) != self.digests[index]:
            raise LisaeError(f"{source} holds another picture than was tested; restore it")
        return data

    def pixels(
        self, index: int, shape: tuple[int, int, int], depth: int | None
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """A picture as the model takes it.

        Args:
            index: of the picture.
            shape: (H, W, C) that the model takes.
            depth: the bits in use of 16-bit pictures.

        Returns:
            uint8 (H, W, C), and the height and width of the picture itself.

        Raises:
            LisaeError: see `content`; or it cannot be decoded.
        """
        content = self.content(index, shape)
        if isinstance(content, np.ndarray):
            return content, content.shape[:2]
        found = pictures.decode_all(
            [content], shape[:2], shape[2], names=[self.names[index]], depth=depth
        )
        return found.pixels[0], (found.headers[0].height, found.headers[0].width)


def sha256(content: bytes | np.ndarray) -> str:
    """Hex SHA-256 of a picture's bytes, or of a row's."""
    data = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(data).hexdigest()


def scored(names: Sequence[str], scores: Sequence[float], given: Sequence[Path] = ()) -> Pictures:
    """Pictures that were just scored, of which nothing else is known; each once.

    Args:
        names: paths, as `score` names them.
        scores: of each.
        given: the folders among them give each its kind: the first folder below.
    """
    roots = [Path(os.path.abspath(path)) for path in given if path.is_dir()]
    score_of = dict(zip(map(os.path.abspath, names), scores, strict=True))
    kinds = [_kind(Path(name), roots) for name in score_of]
    truth = np.full(len(score_of), UNKNOWN, np.int8)
    return Pictures(list(score_of), np.array([*score_of.values()], np.float32), truth, kinds)


def _kind(path: Path, roots: Sequence[Path]) -> str:
    return next((kind_of(path, root) for root in roots if path.is_relative_to(root)), "")
