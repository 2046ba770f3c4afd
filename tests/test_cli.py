"""The command line: options, what `train` says at its end, messages that say what can be done."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import CHECKOUT, QUICK, assert_one_sentence, contents
from test_files import NOT_WRITABLE, full

from lisae_tf import cli as command_line
from lisae_tf.commands.train import closing_lines
from lisae_tf.config.settings import read_settings, resolve
from lisae_tf.core.errors import LisaeError, install
from lisae_tf.core.files import cannot_write
from lisae_tf.data import picture_files
from lisae_tf.evaluation.verdict import verdict
from lisae_tf.experiments import experiment
from lisae_tf.experiments.settling import settle
from lisae_tf.runs import folders as runs

RUN = Path("runs/normal-lis-seed0")
FOLDERS = ("--normal-dir", "normal", "--negative-dir", "negative")
# `train` options as QUICK, without a network.
SOLVED = (*FOLDERS[2:], "--variant", "linear-lis", *QUICK[:8])


# Bad input: what is refused stands in test_mistakes


def test_missing_data_is_one_sentence_and_no_run(workplace, cli, monkeypatch):
    monkeypatch.setattr("lisae_tf.data.datasets._online", lambda: False)
    for name, arguments in (
        ("kmnist", ("--dataset", "kmnist")),
        ("omniglot", ("--protocol", "one-class", "--negatives", "omniglot")),
    ):
        result = cli("train", *arguments, "--data-dir", "normal", "--out", "new", "--quiet")
        assert_one_sentence(result, f"the dataset '{name}' is not in normal", "--data-dir")
    assert not Path("new").exists()


@pytest.mark.parametrize("place", NOT_WRITABLE)
def test_an_output_folder_that_cannot_be_written_is_one_sentence(place, workplace, cli):
    Path("file").touch()
    result = cli("train", *FOLDERS, *QUICK, "--out", place, "--quiet")
    assert_one_sentence(result, f"cannot write {place}", "name another folder with --out")


@pytest.mark.parametrize("written", [0, 1, 2, 4, 9])
def test_a_disk_that_fills_up_leaves_no_run_that_looks_complete(
    written, workplace, cli, monkeypatch
):
    """The disk is full after so many files: none, settings, pictures, checkpoints, weights."""
    before, room = contents(RUN), iter(range(written))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: full() if next(room, None) is None else None)
        result = cli("train", *FOLDERS, *QUICK, "--out", "new", "--quiet")
    assert_one_sentence(result, "cannot write new/", "No space left on device")
    # Settings alone are no run: with the first checkpoint there is something to resume.
    assert Path("new").exists() == (written > 2)
    if written > 2:
        assert not list(Path("new").glob(".*"))
        assert_one_sentence(cli("score", "normal", "--run", "new"), "is not complete", "--resume")
    assert contents(RUN) == before
    assert Path("runs/last").read_text() == f"{RUN}\n"


def test_skip_bad_trains_on_the_rest_and_names_what_it_left_out(bad_places, cli):
    result = cli("train", "--normal-dir", "corrupt", *SOLVED, "--out", "new", "--skip-bad")
    assert result.exit_code == 0, result.stderr
    metrics = runs.read_metrics(Path("new"))
    assert any("left out: corrupt/031.jpg" in note for note in metrics["notes"])
    assert "note: left out: corrupt/031.jpg" in result.stdout


# Run folders


def test_a_run_tells_what_happened_and_what_to_type_next(workplace, cli):
    result = cli("train", *FOLDERS[:2], *SOLVED, "--out", "new", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "no anomalies to test on" in result.stdout
    assert "no measure of anomalies" in result.stdout
    *_, last = result.stdout.splitlines()
    assert last == "next: python cli.py score --run new YOUR_PICTURES"
    metrics = runs.read_metrics(Path("new"))
    assert [metrics[key] for key in ("auroc", "auroc_phase1", "average_precision")] == [None] * 3
    assert 0 <= metrics["auroc_negatives"] <= 1
    assert not (RUN / "checkpoint.npz").exists()


def test_the_record_of_a_run_is_complete_and_its_configuration_starts_the_same_run(workplace):
    metrics = runs.read_metrics(RUN)
    assert metrics.keys() >= {
        "auroc", "auroc_phase1", "auroc_negatives", "average_precision", "fpr_at_95_tpr",
        "threshold", "false_positive_rate", "detection_rate", "n_normal", "n_anomaly", "seconds",
        "dataset", "normal", "negatives", "protocol", "variant", "seed", "version", "config_hash",
    }  # fmt: skip
    assert metrics["n_anomaly"] == 9
    settled, _ = settle({}, RUN / "config.yaml", [])
    assert settled == resolve(read_settings(RUN / "config.yaml"))
    assert settled.digest() == metrics["config_hash"]


@pytest.mark.parametrize(
    "options, words",
    [((), "holds a complete run; name another folder with --out"),
     (("--resume",), "is complete, so there is nothing to resume")],
)  # fmt: skip
def test_a_finished_run_is_not_overwritten(options, words, workplace, cli, monkeypatch):
    before = contents(RUN)
    monkeypatch.setattr(experiment, "load", lambda *args, **how: pytest.fail("read pictures first"))
    given = ("--anomaly-dir", "anomaly", *QUICK, "--out", RUN, "--quiet", *options)
    assert_one_sentence(cli("train", *FOLDERS, *given), words)
    assert contents(RUN) == before


@pytest.mark.parametrize("exists", [True, False])
def test_resume_without_a_run_starts_afresh(exists, tmp_path):
    if exists:
        (tmp_path / "new").mkdir()
    runs.claim(tmp_path / "new", "seed: 0\n", resume=True)
    assert (tmp_path / "new" / "config.yaml").read_text() == "seed: 0\n"


def test_default_folders_are_numbered_unless_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a-2"):
        runs.claim(runs.RUNS / name, "seed: 0\n", resume=False)
    assert runs.default_folder("a", resume=False) == Path("runs/a-3")
    assert runs.default_folder("a", resume=True) == Path("runs/a-2")
    (runs.RUNS / "a-2" / "metrics.json").write_text("{}")
    assert runs.default_folder("a", resume=True) == Path("runs/a")
    (runs.RUNS / "a" / "metrics.json").write_text("{}")
    assert runs.default_folder("a", resume=True) == Path("runs/a")  # which says that it is complete
    assert runs.default_folder("b", resume=False) == Path("runs/b")


def test_a_training_that_is_stopped_says_how_it_goes_on(workplace, monkeypatch):
    def stop(*args, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run", stop)
    given = ("train", *FOLDERS, "--anomaly-dir", "anomaly", *QUICK, "--quiet")
    result = CliRunner().invoke(command_line.main, [*map(str, given)])
    assert result.exit_code == 1
    (folder,) = runs.RUNS.glob(f"{RUN.name}-*")
    assert folder == runs.default_folder(folder.name, resume=True)
    assert f"the same command with --resume --out {folder} goes on" in result.stderr
    assert (folder / "config.yaml").is_file() and folder != RUN


def test_without_run_the_last_completed_one_is_used(workplace, cli):
    runs.claim(Path("runs/interrupted"), "seed: 0\n", resume=False)
    assert runs.find_run(None) == RUN
    RUN.rename("runs/other")
    assert_one_sentence(cli("score", "anomaly"), "normal-lis-seed0 does not exist")
    runs.remember(Path("runs/other"))
    assert runs.find_run(None) == Path("runs/other")
    Path("runs/last").unlink()
    assert_one_sentence(cli("score", "anomaly"), "no completed run yet; train first")


# The process


def python(*arguments, **options):
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=environment, **settings)


def test_help_of_every_command_imports_nothing_heavy(tmp_path):
    script = (
        "import sys\n"
        "from lisae_tf.cli import main\n"
        "for name in ([], *([c] for c in sys.argv[1:])):\n"
        "    main([*name, '--help'], standalone_mode=False)\n"
        "print(*{m.partition('.')[0] for m in sys.modules}, file=sys.stderr)"
    )
    output, imported = python("-c", script, *command_line.COMMANDS, cwd=tmp_path).communicate()
    assert output.count("Usage:") == 1 + len(command_line.COMMANDS)
    heavy = {"tensorflow", "keras", "tensorflow_datasets", "sklearn", "matplotlib", "pydantic"}
    assert "click" in imported.split()
    assert not heavy & set(imported.split())


def test_a_reader_that_has_gone_is_no_error(workplace):
    script = (
        "import runpy, sys\n"
        "from types import SimpleNamespace\n"
        "import numpy as np\n"
        "from lisae_tf.exported import runtimes\n"
        "dark = lambda pixels: np.zeros(len(pixels))\n"
        "model = SimpleNamespace(shape=(12, 12, 3), depth=None, score=dark, threshold=1,\n"
        "                        mask_size=None)\n"
        "runtimes.open_model = lambda path: model\n"  # needs no TensorFlow
        "sys.argv = ['cli.py', 'score', 'normal', '--model', 'model.onnx']\n"
        f"runpy.run_path({str(CHECKOUT / 'cli.py')!r}, run_name='__main__')\n"
    )
    with python("-c", script) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_standard_output_on_a_full_disk_is_one_sentence(workplace, monkeypatch):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(click.ClickException, match="cannot write the scores: No space left"):
            command_line.main(["score", "normal"], standalone_mode=False)


METRICS = {
    "notes": [], "dataset": "surfaces", "normal": ["brick"], "variant": "lis",
    "auroc": 0.8, "auroc_phase1": 0.8,
    "n_normal": 60, "n_anomaly": 60, "threshold": 0.01, "detection_rate": 0.5,
    "false_positive_rate": 0.05, "threshold_requested_fpr": 0.05, "by_kind": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"auroc_phase1": 0.85}, True),
        ({"auroc_phase1": 0.805}, False),
        ({"auroc_phase1": 0.7}, False),
        ({"auroc_phase1": None}, False),
        ({"auroc_phase1": 0.85, "variant": "linsep"}, True),
        ({"auroc_phase1": 0.85, "variant": "anogan"}, False),  # has other phases
    ],
)
def test_what_phase_2_lost_is_said_with_a_way_out(changed, said, tmp_path):
    text = "\n".join(closing_lines(METRICS | changed, tmp_path))
    assert ("--variant ae" in text) == said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"normal_error_times": 4.2}, True),
        ({"normal_error_times": 4.2, "auroc": None, "auroc_negatives": None}, True),
        ({"normal_error_times": 1.3}, False),
        ({"normal_error_times": None}, False),
        ({}, False),  # of an earlier version
        ({"normal_error_times": 4.2, "variant": "anogan"}, False),
    ],
)
def test_normal_pictures_that_phase_2_spoiled_are_told(changed, said, tmp_path):
    text = "\n".join(closing_lines(METRICS | changed, tmp_path))
    word = "phase 2 raised the error of held-out normal pictures 4.2-fold"
    assert (word in text) == said


def test_an_auroc_comes_with_its_interval(tmp_path):
    few = METRICS | {"auroc": 1.0, "n_normal": 2, "n_anomaly": 9}
    text = "\n".join(closing_lines(few, tmp_path))
    assert "1.000 at the end (95 %: 0.540 to 1.000; 2 normal, 9 anomalies)" in text


FLAWS = {"dataset": "folder", "negatives": "synth:flaws", "variant": "linear-lis"}


@pytest.mark.parametrize(
    ("changed", "features", "first", "steps"),
    [
        ({"detection_rate": 0.9}, True,
         "verdict: finds 90.0 % of the anomalies at 5.0 % false alarms", []),
        ({"detection_rate": 0.815, "auroc": 0.983}, True, "verdict: finds 81.5 %",
         ["a lower threshold finds more, with more false alarms: calibrate --fpr 0.1"]),
        ({"detection_rate": 0.96, "auroc": 0.983}, True, "verdict: finds 96.0 %", []),
        ({"detection_rate": 0.6, "auroc": 0.983, "threshold_requested_fpr": 0.5}, True,
         "verdict: finds 60.0 %", []),
        ({"detection_rate": 0.035} | FLAWS, True, "verdict: misses more than half: finds 3.5 %",
         ["--variant lis-knn", "data.size", "--negative-dir"]),
        ({"detection_rate": 0.31, "false_positive_rate": 0.012} | FLAWS, True,
         "verdict: misses more than half: finds 31.0 % of the anomalies at 1.2 % false alarms",
         ["calibrate --fpr 0.1", "--variant lis-knn", "data.size", "--negative-dir"]),
        ({"detection_rate": 0.035} | FLAWS | {"variant": "lis-knn"}, True,
         "verdict: misses more than half: finds 3.5 %", ["data.size", "--negative-dir"]),
        ({"detection_rate": 0.4, "auroc": 0.95} | FLAWS, False, "verdict: misses more than half",
         ["calibrate --fpr 0.1", "--features none", "data.size", "--negative-dir"]),
        ({"auroc": 0.6, "auroc_phase1": None, "n_normal": 20, "n_anomaly": 20}, False,
         "verdict: may be no better than chance", ["--negatives"]),
        ({"auroc": 0.6, "auroc_phase1": None, "n_normal": 200, "n_anomaly": 200,
          "detection_rate": 0.6}, False,
         "verdict: finds 60.0 %", []),
        ({"auroc": None, "auroc_negatives": None, "detection_rate": None} | FLAWS, True,
         "verdict: not tested on anomalies", ["--anomaly-dir"]),
    ],
)  # fmt: skip
def test_the_verdict_comes_first_and_then_what_to_try(changed, features, first, steps, tmp_path):
    lines = closing_lines(METRICS | changed | {"notes": ["later"]}, tmp_path, features=features)
    assert lines[0].startswith(first)
    tried = [line for line in lines if line.startswith("try: ")]
    assert len(tried) == len(steps)
    assert all(step in line for step, line in zip(steps, tried, strict=True))
    assert lines.index("note: later") == 1 + len(tried)


def test_a_threshold_set_by_hand_is_left_alone_unless_it_misses_more_than_half():
    by_hand = METRICS | {"auroc": 0.983, "threshold_requested_fpr": None}
    found, few = (verdict(by_hand | {"detection_rate": rate}, features=True) for rate in (0.6, 0.4))
    assert found == ["verdict: finds 60.0 % of the anomalies at 5.0 % false alarms"]
    assert few[1].endswith("calibrate --fpr 0.05")


def test_kinds_that_are_found_less_often_are_named(tmp_path):
    found = {"crack": (0.5, 60), "break": (0.9, 60), "hole": (0.95, 300), "fray": (0.5, 2)}
    rows = {
        name: {"auroc": 0.9, "detection_rate": rate, "n": n} for name, (rate, n) in found.items()
    }
    overall = sum(rate * n for rate, n in found.values()) / sum(n for _, n in found.values())
    lines = closing_lines(METRICS | {"by_kind": rows, "detection_rate": overall}, tmp_path)
    (weak,) = [line for line in lines if "often misses" in line]
    # Two of a kind say too little, and hole and break are not below the rest.
    assert weak.startswith("note: it often misses crack (50.0 % of 60): do not rely on it")
    alone = METRICS | {"by_kind": {"crack": rows["crack"]}, "detection_rate": 0.5}
    assert "often misses" not in "\n".join(closing_lines(alone, tmp_path))


def test_no_message_names_a_package_that_lies_on_no_index():
    assert install("onnx") == (
        "install it with pip install '.[onnx]' in a clone of lisae-tf's repository"
    )
    for folder in ("lisae_tf", "export"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            assert "pip install 'lisae-tf" not in path.read_text(), path


@pytest.mark.parametrize(
    ("number", "words", "never"),
    [
        (errno.ENOSPC, "Free some space", "Make its folder"),
        (errno.ENOENT, "Make its folder", "Free some space"),
        (errno.EACCES, "Make that possible", "Free some space"),
    ],
)
def test_what_to_do_when_a_file_cannot_be_written(number, words, never):
    said = str(cannot_write(Path("x"), OSError(number, "no")))
    assert words in said and never not in said and "untouched" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pictures.zip", "an archive (pictures.zip): unpack it"),
        ("list.csv", "a list or a table (list.csv): name the folder of the pictures"),
        ("a.gif", "other files (.gif): save them as PNG"),
        (None, "put some in or name another"),
    ],
)
def test_what_a_folder_holds_instead_of_pictures_is_said(tmp_path, name, words):
    if name:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(LisaeError) as raised:
        picture_files.find(tmp_path)
    assert f"{tmp_path} holds no PNG, JPEG, BMP, TIFF or WebP picture" in str(raised.value)
    assert words in str(raised.value)
    with pytest.raises(LisaeError, match="holds no PNG"):
        picture_files.refuse_missing([tmp_path])
