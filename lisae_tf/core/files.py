"""Files that are whole or absent: temporary name, then rename; JSON records; hashes.

Runs without TensorFlow.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lisae_tf.core.errors import LisaeError

Stamp = dict[str, int | str]

# What a killed process left is removed once nobody has touched it for so long: its writer may run
# on another machine, of which nothing is known here.
_ABANDONED = 60.0  # seconds
_TEMPORARY = re.compile(r"\..+\.(\d+)(\.[a-z0-9]+)?")  # as `replacing` names them


def cannot_write(path: Path, error: OSError, option: str = "--out") -> LisaeError:
    """The sentence for a file or folder, named by an option, that the system refuses to write."""
    return LisaeError(
        f"cannot write {path}: {error.strerror or error}. {_way_out(error)}name another folder "
        f"with {option}; what was there before is untouched"
    )


def _way_out(error: OSError) -> str:
    """The beginning of a sentence on what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space or "
    if error.errno == errno.ENOENT:
        return "Make its folder or "
    return "Make that possible or "


def make_folder(path: Path, option: str = "--out") -> Path:
    """Creates `path` and its parents and proves that a file can be written in it.

    Args:
        path: the folder.
        option: that names it.

    Raises:
        LisaeError: the folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise cannot_write(path, error, option) from error
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` if the block succeeds.

    The temporary name keeps the suffix of `path`, so that writers which look at it still work.

    Raises:
        LisaeError: the disk is full or the folder is read-only; nothing is left behind.
    """
    if path.exists() and not path.is_file():
        raise LisaeError(f"{path} is no regular file; name another")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    _remove_abandoned(path)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _remove_abandoned(path: Path) -> None:
    """Removes temporary files of `path` whose processes are gone."""
    ours = re.compile(rf"\.{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}")
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            found = ours.fullmatch(name)
            if found and not _is_alive(int(found[1])):
                _remove_untouched(path.with_name(name))


def remove_unfinished(folder: Path) -> None:
    """Removes the temporary files of killed processes, however new.

    Args:
        folder: that no other process writes to, here or on another machine.
    """
    for path in folder.glob(".*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and not _is_alive(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        pass
    return True


def _remove_untouched(path: Path) -> None:
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime < _ABANDONED:
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


@contextlib.contextmanager
def staging(place: Path, prefix: str) -> Iterator[Path]:
    """Yields an empty folder in `place`, which is removed in the end, with all that is in it.

    So are folders of this prefix that killed processes left: the lock on them went with those.

    Args:
        place: a folder.
        prefix: of its name, like ".export-".

    Raises:
        OSError: it cannot be made.
    """
    ours = re.compile(rf"{re.escape(prefix)}[a-z0-9_]{{8}}")  # as `mkdtemp` names them
    for name in os.listdir(place):
        if ours.fullmatch(name):
            with contextlib.suppress(OSError), locked(place / name, wait=False):
                _remove_untouched(place / name)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a file system without locks
                stack.enter_context(locked(folder, wait=False))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of a folder, which one process has at a time.

    Args:
        folder: that is there.
        wait: for another process that has it; without, that is an OSError.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def refuse_special(path: Path) -> None:
    """Refuses a pipe, a socket or a device: whoever opens a pipe may wait for ever.

    Raises:
        LisaeError: there is something at `path`, and it is neither a file nor a folder.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise LisaeError(f"{path} is no regular file; give a file or a folder")


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all; see `as_utf8`."""
    with replacing(path) as temporary:
        temporary.write_text(as_utf8(text), encoding="utf-8")


def as_utf8(text: str) -> str:
    """Text that may name a file, whose name need not be UTF-8: other bytes are spelled out."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_json(path: Path, record: Any) -> None:
    """Writes `record` as readable JSON with sorted keys; NaN and infinity are refused."""
    write_text(path, json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n")


def update_json(path: Path, key: str, value: Any) -> None:
    """Sets one entry of the JSON object in `path`; processes that set others lose nothing.

    The file and its folder are made where they are missing.

    Raises:
        LisaeError: what is there is no JSON, or the file cannot be written.
    """
    with locked(make_folder(path.parent)):
        write_json(path, (read_json(path) if path.is_file() else {}) | {key: value})


def read_json(path: Path) -> Any:
    """The JSON value in `path`.

    Raises:
        LisaeError: the file is missing or is no JSON.
    """
    refuse_special(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LisaeError(f"{path} is missing; give a folder that a run has completed") from error
    except (OSError, ValueError, RecursionError) as error:
        raise LisaeError(f"{path} cannot be read as JSON ({error}); restore the file") from error


def sha256(path: Path) -> str:
    """Hex SHA-256 of the file's bytes.

    Raises:
        LisaeError: it is no regular file.
    """
    refuse_special(path)
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stamp(path: Path) -> Stamp:
    """Size and hex SHA-256 of a file, by which it is known again.

    Raises:
        LisaeError: it is no regular file.
    """
    return {"size": path.stat().st_size, "sha256": sha256(path)}
