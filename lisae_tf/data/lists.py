"""Lists of picture files: a path a line, or a CSV with a column of paths. Without TensorFlow."""

import csv
from pathlib import Path

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import refuse_special
from lisae_tf.data.picture_files import few

COLUMNS = ("path", "file", "filename", "image")  # names of the column of paths, in any case


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
