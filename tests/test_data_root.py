"""Folders of a run are found from any working folder, and where they have moved to."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import QUICK, assert_one_sentence

from export.samples import load_samples
from lisae_tf.config.settings import read_settings, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import manifest, roots
from lisae_tf.detectors import load_detector

RUN = Path("runs/normal-lis-seed0")


def stored():
    return read_settings(RUN / "config.yaml")


@pytest.fixture
def fresh(tmp_path, picture_folder, cli, monkeypatch):
    """A working folder `old` with folders in `old/data` and a run on them."""
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    for name, count, level in (("normal", 40, 60), ("anomaly", 5, 200), ("more", 30, 90)):
        picture_folder(Path("data") / name, count, level=level)
    result = cli(
        "train", "--normal-dir", "data/normal", "--anomaly-dir", "data/anomaly", "--variant", "ae",
        *QUICK, "--out", "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return tmp_path, result.stdout


def test_a_run_is_found_from_anywhere_and_moved_folders_are_named(fresh, cli, monkeypatch):
    base, said = fresh
    settings = read_settings(base / "old/run/config.yaml")
    assert settings["normal_dir"] == str(base / "old/data/normal")
    assert settings["anomaly_dir"] == str(base / "old/data/anomaly")
    assert f"normal_dir: {base}/old/data/normal" in said
    (base / "else").mkdir()
    monkeypatch.chdir(base / "else")
    result = cli("evaluate", "--run", "../old/run")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["n_anomaly"] == 5
    monkeypatch.chdir(base / "old")
    shutil.move(base / "old/data", base / "new")
    gone = base / "old/data"
    result = cli("evaluate", "--run", "run")
    assert_one_sentence(result, "data/normal", "does not exist", "--data-root", "=NEW")
    root = ("--data-root", f"{gone}={base / 'new'}")
    for command in ("evaluate", "report"):
        result = cli(command, "--run", "run", *root)
        assert result.exit_code == 0, result.stderr
    assert "cannot be read" not in Path("run/report.html").read_text()
    assert len(load_samples(load_detector(Path("run")), Path("run"), None, root[1:]).real) == 9
    more = ("--normal-dir", base / "new/more", "--out", "further")
    result = cli("train", "--continue", "run", *more, *root)
    assert result.exit_code == 0, result.stderr
    assert read_settings(Path("further/config.yaml"))["normal_dir"] == [
        str(base / "new/normal"), str(base / "new/more"),
    ]  # fmt: skip
    # Its old pictures keep their parts.
    old, new = (
        {(each.sha256, each.part) for each in manifest.read(Path(run)).of("normal")}
        for run in ("run", "further")
    )
    assert old == new


def test_an_interrupted_run_is_resumed_on_moved_folders(fresh, cli):
    base, _ = fresh
    shutil.move(base / "old/data", base / "new")
    for name in ("metrics.json", "digests.json"):  # as it was before its end
        Path("run", name).unlink()
    result = cli(
        "train", "--normal-dir", base / "new/normal", "--anomaly-dir", base / "new/anomaly",
        "--variant", "ae", *QUICK, "--out", "run", "--resume", "--data-root",
        f"{base / 'old/data'}={base / 'new'}",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr


def test_home_is_meant_by_a_tilde_wherever_a_path_is_taken(workplace, cli, monkeypatch):
    monkeypatch.setenv("HOME", str(workplace))
    result = cli("score", "--run=~/runs/normal-lis-seed0", "--out=~/scores.csv", "~/anomaly")
    assert result.exit_code == 0, result.stderr
    assert (workplace / "scores.csv").is_file()
    given = resolve({"dataset": "folder", "normal_dir": "~/normal", "negative_dir": "negative"})
    assert roots.absolute(given).normal_dir == str(workplace / "normal")
    assert roots.absolute(given).negative_dir == str(workplace / "negative")
    assert roots.here(given).normal_dir == "normal"
    assert cli("data", "check", "--normal-dir=~/normal").exit_code == 0


def test_what_has_moved_goes_back():
    given = resolve({"dataset": "folder", "normal_dir": ["/a/b/one", "/c/two"]})
    there = roots.moved(given, ["/a=/new", "/c=/new/c"])
    assert there.normal_dirs == ["/new/b/one", "/new/c/two"]
    assert roots.moved(there, ["/new/b=/b"]).normal_dirs == ["/b/one", "/new/c/two"]
    assert roots.moved_back(roots.moved(given, ["/a/b=/n"]), ["/a/b=/n"]) == given
    with pytest.raises(LisaeError, match="no folder of the run lies in /x"):
        roots.moved(given, ["/x=/y"])
