import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lisae_tf.core import files
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import (
    make_folder,
    read_json,
    replacing,
    sha256,
    staging,
    update_json,
    write_json,
    write_text,
)
from lisae_tf.runs import folders as runs


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def old(tmp_path):
    """A file with content, alone in its folder."""
    path = tmp_path / "a.json"
    path.write_text("old")
    return path


def alone(path):
    return [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_finished_block_replaces_the_file_whole(old):
    with replacing(old) as temporary:
        assert temporary.suffix == ".json"
        temporary.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert alone(old)


def test_entries_set_side_by_side_lose_nothing(tmp_path):
    path = tmp_path / "new" / "a.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: update_json(path, f"{n % 20}", n), range(40)))
    assert read_json(path).keys() == {str(n) for n in range(20)}
    update_json(path, "7", "newest")
    assert read_json(path)["7"] == "newest" and alone(path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_leaves_the_old_file_and_passes_on(old, error):
    with pytest.raises(error), replacing(old) as temporary:
        temporary.write_text("half")
        raise error
    assert old.read_text() == "old"
    assert alone(old)


@pytest.mark.parametrize("where", [(os, "replace"), (os, "fsync"), (Path, "write_text")])
def test_a_full_disk_leaves_the_old_file_and_says_so(old, where, monkeypatch):
    monkeypatch.setattr(*where, full)
    with pytest.raises(LisaeError, match=rf"^cannot write {old}: No space left on device\. Free"):
        write_json(old, {"a": 1})
    monkeypatch.undo()
    assert old.read_text() == "old"
    assert alone(old)


def test_a_full_disk_leaves_nothing_where_nothing_was(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LisaeError, match="No space left"):
        write_text(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [os.mkdir, os.mkfifo])
def test_only_regular_files_are_replaced(kind, tmp_path):
    """A run as root would otherwise put a file in the place of /dev/null."""
    kind(tmp_path / "it")
    before = (tmp_path / "it").stat().st_mode
    with pytest.raises(LisaeError, match="it is no regular file"):
        write_text(tmp_path / "it", "new")
    assert (tmp_path / "it").stat().st_mode == before


def test_json_without_a_number_for_nan_keeps_the_old_file(old):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(old, {"a": float("nan")})
    assert old.read_text() == "old"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=20)  # each waits for the disk
@given(value=VALUES)
def test_what_is_written_is_read(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize(
    "content, reason", [(None, "is missing"), (b"{", "cannot be read"), (b"\xff", "cannot be read")]
)
def test_unreadable_json_is_named(content, reason, tmp_path):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LisaeError, match=rf"a\.json {reason}"):
        read_json(path)


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_make_folder_proves_that_files_can_be_written(tmp_path, monkeypatch):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []
    monkeypatch.setattr(files.tempfile, "TemporaryFile", full)
    with pytest.raises(LisaeError, match=r"cannot write .*/a: No space left"):
        make_folder(tmp_path / "a")


NOT_WRITABLE = ["file/run", "/proc/lisae/run"]


@pytest.mark.parametrize("place", NOT_WRITABLE)
def test_a_place_that_takes_no_folder_is_refused(place, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LisaeError, match=r"cannot write .*name another folder with --out"):
        runs.claim(tmp_path / place, "seed: 0\n", resume=False)


def test_a_full_disk_leaves_no_run_folder(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(os, "fsync", full)
    for name in ("new", "mine"):
        with pytest.raises(LisaeError, match="No space left"):
            runs.claim(tmp_path / name, "seed: 0\n", resume=False)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert list((tmp_path / "mine").iterdir()) == []


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_a_killed_writer_left_beside_its_file_is_removed(tmp_path):
    path, long_ago = tmp_path / "scores.csv", time.time() - 3600
    abandoned = tmp_path / f".scores.{gone()}.csv"
    kept = [
        tmp_path / name
        for name in (
            f".scores.{os.getppid()}.csv",  # of a live process
            f".other.{gone()}.csv",
            ".scores.mine.csv",
            f".scores.{gone()}.csv.bak",
        )
    ]
    for each in (abandoned, *kept):
        each.write_text("half")
        os.utime(each, (long_ago, long_ago))
    fresh = tmp_path / f".scores.{gone()}.csv"
    fresh.write_text("perhaps of another machine")
    write_text(path, "whole")
    assert {path, fresh, *kept} == set(tmp_path.iterdir())


def test_a_folder_that_a_killed_process_staged_in_is_removed(tmp_path):
    long_ago = time.time() - 3600
    code = (
        "import os, sys; from pathlib import Path\n"
        "from lisae_tf.core.files import staging\n"
        "with staging(Path(sys.argv[1]), '.export-') as apart:\n"
        "    (apart / 'half').write_text('half')\n"
        "    os.utime(apart, (0, 0))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".export-mine").mkdir()
    os.utime(tmp_path / ".export-mine", (long_ago, long_ago))
    with staging(tmp_path, ".export-") as first:
        os.utime(first, (long_ago, long_ago))
        with staging(tmp_path, ".export-") as second:
            assert {path.name for path in tmp_path.iterdir()} == {
                ".export-mine", first.name, second.name,
            }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [".export-mine"]
