"""`score`, `calibrate` and `evaluate` on a completed run, and file names that are no plain text."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, assert_one_sentence, contents
from PIL import Image

from lisae_tf.commands.calibrate import _once
from lisae_tf.core.arrays import load_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import manifest, picture_files, pictures
from lisae_tf.runs import folders as runs

RUN = Path("runs/normal-lis-seed0")
SOLVED = ("--variant", "linear-lis", *QUICK[:8])  # `train` options as QUICK, without a network
FOLDERS = ("--normal-dir", "normal", "--negative-dir", "negative")
# What `calibrate` may change in metrics.json.
FOLLOW_ALPHA = {
    "threshold", "threshold_requested_fpr", "threshold_guaranteed_fpr", "false_positive_rate",
    "detection_rate", "n_calibration", "chance_of_false_alarms",
}  # fmt: skip


@pytest.fixture
def drawn(blank_figures):
    """Figures are drawn, where they are what is compared."""
    with blank_figures():
        yield


def rows_of(result):
    assert (result.exit_code, result.stderr) == (0, "")
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_csv_and_json_lines_say_the_same(workplace, cli):
    table = rows_of(cli("score", "normal", "anomaly"))
    assert list(table[0]) == ["path", "score", "threshold", "is_anomaly"]
    lines = cli("score", "normal", "anomaly", "--format", "jsonl").stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["path"] for record in records] == [
        str(path) for name in ("normal", "anomaly") for path in picture_files.find(Path(name))
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
    paths = picture_files.find(Path("anomaly"))
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
    few = picture_files.find(Path("anomaly"))[::-2]
    apart = scores(*few)
    assert list(apart) == [str(path) for path in few]
    assert apart == pytest.approx({str(path): together[str(path)] for path in few}, rel=1e-5)


def test_skip_bad_names_what_it_leaves_out_beside_the_scores(bad_places, cli):
    result = cli("score", "corrupt", "--skip-bad")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1 + 59
    assert result.stderr.startswith("left out: corrupt/031.jpg is damaged")


def test_files_that_are_no_pictures_by_name_are_told_beside_the_scores(workplace, cli):
    shutil.copytree("anomaly", "mixed")
    (Path("mixed") / "a.gif").write_text("x")
    plain = cli("score", "anomaly")
    assert plain.stderr == ""
    result, note = cli("score", "mixed"), "note: 1 file is left out, for only .png, .jpg"
    assert len(result.stdout.splitlines()) == len(plain.stdout.splitlines())
    assert result.stderr.startswith(note) and "mixed/a.gif" in result.stderr
    assert cli("calibrate", "--fpr", 0.1, "--normal-dir", "mixed").stderr.startswith(note)
    assert note in cli("score", "mixed", "--parts", "parts").stderr


# Thresholds


def test_calibrate_changes_what_follows_from_alpha_and_nothing_else(workplace, cli, drawn):
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
    drawn = {"figures/score_histograms.png", "figures/trade_off.png"}
    told = {"metrics.json", "detector.json", "earlier_threshold.npz", "digests.json"}
    assert changed == told | drawn
    assert contents(RUN).keys() == files.keys() | {"earlier_threshold.npz"}
    threshold, *told = result.stdout.splitlines()
    assert threshold.startswith(f"threshold {before['threshold']:.5g} -> {after['threshold']:.5g}")
    assert told == [
        f"{words}: {100 * before[name]:.1f} % -> {100 * after[name]:.1f} %"
        for name, words in (
            ("false_positive_rate", "normal test pictures above it"),
            ("detection_rate", "anomalies found"),
        )
    ]
    for old, new in zip(scored, rows_of(cli("score", "normal")), strict=True):
        assert (old["path"], old["score"]) == (new["path"], new["score"])
        assert float(new["threshold"]) == after["threshold"]
        assert (new["is_anomaly"] == "true") == (float(new["score"]) > after["threshold"])


@pytest.mark.slow("three calibrations; undo compares the files of a threshold set again")
def test_calibrating_back_gives_the_same_files(workplace, cli, drawn):
    cli("calibrate", "--fpr", 0.3)
    once = contents(RUN)
    cli("calibrate", "--fpr", 0.5)
    cli("calibrate", "--fpr", 0.3)
    kept = {"earlier_threshold.npz": 0, "digests.json": 0}
    assert contents(RUN) | kept == once | kept


def test_undo_takes_the_last_calibration_back(workplace, cli, drawn):
    files, before = contents(RUN), runs.read_metrics(RUN)
    assert cli("calibrate").exit_code == 2
    assert cli("calibrate", "--fpr", 0.2, "--normal-dir", "anomaly").exit_code == 0
    assert runs.read_metrics(RUN) != before
    result = cli("calibrate", "--undo")
    assert (result.exit_code, result.stderr) == (0, "")
    assert runs.read_metrics(RUN) == before
    kept = "earlier_threshold.npz"
    changed = {name for name, digest in contents(RUN).items() if files.get(name) != digest}
    assert changed <= {kept, "digests.json", "scores.npz"}  # the same arrays, written anew
    assert cli("calibrate", "--undo").exit_code == 0  # and the other way round
    assert runs.read_metrics(RUN)["n_calibration"] == 9


def test_pictures_that_were_trained_on_set_no_threshold(workplace, cli, picture_folder):
    files = contents(RUN)
    result = cli("calibrate", "--fpr", 0.1, "--normal-dir", "normal")
    assert_one_sentence(result, "a threshold from them would be too low")
    picture_folder(Path("fresh"), 30, level=62)
    seen = manifest.read(RUN).of("normal")
    fit = next(each for each in seen if each.part == "fit")
    shutil.copy(Path("normal") / fit.path, "fresh/another_name.png")
    result = cli("calibrate", "--fpr", 0.1, "--normal-dir", "fresh")
    assert_one_sentence(result, "the run was trained on 1 of the 31 pictures of fresh")
    assert contents(RUN) == files
    Path("fresh/another_name.png").unlink()
    assert cli("calibrate", "--fpr", 0.1, "--normal-dir", "fresh").exit_code == 0


def test_copies_of_a_picture_promise_no_more_than_one(workplace, cli, picture_folder):
    picture_folder(Path("fresh"), 9, level=62)
    for k in range(40):
        shutil.copy("fresh/000.png", f"fresh/copy{k}.png")
    result = cli("calibrate", "--fpr", 0.01, "--normal-dir", "fresh")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "40 copies, near copies or pictures of one group do not count" in result.stderr
    assert "9 calibration pictures support a false-positive rate of 0.1000" in result.stderr
    assert cli("calibrate", "--fpr", 0.1, "--normal-dir", "fresh").exit_code == 0
    assert runs.read_metrics(RUN)["n_calibration"] == 9


def test_near_copies_count_once_where_they_can_be_sought(
    picture_folder, monkeypatch, capsys, tmp_path
):
    first = picture_folder(tmp_path / "fresh", 12, level=62)
    for path in sorted(first.iterdir())[:3]:
        with Image.open(path) as picture:
            brighter = picture.convert("L").point(lambda level: level + 1)
        brighter.save(first / f"{path.stem}-again.png")
    decoded = pictures.decode_all(picture_files.find(first), (12, 12), 1)
    assert len(_once(decoded, first)) == 12
    assert "3 copies, near copies" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "lisae_tf.data.groups")  # as beside a runtime alone
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    assert len(_once(decoded, first)) == 15
    assert "near copies are not sought, for scikit-learn is not" in capsys.readouterr().err


def test_the_pattern_of_a_run_groups_new_pictures(picture_folder, tmp_path):
    folder = picture_folder(tmp_path / "fresh", 12, level=62)
    decoded = pictures.decode_all(picture_files.find(folder), (12, 12), 1)
    assert len(_once(decoded, folder, "^(00|01)")) == 2
    with pytest.raises(LisaeError, match=r"2 normal files do not match .* name these as the pict"):
        _once(decoded, folder, "^00")


def test_calibrate_takes_new_normal_pictures(workplace, cli):
    assert cli("calibrate", "--fpr", 0.2, "--normal-dir", "anomaly").exit_code == 0
    assert runs.read_metrics(RUN)["n_calibration"] == 9
    assert sum(row["is_anomaly"] == "true" for row in rows_of(cli("score", "anomaly"))) == 1


def test_train_takes_the_nearest_rate_and_says_so(workplace, cli):
    rate = ("--set", "calibration.false_positive_rate=0.001")
    result = cli("train", *FOLDERS, *SOLVED, *rate, "--out", "new", "--quiet")
    assert "note: 20 calibration pictures support a false-positive rate of 0.048" in result.stdout
    assert runs.read_metrics(Path("new"))["threshold_guaranteed_fpr"] == pytest.approx(1 / 21)


def test_evaluate_finds_what_the_run_recorded(workplace, cli):
    result = cli("evaluate")
    assert (result.exit_code, result.stderr) == (0, "")
    again, stored = json.loads(result.stdout), runs.read_metrics(RUN)
    assert "auroc" in again
    for key, value in again.items():
        assert stored[key] == (pytest.approx(value) if isinstance(value, float) else value)


NEGATIVES = ("--negative-dir", "negative")


def test_file_names_may_hold_anything(bad_places, cli, drawn):
    """Markup, an emoji's code, a formula that is none, bytes that are no UTF-8."""
    Path("corrupt/031.jpg").rename("corrupt/[red]:cat:.jpg")
    Path("odd").mkdir()
    names = (os.fsdecode(b"\xff.png"), "a $a_{b$.png")
    for path, name in zip(picture_files.find(Path("anomaly")), names, strict=False):
        path.rename(Path("odd") / name)
    given = ("--normal-dir", "corrupt", *NEGATIVES, "--anomaly-dir", "odd", "--skip-bad")
    result = cli("train", *given, *SOLVED, "--out", "new")
    assert result.exit_code == 0, result.output
    assert "left out: corrupt/[red]:cat:.jpg is damaged" in result.output
    assert Path("new/figures/reconstructions.png").is_file()
    assert cli("report", "--run", "new").exit_code == 0
    assert r"\xff.png" in Path("new/report.html").read_text()


def test_file_names_that_are_no_text_come_out_as_they_are(workplace, cli):
    name = os.fsencode(picture_files.find(Path("anomaly"))[0].parent) + b"/\xff.png"
    Path(os.fsdecode(name)).write_bytes(picture_files.find(Path("anomaly"))[0].read_bytes())
    assert cli("score", os.fsdecode(name), "--out", "scores.csv").exit_code == 0
    assert name + b"," in Path("scores.csv").read_bytes()
    assert name + b"," in cli("score", os.fsdecode(name)).stdout_bytes
