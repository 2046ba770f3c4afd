"""The threshold of every exported file, and `calibrate --model`, which writes another."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import export_fixtures
import numpy as np
import pytest
from conftest import assert_one_sentence, contents
from export_fixtures import ALL, path_of
from PIL import Image

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.thresholds import Threshold, choose_threshold, set_by_hand
from lisae_tf.data import manifest
from lisae_tf.data.tasks import load_training
from lisae_tf.exported import baseline, seen
from lisae_tf.exported.runtimes import open_model

run, models, opened = export_fixtures.run, export_fixtures.models, export_fixtures.opened
detector, samples = export_fixtures.detector, export_fixtures.samples
QUANTISED = ("tflite-fp16", "tflite-int8")


@pytest.fixture
def normal(tmp_path, samples):
    """A folder of 30 pictures."""
    for index, picture in enumerate(samples["real"][:30]):
        (tmp_path / "normal").mkdir(exist_ok=True)
        Image.fromarray(picture[..., 0]).save(tmp_path / "normal" / f"{index:02d}.png")
    return tmp_path / "normal"


@pytest.mark.parametrize("which", ALL)
def test_calibrate_makes_a_new_version_that_differs_in_the_threshold_alone(
    which, models, opened, tmp_path, normal, samples, cli
):
    from lisae_tf.exported.model_record import digest
    from lisae_tf.exported.runtimes import open_model

    copy = tmp_path / "models"
    shutil.copytree(models, copy)
    before = contents(copy)
    path = path_of(copy, which)
    result = cli("calibrate", "--model", path, "--normal-dir", normal, "--fpr", "0.2")
    assert result.exit_code == 0, result.stderr
    changed = {name for name in before if contents(copy).get(name) != before[name]}
    assert {name.rpartition("/")[2] for name in changed} <= {"models.config"}
    child, parent = open_model(path_of(copy, which, 2)), opened[which]
    scores = parent.score(samples["real"])
    assert child.score(samples["real"]).tobytes() == scores.tobytes()
    np.testing.assert_array_equal(
        child.run(samples["real"])["is_anomaly"], scores > np.float32(child.threshold)
    )
    assert child.threshold == np.sort(parent.score(samples["real"][:30]))[-6]
    assert child.threshold != parent.threshold
    assert child.record["parent"]["sha256"] == digest(parent.record)
    assert child.record["version"] == 2
    folder = child.path if child.path.is_dir() else child.path.parent
    assert "bit for bit" in (folder / "README.md").read_text()
    # And again, from the child.
    result = cli("calibrate", "--model", child.path, "--normal-dir", normal, "--fpr", "0.5")
    assert result.exit_code == 0, result.stderr
    assert open_model(path_of(copy, which, 3)).record["parent"]["sha256"] == digest(child.record)


def test_calibrate_writes_a_file_of_another_name_and_never_over_one(models, tmp_path, normal, cli):
    from lisae_tf.exported.runtimes import open_model

    path = path_of(models, "onnx")
    options = ["--model", path, "--normal-dir", normal, "--fpr", "0.2", "--out"]
    (tmp_path / "README.md").write_text("mine")
    assert cli("calibrate", *options, tmp_path / "new.onnx").exit_code == 0
    assert open_model(tmp_path / "new.onnx").threshold != open_model(path).threshold
    assert (tmp_path / "README.md").read_text() == "mine"
    for place, reason in (("new.onnx", "exists"), ("new.tflite", r"must end in \.onnx")):
        result = cli("calibrate", *options, tmp_path / place)
        assert result.exit_code != 0
        assert reason.replace("\\", "") in result.stderr
    result = cli("calibrate", "--model", path, "--normal-dir", normal, "--fpr", "0.001")
    assert result.exit_code != 0
    assert "support a false-positive rate of" in result.stderr


WRITTEN = pytest.mark.slow("loaded and traced for each of six files; two are written anew above")


@pytest.mark.parametrize(
    "which", [pytest.param("savedmodel", marks=WRITTEN), "onnx", "tflite-int8"]
)
def test_a_threshold_set_by_hand_promises_nothing_and_is_taken_back(which, models, tmp_path, cli):
    from lisae_tf.exported.runtimes import open_model

    copy = tmp_path / "models"
    shutil.copytree(models, copy)
    first = open_model(path_of(copy, which))
    result = cli("calibrate", "--model", first.path, "--threshold", "0.3")
    assert result.exit_code == 0, result.stderr
    assert "guarantees nothing" in result.output
    by_hand = open_model(path_of(copy, which, 2))
    assert by_hand.threshold == np.float32(0.3)
    assert by_hand.record["threshold"]["guaranteed_fpr"] is None
    folder = by_hand.path if by_hand.path.is_dir() else by_hand.path.parent
    card = (folder / "README.md").read_text()
    assert "set by hand: it guarantees nothing" in card
    result = cli("calibrate", "--model", by_hand.path, "--undo")
    assert result.exit_code == 0, result.stderr
    back = open_model(path_of(copy, which, 3))
    for key in ("threshold", "calibration_scores"):
        assert back.record[key] == first.record[key]
    assert cli("calibrate", "--model", back.path, "--undo").exit_code == 0  # the other way round
    assert open_model(path_of(copy, which, 4)).threshold == by_hand.threshold


def test_what_calibrates_no_model_is_refused(opened, tmp_path, cli):
    path, out = opened["onnx"].path, tmp_path / "new.onnx"
    for options, words in (
        (("--undo",), "nothing to undo"),
        (("--undo", "--fpr", "0.1"), "give it alone"),
        (("--threshold", "-1"), "must be a number like the scores"),
        (("--threshold", "1e300"), "must be a number like the scores"),
        (("--threshold", "1", "--fpr", "0.1"), "give it alone"),
        (("--fpr", "0.1"), "--normal-dir DIR"),
        (("--fpr", "0.1", "--run", tmp_path), "exclude each other"),
    ):
        assert_one_sentence(cli("calibrate", "--model", path, *options, "--out", out), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs /dev/shm")
def test_the_new_file_may_lie_on_another_file_system(models, opened, normal, cli):
    """At its very root, beside which nothing can be staged."""
    place = Path(f"/dev/shm/lisae-test-{os.getpid()}.onnx")
    options = ("--normal-dir", normal, "--fpr", "0.2", "--out", place)
    before = sorted(place.parent.iterdir())
    try:
        result = cli("calibrate", "--model", opened["onnx"].path, *options)
        assert result.exit_code == 0, result.stderr
    finally:
        record = place.with_name(place.name + ".json")
        place.unlink(missing_ok=True)
        record.unlink(missing_ok=True)
    assert sorted(place.parent.iterdir()) == before


def test_a_calibration_that_changes_a_score_is_refused(models, tmp_path, opened, monkeypatch):
    from lisae_tf.core.thresholds import Threshold
    from lisae_tf.exported import onnx_file, recalibration

    replace = onnx_file.replace

    def heavier(data, alpha, metadata):
        import onnx

        model = onnx.load_from_string(replace(data, alpha, metadata))
        weights = next(
            each for each in model.graph.initializer
            if each.data_type == onnx.TensorProto.FLOAT and len(each.raw_data) > 4
        )  # fmt: skip
        weights.raw_data = np.arange(len(weights.raw_data) // 4, dtype="<f4").tobytes()
        return replace(model.SerializeToString(), alpha, metadata)

    monkeypatch.setattr(onnx_file, "replace", heavier)
    threshold = Threshold(0.5, 0.1, 0.1, 9)
    pictures = np.zeros((1, 32, 32, 1), np.uint8)
    with pytest.raises(LisaeError, match=r"scores otherwise|more than the threshold would"):
        recalibration.recalibrate(opened["onnx"], threshold, pictures, tmp_path / "a" / "b.onnx")
    assert list(tmp_path.iterdir()) == []


def card_of(model) -> str:
    folder = model.path if model.path.is_dir() else model.path.parent
    return " ".join((folder / "README.md").read_text().split())


@pytest.fixture(scope="module")
def calibration(detector):
    return load_training(detector.config).normal.calibration


@pytest.mark.parametrize("which", ALL)
def test_graph_record_metadata_and_card_state_one_threshold(which, opened, detector, calibration):
    model, config = opened[which], detector.config.calibration
    stated = Threshold.from_json(model.record["threshold"])
    scores = model.score(calibration)
    own = choose_threshold(scores, config.false_positive_rate, nearest=True)
    if which in QUANTISED:
        assert stated == own
    else:
        assert stated == detector.threshold_
        assert stated.alpha == pytest.approx(own.alpha, rel=1e-4)
    # As many calibration pictures above it as the rate allows, by the file's own scores.
    allowed = round(stated.guaranteed_fpr * (stated.n_calibration + 1)) - 1
    assert np.sum(scores > np.float32(stated.alpha) * (1 + 1e-4)) <= allowed
    alpha, metadata = model.stored()
    assert alpha == model.threshold == stated.alpha
    assert metadata["threshold"] == repr(stated.alpha)
    assert metadata["threshold_false_positive_rate"] == repr(stated.guaranteed_fpr)
    of = "this file's scores" if which in QUANTISED else "the scores"
    assert (
        f"{stated.alpha:.6g}, chosen from {of} of {stated.n_calibration} held-out "
        "normal pictures: a new normal picture scores above it with probability at most "
        f"{stated.guaranteed_fpr:.4g} (asked for: {stated.requested_fpr:g})."
    ) in card_of(model)
    assert stated.n_calibration == len(calibration)


@pytest.mark.parametrize("which", ALL)
def test_monitor_compares_with_the_scores_of_the_file_itself(
    which, opened, calibration, tmp_path, cli
):
    model = opened[which]
    scores = model.score(calibration)
    rows = "\n".join(str(float(score)) for score in scores)
    (tmp_path / "scores.csv").write_text(f"score\n{rows}\n")
    monitor = ("monitor", "--scores", tmp_path / "scores.csv", "--json", "--model", model.path)
    result = cli(*monitor)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["n_calibration"] == len(scores)
    if which in QUANTISED:
        assert found["statistic"] == 0
    assert found["median_calibration"] == pytest.approx(np.median(scores), rel=1e-4)
    assert_one_sentence(cli(*monitor, "--run", tmp_path), "exclude each other")


@pytest.mark.parametrize("which", QUANTISED)
def test_a_quantised_file_tells_what_it_reaches_itself(which, opened, models):
    from export.exportable import MAX_REAL

    model, measured = opened[which], opened[which].record["metrics"]
    parity = json.loads((model.path.parent / "parity.json").read_text())
    assert measured == parity["measured"]
    assert measured["auroc"] == pytest.approx(parity["auroc"]["exported"])
    assert 0 < measured["n_normal"] <= MAX_REAL
    assert measured["auroc_phase1"] is None
    card = card_of(model)
    assert "## Metrics of this file" in card
    assert f"threshold | {measured['false_positive_rate']:.4f} |" in card
    assert "## Metrics of the run" in card_of(opened["tflite"])


def test_a_threshold_from_other_pictures_is_kept_and_promises_nothing(
    workplace, cli, picture_folder
):
    picture_folder(workplace / "others", 30, level=70)
    result = cli("calibrate", "--normal-dir", "others", "--fpr", "0.2")
    assert result.exit_code == 0, result.stderr
    result = cli("export", "--format", "tflite", "--quantize", "fp16")
    assert result.exit_code == 0, result.stderr
    model = open_model(re.search(r"wrote (\S+)", result.output).group(1))
    stored = json.loads(Path("runs/normal-lis-seed0/detector.json").read_text())["threshold"]
    threshold = Threshold.from_json(model.record["threshold"])
    assert threshold == Threshold(float(np.float32(stored["alpha"])), None, None, 0)
    assert model.stored()[1]["threshold_false_positive_rate"] == "not promised"
    for words in (" ".join(result.output.split()), card_of(model)):
        assert "no false-alarm rate" in words
    assert "with probability at most" not in card_of(model)
    Path("scores.csv").write_text("score\n" + "1\n" * 30)
    result = cli("monitor", "--scores", "scores.csv", "--model", model.path)
    assert_one_sentence(result, "keeps no calibration scores of its own")


def test_calibration_scores_in_a_record_are_scores():
    scores = np.linspace(0, 1, 3 * baseline.MOST, dtype=np.float32)
    assert np.array_equal(baseline.unpack(baseline.pack(scores)), scores[::3])
    assert len(baseline.unpack(baseline.pack(scores[:0]))) == 0
    for damaged in ("AAA", "AAAA", "é", baseline.pack(np.array([np.nan]))):
        with pytest.raises(ValueError):
            baseline.unpack(damaged)


def test_an_exported_model_is_not_calibrated_on_what_it_was_trained_on(workplace, cli):
    [run] = [path.parent for path in Path("runs").glob("*/manifest.jsonl")]
    result = cli("export", "--run", run, "--format", "onnx")
    assert result.exit_code == 0, result.stderr
    path = re.search(r"wrote (\S+)", result.output).group(1)
    fitted = {
        part: [Path("normal") / each.path for each in manifest.read(run).of("normal")
               if (each.part in manifest.FITTED) == (part == "fitted")]
        for part in ("fitted", "held out")
    }  # fmt: skip
    for folder in fitted:
        Path(folder).mkdir()
        for picture in fitted[folder][:9]:
            shutil.copy(picture, Path(folder) / f"renamed-{picture.name}")
    calibrate = ("calibrate", "--model", path, "--fpr", "0.2", "--normal-dir")
    assert_one_sentence(cli(*calibrate, "fitted"), "trained on 9 of the 9", "has not seen")
    result = cli(*calibrate, "held out")
    assert result.exit_code == 0, result.stderr
    # And the model calibrated anew still knows.
    again = re.search(r"wrote ([^;\s]+)", result.output).group(1)
    result = cli("calibrate", "--model", again, *calibrate[3:], "fitted")
    assert_one_sentence(result, "the model was trained on 9 of the 9")


def test_a_list_of_pictures_is_small_and_says_which():
    digests = [hashlib.sha256(b"%d" % k).hexdigest() for k in range(1000)]
    text = seen.pack(digests[:500] * 2)
    assert len(text) == 500 * 8
    assert seen.which(text, digests) == [True] * 500 + [False] * 500
    assert seen.which(None, digests) == [False] * 1000
    assert seen.pack([]) == ""
    for damaged in (text[:-4], "no list!", text + "é"):
        with pytest.raises(ValueError):
            seen.unpack(damaged)


STORED = np.linspace(1, 2, 40, dtype=np.float32)


@pytest.mark.parametrize(
    ("found", "alpha", "those"),
    [
        (STORED, None, True),
        (STORED * 1.0001, None, True),  # on another device
        (STORED[5:], None, True),  # some are gone
        (STORED[:1], None, True),
        (STORED[:0], None, False),
        (np.append(STORED, 3), None, False),
        (STORED + 0.01, None, False),
        (STORED * 2, None, False),
        (STORED, 1.7, False),  # of other scores
        (STORED, None, None),  # set by hand
    ],
)
def test_the_pictures_that_a_threshold_rests_on_are_known_by_their_scores(found, alpha, those):
    from export.tflite import rests_on_these

    threshold = choose_threshold(STORED, 0.1)
    if alpha:
        threshold = replace(threshold, alpha=alpha)
    if those is None:
        threshold = set_by_hand(threshold.alpha, STORED)
    detector = SimpleNamespace(threshold_=threshold, score=lambda pictures: found)
    assert rests_on_these(detector, found, STORED[::-1]) == bool(those)
