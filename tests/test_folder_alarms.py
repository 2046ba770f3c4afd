"""Several folders of normal pictures: how many false alarms each of them has."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK

from lisae_tf.core.files import read_json
from lisae_tf.core.thresholds import choose_threshold
from lisae_tf.evaluation.metrics import Scored, by_folder, folder_remarks


def scored(*normal: np.ndarray) -> Scored:
    scores = np.concatenate([*normal, [9.0]])
    return Scored(scores, np.arange(len(scores)) == len(scores) - 1)


def test_a_folder_of_which_every_picture_is_flagged_is_told():
    random = np.random.default_rng(0)
    threshold = choose_threshold(random.random(240), 0.2)
    test = scored(random.random(200), 5 + random.random(40))
    found = by_folder(test, {"good": 200, "odd": 40}, threshold)
    assert (found["odd"]["n"], found["odd"]["alarms"]) == (40, 40)
    assert found["odd"]["false_positive_rate"] == 1
    assert found["good"]["false_positive_rate"] < 0.3
    (said,) = folder_remarks(found, 0.2)
    assert said.startswith("40 of the 40 normal test pictures of odd are called anomalous, more")
    assert "20 % are asked for" in said


def test_within_chance_nothing_is_said():
    random = np.random.default_rng(1)
    threshold = choose_threshold(random.random(200), 0.2)
    found = by_folder(scored(*random.random((2, 50))), {"a": 50, "b": 50}, threshold)
    assert folder_remarks(found, 0.2) == []


@pytest.mark.parametrize("counts", [{"a": 20}, {"a": 20, "b": 0}, {"a": 5, "b": 5}])
def test_one_folder_or_counts_of_other_pictures_say_nothing(counts):
    threshold = choose_threshold(np.arange(40.0), 0.2)
    assert by_folder(scored(np.arange(20.0)), counts, threshold) == {}


def test_train_evaluate_and_calibrate_tell_each_folder(workplace, picture_folder, cli):
    picture_folder(Path("other"), 30, level=190)
    sides = ("--normal-dir", "normal", "--normal-dir", "other", "--anomaly-dir", "anomaly")
    result = cli("train", *sides, "--variant", "ae", *QUICK, "--out", "two")
    assert result.exit_code == 0, result.stderr
    found = read_json(Path("two/metrics.json"))["by_folder"]
    assert {name: row["n"] for name, row in found.items()} == {"normal": 5, "other": 3}
    assert " % of 3 normal test pictures called anomalous" in result.stdout
    again = cli("evaluate", "--run", "two")
    assert json.loads(again.stdout)["by_folder"] == found
    assert cli("calibrate", "--run", "two", "--fpr", "0.9").exit_code == 0
    lowered = read_json(Path("two/metrics.json"))["by_folder"]
    assert sum(row["alarms"] for row in lowered.values()) > 0
    assert lowered != found
    # From a threshold that was set by hand nothing follows, not even that it is exceeded too often.
    assert cli("calibrate", "--run", "two", "--threshold", "1e-6").exit_code == 0
    result = cli("evaluate", "--run", "two")
    assert result.exit_code == 0 and "more than chance" not in result.stderr
    by_folder = json.loads(result.stdout)["by_folder"]
    assert by_folder.keys() == found.keys()
    assert all(row["alarms"] == row["n"] for row in by_folder.values())
