"""Files that are whole or absent: temporary name, then rename; JSON records; hashes.

Runs without TensorFlow.
"""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lisae_tf.core.errors import LisaeError

Stamp = dict[str, int | str]


def cannot_write(path: Path, error: OSError) -> LisaeError:
    """The sentence for a file or folder that the system refuses to write."""
    return LisaeError(
        f"cannot write {path}: {error.strerror or error}. {_way_out(error)}name another folder "
        "with --out; what was there before is untouched"
    )


def _way_out(error: OSError) -> str:
    """The beginning of a sentence on what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space or "
    if error.errno == errno.ENOENT:
        return "Make its folder or "
    return "Make that possible or "


def make_folder(path: Path) -> Path:
    """Creates `path` and its parents and proves that a file can be written in it.

    Raises:
        LisaeError: the folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error
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
