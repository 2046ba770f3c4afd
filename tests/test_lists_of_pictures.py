"""Lists of pictures where folders of them may stand: the same parts, the same run."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, assert_one_sentence, load_folder_test, load_folder_training

from lisae_tf.data import manifest, picture_files
from lisae_tf.experiments.settling import settle


@pytest.fixture
def listed(tmp_path, picture_folder, monkeypatch):
    """`good.txt` and `bad.csv` name the pictures of folders elsewhere, and each one twice."""
    monkeypatch.chdir(tmp_path)
    good = picture_folder(tmp_path / "store" / "good", 40, level=60)
    bad = [
        path
        for kind, level in (("dent", 180), ("hole", 220))
        for path in picture_files.find(picture_folder(tmp_path / "store" / kind, 4, level=level))
    ]
    names = [str(path) for path in picture_files.find(good)]
    Path("good.txt").write_text("\n".join(names[::-1] + names))
    rows = [f"x,{path.relative_to(tmp_path)}" for path in bad]
    Path("bad.csv").write_text("\n".join(["id,path", *rows]))
    return tmp_path


def config_of(**options):
    sizes = ["data.size=[12, 12]", "data.channels=1", "features=null", "variant=ae"]
    return settle(options, None, sizes)[0]


def test_a_list_gives_the_parts_of_its_folder(listed):
    one = load_folder_training(config_of(normal_dir=("good.txt",)))
    other = load_folder_training(config_of(normal_dir=("store/good",)))
    assert len(one.normal.fit) > 20
    for part in ("fit", "stopping", "calibration"):
        assert np.array_equal(getattr(one.normal, part), getattr(other.normal, part))


def test_folders_in_a_list_are_kinds(listed):
    options = {"normal_dir": ("good.txt",), "anomaly_dir": "bad.csv"}
    assert sorted(set(load_folder_test(config_of(**options)).kinds)) == ["", "store"]
    Path("store/bad.csv").write_text("path\ndent/000.png\nhole/000.png\n")
    options["anomaly_dir"] = "store/bad.csv"
    assert sorted(set(load_folder_test(config_of(**options)).kinds)) == ["", "dent", "hole"]


def test_a_run_on_lists_is_evaluated_on_what_was_its_test(listed, cli):
    sides = ("--normal-dir", "good.txt", "--anomaly-dir", "bad.csv", "--variant", "ae")
    assert "training would start" in cli("data", "check", *sides[:4]).output
    result = cli("train", *sides, *QUICK, "--out", "run")
    assert result.exit_code == 0, result.output
    parts = {entry.path for entry in manifest.read(Path("run")).entries}
    assert {"store/good/000.png", "store/hole/000.png"} <= parts
    before = json.loads(Path("run/metrics.json").read_text())
    Path("good.txt").write_text("\n".join(Path("good.txt").read_text().splitlines()[::-1]))
    result = cli("evaluate", "--run", "run")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["auroc"] == before["auroc"]


def test_what_is_no_list_and_no_folder_is_said(listed, cli):
    Path("good.txt").write_text("nothing.png\n")
    result = cli("data", "check", "--normal-dir", "good.txt")
    assert_one_sentence(result, "1 of the 1 files in good.txt does not exist: nothing.png")
