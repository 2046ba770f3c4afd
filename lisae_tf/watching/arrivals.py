"""Which pictures of a folder have arrived whole. Looks again and again: no share tells of changes.

Runs without TensorFlow.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lisae_tf.data.picture_files import SUFFIXES

UNFINISHED = (".tmp", ".part")  # of a name, before its suffix too: such files are being written
_AGAIN = 5.0  # seconds until a file that could not be read is tried again


class Arrival(NamedTuple):
    """A picture in one state: its whole path, its size and when it was last written."""

    path: str
    size: int
    mtime_ns: int

    @property
    def id(self) -> bytes:
        """16 bytes by which it is known again, and its messages are."""
        told = b"%s\0%d\0%d" % (os.fsencode(self.path), self.size, self.mtime_ns)
        return hashlib.blake2b(told, digest_size=16).digest()

    def read(self) -> bytes | None:
        """Its content; None where it is another file now, or none.

        Raises:
            OSError: it cannot be read just now.
        """
        try:
            with open(self.path, "rb", opener=_without_waiting) as stream:
                if not self._is(stream.fileno()):
                    return None
                content = stream.read()
                return content if self._is(stream.fileno()) and len(content) == self.size else None
        except FileNotFoundError:
            return None

    def _is(self, descriptor: int) -> bool:
        found = os.fstat(descriptor)
        now = (found.st_size, found.st_mtime_ns)
        return stat.S_ISREG(found.st_mode) and now == (self.size, self.mtime_ns)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe may have taken its name


def files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Pictures below a folder, as `picture_files.walk` finds them, but for those `UNFINISHED`.

    Folders below that vanish or cannot be read are passed over.

    Raises:
        OSError: the folder itself cannot be read.
    """
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            if place == folder:
                raise
            continue
        for entry in found:
            name = entry.name.lower()
            if name.startswith(".") or name.endswith(UNFINISHED):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                stem, suffix = os.path.splitext(name)
                if suffix in SUFFIXES and not stem.endswith(UNFINISHED) and entry.is_file():
                    yield entry.path, entry.stat()
            except OSError:  # it has just gone
                continue


@dataclass
class _Seen:
    arrival: Arrival
    since: float  # seconds, when it was first seen as it is
    finished: bool  # nothing is left to do


class Arrivals:
    """Looks at a folder.

    Args:
        folder: its whole path.
        settle: seconds over which size and time must stay what they are.
        known: whether a picture has been scored before.
        clock: seconds that only grow; the file system's own clock may differ from ours.
    """

    def __init__(
        self,
        folder: Path,
        settle: float,
        known: Callable[[Arrival], bool],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._folder = str(folder)
        self._settle = settle
        self._known = known
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def look(self) -> list[Arrival]:
        """Pictures that have arrived, by path, and were not said to be finished.

        Raises:
            OSError: the folder cannot be read.
        """
        now, seen = self._clock(), {}
        for path, status in files(self._folder):
            before = self._seen.get(path)
            arrival = Arrival(path, status.st_size, status.st_mtime_ns)
            if before is None or before.arrival != arrival:
                before = _Seen(arrival, now, self._known(arrival))
            seen[path] = before
        self._seen = seen  # what has gone is forgotten
        return [
            each.arrival for each in seen.values()
            if not each.finished and now - each.since >= self._settle
        ]  # fmt: skip

    @property
    def waiting(self) -> int:
        """Pictures that are there and not finished."""
        return sum(not each.finished for each in self._seen.values())

    def finish(self, arrival: Arrival) -> None:
        """It was scored, or cannot be: it counts again when it is another."""
        self._seen[arrival.path].finished = True

    def changed(self, arrival: Arrival) -> None:
        """It was no longer what it had been: it must settle again."""
        self._seen[arrival.path].since = self._clock()

    def postpone(self, arrival: Arrival) -> None:
        """It could not be read just now."""
        self._seen[arrival.path].since = self._clock() + _AGAIN - self._settle
