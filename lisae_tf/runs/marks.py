"""What people say of pictures: "normal after all" or "a flaw", a JSON object a line.

The last line of a picture counts. Runs without TensorFlow.
"""

import fcntl
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, refuse_special
from lisae_tf.runs.files import MARKS

NORMAL, ANOMALY = "normal", "anomaly"
WORDS = (NORMAL, ANOMALY, None)


@dataclass(frozen=True)
class Mark:
    """What was said of one picture.

    Attributes:
        picture: its absolute path; of a row of an array with "#" and its number behind.
        sha256: of the file's bytes, or of the row's, hex.
        mark: "normal", "anomaly", or None, which takes back what was said before.
        score: that the picture had.
        threshold: that it was seen beside.
        time: ISO 8601, UTC.
    """

    picture: str
    sha256: str
    mark: str | None
    score: float
    threshold: float
    time: str


def place_of(run: Path | None, model: Path | None) -> Path:
    """Where the marks of a run or of an exported model lie unless another file is named.

    All versions of a model score alike and share their marks, which lie beside the folders of the
    versions; those of a model in no numbered folder lie beside it.

    Args:
        run: a run folder.
        model: a model's file or version folder, where there is no run.
    """
    if run is not None:
        return run / MARKS
    model = model.absolute()  # or the folder that one works in has no name
    version = model if model.is_dir() else model.parent
    if version.name.isdigit():
        return version.parent / MARKS
    return model.with_name(f"{model.name}.{MARKS}")


def read_marks(path: Path) -> list[Mark]:
    """The marks in force, one for each marked picture, in the order in which they were made.

    Args:
        path: of the file; one that is not there yet holds none.

    Raises:
        LisaeError: it cannot be read, or a line is no mark.
    """
    refuse_special(path)
    if path.is_dir():
        raise LisaeError(f"{path} is a folder; name a file of marks with --marks")
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LisaeError(
            f"the marks in {path} cannot be read ({error.strerror}); check its permissions or name "
            "another file with --marks"
        ) from error
    found: dict[str, Mark] = {}
    # What follows the last line's end was being written when its process was killed.
    for number, line in enumerate(lines[:-1], 1):
        mark = _parsed(line, path, number)
        found.pop(mark.picture, None)
        found[mark.picture] = mark
    return [mark for mark in found.values() if mark.mark is not None]


def _parsed(line: bytes, path: Path, number: int) -> Mark:
    try:
        mark = Mark(**json.loads(line))
        texts = (mark.picture, mark.sha256, mark.time)
        numbers = (mark.score, mark.threshold)
        known = (
            all(isinstance(text, str) for text in texts)
            and mark.mark in WORDS
            and all(type(each) in (int, float) and math.isfinite(each) for each in numbers)
        )
    except (ValueError, TypeError, RecursionError):
        known = False
    if not known:
        raise LisaeError(
            f"line {number} of {path} is no mark; restore the file, or name another with --marks"
        )
    return mark


def append_mark(path: Path, mark: Mark) -> None:
    """Adds a line, whole and on the disk before this returns.

    Args:
        path: of the file, which is made where it is not there.
        mark: what to add.

    Raises:
        LisaeError: it cannot be written.
    """
    line = json.dumps(asdict(mark), allow_nan=False).encode("ascii") + b"\n"
    make_folder(path.parent)
    refuse_special(path)
    try:
        with open(path, "a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            _cut_half_a_line(stream)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise LisaeError(
            f"the mark cannot be written to {path} ({error.strerror}); make that possible, or name "
            "another file with --marks"
        ) from error


def _cut_half_a_line(stream) -> None:
    """Removes what a killed process wrote behind the last whole line."""
    end = stream.seek(0, os.SEEK_END)
    if not end:
        return
    stream.seek(end - 1)
    if stream.read(1) != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
