"""Known flaws: one half chooses settings, the other joins the test."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import feature_fixtures
import numpy as np
import pytest
from conftest import QUICK, assert_one_sentence, load_folder_test, load_folder_training
from PIL import Image

from lisae_tf.config.settings import CHOSEN, read_settings, resolve
from lisae_tf.core.arrays import load_arrays
from lisae_tf.core.thresholds import choose_threshold
from lisae_tf.data import manifest
from lisae_tf.data.folder_tasks import read_test_masks
from lisae_tf.data.parts import halves
from lisae_tf.detectors.known_flaws import Candidate, candidates, factor_of, gain_of, order, pick
from lisae_tf.evaluation.metrics import known_found
from lisae_tf.evaluation.verdict import rate_to_type, verdict
from lisae_tf.experiments.settling import settle
from lisae_tf.runs.marks import Mark, append_mark

# `train` options of runs that are quick.
SMALL = (*feature_fixtures.SMALL, *feature_fixtures.EARLY)


def divided(kinds, groups, seed=0):
    generator = np.random.default_rng(seed)
    return halves(kinds, groups=np.asarray(groups), generator=generator)


def test_every_kind_is_halved_and_groups_stay_together():
    kinds = ["crack"] * 6 + ["hole"] * 5 + ["dust"]
    groups = [0, 0, 1, 2, 3, 4, *range(5, 11)]
    for seed in range(20):
        one, other = divided(kinds, groups, seed)
        assert sorted([*one, *other]) == list(range(12))
        assert not {groups[k] for k in one} & {groups[k] for k in other}
        assert abs(len(one) - len(other)) <= 2
        for kind in ("crack", "hole"):
            assert {kind} <= {kinds[k] for k in one} & {kinds[k] for k in other}


def test_single_pictures_of_their_kinds_are_halved_too():
    one, other = divided(["a", "b", "c", "d"], range(4))
    assert (len(one), len(other)) == (2, 2)


USUAL = Candidate("linear-lis", "made", 0.02)
OTHER = Candidate("knn", "", 0.02)
NORMAL = np.arange(60.0)


def test_a_gain_counts_both_flaws_and_normal_pictures():
    # One odd normal picture below every flaw is no gain, however many flaws agree on it.
    own = order(NORMAL, np.full(8, 59.5))
    usual = order(NORMAL, np.full(8, 58.5))
    gain, error = gain_of(own, usual)
    assert gain == pytest.approx(1 / 60)
    assert error == pytest.approx(1 / 60)
    assert factor_of(5, 10) > factor_of(15, 10) > factor_of(15, 2) > 1.7


def scores(usual, other):
    return {USUAL: (NORMAL, np.asarray(usual, float)), OTHER: (NORMAL, np.asarray(other, float))}


def test_what_is_better_beyond_chance_is_chosen():
    picked = pick(scores([20, 25, 30, 28, 22], [58, 59.5, 59, 57, 59.2]), USUAL)
    assert picked.candidate == OTHER
    assert picked.why.startswith("known flaws chose knn, highest 2 % of places")
    assert picked.record["gain"] > picked.record["factor"] * picked.record["standard_error"]
    assert picked.record["chosen"]["variant"] == "knn"


@pytest.mark.parametrize(
    "other",
    [
        [21, 24, 31, 28.6, 22],  # no gain to speak of
        [20, 25, 30, 28, 59],  # one flaw alone
        [1, 2, 3, 4, 5],
    ],
)
def test_what_chance_may_do_changes_nothing(other):
    picked = pick(scores([20, 25, 30, 28, 22], other), USUAL)
    assert picked.candidate == USUAL
    assert picked.why.startswith("known flaws changed nothing")
    assert ("none of the 1 other settings" in picked.why) == (picked.record["gain"] <= 0)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_flaws_show_nothing_and_that_is_said(count):
    picked = pick(scores([20, 21][:count], [59, 59.5][:count]), USUAL)
    assert picked.candidate == USUAL
    assert "cannot show that other settings are better" in picked.why
    assert "from 6 in --known-dir on" in picked.why


def test_what_is_set_by_hand_is_not_chosen_over():
    def free(*assigned, **options):
        given = {"normal_dir": ("good",), "known_dir": "known"} | options
        return settle(given, None, assigned)[0].choose

    assert free() == list(CHOSEN)
    assert free(variant="knn") == ["features.negatives", "scoring.highest_share"]
    assert free("scoring.highest_share=0.1") == ["variant", "features.negatives"]
    assert free("features.negatives=made") == ["scoring.highest_share"]
    tried = candidates(["scoring.highest_share"], USUAL, ["none", "made"])
    assert {each.trained for each in tried} == {USUAL.trained}
    tried = candidates(["variant"], USUAL, ["made", "none"])
    assert {each.trained for each in tried} == {
        ("linear-lis", "made"), ("lis-knn", "made"), ("knn", ""), ("mahalanobis", ""),
    }  # fmt: skip
    tried = candidates(["variant", "features.negatives"], USUAL, ["made", "none"])
    trained = [each.trained for each in tried]
    assert ("linear-lis", "none") in trained and ("knn", "") in trained
    assert ("lis-knn", "none") not in trained  # `knn` by another name
    network = replace(USUAL, variant="lis")
    tried = candidates(["features.negatives"], network, ["made", "none"])
    assert tried == [network]  # it takes minutes, and is trained once


def test_a_record_of_a_run_has_nothing_left_to_choose(tmp_path):
    config, _ = settle({"normal_dir": ("good",)}, None, ())
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    config, notes = settle({"known_dir": "known"}, tmp_path / "config.yaml", ())
    assert config.choose == []
    assert any("known flaws choose nothing" in note for note in notes)


@pytest.mark.parametrize("lowest", [0.5, 7.5, 20.0, 38.5])
def test_the_rate_to_type_finds_all(lowest):
    calibration, flaws = np.arange(40.0), np.array([lowest, 50])
    found = known_found(flaws, choose_threshold(calibration, 0.05), calibration)
    assert (found["n"], found["found"]) == (2, 1 if lowest < 38 else 2)
    rate = found["fpr_for_all"]
    assert choose_threshold(calibration, rate).alpha < lowest
    stricter = choose_threshold(calibration, rate - 1 / 41)
    assert not stricter.alpha < lowest
    assert (f"calibrate --fpr {rate}" in rate_to_type(found)) == (found["found"] < 2)


def test_no_rate_finds_a_flaw_below_all_normal_pictures():
    calibration = np.arange(40.0)
    found = known_found(np.array([-1.0]), choose_threshold(calibration, 0.05), calibration)
    assert found["fpr_for_all"] is None
    assert "no false-alarm rate" in rate_to_type(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders `good` (40), `known` (crack 6, dent 4) and `bad` (10)."""
    base = feature_fixtures.write_folders(tmp_path_factory.mktemp("known"))
    feature_fixtures.write_parts(base / "known" / "crack", 6, flaw=True, seed=2)
    feature_fixtures.write_parts(base / "known" / "dent", 4, flaw=True, seed=3)
    return base


@pytest.fixture(scope="module")
def run(place, cli):
    """A completed run with known flaws and no other anomalies, and what it said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        options = ("--normal-dir", "good", "--known-dir", "known", *SMALL)
        result = cli("train", *options, "--out", "run")
    assert result.exit_code == 0, result.stderr
    return place / "run", result.stdout


def test_half_of_them_choose_and_half_are_tested(run):
    folder, _ = run
    listed = manifest.read(folder).of(manifest.KNOWN)
    for kind, count in (("crack", 3), ("dent", 2)):
        parts = [each.part for each in listed if each.kind == kind]
        assert sorted(parts) == ["choosing"] * count + ["test"] * count
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["n_anomaly"] == 5
    assert metrics["known"]["n"] == 5
    assert set(metrics["by_kind"]) == {"crack", "dent"}
    assert len(load_arrays(folder / "scores.npz")[0]["known"]) == 5


def test_what_they_chose_is_said_and_kept(run):
    folder, said = run
    metrics = json.loads((folder / "metrics.json").read_text())
    choice = metrics["known_choice"]
    assert choice["why"] in said
    assert f"note: {choice['why']}" in said.splitlines()
    variants = {(row["variant"], row["negatives"]) for row in choice["candidates"]}
    assert variants == {
        ("lis-knn", "made"), ("linear-lis", "made"), ("linear-lis", "none"), ("knn", ""),
        ("mahalanobis", ""),
    }  # fmt: skip
    config = resolve(read_settings(folder / "config.yaml"))
    assert (config.choose, config.variant) == ([], choice["chosen"]["variant"])
    assert config.scoring.highest_share == choice["chosen"]["highest_share"]
    assert metrics["variant"] == config.variant
    assert metrics["config_hash"] == config.digest()
    assert "known flaws outside the test: " in said
    assert "note: measured on 5 anomalies, none of which chose settings: " in said


def test_what_chose_is_not_tested_later(run, cli):
    folder, _ = run
    metrics = json.loads((folder / "metrics.json").read_text())
    result = cli("evaluate", "--run", folder)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["n_anomaly"], found["auroc"]) == (5, metrics["auroc"])
    result = cli("report", "--run", folder)
    assert result.exit_code == 0, result.stderr
    page = (folder / "report.html").read_text()
    assert "<h3>Known flaws</h3>" in page
    entries = manifest.read(folder).of(manifest.KNOWN)
    for each in entries:
        assert (f"known/{each.path}" in page) <= (each.part == "test")


def test_a_threshold_set_anew_is_told_of_them_too(run, cli, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    result = cli("calibrate", "--run", folder, "--fpr", "0.5")
    assert result.exit_code == 0, result.stderr
    known = json.loads((folder / "metrics.json").read_text())["known"]
    stored = load_arrays(folder / "scores.npz")[0]["known"]
    alpha = json.loads((folder / "metrics.json").read_text())["threshold"]
    assert known["found"] == np.sum(stored > alpha)


def test_other_settings_are_trained_where_they_are_chosen(place, cli, monkeypatch):
    from lisae_tf.detectors import load_detector, places

    wanted = Candidate("knn", "", 0.1)

    def choose(scores, usual):
        assert wanted in scores
        return replace(pick(scores, usual), candidate=wanted)

    monkeypatch.setattr(places, "pick", choose)
    monkeypatch.chdir(place)
    options = ("--normal-dir", "good", "--known-dir", "known", *SMALL)
    result = cli("train", "--quiet", *options, "--out", "knn")
    assert result.exit_code == 0, result.stderr
    config = resolve(read_settings(Path("knn/config.yaml")))
    assert (config.variant, config.scoring.highest_share) == ("knn", 0.1)
    stored = load_arrays(Path("knn/scores.npz"))[0]["known"]
    known = load_folder_training(config).known
    np.testing.assert_allclose(load_detector(Path("knn")).score(known), stored, rtol=1e-5)


@pytest.mark.slow("one more training; that a record leaves nothing to choose has a test of its own")
def test_the_record_of_a_run_trains_the_same_again(run, place, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    again = cli("train", "--quiet", "--config", "run/config.yaml", "--out", tmp_path / "new")
    assert again.exit_code == 0, again.stderr
    folders = Path("run"), tmp_path / "new"
    one, other = (json.loads((each / "metrics.json").read_text()) for each in folders)
    assert one["threshold"] == pytest.approx(other["threshold"], rel=1e-5)
    assert "known_choice" not in other


def base_options(*more):
    return ("train", "--quiet", "--normal-dir", "good", *SMALL, *more)


@pytest.mark.parametrize(
    ("copied", "options", "words"),
    [
        ("good/000.png", (), ["(known)", "(normal)", "same picture"]),
        ("bad/003.png", ("--negative-dir", "bad"), ["(known)", "(negative)", "same picture"]),
        ("bad/003.png", ("--anomaly-dir", "bad"), ["(known)", "(anomaly)", "same picture"]),
    ],
)
def test_a_known_flaw_is_nothing_else(place, cli, tmp_path, monkeypatch, copied, options, words):
    monkeypatch.chdir(place)
    known = shutil.copytree("known", tmp_path / "known")
    shutil.copy(copied, known / "crack" / "again.png")
    result = cli(*base_options("--known-dir", known, *options, "--out", tmp_path / "run"))
    assert_one_sentence(result, *words)
    assert not (tmp_path / "run").exists()


def test_known_flaws_that_cannot_be_used_are_refused(place, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    (tmp_path / "empty").mkdir()
    one, same = tmp_path / "one", tmp_path / "same"
    for folder, names in ((one, ["0"]), (same, ["0", "1"])):
        folder.mkdir()
        for name in names:
            shutil.copy("known/crack/000.png", folder / f"{name}.png")
    out = ("--out", tmp_path / "run")
    for folder, words in (
        (tmp_path / "empty", ["holds no"]),
        (tmp_path / "none", ["does not exist"]),
        (one, ["holds 1 usable known picture", "at least 2"]),
        (same, ["copies of one another"]),
    ):
        assert_one_sentence(cli(*base_options("--known-dir", folder, *out)), *words)
    pixels = ("train", "--normal-dir", "good", "--known-dir", "known", *QUICK, *out)
    assert_one_sentence(cli(*pixels), "known flaws choose among detectors on pretrained features")
    named = ("train", "--dataset", "surfaces", "--known-dir", "known", *out)
    assert_one_sentence(cli(*named), "exclude each other")
    tiles = ("--tile", "32", "--input-size", "64,64")
    result = cli(*base_options("--known-dir", "known", *tiles, *out))
    assert_one_sentence(result, "whole pictures")
    assert not (tmp_path / "run").exists()


def test_a_picture_that_chose_is_no_test_of_a_continued_run(run, cli, tmp_path, monkeypatch):
    folder, _ = run
    monkeypatch.chdir(folder.parent)
    feature_fixtures.write_parts(tmp_path / "more", 25, seed=9)
    listed = manifest.read(folder).of(manifest.KNOWN)
    chose = next(each.path for each in listed if each.part == "choosing")
    (tmp_path / "bad").mkdir()
    shutil.copy(Path("known") / chose, tmp_path / "bad")
    options = ("train", "--continue", folder, "--normal-dir", tmp_path / "more", "--quiet")
    result = cli(*options, "--anomaly-dir", tmp_path / "bad", "--out", tmp_path / "new")
    assert_one_sentence(result, "settings of the run were chosen with")
    assert not (tmp_path / "new").exists()


def test_the_verdict_says_on_how_few_it_rests():
    metrics = {
        "auroc": 0.99, "auroc_phase1": None, "n_normal": 40, "n_anomaly": 5, "detection_rate": 0.8,
        "false_positive_rate": 0.05, "variant": "knn", "dataset": "folder", "negatives": "none",
        "known": {"n": 5, "found": 4, "fpr_for_all": 0.25}, "threshold_requested_fpr": 0.05,
    }  # fmt: skip
    said = verdict(metrics, features=True)
    assert said[1].startswith("note: measured on 5 anomalies, none of which chose settings")
    assert "38 to 96 % of such are found" in said[1]


def marks_of(folder, said, path):
    for picture in sorted(folder.iterdir()):
        digest = hashlib.sha256(picture.read_bytes()).hexdigest()
        append_mark(path, Mark(str(picture), digest, said, 1.0, 1.0, "2026-01-31T12:00:00+00:00"))
    return path


def test_a_run_goes_on_with_marked_pictures(run, cli, tmp_path, monkeypatch):
    folder, _ = run
    monkeypatch.chdir(tmp_path)
    fine = feature_fixtures.write_parts(tmp_path / "fine", 6, seed=21)
    odd = feature_fixtures.write_parts(tmp_path / "odd", 4, flaw=True, seed=22)
    marks_of(fine, "normal", tmp_path / "marks.jsonl")
    marks = marks_of(odd, "anomaly", tmp_path / "marks.jsonl")
    new = tmp_path / "new"
    result = cli("train", "--continue", folder, "--marks", marks, "--out", new)
    assert result.exit_code == 0, result.stderr
    listed = manifest.read(new)
    assert len(listed.of(manifest.NORMAL, 1)) == 6
    parts = [each.part for each in listed.of(manifest.KNOWN, 1)]
    assert sorted(parts) == ["choosing"] * 2 + ["test"] * 2
    # What chose before is not tested now.
    assert listed.of(manifest.KNOWN, 0) == manifest.read(folder).of(manifest.KNOWN)
    before, now = (json.loads((each / "metrics.json").read_text()) for each in (folder, new))
    assert (before["n_anomaly"], now["n_anomaly"], now["known"]["n"]) == (5, 7, 7)
    assert now["variant"] == before["variant"]
    assert "known_choice" not in now  # the settings of the run are kept
    assert now["continued"]["new_normals"]["n"] == 1
    assert "new normals: " in result.stdout
    assert json.loads(cli("evaluate", "--run", new).stdout)["auroc"] == now["auroc"]


def test_marks_need_a_run_that_goes_on(run, cli, tmp_path, monkeypatch):
    folder, _ = run
    monkeypatch.chdir(folder.parent)
    out = ("--out", tmp_path / "new")
    result = cli(*base_options("--marks", tmp_path / "marks.jsonl", *out))
    assert_one_sentence(result, "--marks belongs to --continue")
    result = cli("train", "--continue", folder, "--known-dir", "bad", "--normal-dir", "bad", *out)
    assert_one_sentence(result, "leave --known-dir out")


def test_known_flaws_in_the_test_have_no_masks(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    (tmp_path / "masks").mkdir()
    names = sorted(str(path) for path in Path("bad").iterdir())
    for name in names:
        mask = np.zeros((feature_fixtures.SIDE, feature_fixtures.SIDE), np.uint8)
        mask[10:20, 10:20] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / Path(name).name)
    config = resolve({
        "dataset": "folder", "normal_dir": "good", "anomaly_dir": "bad", "known_dir": "known",
        "mask_dir": str(tmp_path / "masks"), "data": {"size": [64, 64], "channels": 3},
    })  # fmt: skip
    test = load_folder_test(config)
    anomalies = [test.labels[row] for row in np.flatnonzero(test.is_anomaly)]
    assert anomalies[: len(names)] == names
    found = read_test_masks(config, anomalies)
    assert found.known.tolist() == [True] * 10 + [False] * 5


def test_the_dry_run_looks_at_known_flaws_too(place, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    size = SMALL[:2]
    result = cli("data", "check", "--normal-dir", "good", "--known-dir", "known", *size)
    assert result.exit_code == 0, result.output
    assert "kinds of known pictures: crack 6, dent 4" in result.stdout
    known = shutil.copytree("known", tmp_path / "known")
    shutil.copy("good/000.png", known / "crack" / "again.png")
    result = cli("data", "check", "--normal-dir", "good", "--known-dir", known, *size)
    assert result.exit_code == 1
    assert "1 known picture lies among the normal ones" in result.stderr
