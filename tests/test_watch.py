"""`watch`: each picture is scored once, whole, and told of, whatever is killed in between."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import pytest
import watch_fixtures
from conftest import CHECKOUT, assert_one_sentence
from PIL import Image
from pyarrow import parquet
from watch_fixtures import ALPHA, FAST, SIDE, Toy, picture, rows, watch

from lisae_tf.core.errors import LisaeError
from lisae_tf.exported import score_files
from lisae_tf.watching import tables, watcher
from lisae_tf.watching.arrivals import Arrival, Arrivals
from lisae_tf.watching.journal import Journal, Row
from lisae_tf.watching.watcher import Settings, Watcher

folder, out = watch_fixtures.folder, watch_fixtures.out


# Once, and as `score` writes it


def test_each_picture_has_one_row_whoever_looks_again(folder, out):
    said = []
    done = watch(folder, out, say=said.append)
    assert (done.normal, done.anomaly, done.unreadable, done.waiting) == (8, 2, 1, 0)
    found = {Path(row["path"]).name: row for row in rows(out)}
    assert len(found) == len(rows(out)) == 11
    assert found["9.png"]["is_anomaly"] == "true" and found["0.png"]["is_anomaly"] == "false"
    assert float(found["3.png"]["score"]) == pytest.approx(63 / 255)
    assert found["bad.png"]["score"] == "" and "not a readable" in found["bad.png"]["reason"]
    assert {row["model_sha256"] for row in found.values()} == {"1"}
    assert all(row["time"].endswith("+00:00") for row in found.values())
    (line,) = said
    assert line.startswith("left out: ") and "bad.png" in line
    before = out.read_bytes()
    assert watch(folder, out, say=said.append).scored == 0
    assert out.read_bytes() == before and len(said) == 1
    assert len(score_files.read(out)) == 10


def test_another_content_is_another_picture(folder, out):
    watch(folder, out)
    picture(folder / "bad.png", 61)
    picture(folder / "0.png", 250)
    done = watch(folder, out)
    assert (done.scored, done.unreadable) == (2, 0)
    last = {Path(row["path"]).name: row["is_anomaly"] for row in rows(out)[-2:]}
    assert last == {"bad.png": "false", "0.png": "true"}


def test_file_names_need_not_be_utf_8(folder, out):
    os.rename(folder / "sub" / "9.png", os.fsencode(folder) + b"/a,\xff\n.png")
    assert watch(folder, out).anomaly == 2
    paths = score_files.TEXT | {"mode": "r"}
    with open(out, **paths) as stream:
        names = [row["path"] for row in csv.DictReader(stream)]
    assert os.fsencode(folder) + b"/a,\xff\n.png" in map(os.fsencode, names)
    watch(folder, out)
    assert len(names) == 11


# Whole files alone


def test_a_file_counts_when_it_stays_what_it_is(tmp_path):
    now = [0.0]
    arrivals = Arrivals(tmp_path, 1.0, lambda arrival: False, lambda: now[0])
    growing = tmp_path / "a.png"
    for size in (1, 2, 3):
        growing.write_bytes(bytes(size))
        os.utime(growing, ns=(0, 0))  # the clock of a share may stand
        assert arrivals.look() == []
        now[0] += 0.9
    for name in (".a.png", "b.png.part", "b.part.png", "c.tmp", "d.TMP.png", "e.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".hidden").mkdir()
    picture(tmp_path / ".hidden" / "f.png")
    now[0] += 0.1
    (found,) = arrivals.look()
    assert found == Arrival(str(growing), 3, 0) and found.read() == bytes(3)
    os.rename(tmp_path / "b.png.part", tmp_path / "b.png")
    arrivals.finish(found)
    assert arrivals.look() == [] and arrivals.waiting == 1
    now[0] += 1
    (renamed,) = arrivals.look()
    assert renamed.path.endswith("/b.png")
    growing.unlink()
    (tmp_path / "b.png").unlink()
    assert arrivals.look() == [] and arrivals.waiting == 0


def test_what_is_another_file_by_now_is_not_read(tmp_path):
    path = picture(tmp_path / "a.png")
    status = path.stat()
    seen = Arrival(str(path), status.st_size, status.st_mtime_ns)
    assert seen.read() == path.read_bytes()
    path.write_bytes(path.read_bytes() + b"more")
    assert seen.read() is None
    path.unlink()
    assert seen.read() is None
    os.mkfifo(path)
    assert seen.read() is None


def test_a_file_that_cannot_be_read_just_now_is_not_given_up(folder, out, monkeypatch):
    said, read = [], Arrival.read

    def refused(arrival):
        if arrival.path.endswith("0.png"):
            raise PermissionError(13, "Permission denied")
        return read(arrival)

    monkeypatch.setattr(Arrival, "read", refused)
    done = watch(folder, out, say=said.append)
    assert (done.scored, done.waiting) == (9, 1)
    assert any("0.png cannot be read (Permission denied); it is tried again" in s for s in said)
    monkeypatch.undo()
    assert watch(folder, out).scored == 1


def test_a_folder_that_is_away_for_a_while_is_waited_for(folder, out):
    said = []
    watching = Watcher(folder, Toy(), out, FAST, said.append)
    away = folder.rename(folder.with_name("away"))

    def back():
        while not said:
            time.sleep(0.01)
        away.rename(folder)
        while len(rows(out)) < 11:
            time.sleep(0.01)
        watching.stop()

    thread = threading.Thread(target=back, daemon=True)
    thread.start()
    assert watching.run().scored == 10
    thread.join()
    assert "cannot be read (No such file" in said[0] and "can be read again" in said[1]


# Killed


def killed(function, where, name, call, *, half=False):
    """Runs it in another process, which ends as by kill -9 at that call of a method.

    Half of the data of that call is written.
    """
    if (child := os.fork()) == 0:
        calls, real = [], getattr(where, name)

        def fatal(self, data, *rest, **more):
            calls.append(1)
            if len(calls) == call:
                if half:
                    real(self, data[: len(data) // 2], *rest)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, data, *rest, **more)

        setattr(where, name, fatal)
        try:
            function()
        finally:
            os._exit(0)  # it was to be killed before
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("where", "name", "call", "half", "written"),
    [
        (Journal, "add", 1, False, 0),
        (Journal, "add", 2, False, 4),
        (tables.Csv, "_write", 1, True, None),
        (tables.Csv, "_write", 2, False, 0),
        (tables.Csv, "_write", 3, True, None),
        (Arrivals, "finish", 2, False, 4),
    ],
)
def test_after_a_kill_each_row_is_there_once(
    where, name, call, half, written, folder, out, tmp_path, monkeypatch
):
    monkeypatch.setattr(watcher, "_BATCH", 4)
    watch(folder, tmp_path / "undisturbed.csv")
    killed(lambda: watch(folder, out), where, name, call, half=half)
    seen = out.read_bytes()
    assert written is None or seen.count(b"\n") == 1 + written
    assert not half or not seen.endswith(b"\n")
    watch(folder, out)
    assert out.read_bytes().startswith(seen)  # nothing is taken back
    assert len(rows(out)) == 11
    keys = ("path", "score", "threshold", "is_anomaly", "reason", "model_sha256")
    undisturbed = rows(tmp_path / "undisturbed.csv")
    for key in keys:
        assert sorted(r[key] for r in rows(out)) == sorted(r[key] for r in undisturbed)


def test_a_full_disk_is_one_sentence_and_the_next_start_goes_on(folder, out, monkeypatch):
    monkeypatch.setattr(watcher, "_BATCH", 4)
    write, calls = tables.Csv._write, []

    def full_after_half(self, data, *rest):
        calls.append(1)
        if len(calls) == 3:
            write(self, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        write(self, data, *rest)

    monkeypatch.setattr(tables.Csv, "_write", full_after_half)
    with pytest.raises(LisaeError, match="No space left on device"):
        watch(folder, out)
    monkeypatch.setattr(tables.Csv, "_write", write)
    watch(folder, out)
    assert len(rows(out)) == len({row["path"] for row in rows(out)}) == 11


# Parts


def test_parts_hold_the_rows_of_the_csv(folder, out, tmp_path):
    settings = Settings(settle=0, window=0, parts=tmp_path / "parts", part_size=4)
    watch(folder, out, settings)
    picture(folder / "new.png")
    watch(folder, out, settings)
    found = [parquet.read_table(path) for path in sorted((tmp_path / "parts").iterdir())]
    assert [len(table) for table in found] == [4, 4, 3, 1]
    told = [row for table in found for row in table.to_pylist()]
    assert [row["path"] for row in told] == [row["path"] for row in rows(out)]
    assert [row["time"] for row in told] == [row["time"] for row in rows(out)]
    assert len(score_files.read(tmp_path / "parts")) == 11
    with pytest.raises(LisaeError, match="no part of this watcher; name another folder"):
        watch(folder, tmp_path / "other.csv", settings)


# Anomalies


@pytest.mark.parametrize("link", [False, True])
def test_anomalies_are_kept_with_their_errors(link, folder, out, tmp_path):
    place = tmp_path / "anomalies"
    watch(folder, out, Settings(settle=0, window=0, anomalies=place, link=link))
    names = sorted(path.name.rpartition("-")[0] for path in place.iterdir())
    copies = [path for path in place.iterdir() if not path.name.endswith("-errors.png")]
    assert len(names) == 4 and len(copies) == 2
    for path in copies:
        own = next(folder.rglob(path.name[0] + ".png"))
        assert path.read_bytes() == own.read_bytes()
        assert path.samefile(own) == link
        with Image.open(path.with_name(path.stem + "-errors.png")) as drawn:
            assert drawn.size == (SIDE, SIDE) and drawn.mode == "RGB"


# Bad input


def test_one_watcher_and_one_model_for_each_file(folder, out):
    held = Watcher(folder, Toy(), out, FAST)
    with pytest.raises(LisaeError, match="another watcher writes to"):
        watch(folder, out)
    held.run(once=True)
    before = out.read_bytes()
    with pytest.raises(LisaeError, match="begun with another model or threshold; name another"):
        watch(folder, out, model=Toy("2"))
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda out: out.write_text("path,score\n"), "not as watch left it; restore it"),
        (lambda out: out.write_bytes(out.read_bytes() + b"more\n"), "not as watch left it"),
        (lambda out: tables.journal_path(out).unlink(), "scores.csv.journal beside it is gone"),
        (lambda out: tables.journal_path(out).write_text("x" * 999), "damaged or no journal"),
    ],
)
def test_files_that_others_have_changed_are_refused(spoil, said, folder, out):
    watch(folder, out)
    spoil(out)
    before = out.read_bytes()
    with pytest.raises(LisaeError, match=said):
        watch(folder, out)
    assert out.read_bytes() == before


def test_a_csv_that_was_moved_away_is_begun_anew(folder, out):
    watch(folder, out)
    out.rename(out.with_name("old.csv"))
    picture(folder / "new.png")
    watch(folder, out)
    assert [Path(row["path"]).name for row in rows(out)] == ["new.png"]
    assert len(rows(out.with_name("old.csv"))) == 11


@pytest.fixture(scope="module")
def exported(trained, cli, tmp_path_factory):
    """`exported(kind)` is the tiny run as ONNX or TFLite."""

    @cache
    def export(kind: str) -> Path:
        place = tmp_path_factory.mktemp(kind)
        with contextlib.chdir(trained):
            given = ("--out", place, "--name", "watched", "--format", kind)
            result = cli("export", "--run", "runs/normal-lis-seed0", *given)
        assert result.exit_code == 0, result.output
        return next(place.rglob(f"model.{kind}"))

    return export


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("nowhere",), "the folder nowhere does not exist"),
        (("normal/000.png",), "is no folder"),
        (("normal", "--model", "runs/normal-lis-seed0"), "is a run and no exported model; make"),
        (("normal", "--out", "normal"), "normal is a folder; name a CSV file"),
        (("normal", "--out", "normal/000.png"), "was not begun by watch"),
        (("normal", "--out", "normal/000.png/x.csv"), "cannot write"),
        (("normal", "--anomalies", "normal/bad"), "lies in the watched folder"),
        (("normal", "--parts", "normal/000.png"), "another folder with --parts"),
        (("normal", "--link"), "--link belongs to --anomalies"),
        (("normal", "--on-anomaly", "no-such-command {path}"), "no-such-command is no command"),
        (("normal", "--on-anomaly", "echo {paht}"), "knows no {paht}; it fills in {id}"),
        (("normal", "--on-drift", "echo 'x"), "cannot be split into words"),
        (("normal", "--post", "ftp://x/y"), "give an address as http://"),
        (("normal", "--post", "http://x:y/"), "give an address as http://"),
        (("normal", "--window", "5"), "--window 5 is too small"),
    ],
)
def test_bad_input_is_one_sentence(options, words, workplace, exported, cli):
    given = {"--model": exported("onnx"), "--out": "scores.csv"}
    more = [each for name, value in given.items() if name not in options for each in (name, value)]
    assert_one_sentence(cli("watch", *options, *more, "--once"), words)
    assert not Path("scores.csv").exists() or Path("scores.csv").read_text().count("\n") <= 1


# The command itself

LIGHT = """
import sys
from lisae_tf.cli import main
try:
    main(sys.argv[1:])
finally:
    print(sorted({name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras"}))
"""


@pytest.mark.parametrize(
    "which",
    [
        "onnx",
        pytest.param("tflite", marks=pytest.mark.slow("another runtime behind the same watch")),
    ],
)
def test_a_device_scores_as_score_does_until_it_is_told_to_end(which, exported, workplace, cli):
    model = exported(which)
    command = [sys.executable, "-c", LIGHT, "watch", "normal", "--model", str(model),
               "--out", "scores.csv", "--settle", "0"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    ) as process:  # fmt: skip
        assert process.stdout.readline().startswith("watching normal: threshold ")
        while not Path("scores.csv").exists() or len(rows("scores.csv")) < 50:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM if which == "onnx" else signal.SIGINT)
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    last, heavy = output.splitlines()
    assert last.startswith("scored 50 pictures: ") and heavy == "[]"
    expected = cli("score", "normal", "--model", model).stdout.splitlines()
    found = {Path(row["path"]).name: row for row in rows("scores.csv")}
    for row in csv.DictReader(expected):
        own = found[Path(row["path"]).name]
        assert float(own["score"]) == pytest.approx(float(row["score"]), rel=1e-5)
        assert (own["threshold"], own["is_anomaly"]) == (row["threshold"], row["is_anomaly"])


def test_a_line_that_was_torn_anywhere_is_completed(tmp_path, out):
    journal = Journal(tables.journal_path(out), "1")
    made = [Row(0, bytes([n]), f"/ä{n}.png", n / 7, n > 1, "now", None) for n in range(3)]
    table = tables.Csv(journal, out, ALPHA, "1")
    journal.add(made, [])
    table.append()
    table.close()
    whole = out.read_bytes()
    for length in range(0, len(whole) + 1, 9):
        out.write_bytes(whole[:length])
        journal.keep(csv=(0, 0))
        tables.Csv(journal, out, ALPHA, "1").close()
        assert out.read_bytes() == whole
    journal.close()
