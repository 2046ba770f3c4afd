"""Which files are pictures: those below a folder or in a list, in one order. No TensorFlow.

A list is a path a line, or a CSV with a column of paths.
"""

import csv
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import refuse_special

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # Pillow's names
NAMES = "PNG, JPEG, BMP, TIFF or WebP"
NAMED = 3  # of the files left out, in a sentence
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
LISTS = (".txt", ".csv")  # files that name pictures, where a folder of them could stand
_TABLES = (".csv", ".txt", ".json", ".jsonl", ".parquet", ".tfrecord", ".npy")
COLUMNS = ("path", "file", "filename", "image")  # names of the column of paths, in any case


def walk(folder: Path) -> Iterator[Path]:
    """All pictures below `folder`, or in a list, sorted by path; hidden files are left out.

    Holds the names of one folder, and of those above it, at a time.

    Raises:
        LisaeError: a folder cannot be read.
    """
    if is_list(folder):
        return iter(sorted(set(read(folder))))
    return (path for path, is_picture in _walk_all(folder) if is_picture)


def others(folder: Path) -> Iterator[Path]:
    """What `walk` passes by although it is not hidden: other files, and links to folders.

    Raises:
        LisaeError: a folder cannot be read.
    """
    if is_list(folder):
        return iter(())
    return (path for path, is_picture in _walk_all(folder) if not is_picture)


def is_list(path: Path) -> bool:
    """Whether a path is a list of pictures and no folder."""
    return path.suffix.lower() in LISTS and path.is_file()


def below(path: Path, root: Path) -> Path:
    """The path of a picture from its folder on, or from the folder of the list that names it."""
    if is_list(root):
        return Path(os.path.relpath(path, root.parent))
    return path.relative_to(root)


def few(names: list[str], limit: int = 3) -> str:
    """The first names of a list and how many follow."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def remark(left_out: Iterable[Path | str], what: str = "") -> list[str]:
    """One sentence on what `others` gives, if that is anything.

    Args:
        left_out: the paths.
        what: the set that their folder is of.
    """
    paths = map(str, left_out)
    named = list(islice(paths, NAMED))
    count = len(named) + sum(1 for _ in paths)
    if not count:
        return []
    files = f"{what} file".strip() + (" is" if count == 1 else "s are")
    more = f" and {count - NAMED} more" if count > NAMED else ""
    return [
        f"{count} {files} left out, for only {', '.join(SUFFIXES)} are read and links to folders "
        f"are not followed: {', '.join(named)}{more}"
    ]


def _walk_all(folder: Path) -> Iterator[tuple[Path, bool]]:
    """All below `folder` but folders and what is hidden, by path, and whether it is a picture."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                (
                    entry.name,
                    entry.is_dir(follow_symlinks=False),
                    entry.is_file(follow_symlinks=False),
                )
                for entry in entries
                if not entry.name.startswith(".")
            )
    except OSError as error:
        raise LisaeError(
            f"the folder {folder} cannot be read ({error.strerror}); check its permissions"
        ) from error
    for name, is_folder, is_file in names:
        path = folder / name
        if is_folder:
            yield from _walk_all(path)
        else:
            # Only a link needs another look, and it may lead nowhere.
            yield path, path.suffix.lower() in SUFFIXES and (is_file or path.is_file())


def find(folder: Path) -> list[Path]:
    """All pictures below `folder`, or in a list, as `walk` gives them.

    Raises:
        LisaeError: the folder is missing or holds no picture, or the list is no good.
    """
    if folder.is_file() and not is_list(folder):
        raise LisaeError(
            f"{folder} is no folder of pictures; name one, or a list ({', '.join(LISTS)})"
        )
    if not folder.exists():
        raise LisaeError(f"the folder {folder} does not exist; check the path")
    found = list(walk(folder))
    if not found:
        raise no_picture(folder)
    return found


def no_picture(folder: Path) -> LisaeError:
    """What a folder holds instead of pictures, and what to do."""
    said = f"the folder {folder} holds no {NAMES} picture"
    held = list(islice(others(folder), 1000))
    suffixes = {path.suffix.lower() for path in held}
    if not held:
        return LisaeError(f"{said}; put some in or name another")
    for kinds, what in (
        (_ARCHIVES, "but an archive ({}): unpack it, and name the folder that comes of it"),
        (
            _TABLES,
            "but a list or a table ({}): name the folder of the pictures themselves, or a list "
            "itself; score takes it as --list FILE",
        ),
    ):
        if found := [path.name for path in held if path.suffix.lower() in kinds]:
            return LisaeError(f"{said}, {what.format(few(found, 1))}")
    kinds = ", ".join(sorted(suffix or "no ending" for suffix in suffixes))
    return LisaeError(f"{said}, but other files ({kinds}): save them as PNG, or name another")


def files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file among `paths`, and every picture below every folder, one after the other."""
    for path in paths:
        if path.is_dir():
            yield from walk(path)
        else:
            yield path


def refuse_missing(paths: Iterable[Path]) -> None:
    """Looks at what is to be read before any of it is.

    Raises:
        LisaeError: a path does not exist or is a pipe or a device, or a folder holds no picture.
    """
    for path in paths:
        if not path.exists():
            raise LisaeError(f"{path} does not exist; check the path")
        refuse_special(path)
        if path.is_dir() and next(walk(path), None) is None:
            raise no_picture(path)


def read(listed: Path) -> list[Path]:
    """The files that a list names, in its order; relative ones from the list's folder on.

    Args:
        listed: a CSV (by its ending, with a header), or any other text with a path a line.

    Raises:
        LisaeError: no such list, no column of paths, or files that do not exist.
    """
    if not listed.is_file():
        refuse_special(listed)
        raise LisaeError(f"{listed} is no file that lists pictures; check the path")
    try:
        # As on standard output, a file name need not be UTF-8; a spreadsheet writes a mark first.
        text = listed.read_bytes().decode("utf-8-sig", errors="surrogateescape")
        lines = text.splitlines()
        names = _column(lines, listed) if listed.suffix.lower() == ".csv" else lines
    except (OSError, csv.Error) as error:
        raise LisaeError(f"{listed} cannot be read as a list ({error}); check it") from error
    paths = [listed.parent / Path(name.strip()).expanduser() for name in names if name.strip()]
    if not paths:
        raise LisaeError(f"{listed} lists no file; give at least one")
    if missing := [str(path) for path in paths if "\0" in str(path) or not path.exists()]:
        do = "do" if len(missing) > 1 else "does"
        raise LisaeError(
            f"{len(missing)} of the {len(paths)} files in {listed} {do} not exist: {few(missing)}; "
            "paths are taken from the list's own folder on"
        )
    return paths


def _column(lines: list[str], listed: Path) -> list[str]:
    rows = csv.DictReader(lines)
    found = {name.strip().lower(): name for name in rows.fieldnames or () if name}
    chosen = next((found[name] for name in COLUMNS if name in found), None)
    if chosen is None:
        raise LisaeError(
            f"{listed} has no column of paths; its first line must name one {COLUMNS[0]} "
            f"(it has {', '.join(found) or 'none'})"
        )
    return [row[chosen] or "" for row in rows]
