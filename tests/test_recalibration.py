"""The threshold of every exported file, and `calibrate --model`, which writes another.

The rate that a threshold promises is measured on real pictures, divided 200 times ('make slow'):
`INSPECTION_DATA_DIR` names a folder with `train/good`, as of MVTec's sets. Divisions of one set of
pictures are drawn independently, so the mean share of normal test pictures above the threshold may
exceed the rate asked for by no more than a few of its standard errors over the divisions. What the
last run measured lies in results/slow.json with its date and version.
"""

import contextlib
import functools
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
from lisae_tf.data import manifest, picture_files
from lisae_tf.data.tasks import load_training
from lisae_tf.exported import packed
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
    scores = np.linspace(0, 1, 3 * packed.MOST_SCORES, dtype=np.float32)
    assert np.array_equal(packed.unpack_scores(packed.pack_scores(scores)), scores[::3])
    assert len(packed.unpack_scores(packed.pack_scores(scores[:0]))) == 0
    for damaged in ("AAA", "AAAA", "é", packed.pack_scores(np.array([np.nan]))):
        with pytest.raises(ValueError):
            packed.unpack_scores(damaged)


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
    text = packed.pack_digests(digests[:500] * 2)
    assert len(text) == 500 * 8
    assert packed.which_seen(text, digests) == [True] * 500 + [False] * 500
    assert packed.which_seen(None, digests) == [False] * 1000
    assert packed.pack_digests([]) == ""
    for damaged in (text[:-4], "no list!", text + "é"):
        with pytest.raises(ValueError):
            packed.unpack_digests(damaged)


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


SPLITS, ERRORS = 200, 3  # and how many standard errors the mean may lie above the rate
RATES = (0.05, 0.1)
SEEN = 100  # pictures that runs train on; all others are dealt to calibration and test
given = os.environ.get("INSPECTION_DATA_DIR")
GOOD = Path(given or ".") / "train" / "good"
# What tests on real pictures share: slow, and left out where there are none.
MARKS = (
    pytest.mark.slow("200 divisions of real pictures"),
    pytest.mark.skipif(
        not given or not GOOD.is_dir(),
        reason="INSPECTION_DATA_DIR names no folder with train/good",
    ),
    pytest.mark.filterwarnings("ignore:.*calibration samples? supports?:UserWarning"),
)


def on_real_pictures(test):
    """Puts all of `MARKS` on a test."""
    return functools.reduce(lambda marked, mark: mark(marked), MARKS, test)


# `train` options: what own folders get at a smaller size, and the paper's network.
KINDS = {
    "features": ("--set", "data.size=[128,128]"),
    "pixels": (
        *("--features", "none", "--set", "data.size=[64,64]", "--set", "network.latent=16"),
        *("--set", "feature_extraction.epochs=6", "--set", "latent_shaping.epochs=3"),
    ),
}
IN_CLOSED_FORM = {"latent_shaping": {"closed_form": True}}
HALVES = {"data": {"calibration_fraction": 0.4, "test_fraction": 0.4}}
EXPORTS = {"float": (), "fp16": ("--quantize", "fp16"), "int8": ("--quantize", "int8")}


def write_pictures(base: Path, copies: float = 0.0) -> list[Path]:
    """Folders `seen`, `later` and `unseen` of the pictures, in random order.

    Args:
        base: where.
        copies: share of pictures that get a near copy beside them; 0 where nothing keeps near
            copies in one part.
    """
    random = np.random.default_rng(0)
    found = list(random.permutation(picture_files.find(GOOD)))
    folders = [base / name for name in ("seen", "later", "unseen")]
    parts = (found[:SEEN], found[SEEN : SEEN + SEEN // 3], found[SEEN + SEEN // 3 :])
    for folder, part in zip(folders, parts, strict=True):
        folder.mkdir(parents=True)
        for number, path in enumerate(part):
            with Image.open(path) as picture:
                small = picture.convert("RGB").resize((128, 128), Image.Resampling.BOX)
            small.save(folder / f"{number:04d}.png")
            if random.random() < copies:
                noisy = np.asarray(small) + random.integers(-1, 2, (128, 128, 3))
                again = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
                again.save(folder / f"{number:04d}-again.png")
    return folders


def shares_above(scores, thresholds_from, rate, seed=0):
    """Of each split of the scores into halves: the share of the second above the threshold.

    Args:
        scores: of the file that decides, float (N,).
        thresholds_from: of the file that the threshold is chosen from, (N,).
        rate: asked for.
    """
    random, found, promised = np.random.default_rng(seed), [], []
    for _ in range(SPLITS):
        order = random.permutation(len(scores))
        calibration, test = np.split(order, [len(order) // 2])
        chosen = choose_threshold(thresholds_from[calibration], rate, nearest=True)
        found.append(np.mean(scores[test] > chosen.alpha))
        promised.append(chosen.guaranteed_fpr)
    return np.array(found), float(np.mean(promised))


def told(found, promised):
    """What is kept of the splits."""
    mean, error = float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(len(found)))
    return {"mean": round(mean, 5), "error": round(error, 5), "promised": round(promised, 5)}


def assert_kept(each):
    assert each["mean"] <= each["promised"] + ERRORS * each["error"]


@on_real_pictures
@pytest.mark.parametrize("kind", KINDS)
def test_exports_keep_their_rate_before_and_after_continuing(kind, tmp_path, cli, measured):
    """One training, its float, float16 and int8 file; then trained on, and the same again.

    The files score every picture that no training has seen once; what is drawn 200 times is which
    of these calibrate and which test, for that chance is what the promise speaks of.
    """
    seen, later, unseen = write_pictures(tmp_path)
    images = None
    results = {}
    with contextlib.chdir(tmp_path):
        for name, options in {
            "trained": ("--normal-dir", seen, *KINDS[kind]),
            "continued": ("--continue", "runs/trained", "--normal-dir", later),
        }.items():
            result = cli("train", "--quiet", *options, "--out", f"runs/{name}")
            assert result.exit_code == 0, result.output
            scores = {}
            for export, quantize in EXPORTS.items():
                result = cli("export", "--run", f"runs/{name}", "--format", "tflite", *quantize)
                assert result.exit_code == 0, result.output
                model = open_model(re.search(r"wrote (\S+)", result.output).group(1))
                if images is None:
                    from lisae_tf.data import pictures

                    images = pictures.decode_all(
                        picture_files.find(unseen), model.shape[:2], model.shape[2]
                    ).pixels
                scores[export] = model.score(images)
            for rate in RATES:
                for export, own in scores.items():
                    row = told(*shares_above(own, own, rate))
                    # For comparison: the float threshold in this file.
                    row["by_float"] = told(*shares_above(own, scores["float"], rate))["mean"]
                    results[f"{name}, {export}, {rate:g}"] = row
            shutil.rmtree("models")
    measured(unseen=len(images), splits=SPLITS, **results)
    for each in results.values():
        assert_kept(each)


@on_real_pictures
def test_folders_keep_their_rate_where_every_picture_has_a_near_copy(tmp_path, cli, measured):
    """One training; what is divided 200 times, as `train` does it, are pictures it has not seen."""
    from lisae_tf.config.settings import merge, resolve
    from lisae_tf.data import pictures
    from lisae_tf.data.opened_folders import PARTS, divided
    from lisae_tf.detectors import load_detector

    seen, _, unseen = write_pictures(tmp_path, copies=1.0)
    with contextlib.chdir(tmp_path):
        result = cli("train", "--quiet", "--normal-dir", seen, *KINDS["features"], "--out", "run")
    assert result.exit_code == 0, result.output
    detector = load_detector(tmp_path / "run")
    found = pictures.decode_all(picture_files.find(unseen), detector.shape[:2], 3)
    scores, rows = np.asarray(detector.score(found.pixels)), {}
    for rate in RATES:
        shares, counted, promised = [], [], []
        for seed in range(SPLITS):
            config = resolve(merge(detector.config.model_dump(), {"seed": seed} | HALVES))
            own = divided(found, unseen, config, 0, "normal", with_test=True)
            part = dict(zip(PARTS, own.indices, strict=True))
            chosen = choose_threshold(scores[part["calibration"]], rate, nearest=True)
            shares.append(np.mean(scores[part["test"]] > chosen.alpha))
            promised.append(chosen.guaranteed_fpr)
            both = np.concatenate([part["calibration"], part["unused"]])
            alpha = choose_threshold(scores[both], rate, nearest=True).alpha
            counted.append(np.mean(scores[part["test"]] > alpha))
        row = told(np.array(shares), float(np.mean(promised)))
        # For comparison: as if each near copy were another picture.
        rows[f"{rate:g}"] = row | {"if_copies_counted": round(float(np.mean(counted)), 5)}
    measured(pictures=len(scores), splits=SPLITS, **rows)
    for each in rows.values():
        assert_kept(each)


@on_real_pictures
@pytest.mark.parametrize("copies", [0.0, 1.0])
@pytest.mark.parametrize("variant", ["kde", "linear-lis"])
def test_the_estimator_keeps_its_rate_when_all_is_done_anew(variant, copies, measured):
    """Every split holds out a test, and trains, makes negatives and calibrates anew.

    Copies are exact ones, which the estimator keeps together and counts once.
    """
    from lisae_tf.data import pictures
    from lisae_tf.data.checks import thumbnails
    from lisae_tf.interfaces.estimator import LISAEDetector

    images = pictures.decode_all(picture_files.find(GOOD), (64, 64), 3).pixels
    rows = np.asarray(thumbnails(images), np.float64).reshape(len(images), -1)[:, ::4]
    more = {"kde": {}, "linear-lis": {"latent": 8, "settings": IN_CLOSED_FORM}}[variant]
    random, rate, shares, promised = np.random.default_rng(0), 0.1, [], []
    for split in range(SPLITS):
        order = random.permutation(len(rows))
        trained, test = np.split(rows[order], [3 * len(order) // 4])
        trained = np.concatenate([trained, trained[: round(copies * len(trained))]])
        detector = LISAEDetector(variant, false_positive_rate=rate, random_state=split, **more)
        detector.fit(trained)
        shares.append(np.mean(detector.predict(test) == -1))
        promised.append(detector.detector_.threshold_.guaranteed_fpr)
    row = told(np.array(shares), float(np.mean(promised)))
    measured(pictures=len(rows), splits=SPLITS, rate=rate, copies=copies, **row)
    assert_kept(row)
