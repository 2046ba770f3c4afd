"""Result files of cells, and the Parquet tables that they are folded into.

A finished cell is a JSON file of its own. When a command begins or ends, `fold` moves the files
below a folder `NAME/` into the table `NAME.parquet` beside it, a row each. Readers see both; of
two records of a cell the one of the newer training version counts, then of the later date, then
the file's. Needs pyarrow for tables alone; imports no TensorFlow.
"""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import locked, make_folder, read_json, replacing, write_json
from lisae_tf.data import picture_tables

CELL = "[!.]*-seed*.json"  # name of a cell's file; not one that is being written
# Columns for those who read a table with other tools; `record` alone is read here.
COLUMNS = (
    "path", "dataset", "protocol", "variant", "negatives", "task", "seed", "training_version",
    "version", "date", "seconds", "auroc", "config_hash", "record",
)  # fmt: skip


def write(path: Path, record: dict) -> None:
    """Writes a cell's file, whole or not at all; its folder is made."""
    with locked(make_folder(path.parent)):
        write_json(path, record)


def read(path: Path) -> dict | None:
    """The newest record of a cell: of its file, or of a table of a folder above it.

    Raises:
        LisaeError: a file or table that cannot be read.
    """
    found = []
    if path.is_file():
        try:
            found.append(read_json(path))
        except LisaeError:
            if path.exists():  # else it was folded since
                raise
    found += map(json.loads, _in_tables(path))  # after the file: it may go there meanwhile
    return _newest(found) if found else None


def paths(folder: Path) -> list[Path]:
    """Where the cells below a folder lie or lay before they were folded, sorted."""
    found = set(folder.rglob(CELL))
    return sorted(found | {folder / name for name in _rows(_table_of(folder))})


def fold(folder: Path) -> None:
    """Moves the cells' files below a folder into the table beside it.

    A process that is killed meanwhile loses nothing: files are removed once the table is written.

    Raises:
        LisaeError: pyarrow is missing, or a file cannot be read or the table written.
    """
    if not any(folder.rglob(CELL)):
        return
    with locked(folder.parent):
        table = _table_of(folder)
        rows, seen = dict(_rows(table)), {}
        for path in sorted(folder.rglob(CELL)):
            name = path.relative_to(folder).as_posix()
            seen[path] = _state(path)
            known = [json.loads(rows[name])] if name in rows else []
            rows[name] = json.dumps(_newest([read_json(path), *known]), sort_keys=True)
        _write_table(table, rows)
        for path, state in seen.items():
            with locked(path.parent):
                if _state(path) == state:  # else it was written anew since
                    path.unlink()


def fold_all(root: Path, cells: Iterable[Path]) -> None:
    """Folds the folders right below `root` in which the cells lie."""
    for name in dict.fromkeys(path.relative_to(root).parts[0] for path in cells):
        fold(root / name)


def _newest(records: list[dict]) -> dict:
    """The first of those with the highest training version and date."""
    return max(records, key=_age)


def _age(record: dict) -> tuple[int, str]:
    return record.get("training_version") or 0, record.get("date") or ""


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _table_of(folder: Path) -> Path:
    return folder.with_name(folder.name + picture_tables.PARQUET)


def _in_tables(path: Path) -> Iterator[str]:
    for folder in path.parents:
        if folder.name and (rows := _rows(_table_of(folder))):
            text = rows.get(path.relative_to(folder).as_posix())
            if text:
                yield text


def _rows(table: Path) -> dict[str, str]:
    """JSON text of each record by its file's path below the table's folder."""
    try:
        status = table.stat()
    except FileNotFoundError:
        return {}
    return _read_table(table.absolute(), status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _read_table(table: Path, *_state: int) -> dict[str, str]:
    parquet = picture_tables.parquet()
    try:
        found = parquet.read_table(table, columns=["path", "record"])
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors among them
        raise LisaeError(f"{table} cannot be read as Parquet ({error}); restore it") from error
    return dict(zip(found["path"].to_pylist(), found["record"].to_pylist(), strict=True))


def _write_table(table: Path, rows: dict[str, str]) -> None:
    parquet = picture_tables.parquet()
    import pyarrow

    listed = [_columns(name, rows[name]) for name in sorted(rows)]
    numbers = {"seed": pyarrow.int64(), "training_version": pyarrow.int64(),
               "seconds": pyarrow.float64(), "auroc": pyarrow.float64()}  # fmt: skip
    schema = pyarrow.schema([(name, numbers.get(name, pyarrow.string())) for name in COLUMNS])
    made = pyarrow.Table.from_pylist(listed, schema)
    with replacing(table) as temporary:
        parquet.write_table(made, temporary, compression="zstd")


def _columns(name: str, text: str) -> dict[str, Any]:
    record = json.loads(text)
    config = record.get("config") or {}
    row = {key: config.get(key) for key in ("dataset", "protocol", "variant", "negatives", "seed")}
    row |= {key: record.get(key) for key in COLUMNS if key in record and key != "record"}
    seconds = record.get("seconds")
    row["seconds"] = seconds.get("training") if isinstance(seconds, dict) else seconds
    row["task"] = Path(name).stem.rpartition("-seed")[0]
    return row | {"path": name, "record": text}
