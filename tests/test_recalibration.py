"""`calibrate --model`: another threshold in an exported file, and nothing else."""

import os
import shutil
import struct
from pathlib import Path

import export_fixtures
import numpy as np
import pytest
from conftest import assert_one_sentence, contents
from export_fixtures import ALL, path_of
from PIL import Image

from lisae_tf.core.errors import LisaeError

run, models, opened = export_fixtures.run, export_fixtures.models, export_fixtures.opened
detector, samples = export_fixtures.detector, export_fixtures.samples


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


@pytest.mark.parametrize("which", ["savedmodel", "onnx", "tflite-int8"])
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
        bias = next(
            each for each in model.graph.initializer
            if each.data_type == onnx.TensorProto.FLOAT and len(each.raw_data) == 32
        )  # fmt: skip
        bias.raw_data = struct.pack("<8f", *range(8))
        return replace(model.SerializeToString(), alpha, metadata)

    monkeypatch.setattr(onnx_file, "replace", heavier)
    threshold = Threshold(0.5, 0.1, 0.1, 9)
    pictures = np.zeros((1, 32, 32, 1), np.uint8)
    with pytest.raises(LisaeError, match=r"scores otherwise|more than the threshold would"):
        recalibration.recalibrate(opened["onnx"], threshold, pictures, tmp_path / "a" / "b.onnx")
    assert list(tmp_path.iterdir()) == []
