"""What is decided at the desk: marks of pictures and the threshold. Runs without TensorFlow."""

import base64
import os
import secrets
import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import as_utf8
from lisae_tf.core.thresholds import Z
from lisae_tf.desk import drawn_mask
from lisae_tf.desk.pictures import LARGEST, SIDE, Cache, Pictures, encoded, sha256
from lisae_tf.runs.marks import WORDS, Mark, append_mark, read_marks

PAGE = 500  # names in one answer


class Thresholds(Protocol):
    """The threshold of a run or of an exported model, and how it is written."""

    def now(self) -> float:
        """The one in force."""

    def earlier(self) -> float | None:
        """What `undo` would bring back; None where there is nothing to undo."""

    def write(self, alpha: float, say: Callable[[str], None]) -> None:
        """Sets it by hand."""

    def undo(self, say: Callable[[str], None]) -> None:
        """Back to the one before the last calibration."""

    def options(self) -> str:
        """Those of `calibrate` on the command line that say whose threshold it is."""


@dataclass
class Desk:
    """Pictures, what is said of them, and the threshold.

    Attributes:
        title: of the page.
        pictures: what lies on the desk.
        scorer: a detector or exported model: anything with `shape`, `depth` and `has_maps`.
        thresholds: reads and writes the threshold.
        marks_file: where marks are kept.
        cache: of thumbnails.
        read_only: why the threshold cannot be written; None where it can.
        training: options of `train` that say on which pictures, for a training with a mask.
    """

    title: str
    pictures: Pictures
    scorer: Any
    thresholds: Thresholds
    marks_file: Path
    cache: Cache
    read_only: str | None = None
    training: str = "--normal-dir GOOD_PICTURES"

    def __post_init__(self):
        if not len(self.pictures):
            raise LisaeError("there are no pictures to look at; name files or folders")
        if odd := int(np.sum(~np.isfinite(self.pictures.scores))):
            raise LisaeError(f"{odd} pictures have scores that are no numbers; train again")
        self.session = secrets.token_urlsafe(8)  # so that browsers keep nothing of another one
        self.stale: list[str] = []  # marked pictures that have changed since
        self.marks: dict[int, str] = {}
        self._lock = threading.Lock()
        for mark in read_marks(self.marks_file):
            index = self.pictures.index_of.get(mark.picture)
            if index is None:
                continue
            if self._digest(index) in (mark.sha256, None):
                self.marks[index] = mark.mark
            else:
                self.stale.append(mark.picture)

    def _digest(self, index: int) -> str | None:
        """Of the picture that was scored; None of one that cannot be read now."""
        if self.pictures.digests is not None:
            return self.pictures.digests[index]
        try:
            return sha256(self.pictures.content(index, self.scorer.shape))
        except LisaeError:
            return None

    def state(self) -> dict[str, Any]:
        """What changes while the page is open."""
        earlier = self.thresholds.earlier()
        return {
            "threshold": float(np.float32(self.thresholds.now())),
            "earlier": None if earlier is None else float(np.float32(earlier)),
            "marks": [[index, mark] for index, mark in self.marks.items()],
        }

    def document(self) -> dict[str, Any]:
        """All that the page needs but names and pictures; arrays are little-endian, in base 64."""
        found, kinds, folders = self.pictures, *self._groups()
        kind_at = {kind: k for k, kind in enumerate(kinds)}
        folder_at = {folder: k for k, folder in enumerate(folders)}
        return self.state() | {
            "title": self.title,
            "session": self.session,
            "count": len(found),
            "z": Z,
            "page": PAGE,
            "has_maps": bool(self.scorer.has_maps),
            "read_only": self.read_only,
            "marks_file": str(self.marks_file),
            "stale": len(self.stale),
            "independent": list(found.independent),
            "kinds": kinds,
            "folders": folders,
            "scores": _packed(found.scores, "<f4"),
            "truth": _packed(found.truth, "i1"),
            "kind": _packed([kind_at[kind] for kind in found.kinds], "<i4"),
            "folder": _packed([folder_at[os.path.dirname(name)] for name in found.names], "<i4"),
        }

    def _groups(self) -> tuple[list[str], list[str]]:
        return sorted(set(self.pictures.kinds)), self.pictures.folders

    def names(self, begin: int, end: int) -> list[str]:
        """The file names of some pictures, as text."""
        return [as_utf8(os.path.basename(name)) for name in self.pictures.names[begin:end]]

    def thumbnail(self, index: int) -> bytes:
        """A small picture, kept in the cache where it is of a file.

        Raises:
            LisaeError: it is gone, is another now, or cannot be decoded.
        """
        source = self.pictures.source(index, self.scorer.shape)
        key = None
        if isinstance(source, Path):
            key = self.cache.key(source, self.scorer.depth)
        if key is not None and (kept := self.cache.read(key)):
            return kept
        made = self._encoded(index, SIDE)
        if key is not None:
            self.cache.write(key, made)
        return made

    def picture(self, index: int) -> bytes:
        """A picture to open; raises as `thumbnail` does."""
        return self._encoded(index, LARGEST)

    def _encoded(self, index: int, side: int) -> bytes:
        content = self.pictures.content(index, self.scorer.shape)
        return encoded(content, side, self.scorer.depth)

    def mark(self, index: int, word: str | None, alpha: float) -> None:
        """Says of a picture what it is; written before this returns.

        Args:
            index: of the picture.
            word: "normal", "anomaly", or None to take it back.
            alpha: the threshold that the picture was seen beside.

        Raises:
            LisaeError: the picture is gone or another now, or the mark cannot be written.
        """
        if word not in WORDS:
            raise LisaeError("a mark is 'normal', 'anomaly' or null")
        digest = sha256(self.pictures.content(index, self.scorer.shape))
        score, now = float(self.pictures.scores[index]), datetime.now(UTC).isoformat()
        with self._lock:
            name = self.pictures.names[index]
            append_mark(self.marks_file, Mark(name, digest, word, score, alpha, now))
            if word is None:
                self.marks.pop(index, None)
            else:
                self.marks[index] = word

    def save_mask(self, index: int, polygons: Any) -> dict[str, str]:
        """Writes a mask of what does not count beside the marks, and never over another file.

        Args:
            index: of the picture that it was drawn on, whose size it gets.
            polygons: see `drawn_mask.polygons_of`.

        Returns:
            "path", and the "command" that trains with it.

        Raises:
            LisaeError: there is nothing to write, it cannot be written, or the picture is gone.
        """
        found = drawn_mask.polygons_of(polygons)
        size = self.pictures.pixels(index, self.scorer.shape, self.scorer.depth)[1]
        place = drawn_mask.save(drawn_mask.drawn(found, size), self.marks_file.parent)
        path = shlex.quote(str(place))
        command = f"python cli.py train {self.training} --ignore-mask {path}"
        return {"path": as_utf8(str(place)), "command": as_utf8(command)}

    def write(self, alpha: float | None) -> list[str]:
        """Writes the threshold, or takes the last change back; gives what is to be said.

        For one caller at a time.

        Args:
            alpha: the threshold; None for the one before the last calibration.

        Raises:
            LisaeError: it cannot be written.
        """
        if self.read_only:
            raise LisaeError(self.read_only)
        said: list[str] = []
        if alpha is None:
            self.thresholds.undo(said.append)
        else:
            self.thresholds.write(alpha, said.append)
        return said


def _packed(values, dtype: str) -> str:
    return base64.b64encode(np.asarray(values).astype(dtype).tobytes()).decode("ascii")
