"""A run's files as one: their digests, changes in one step, and one writer at a time.

`digests.json` has size and SHA-256 of every file that commands read; it is replaced together with
the files that it names. Runs without TensorFlow.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import (
    Stamp,
    cannot_write,
    make_folder,
    read_json,
    remove_unfinished,
    stamp,
    write_json,
)
from lisae_tf.data.manifest import FILE as MANIFEST

CONFIG, METRICS, HISTORY, SCORES, CHECKPOINT = (
    "config.yaml", "metrics.json", "history.json", "scores.npz", "checkpoint.npz",
)  # fmt: skip
SIDECAR, WEIGHTS = "detector.json", "weights.npz"
EARLIER = "earlier_threshold.npz"  # before the last calibration
FIGURES = "figures"
BEST = "best.yaml"  # of a study of settings
REPORT = "report.html"  # no command reads it
MARKS = "marks.jsonl"  # grows with each mark, each line for itself, so it has no digest
DIGESTS = "digests.json"
# What commands read, besides the figures.
_FILES = (CONFIG, MANIFEST, WEIGHTS, SIDECAR, HISTORY, SCORES, METRICS, EARLIER)
# New files are staged in a folder of the run, which is renamed once all are whole: from then on
# they count, and whoever comes next moves those that were not moved.
_STAGED, _READY = ".staged", ".ready"
_WAIT, _POLL = 10.0, 0.02  # seconds for another process to move its files, and between looks
_TRIES = 5

Stamps = dict[str, Stamp]


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Keeps other writers out of a run; the kernel lets go when the process ends, however it does.

    Raises:
        LisaeError: another process is writing to it.
    """
    handle = _locked(folder)
    try:
        if handle is not None:
            for place in (folder, folder / FIGURES):
                remove_unfinished(place)
        settle(folder)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked(folder: Path) -> int | None:
    """The folder, open and locked; None where its file system knows no locks."""
    handle = os.open(folder, os.O_RDONLY)
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if left:  # others may have had but a look
                time.sleep(_POLL)
        except OSError:
            os.close(handle)
            return None
    os.close(handle)
    raise LisaeError(
        f"another command is writing to {folder}; wait until it ends, or name another folder"
    )


def refuse_busy(folder: Path) -> None:
    """Refuses a folder that another command is writing to.

    Raises:
        LisaeError: it is such.
    """
    handle = _locked(folder)
    if handle is not None:
        os.close(handle)


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[Path]:
    """Yields an empty folder; what is written there replaces the run's files in one step.

    `digests.json` is written with them. Hold `writing` where others may write as well.

    Raises:
        LisaeError: it cannot be written; the run is as it was.
    """
    staged = folder / _STAGED
    shutil.rmtree(staged, ignore_errors=True)  # of a process that was killed
    make_folder(staged)
    try:
        yield staged
        new = sorted(path.relative_to(staged).as_posix() for path in _files_below(staged))
        record(folder, new, staged)
        try:
            os.rename(staged, folder / _READY)
        except OSError as error:
            raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    settle(folder)


def _files_below(folder: Path) -> list[Path]:
    # Unlike `rglob` it takes a folder that another process removes meanwhile for an empty one.
    return [Path(base, name) for base, _, names in os.walk(folder) for name in names]


def _known(folder: Path) -> list[str]:
    """The files of a run that commands read."""
    drawn = (f"{FIGURES}/{path.name}" for path in sorted((folder / FIGURES).glob("*.png")))
    return [name for name in (*_FILES, *drawn) if (folder / name).is_file()]


def record(folder: Path, new: Iterable[str] = (), staged: Path | None = None) -> None:
    """Writes `digests.json` of a run: what it says now, and what there is anew.

    Args:
        folder: of the run. Without digests its files are taken as they are.
        new: names of files that have been written.
        staged: where these lie and where the digests are written; the run folder itself by default.
    """
    stamps = _read(folder)
    if stamps is None:
        stamps = {name: stamp(folder / name) for name in _known(folder)}
    place = staged or folder
    stamps |= {name: stamp(place / name) for name in new}
    write_json(place / DIGESTS, stamps)


def settle(folder: Path) -> None:
    """Ends a change that is complete but was not moved into place.

    Raises:
        LisaeError: it cannot be written.
    """
    ready = folder / _READY
    if not ready.is_dir():
        return
    try:
        # `metrics.json` last: its presence says that the run is complete.
        for path in sorted(_files_below(ready), key=lambda path: path.name == METRICS):
            place = folder / path.relative_to(ready)
            place.parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.replace(path, place)
    except OSError as error:
        raise cannot_write(folder, error) from error
    for emptied in (ready / FIGURES, ready):
        with contextlib.suppress(OSError):
            emptied.rmdir()


def check(folder: Path, names: Iterable[str] | None = None) -> bool:
    """Whether a run's files are those that were written.

    Args:
        folder: of the run.
        names: of the files to check; every one by default.

    Returns:
        False for a run of an earlier version, which has no digests.

    Raises:
        LisaeError: a file is missing or is another one, or the digests are no such.
    """
    until, before = time.monotonic() + _WAIT, None
    while True:
        settle(folder)
        stamps = _read(folder)
        if stamps is None:
            return False
        chosen = {*stamps, *_known(folder)} if names is None else names
        wrong = [each for each in sorted(chosen) if not _is(folder / each, stamps.get(each))]
        if not wrong:
            return True
        # Another command may be replacing them: what is wrong stays so.
        if (stamps, wrong) == before or time.monotonic() > until:
            raise _refused(folder / wrong[0])
        before = stamps, wrong
        time.sleep(_POLL)


def _is(path: Path, stored: Stamp | None) -> bool:
    return path.is_file() and stamp(path) == stored


def _refused(path: Path) -> LisaeError:
    if not path.is_file():
        return LisaeError(f"{path} is missing; restore it or train again")
    return LisaeError(
        f"{path} is damaged or another run's: it is not the file that was written with the others "
        f"of its run; restore it or train again"
    )


def _read(folder: Path) -> Stamps | None:
    """What `digests.json` says; None where there is none."""
    path = folder / DIGESTS
    if not os.path.lexists(path):
        return None
    try:
        stamps = read_json(path)
    except LisaeError as error:
        raise LisaeError(f"{error} or train again") from error
    if not isinstance(stamps, dict) or not stamps:
        raise LisaeError(f"{path} is no list of a run's files; restore it or train again")
    return stamps
