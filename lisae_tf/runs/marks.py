"""What people say of scored pictures: JSON lines, of which the last of a picture counts."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from lisae_tf.core.errors import LisaeError

NORMAL, ANOMALY = "normal", "anomaly"
_DIGEST = 64  # hex digits of a SHA-256


@dataclass(frozen=True)
class Mark:
    """One picture.

    Attributes:
        picture: its absolute path.
        sha256: of the file's bytes when it was marked, hex.
        mark: "normal", "anomaly", or None where a mark was taken back.
        score: that it had.
        threshold: that the score was compared with.
        time: of the mark, ISO 8601.
    """

    picture: str
    sha256: str
    mark: str | None
    score: float
    threshold: float
    time: str


def _parsed(line: str) -> Mark:
    """The mark in a line.

    Raises:
        ValueError, TypeError: it holds none.
    """
    mark = Mark(**json.loads(line))
    texts = (mark.picture, mark.sha256, mark.time)
    if not all(isinstance(text, str) for text in texts) or not os.path.isabs(mark.picture):
        raise ValueError("picture, sha256 and time are texts, and picture an absolute path")
    if len(mark.sha256) != _DIGEST or set(mark.sha256) - set("0123456789abcdef"):
        raise ValueError("sha256 has 64 hex digits")
    if mark.mark not in (NORMAL, ANOMALY, None):
        raise ValueError(f"mark is {NORMAL}, {ANOMALY} or null")
    if not all(type(number) in (int, float) for number in (mark.score, mark.threshold)):
        raise ValueError("score and threshold are numbers")
    return mark


def read_marks(path: Path) -> list[Mark]:
    """The last mark of each picture, in the order of their lines.

    Raises:
        LisaeError: no such file, or a line that is no mark.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise LisaeError(f"the marks {path} cannot be read ({error}); check the path") from error
    last: dict[str, Mark] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            mark = _parsed(line)
        except (ValueError, TypeError, RecursionError) as error:
            raise LisaeError(
                f"line {number} of {path} is no mark ({error}); remove it, or name another file"
            ) from error
        last.pop(mark.picture, None)
        last[mark.picture] = mark
    return list(last.values())


def append_mark(path: Path, mark: Mark) -> None:
    """Adds a line, in one write, so that several writers do not mix theirs.

    Raises:
        LisaeError: it cannot be written.
    """
    line = json.dumps(asdict(mark), sort_keys=True) + "\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise LisaeError(f"the mark cannot be written to {path} ({error.strerror})") from error
