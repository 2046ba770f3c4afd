"""Files are whole or absent; files that came to harm give one sentence or the same answer.

Damage of every kind to exported models, runs and pictures, each then used as a user would.
"""

import csv
import errno
import faulthandler
import gc
import io
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import export_fixtures
import numpy as np
import pytest
from export_fixtures import ALL, path_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

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


run, models = export_fixtures.run, export_fixtures.models

FILES = 10_000
SETTLED = 2_000  # files after which memory should not grow any more
GROWTH = 128 * 2**20
HANG = 120  # seconds after which one file counts as a hang
DOCUMENTS = ("README.md", "parity.json")  # for people; no command reads them
# What uses a run; none gets as far as training or writing a model. `score` runs where it reads the
# file: TensorFlow keeps some of each graph it has ever run, which is no growth of ours.
DETECTOR = ("config.yaml", "detector.json", "weights.npz")
RUN_COMMANDS = (("calibrate", "--fpr", "0.2"), ("export", "--name", "../refused"), ("score",))
FOREIGN = (
    b"PK\x03\x04" + bytes(60), b"\x80\x04N.", b"#!/bin/sh\nexit 1\n", b"{}", b"[]", b"null", b"7",
    b"[" * 100_000, b'{"threshold": 1e999, "shape": [1e999, 1, 1]}', b"\xff\xfe\x00", b"a: &a [*a]",
    b"GIF89a" + bytes(90), b"\x89PNG\r\n\x1a\n", b"\x28\x00\x00\x00TFL3" + bytes(64), b"\x08\x01",
)  # fmt: skip


def cut(data, chance):
    return data[: chance.randrange(len(data) + 1)]


def flip(data, chance):
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 8, 100)) if data else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def zero(data, chance):
    start = chance.randrange(len(data) + 1)
    length = min(len(data) - start, chance.choice((1, 64, 4096)))
    return data[:start] + bytes(length) + data[start + length :]


def swap(data, chance):
    """Two blocks in each other's place."""
    size = min(chance.choice((4, 64, 512)), len(data) // 2)
    first = chance.randrange(len(data) - 2 * size + 1)
    second = chance.randrange(first + size, len(data) - size + 1)
    a, b = data[first : first + size], data[second : second + size]
    return data[:first] + b + data[first + size : second] + a + data[second + size :]


def grow(data, chance):
    """A block twice, or a tail that does not belong."""
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice((data[at : at + 64], chance.randbytes(16), b"9")) + data[at:]


def empty(data, chance):
    return b""


def foreign(data, chance):
    return chance.choice((*FOREIGN, chance.randbytes(chance.randrange(2000))))


DAMAGES = (cut, flip, flip, zero, swap, grow, empty, foreign)


class Harm:
    """Damages a copy of one thing after another, uses it, and mends it again."""

    def __init__(self, models, run, base, cli, seed=0):
        self.chance, self.cli, self.seen = random.Random(seed), cli, Counter()
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (32, 32)).astype(np.uint8)
        base.mkdir()
        self.picture = base / "picture.png"
        Image.fromarray(pixels).save(self.picture)
        self.models = {}
        for which in ALL:
            path = path_of(models, which)
            folder = path if path.is_dir() else path.parent
            copy = Path(shutil.copytree(folder, base / which / "1"))
            self.models[which] = copy if path.is_dir() else copy / path.name
        self.run = Path(shutil.copytree(run, base / "run"))
        self.good = {which: self.scored("--model", path) for which, path in self.models.items()}
        self.good["run"] = self.scored("--run", self.run)
        self.pictures = []
        for name, mode in (("a.png", "L"), ("b.png", "RGBA"), ("c.jpg", "RGB"), ("d.bmp", "RGB"),
                           ("e.jpeg", "L"), ("f.png", "P")):  # fmt: skip
            self.pictures.append(base / "pictures" / name)
            self.pictures[-1].parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).resize((50, 41)).convert(mode).save(self.pictures[-1])
        self.pictures.append(base / "pictures" / "g.npy")
        np.save(self.pictures[-1], rng.random((3, 32, 32, 1)).astype(np.float32))
        self.kinds = (self.a_model, self.a_run, self.a_picture)

    def step(self, kind=None):
        (kind or self.chance.choices(self.kinds, (6, 1, 3))[0])()

    def scored(self, *options) -> list[dict]:
        result = self.cli("score", *options, self.picture)
        assert result.exit_code == 0, result.stderr
        return list(csv.DictReader(io.StringIO(result.stdout)))

    def use(self, *command):
        """Runs a command: success, or one sentence. An exception fails in the `cli` fixture."""
        result = self.cli(*command)
        assert result.exit_code in (0, 1), (command, result.stderr)
        if result.exit_code == 1:
            assert result.stdout in ("", "path,score,threshold,is_anomaly\n"), command
            lines = result.stderr.splitlines()
            assert len(lines) == 1, result.stderr
            assert lines[0].startswith("Error: "), result.stderr
            assert len(lines[0]) < 1000
        return result

    def damaged(self, path, name, use):
        """Damages one file, has it used, mends it; counts what came of it."""
        good, damage = path.read_bytes(), self.chance.choice(DAMAGES)
        bad = damage(good, self.chance)
        path.write_bytes(bad)
        try:
            outcome = use() if bad != good else "unharmed"
        except BaseException as error:
            error.add_note(f"{path}: {damage.__name__}, {len(good)} -> {len(bad)} bytes")
            error.add_note(repr(bad[:300]))
            raise
        finally:
            path.write_bytes(good)
        self.seen[f"{name} {damage.__name__}: {outcome}"] += 1

    def a_model(self):
        which = self.chance.choice(ALL)
        path = self.models[which]
        folder = path if path.is_dir() else path.parent
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in DOCUMENTS]
        chosen = self.chance.choice(files)
        is_record = chosen.suffix == ".json"

        def use():
            result = self.use("score", "--model", path, self.picture)
            if result.exit_code:
                return "refused"
            # Only what people read in the record may differ without being noticed.
            assert is_record
            assert list(csv.DictReader(io.StringIO(result.stdout))) == self.good[which]
            return "same answer"

        self.damaged(chosen, f"{which} {'record' if is_record else 'model'}", use)

    def a_run(self):
        files = [path for path in sorted(self.run.glob("*")) if path.is_file()]
        chosen = self.chance.choice(files)
        command = self.chance.choice(RUN_COMMANDS if chosen.name in DETECTOR else RUN_COMMANDS[:2])
        kept = {path: path.read_bytes() for path in files if path != chosen}

        def use():
            paths = (self.picture,) if command == ("score",) else ()
            result = self.use(*command, "--run", self.run, *paths)
            if result.exit_code:
                return "refused"
            assert chosen.name not in ("weights.npz", "config.yaml")
            if command == ("score",):
                [row] = csv.DictReader(io.StringIO(result.stdout))
                assert row["score"] == self.good["run"][0]["score"]
            return "answered"

        try:
            self.damaged(chosen, f"run {chosen.name}", use)
        finally:
            for path, data in kept.items():
                if path.read_bytes() != data:  # calibrate rewrites two of them
                    path.write_bytes(data)

    def a_picture(self):
        chosen = self.chance.choice(self.pictures)
        skip = self.chance.choice(((), ("--skip-bad",)))
        which = self.chance.choice(("onnx", "tflite"))
        scorer = self.scorers[which]

        def use():
            from lisae_tf.commands.score import scored_rows
            from lisae_tf.core.errors import LisaeError

            try:
                rows = list(scored_rows(scorer, scorer.threshold, (chosen,), bool(skip)))
            except LisaeError as error:
                assert "\n" not in str(error)
                return "refused"
            assert all(np.isfinite(row["score"]) for row in rows)
            return f"{len(rows)} scored"

        self.damaged(chosen, f"picture {chosen.suffix}", use)

    @property
    def scorers(self):
        from lisae_tf.exported.runtimes import open_model

        if not hasattr(self, "_scorers"):
            self._scorers = {w: open_model(self.models[w]) for w in ("onnx", "tflite")}
        return self._scorers


@pytest.fixture
def harm(models, run, tmp_path, cli):
    return Harm(models, run, tmp_path / "harm", cli)


def memory() -> int:
    """Resident bytes of this process, without what only awaits collection."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("kind", ["a_model", "a_run", "a_picture"])
def test_damaged_files_get_one_sentence_or_give_the_same_answer(kind, harm):
    for _ in range(60):
        harm.step(getattr(harm, kind))
    assert any("refused" in each for each in harm.seen)


@pytest.mark.slow("ten thousand files; sixty of each kind are damaged above")
def test_ten_thousand_damaged_files(harm, measured):
    held = []
    for count in range(FILES):
        if count % SETTLED == 0:
            held.append(memory())
        faulthandler.dump_traceback_later(HANG, exit=True)
        harm.step()
    faulthandler.cancel_dump_traceback_later()
    held.append(memory())
    assert held[-1] - held[1] < GROWTH
    mib = [each >> 20 for each in held]
    measured(files=FILES, memory_mib_after_each=SETTLED, memory_mib=mib, outcomes=harm.seen)
