"""Which files are pictures: those below a folder, in one order. Runs without TensorFlow."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lisae_tf.errors import LisaeError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_NO_PICTURE = "the folder {} holds no PNG, JPEG or BMP picture"


def walk(folder: Path) -> Iterator[Path]:
    """All pictures below `folder`, sorted by path; hidden files are left out.

    Holds the names of one folder, and of those above it, at a time.

    Raises:
        LisaeError: a folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if not entry.name.startswith(".")
            )
    except OSError as error:
        raise LisaeError(
            f"the folder {folder} cannot be read ({error.strerror}); check its permissions"
        ) from error
    for name, is_folder in names:
        path = folder / name
        if is_folder:
            yield from walk(path)
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            yield path


def find(folder: Path) -> list[Path]:
    """All pictures below `folder`, as `walk` gives them.

    Raises:
        LisaeError: the folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise LisaeError(f"the folder {folder} does not exist; check the path")
    found = list(walk(folder))
    if not found:
        raise LisaeError(_NO_PICTURE.format(folder))
    return found


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
        LisaeError: a path does not exist, or a folder holds no picture.
    """
    for path in paths:
        if not path.exists():
            raise LisaeError(f"{path} does not exist; check the path")
        if path.is_dir() and next(walk(path), None) is None:
            raise LisaeError(_NO_PICTURE.format(path))
