"""The threshold of every exported file: from its own scores, and stated alike wherever it is."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import export_fixtures
import numpy as np
import pytest
from conftest import assert_one_sentence
from export_fixtures import ALL

from lisae_tf.core.thresholds import Threshold, choose_threshold, set_by_hand
from lisae_tf.data import manifest
from lisae_tf.data.tasks import load_training
from lisae_tf.exported import baseline, seen
from lisae_tf.exported.runtimes import open_model

run, models, opened = export_fixtures.run, export_fixtures.models, export_fixtures.opened
detector = export_fixtures.detector
QUANTISED = ("tflite-fp16", "tflite-int8")


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
    from export.samples import MAX_REAL

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
    from export.quantised import rests_on_these

    threshold = choose_threshold(STORED, 0.1)
    if alpha:
        threshold = replace(threshold, alpha=alpha)
    if those is None:
        threshold = set_by_hand(threshold.alpha, STORED)
    detector = SimpleNamespace(threshold_=threshold, score=lambda pictures: found)
    assert rests_on_these(detector, found, STORED[::-1]) == bool(those)
