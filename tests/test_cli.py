import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from conftest import QUICK
from test_files import NOT_WRITABLE, full

from lisae_tf import cli as command_line
from lisae_tf import pictures, runs
from lisae_tf.arrays import load_arrays
from lisae_tf.commands.options import settle
from lisae_tf.config import read_settings, resolve
from lisae_tf.errors import LisaeError

RUN = Path("runs/normal-lis-seed0")
FOLDERS = ("--normal-dir", "normal", "--negative-dir", "negative")
# What `calibrate` may change in metrics.json.
FOLLOW_ALPHA = {
    "threshold", "threshold_requested_fpr", "threshold_guaranteed_fpr", "false_positive_rate",
    "detection_rate", "n_calibration",
}  # fmt: skip


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }  # fmt: skip


def assert_one_sentence(result, *words):
    """One line on standard error, an exit code for scripts, nothing else."""
    assert result.exit_code != 0
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.output


# Bad input

BAD_TRAINING = {
    "missing folder": (("--normal-dir", "nowhere"), "nowhere does not exist"),
    "missing negatives": ((*FOLDERS[:3], "nowhere"), "nowhere does not exist"),
    "missing anomalies": ((*FOLDERS, "--anomaly-dir", "nowhere"), "nowhere does not exist"),
    "empty folder": (("--normal-dir", "empty"), "empty holds no PNG, JPEG or BMP picture"),
    "corrupt JPEG": (("--normal-dir", "corrupt", *FOLDERS[2:]), "corrupt/031.jpg is damaged"),
    "single picture": (("--normal-dir", "single", *FOLDERS[2:]), "holds 1 usable normal picture"),
    "same folder": ((*FOLDERS[:3], "normal"), "holds the same picture as"),
    "same content": ((*FOLDERS[:3], "copies"), "copies/copy.png (negative) holds the same"),
    "anomalies as negatives": ((*FOLDERS, "--anomaly-dir", "negative"), "the same picture as"),
    "no negatives": (
        ("--normal-dir", "normal", "--negatives", "other-half"),
        "take --negative-dir or --negatives strokes",
    ),
    "negatives needed": ((*FOLDERS[:2], "--negatives", "none"), "use --variant ae"),
    "dataset": (("--dataset", "mnits"), "there is no dataset called 'mnits'"),
    "class": (("--normal-class", "gravle"), "did you mean 'gravel'?"),
    "anomaly class": (("--anomaly-class", "brik"), "did you mean 'brick'?"),
    "class number": (("--normal-class", "10"), "a number from 0 to 9"),
    "key": (("--set", "latent_shaping.gama=1"), "did you mean 'gamma'?"),
    "key in a file": (("--config", "key.yaml"), "key.yaml: unknown setting 'sed'"),
    "variant": (("--variant", "lise"), "did you mean 'lis'?"),
    "protocol": (("--protocol", "one_class"), "did you mean 'one-class'?"),
    "type": (("--set", "seed=x"), "valid integer"),
    "broken YAML": (("--config", "broken.yaml"), "broken.yaml: broken YAML in line 2"),
    "missing YAML": (("--config", "no.yaml"), "no.yaml cannot be read"),
    "negatives that are tested": (("--negatives", "surfaces:brick"), "tested on"),
    "folders and dataset": ((*FOLDERS, "--dataset", "mnist"), "exclude each other"),
}


@pytest.fixture
def bad_places(workplace, picture_folder):
    (workplace / "empty").mkdir()
    picture_folder(workplace / "single", 1)
    picture_folder(workplace / "copies", 12, level=90)
    (workplace / "copies" / "copy.png").write_bytes(pictures.find(Path("normal"))[0].read_bytes())
    picture_folder(workplace / "corrupt", 60, kinds=[(24, 24, "L", ".jpg")])
    corrupt = workplace / "corrupt" / "031.jpg"
    corrupt.write_bytes(corrupt.read_bytes()[:-100])
    Path("key.yaml").write_text("sed: 1\n")
    Path("broken.yaml").write_text("seed: 1\n  network: 2\n")
    return workplace


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_input_to_train_is_one_sentence_and_no_run(case, bad_places, cli):
    arguments, words = BAD_TRAINING[case]
    before = contents(bad_places)
    assert_one_sentence(cli("train", *arguments, "--out", "new", "--quiet"), words)
    assert not Path("new").exists()
    assert contents(bad_places) == before


def test_missing_data_is_one_sentence_and_no_run(workplace, cli, monkeypatch):
    monkeypatch.setattr("lisae_tf.datasets._online", lambda: False)
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


@pytest.mark.parametrize("written", [0, 1, 3, 8])
def test_a_disk_that_fills_up_leaves_no_run_that_looks_complete(
    written, workplace, cli, monkeypatch
):
    """The disk is full after so many files: none, settings, checkpoints, weights."""
    before, room = contents(RUN), iter(range(written))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: full() if next(room, None) is None else None)
        result = cli("train", *FOLDERS, *QUICK, "--out", "new", "--quiet")
    assert_one_sentence(result, "cannot write new/", "No space left on device")
    # Settings alone are no run: with the first checkpoint there is something to resume.
    assert Path("new").exists() == (written > 1)
    if written > 1:
        assert not list(Path("new").glob(".*"))
        assert_one_sentence(cli("score", "normal", "--run", "new"), "is not complete", "--resume")
    assert contents(RUN) == before
    assert Path("runs/last").read_text() == f"{RUN}\n"


def arrays():
    grey = np.zeros((3, 12, 12, 3), np.float32)
    grey[1, 2, 3] = np.nan
    return {
        "nan": grey,
        "size": np.zeros((3, 12, 13, 3), np.uint8),
        "channels": np.zeros((3, 12, 12, 1), np.uint8),
        "grey": np.zeros((3, 12, 12), np.uint8),
        "range": np.full((3, 12, 12, 3), 1.5),
        "objects": np.array([{}]),
    }


BAD_SCORING = {
    "NaN": (("nan.npy",), "nan.npy holds NaN or infinite values"),
    "size": (("size.npy",), "(3, 12, 13, 3), but the model takes (N, 12, 12, 3)"),
    "channels": (("channels.npy",), "(3, 12, 12, 1), but the model takes (N, 12, 12, 3)"),
    "no channels": (("grey.npy",), "(3, 12, 12), but the model takes"),
    "range": (("range.npy",), "outside 0-1"),
    "objects": (("objects.npy",), "not a plain NumPy array"),
    "missing file": (("normal", "no.png"), "no.png does not exist"),
    "empty folder": (("empty",), "empty holds no PNG"),
    "text": (("key.yaml",), "key.yaml is not a readable PNG, JPEG or BMP"),
    "corrupt JPEG": (("corrupt",), "corrupt/031.jpg is damaged"),
    "missing run": (("normal", "--run", "no"), "the run folder no does not exist"),
    "no run": (("normal", "--run", "normal"), "the run in normal is not complete"),
    "output folder": (("normal", "--out", "no/a.csv"), "cannot write no/a.csv"),
    "output is a folder": (("normal", "--out", "empty"), "empty is no regular file"),
}


@pytest.mark.parametrize("case", BAD_SCORING)
def test_bad_input_to_score_is_one_sentence_and_no_file(case, bad_places, cli):
    for name, array in arrays().items():
        np.save(f"{name}.npy", array)
    arguments, words = BAD_SCORING[case]
    before = contents(bad_places)
    if "--out" not in arguments:
        arguments = (*arguments, "--out", "scores.csv")
    assert_one_sentence(cli("score", *arguments), words)
    assert contents(bad_places) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("trian",),
        ("train", "--no-such"),
        ("score",),
        ("calibrate",),
        ("score", "a", "--format", "x"),
    ],
)
def test_a_wrong_command_line_ends_with_its_error(arguments, cli):
    result = cli(*arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_skip_bad_trains_on_the_rest_and_names_what_it_left_out(bad_places, cli):
    result = cli(
        "train", "--normal-dir", "corrupt", *FOLDERS[2:], *QUICK, "--out", "new", "--skip-bad"
    )
    assert result.exit_code == 0, result.stderr
    metrics = runs.read_metrics(Path("new"))
    assert any("left out: corrupt/031.jpg" in note for note in metrics["notes"])
    assert "note: left out: corrupt/031.jpg" in result.stdout


# Run folders


def test_a_run_tells_what_happened_and_what_to_type_next(workplace, cli):
    result = cli("train", *FOLDERS, *QUICK, "--out", "new", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "no anomalies to test on" in result.stdout
    assert "no measure of anomalies" in result.stdout
    *_, last = result.stdout.splitlines()
    assert last == "next: python cli.py score --run new YOUR_PICTURES"
    metrics = runs.read_metrics(Path("new"))
    assert [metrics[key] for key in ("auroc", "auroc_phase1", "average_precision")] == [None] * 3
    assert 0 <= metrics["auroc_negatives"] <= 1
    assert not Path("new/checkpoint.npz").exists()


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
    [((), "is not empty; name another folder or add --resume"),
     (("--resume",), "is complete; there is nothing to resume")],
)  # fmt: skip
def test_a_finished_run_is_not_overwritten(options, words, workplace, cli):
    before = contents(RUN)
    given = ("--anomaly-dir", "anomaly", *QUICK, "--out", RUN, "--quiet", *options)
    assert_one_sentence(cli("train", *FOLDERS, *given), words)
    assert contents(RUN) == before


@pytest.mark.parametrize("exists", [True, False])
def test_resume_without_a_run_starts_afresh(exists, tmp_path):
    if exists:
        (tmp_path / "new").mkdir()
    runs.claim(tmp_path / "new", "seed: 0\n", resume=True)
    assert (tmp_path / "new" / "config.yaml").read_text() == "seed: 0\n"


@pytest.mark.parametrize(
    "files, words",
    [
        ({"config.yaml": "seed: 1\nvariant: ae\n"}, "other settings .first difference: 'seed: 0'"),
        ({"config.yaml": "seed: 0\n"}, "other settings .first difference: 'its length'"),
        ({"notes.txt": ""}, "holds no run to resume"),
    ],
)
def test_resume_takes_only_its_own_run(files, words, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(LisaeError, match=words):
        runs.claim(tmp_path, "seed: 0\nvariant: ae\n", resume=True)
    assert contents(tmp_path).keys() == files.keys()


def test_default_folders_are_numbered_unless_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a-2"):
        runs.claim(runs.RUNS / name, "seed: 0\n", resume=False)
    assert runs.default_folder("a", resume=False) == Path("runs/a-3")
    assert runs.default_folder("a", resume=True) == Path("runs/a")
    assert runs.default_folder("b", resume=False) == Path("runs/b")


def test_without_run_the_last_completed_one_is_used(workplace, cli):
    runs.claim(Path("runs/interrupted"), "seed: 0\n", resume=False)
    assert runs.find_run(None) == RUN
    RUN.rename("runs/other")
    assert_one_sentence(cli("score", "anomaly"), "normal-lis-seed0 does not exist")
    runs.remember(Path("runs/other"))
    assert runs.find_run(None) == Path("runs/other")
    Path("runs/last").unlink()
    assert_one_sentence(cli("score", "anomaly"), "no completed run yet; train first")


# Scores


def rows_of(result):
    assert (result.exit_code, result.stderr) == (0, "")
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_csv_and_json_lines_say_the_same(workplace, cli):
    table = rows_of(cli("score", "normal", "anomaly"))
    assert list(table[0]) == ["path", "score", "threshold", "is_anomaly"]
    lines = cli("score", "normal", "anomaly", "--format", "jsonl").stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["path"] for record in records] == [
        str(path) for name in ("normal", "anomaly") for path in pictures.find(Path(name))
    ]
    alpha = runs.read_metrics(RUN)["threshold"]
    for row, record in zip(table, records, strict=True):
        assert list(record) == list(row)
        assert record["threshold"] == float(row["threshold"]) == alpha
        assert record["score"] == float(row["score"])
        assert record["is_anomaly"] == (row["is_anomaly"] == "true") == (record["score"] > alpha)


def test_out_holds_what_standard_output_would(workplace, cli):
    printed = cli("score", "anomaly").stdout
    assert cli("score", "anomaly", "--out", "scores.csv").stdout == ""
    assert Path("scores.csv").read_text() == printed


def test_an_array_scores_as_the_files_that_it_was_made_of(workplace, cli):
    paths = pictures.find(Path("anomaly"))
    np.save("a.npy", pictures.decode_all(paths, (12, 12), 3).pixels)
    from_array, from_files = rows_of(cli("score", "a.npy")), rows_of(cli("score", *paths))
    assert [row["path"] for row in from_array] == [f"a.npy#{i}" for i in range(len(paths))]
    assert [float(row["score"]) for row in from_array] == pytest.approx(
        [float(row["score"]) for row in from_files], rel=1e-5
    )


def test_a_score_does_not_depend_on_order_or_company(workplace, cli):
    def scores(*paths):
        return {row["path"]: float(row["score"]) for row in rows_of(cli("score", *paths))}

    together = scores("normal", "anomaly")
    few = pictures.find(Path("anomaly"))[::-2]
    apart = scores(*few)
    assert list(apart) == [str(path) for path in few]
    assert apart == pytest.approx({str(path): together[str(path)] for path in few}, rel=1e-5)


def test_skip_bad_names_what_it_leaves_out_beside_the_scores(bad_places, cli):
    result = cli("score", "corrupt", "--skip-bad")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1 + 59
    assert result.stderr.startswith("left out: corrupt/031.jpg is damaged")


def test_file_names_that_are_no_text_come_out_as_they_are(workplace, cli):
    name = os.fsencode(pictures.find(Path("anomaly"))[0].parent) + b"/\xff.png"
    Path(os.fsdecode(name)).write_bytes(pictures.find(Path("anomaly"))[0].read_bytes())
    assert cli("score", os.fsdecode(name), "--out", "scores.csv").exit_code == 0
    assert name + b"," in Path("scores.csv").read_bytes()
    assert name + b"," in cli("score", os.fsdecode(name)).stdout_bytes


# Thresholds


def test_calibrate_changes_what_follows_from_alpha_and_nothing_else(workplace, cli):
    before, scored = runs.read_metrics(RUN), rows_of(cli("score", "normal"))
    files = contents(RUN)
    result = cli("calibrate", "--fpr", 0.5)
    assert (result.exit_code, result.stderr) == (0, "")
    after = runs.read_metrics(RUN)
    assert {key for key in after if after[key] != before.get(key)} <= FOLLOW_ALPHA
    assert before.keys() == after.keys()
    assert after["threshold"] < before["threshold"]
    assert (after["threshold_requested_fpr"], after["n_calibration"]) == (0.5, 20)
    assert after["threshold_guaranteed_fpr"] == pytest.approx(10 / 21)
    stored, _ = load_arrays(RUN / "scores.npz")
    called = stored["test"] > after["threshold"]
    assert after["false_positive_rate"] == np.mean(called[~stored["is_anomaly"]])
    assert after["detection_rate"] == np.mean(called[stored["is_anomaly"]])
    changed = {name for name, digest in contents(RUN).items() if files.get(name) != digest}
    assert changed == {"metrics.json", "detector.json"}
    assert contents(RUN).keys() == files.keys()
    for old, new in zip(scored, rows_of(cli("score", "normal")), strict=True):
        assert (old["path"], old["score"]) == (new["path"], new["score"])
        assert float(new["threshold"]) == after["threshold"]
        assert (new["is_anomaly"] == "true") == (float(new["score"]) > after["threshold"])


def test_calibrating_back_gives_the_same_files(workplace, cli):
    cli("calibrate", "--fpr", 0.3)
    once = contents(RUN)
    cli("calibrate", "--fpr", 0.5)
    cli("calibrate", "--fpr", 0.3)
    assert contents(RUN) == once


def test_calibrate_takes_new_normal_pictures(workplace, cli):
    assert cli("calibrate", "--fpr", 0.2, "--normal-dir", "anomaly").exit_code == 0
    assert runs.read_metrics(RUN)["n_calibration"] == 9
    assert sum(row["is_anomaly"] == "true" for row in rows_of(cli("score", "anomaly"))) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--fpr", 0.01), "20 calibration pictures support a false-positive rate of 0.0476"),
        (("--fpr", 0.01), "at least 99 normal pictures"),
        (("--fpr", 0), "must lie between 0 and 1"),
        (("--fpr", "nan"), "must lie between 0 and 1"),
        (("--fpr", 0.1, "--normal-dir", "no"), "no does not exist"),
        (("--fpr", 0.1, "--run", "no"), "no does not exist"),
    ],
)
def test_calibrate_refuses_and_leaves_the_run_as_it_was(arguments, words, workplace, cli):
    before = contents(RUN)
    assert_one_sentence(cli("calibrate", *arguments), words)
    assert contents(RUN) == before


def test_train_takes_the_nearest_rate_and_says_so(workplace, cli):
    rate = ("--set", "calibration.false_positive_rate=0.001")
    result = cli("train", *FOLDERS, *QUICK, *rate, "--out", "new", "--quiet")
    assert "note: 20 calibration pictures support a false-positive rate of 0.048" in result.stdout
    assert runs.read_metrics(Path("new"))["threshold_guaranteed_fpr"] == pytest.approx(1 / 21)


def test_evaluate_finds_what_the_run_recorded(workplace, cli):
    result = cli("evaluate")
    assert (result.exit_code, result.stderr) == (0, "")
    again, stored = json.loads(result.stdout), runs.read_metrics(RUN)
    assert "auroc" in again
    for key, value in again.items():
        assert stored[key] == (pytest.approx(value) if isinstance(value, float) else value)


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
    script = Path(command_line.__file__).parents[1] / "cli.py"
    with python(script, "score", "normal") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_standard_output_on_a_full_disk_is_one_sentence(workplace, monkeypatch):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(click.ClickException, match="cannot write the scores: No space left"):
            command_line.main(["score", "normal"], standalone_mode=False)
