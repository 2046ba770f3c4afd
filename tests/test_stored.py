"""Cells in Parquet tables: kept, lossless, resumable, newest wins, two writers."""

import json
import threading

import pytest

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import write_json
from lisae_tf.grids import stored

RECORD = {
    "auroc": 0.1 + 0.2, "auroc_phase1": None, "training_version": 4, "date": "2026-01-02",
    "version": "0.1.0", "seconds": {"training": 1.5}, "tiny": 5e-324, "name": "é",
    "config": {"dataset": "mnist", "variant": "lis", "seed": 3},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cells"


def test_a_folded_cell_comes_back_equal(folder):
    path = folder / "mnist" / "lis" / "0-seed3.json"
    stored.write(path, RECORD)
    before = stored.read(path), stored.paths(folder)
    stored.fold(folder)
    assert not path.exists() and folder.with_suffix(".parquet").is_file()
    assert before == (stored.read(path), stored.paths(folder)) == (RECORD, [path])


def test_other_tools_read_columns_beside_the_record(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    stored.write(folder / "mnist" / "lis" / "0-seed3.json", RECORD)
    stored.fold(folder)
    (row,) = parquet.read_table(folder.with_suffix(".parquet")).to_pylist()
    assert json.loads(row.pop("record")) == RECORD
    assert (row["path"], row["task"], row["seed"]) == ("mnist/lis/0-seed3.json", "0", 3)
    assert (row["auroc"], row["seconds"], row["dataset"]) == (RECORD["auroc"], 1.5, "mnist")


@pytest.mark.parametrize(
    ("change", "wins"),
    [
        ({}, True),  # as old: the file
        ({"date": "2026-01-03"}, True),
        ({"date": "2026-01-01"}, False),
        ({"training_version": 5, "date": "2025-01-01"}, True),
        ({"training_version": 3, "date": "2027-01-01"}, False),
    ],
)
def test_the_newest_wins_before_and_after_folding(change, wins, folder):
    path = folder / "0-seed0.json"
    stored.write(path, RECORD)
    stored.fold(folder)
    later = RECORD | {"auroc": 0.9} | change
    stored.write(path, later)
    expected = later if wins else RECORD
    assert stored.read(path) == expected
    stored.fold(folder)
    assert stored.read(path) == expected


def test_a_fold_that_is_killed_loses_nothing(folder, monkeypatch):
    paths = [folder / f"{n}-seed0.json" for n in range(3)]
    for n, path in enumerate(paths):
        stored.write(path, RECORD | {"auroc": n})

    def killed(*_):
        raise KeyboardInterrupt

    for name in ("_write_table", "_state"):  # before the table is written; then before removal
        with monkeypatch.context() as patch:
            patch.setattr(stored, name, killed)
            with pytest.raises(KeyboardInterrupt):
                stored.fold(folder)
        assert [stored.read(path)["auroc"] for path in paths] == [0, 1, 2]
    stored.fold(folder)
    assert [stored.read(path)["auroc"] for path in paths] == [0, 1, 2]


def test_a_cell_written_while_its_file_is_folded_stays(folder, monkeypatch):
    path, write_table = folder / "0-seed0.json", stored._write_table
    stored.write(path, RECORD)

    def slow(*found):
        write_table(*found)
        stored.write(path, RECORD | {"auroc": 0.9})

    monkeypatch.setattr(stored, "_write_table", slow)
    stored.fold(folder)
    assert path.is_file() and stored.read(path)["auroc"] == 0.9


def test_writers_that_fold_at_once_keep_all_cells(folder):
    def work(writer):
        for n in range(5):
            stored.write(folder / f"{writer}-{n}-seed0.json", RECORD | {"auroc": n})
            stored.fold(folder)

    threads = [threading.Thread(target=work, args=[writer]) for writer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored.paths(folder)) == 15 and not list(folder.rglob("*.json"))
    assert all(stored.read(path) for path in stored.paths(folder))


def test_a_folder_of_json_files_reads_without_a_table(folder):
    path = folder / "0-seed0.json"
    folder.mkdir()
    write_json(path, RECORD)
    assert stored.read(path) == RECORD and stored.paths(folder) == [path]
    assert stored.read(folder / "1-seed0.json") is None


def test_a_damaged_table_is_named(folder):
    folder.with_suffix(".parquet").write_bytes(b"no table")
    with pytest.raises(LisaeError, match=r"cells\.parquet cannot be read"):
        stored.read(folder / "0-seed0.json")
