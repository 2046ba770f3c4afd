"""What a stored run says stays true: a file that was altered or is another run's is noticed."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, assert_one_sentence, contents

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json, write_json
from lisae_tf.core.thresholds import set_by_hand
from lisae_tf.exported.model_record import metadata_of
from lisae_tf.runs import files as run_files
from lisae_tf.runs import folders as runs
from lisae_tf.training.convergence import ResumePoint

RUN = Path("runs/normal-lis-seed0")
FOLDERS = ("--normal-dir", "normal", "--negative-dir", "negative", "--anomaly-dir", "anomaly")
FILES = (
    "config.yaml", "detector.json", "digests.json", "earlier_threshold.npz", "history.json",
    "manifest.jsonl", "metrics.json", "scores.npz", "weights.npz", "figures/error_maps.png",
    "figures/score_histograms.png",
)  # fmt: skip
COMMANDS = {
    "evaluate": ("evaluate", "--run", RUN),
    "calibrate": ("calibrate", "--run", RUN, "--fpr", "0.2"),
    "undo": ("calibrate", "--run", RUN, "--undo"),
    "report": ("report", "--run", RUN, "--out", "report.html"),
    "export": ("export", "--run", RUN),
    "score": ("score", "--run", RUN, "anomaly"),
    "parts": ("score", "--run", RUN, "anomaly", "--parts", "parts"),
    "continue": ("train", "--continue", RUN, "--normal-dir", "anomaly", "--out", "next"),
    "monitor": ("monitor", "--run", RUN, "--scores", "scores.csv"),
}


@pytest.fixture(scope="module")
def calibrated(drawn_figures, trained, tmp_path_factory, cli):
    """A working folder with a run that was calibrated, and another run in `other`."""
    base = tmp_path_factory.mktemp("calibrated") / "base"
    shutil.copytree(trained, base)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        assert cli("calibrate", "--fpr", "0.3").exit_code == 0
        told = cli("train", *FOLDERS, *QUICK, "--seed", "1", "--quiet", "--out", "other")
        assert told.exit_code == 0, told.stderr
        assert cli("calibrate", "--run", "other", "--fpr", "0.2").exit_code == 0
        assert cli("score", "--run", RUN, "normal", "--out", "scores.csv").exit_code == 0
    return base


@pytest.fixture
def two_runs(calibrated, tmp_path, monkeypatch):
    """A copy of `calibrated` to spoil, as the working folder."""
    shutil.copytree(calibrated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def another_digit(data: bytes, chance=random) -> bytes:
    """The same with one digit changed, or with one byte where there is none."""
    at = [k for k, byte in enumerate(data) if chr(byte).isdigit()] or range(len(data))
    place = chance.choice(at)
    changed = data[place] ^ 1  # of a digit another digit
    return data[:place] + bytes([changed]) + data[place + 1 :]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_altered_stops_every_command(name, two_runs, cli):
    path = RUN / name
    good, other = path.read_bytes(), Path("other", name).read_bytes()
    assert good != other
    before = contents(".")
    for bad in (another_digit(good), good[:-9], other, None):
        path.unlink() if bad is None else path.write_bytes(bad)
        for command in COMMANDS.values():
            if bad is None and name == "digests.json":
                continue  # a run of an earlier version
            result = cli(*command)
            assert_one_sentence(result, str(RUN), "restore", "train again")
            assert result.stdout == ""
        path.write_bytes(good)
    assert contents(".") == before


def test_a_file_that_another_run_brings_in_is_noticed(two_runs, cli):
    """A run that was never calibrated has nothing to undo, wherever its file comes from."""
    run_files.record(RUN)
    stamps = read_json(RUN / "digests.json")
    del stamps["earlier_threshold.npz"]
    write_json(RUN / "digests.json", stamps)
    assert_one_sentence(cli(*COMMANDS["undo"]), f"{RUN}/earlier_threshold.npz")


def test_a_run_of_an_earlier_version_is_taken_with_a_word(two_runs, cli):
    (RUN / "digests.json").unlink()
    for command in (COMMANDS["score"], COMMANDS["calibrate"]):
        result = cli(*command)
        assert result.exit_code == 0
        assert "kept no digests of its files" in result.stderr
    result = cli(*COMMANDS["score"])  # as it was calibrated
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("name", ["config.yaml", "manifest.jsonl", "digests.json"])
def test_an_interrupted_run_is_resumed_as_it_was(name, two_runs, cli):
    Path("begun").mkdir()
    for kept in ("config.yaml", "manifest.jsonl"):
        shutil.copy(RUN / kept, Path("begun", kept))
    run_files.record(Path("begun"))
    path = Path("begun", name)
    path.write_bytes(another_digit(path.read_bytes()))
    result = cli("train", *FOLDERS, *QUICK, "--quiet", "--out", "begun", "--resume")
    assert_one_sentence(result, "begun")
    assert not Path("begun/metrics.json").exists()


def test_the_checkpoint_of_another_run_is_not_resumed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(name)
    ResumePoint(tmp_path / "a" / "checkpoint.npz").save()
    assert ResumePoint.load(tmp_path / "a" / "checkpoint.npz").phase == 1
    shutil.copy(tmp_path / "a" / "checkpoint.npz", tmp_path / "b")
    with pytest.raises(LisaeError, match=r"b/checkpoint\.npz is another run's"):
        ResumePoint.load(tmp_path / "b" / "checkpoint.npz")


# One step


class Killed(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize("after", range(9))
def test_a_change_that_is_cut_short_is_made_or_not_made(after, tmp_path, monkeypatch):
    """However many files were renamed: three are written with the digests, and then moved."""
    old = {"config.yaml": "a", "metrics.json": "b", "figures/x.png": "c"}
    (tmp_path / "figures").mkdir()
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    run_files.record(tmp_path)
    calls = []

    def killing(rename):
        def call(*paths):
            if len(calls) == after:
                raise Killed
            calls.append(paths)
            rename(*paths)

        return call

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, killing(getattr(os, name)))
    cut = pytest.raises(Killed) if after < 6 else contextlib.nullcontext()
    with cut, run_files.changing(tmp_path) as staged:
        (staged / "figures").mkdir()
        for name in old:
            (staged / name).write_text("new")
    monkeypatch.undo()
    with run_files.writing(tmp_path):
        assert run_files.check(tmp_path)
    found = {(tmp_path / name).read_text() for name in old}
    assert found == ({"new"} if after > 1 else {"a", "b", "c"})
    assert contents(tmp_path).keys() == old.keys() | {"digests.json"}


def test_whoever_looks_while_files_are_replaced_finds_them_whole(tmp_path):
    names = ("config.yaml", "detector.json", "metrics.json")
    for name in names:
        (tmp_path / name).write_text("0")
    run_files.record(tmp_path)

    def change():
        for number in range(1, 40):
            with run_files.writing(tmp_path), run_files.changing(tmp_path) as staged:
                for name in names:
                    (staged / name).write_text(str(number))

    writer = threading.Thread(target=change)
    writer.start()
    while writer.is_alive():
        assert run_files.check(tmp_path)
    writer.join()
    assert {(tmp_path / name).read_text() for name in names} == {"39"}


def test_calibrate_changes_all_or_nothing(two_runs, cli, monkeypatch):
    before, files = runs.read_metrics(RUN), contents(RUN)
    rename = os.rename

    def killed(*paths):
        raise Killed

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(Killed):
        cli(*COMMANDS["calibrate"])
    assert contents(RUN) == files

    def too_late(*paths):
        rename(*paths)
        monkeypatch.setattr(os, "replace", killed)

    monkeypatch.setattr(os, "rename", too_late)
    with pytest.raises(Killed):
        cli(*COMMANDS["calibrate"])
    monkeypatch.undo()
    monkeypatch.chdir(Path(two_runs))
    assert cli(*COMMANDS["monitor"]).stderr == ""
    after = runs.read_metrics(RUN)
    assert after["threshold"] != before["threshold"]
    assert read_json(RUN / "detector.json")["threshold"]["alpha"] == after["threshold"]
    assert contents(RUN).keys() == files.keys()


# Two at once


def test_one_command_at_a_time_writes_to_a_run(two_runs, cli):
    files = contents(".")
    with run_files.writing(RUN):
        for name in ("calibrate", "undo"):
            assert_one_sentence(cli(*COMMANDS[name]), "another command is writing", "wait until")
        assert cli(*COMMANDS["score"]).exit_code == 0
    begun = Path("begun")
    runs.claim(begun, (RUN / "config.yaml").read_text(), resume=False)
    resume = ("train", *FOLDERS, *QUICK, "--quiet", "--out", begun, "--resume")
    with run_files.writing(begun):
        assert_one_sentence(cli(*resume), "another command is writing to begun")
    shutil.rmtree(begun)
    assert contents(".") == files


def test_the_kernel_lets_go_of_a_run_whose_writer_was_killed(tmp_path):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from lisae_tf.runs import files as run_files\n"
        "with run_files.writing(Path(sys.argv[1])):\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        with pytest.raises(LisaeError, match="another command is writing"):
            run_files.refuse_busy(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
    run_files.refuse_busy(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_next_writer_removes_what_a_killed_one_left_half_written(tmp_path):
    (tmp_path / "figures").mkdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    left = [f".checkpoint.{gone.pid}.npz", f"figures/.scores.{gone.pid}.png"]
    kept = [f".scores.{os.getpid()}.npz", "checkpoint.npz", ".notes.txt", f"run.{gone.pid}.csv"]
    for name in (*left, *kept):
        (tmp_path / name).write_text("half")
    with run_files.writing(tmp_path):
        pass
    assert set(contents(tmp_path)) == set(kept)


def test_sigterm_leaves_no_half_written_file(two_runs):
    """As a service that is stopped, or a job at the end of its time."""
    script = (
        "import signal, time\n"
        "from types import SimpleNamespace\n"
        "from lisae_tf import cli\n"
        "from lisae_tf.commands import score\n"
        "from lisae_tf.exported import runtimes\n"
        "runtimes.open_model = lambda path: SimpleNamespace(threshold=1)\n"  # needs no TensorFlow
        "def slowly(rows, stream, *rest):\n"
        "    stream.write('path')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(600)\n"
        "score.write_rows = slowly\n"
        "cli.main(['score', '--model', 'model.onnx', 'anomaly', '--out', 's.csv'])\n"
    )
    before = contents(".")
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        assert [path.name for path in Path().glob(".s.*.csv")] == [f".s.{process.pid}.csv"]
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
    assert contents(".") == before


# A threshold set by hand


def test_a_threshold_set_by_hand_is_said_to_guarantee_nothing(two_runs, cli):
    before = runs.read_metrics(RUN)
    result = cli("calibrate", "--run", RUN, "--threshold", "0.02")
    assert (result.exit_code, result.stderr) == (0, "")
    after, lines = runs.read_metrics(RUN), result.stdout.splitlines()
    assert lines[0].endswith("-> 0.02: set by hand, which guarantees nothing of new pictures")
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "normal test pictures above it", "anomalies found",
    ]  # fmt: skip
    stored = runs.read_scores(RUN)
    called = stored["test"] > 0.02
    assert after["threshold"] == 0.02
    assert after["false_positive_rate"] == called[~stored["is_anomaly"]].mean()
    assert after["threshold_guaranteed_fpr"] is after["threshold_requested_fpr"] is None
    assert after["chance_of_false_alarms"] is None
    assert ",0.02," in cli(*COMMANDS["score"]).stdout
    assert cli(*COMMANDS["report"]).exit_code == 0
    text = Path("report.html").read_text()
    assert "The threshold is 0.02, set by hand: it guarantees nothing" in text
    assert "with\nprobability at most" not in text
    assert json.loads(cli(*COMMANDS["evaluate"]).stdout)["threshold_guaranteed_fpr"] is None
    assert "of normal pictures" in cli(*COMMANDS["monitor"]).stdout
    assert cli(*COMMANDS["undo"]).exit_code == 0
    assert runs.read_metrics(RUN) == before
    assert cli(*COMMANDS["undo"]).exit_code == 0
    assert runs.read_metrics(RUN) == after


def test_an_export_says_that_its_threshold_was_set_by_hand():
    from export.model_card import model_card

    by_hand = set_by_hand(0.02, np.ones(3)).to_json()
    record = {"metadata": {}, "version": 1, "threshold": by_hand}
    assert metadata_of(record)["threshold_false_positive_rate"] == "set by hand"
    texts = dict.fromkeys(("paper", "input", "channel_order", "input_range", "description"), "x")
    card = model_card(
        record | {"metadata": texts, "name": "n", "kind": "onnx", "variant": "lis", "seed": 0,
                  "config_hash": "x", "metrics": {}, "parent": {"version": 0, "sha256": "x"},
                  "data": {"dataset": "d", "normal": ["a"], "negatives": "b", "protocol": "c"}},
        None,
    )  # fmt: skip
    assert "0.02, set by hand: it guarantees nothing of new pictures. It is a default" in card
    assert "probability at most" not in card
