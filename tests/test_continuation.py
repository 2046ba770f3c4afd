"""Several folders of normal pictures, and `train --continue`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, load_folder_test, load_folder_training
from PIL import Image
from training_fixtures import surface

from lisae_tf.config.settings import resolve
from lisae_tf.config.variants import ONE_CLASS
from lisae_tf.core.arrays import load_arrays
from lisae_tf.detectors import DETECTORS, load_detector, make_detector

pytestmark = pytest.mark.usefixtures("whole_epochs")
SMALL = (
    *("--features", "none"),
    *(
        "--set",
        "data.size=[16, 16]",
        "--set",
        "network.latent=8",
        "--set",
        "network.filters=[8, 8]",
    ),
    *("--set", "feature_extraction.epochs=4", "--set", "feature_extraction.learning_rate=0.005"),
    *("--set", "feature_extraction.warmup_steps=20", "--set", "latent_shaping.epochs=2"),
    *("--set", "feature_extraction.collapse_fraction=0"),
    *("--set", "feature_extraction.decoder_steps=0"),
)


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory):
    """Folders of 16x16 patches: gravel, brick (a later normal class), coins, moon."""
    base = tmp_path_factory.mktemp("surfaces")
    for name, count in (("gravel", 120), ("brick", 120), ("coins", 60), ("moon", 40)):
        (base / name).mkdir()
        for index, patch in enumerate(surface(name, count)):
            Image.fromarray(patch[::2, ::2, 0]).save(base / name / f"{index:03d}.png")
    return base


@pytest.fixture
def place(surfaces, tmp_path, monkeypatch):
    shutil.copytree(surfaces, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder_config(*normal):
    return resolve(
        {
            "dataset": "folder",
            "normal_dir": list(normal),
            "negative_dir": "coins",
            "data": {"size": [16, 16], "channels": 1},
        }
    )


def rows(pixels):
    return {p.tobytes() for p in pixels}


def test_a_folder_is_divided_alike_whatever_follows_it(place):
    one, both = (
        load_folder_training(folder_config(*names), skip_bad=False).normal
        for names in (["gravel"], ["gravel", "brick"])
    )
    for part in ("fit", "stopping", "calibration"):
        alone, joined = getattr(one, part), getattr(both, part)
        np.testing.assert_array_equal(joined[: len(alone)], alone)
        assert len(joined) == 2 * len(alone)
    test = load_folder_test(folder_config("gravel", "brick"), skip_bad=False)
    assert test.normal_counts == (12, 12)
    parts = rows(both.fit) | rows(both.stopping) | rows(both.calibration)
    assert not rows(test.pixels) & parts
    assert all("gravel" in label for label in test.labels[:12])
    assert all("brick" in label for label in test.labels[12:])


@pytest.fixture(scope="module")
def continued(surfaces, tmp_path_factory, cli):
    """A working folder with the run `old` on gravel and `new`, which takes brick in."""
    base = tmp_path_factory.mktemp("continued")
    shutil.copytree(surfaces, base, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        sides = ("--negative-dir", "coins", "--anomaly-dir", "moon")
        old = cli("train", "--normal-dir", "gravel", *sides, *SMALL, "--out", "old")
        assert old.exit_code == 0, old.stderr
        new = cli("train", "--continue", "old", "--normal-dir", "brick", "--out", "new")
        assert new.exit_code == 0, new.stderr
    return base, new.stdout


def test_old_normals_are_measured_before_and_after(continued):
    base, said = continued
    found = json.loads((base / "new" / "metrics.json").read_text())["continued"]
    assert found["run"] == "old"
    before = json.loads((base / "old" / "metrics.json").read_text())
    old, new = found["old_normals"], found["new_normals"]
    assert (old["n"], new["n"]) == (12, 12)
    # Before is what the old run itself found, on the same held-out pictures.
    assert old["auroc_before"] == pytest.approx(before["auroc"])
    assert old["false_positive_rate_before"] == pytest.approx(before["false_positive_rate"])
    assert new["mean_score_after"] < new["mean_score_before"]
    assert "old normals: " in said
    assert "new normals: " in said


def test_the_report_shows_it(continued, cli):
    base, _ = continued
    result = cli("report", "--run", base / "new")
    assert result.exit_code == 0, result.stderr
    page = (base / "new" / "report.html").read_text()
    assert "What the old normal pictures lost" in page
    assert "This run continues old." in page
    assert cli("report", "--run", base / "old").exit_code == 0
    assert "old normal pictures" not in (base / "old" / "report.html").read_text()


def test_it_begins_with_the_old_weights(continued, monkeypatch):
    base, _ = continued
    monkeypatch.chdir(base)
    old, new = load_detector(Path("old")), load_detector(Path("new"))
    assert new.config.normal_dirs == [str(base / "gravel"), str(base / "brick")]
    assert new.config.negative_dir == str(base / "coins")
    # All that `weights_to_continue` gives is of phase 1, and that is one of `ae`.
    fresh = make_detector(new.config.model_copy(update={"variant": "ae"}))
    data = load_folder_training(new.config, skip_bad=False)
    from lisae_tf.training.phase import TrainingOptions

    fresh.fit_data(data, TrainingOptions())

    def distance(a, b):
        one, other = a.weights_to_continue(), b.weights_to_continue()
        return sum(np.square(one[name] - other[name]).sum() for name in one)

    assert distance(new, old) < distance(fresh, old) / 2
    assert not load_arrays(Path("new/weights.npz"))[0].keys() ^ (
        load_arrays(Path("old/weights.npz"))[0].keys()
    )


BRICK = ("--normal-dir", "brick")
REFUSED = {
    "no new pictures": (("old",), "needs the new normal pictures"),
    "known": (("old", "--normal-dir", "gravel"), "gravel is normal in old already"),
    "no run": (("nowhere", *BRICK), "nowhere"),
    "variant": (("old", *BRICK, "--variant", "ae"), "variant differs"),
    "network": (("old", *BRICK, "--set", "network.latent=9"), "network differs"),
    "settings": (("old", *BRICK, "--config", "old/config.yaml"), "leave --config out"),
    "negatives": (("old", "--normal-dir", "coins"), "coins"),
    "no autoencoder": (("kde", *BRICK), "kde is not one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_continued_is_one_sentence(case, continued, cli, monkeypatch):
    (run, *arguments), words = REFUSED[case]
    base, _ = continued
    monkeypatch.chdir(base)
    if run == "kde" and not Path("kde").exists():
        sides = ("--normal-dir", "gravel", "--anomaly-dir", "moon", "--variant", "kde")
        assert cli("train", *sides, *SMALL, "--out", "kde").exit_code == 0
    before = sorted(path.name for path in base.iterdir())
    result = cli("train", "--continue", run, *arguments, "--out", "another")
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in base.iterdir()) == before


def test_the_same_picture_in_two_normal_folders_is_refused(place, cli):
    shutil.copy("gravel/000.png", "brick/copy.png")
    result = cli("train", "--normal-dir", "gravel", "--normal-dir", "brick", *QUICK)
    assert result.exit_code == 1
    assert "brick/copy.png (also normal) holds the same picture as gravel/000.png" in result.stderr


def test_a_folder_without_negatives_gets_synthetic_ones_where_they_are_needed(place, cli):
    solved = ("--variant", "linear-lis", "--features", "none", "--set", "network.latent=4")
    size = ("--set", "data.size=[8, 8]")
    result = cli("train", "--normal-dir", "gravel", *solved, *size, "--out", "alone")
    assert result.exit_code == 0, result.stderr
    assert "note: no negatives are given; --negatives synth:" in result.stdout
    metrics = json.loads(Path("alone/metrics.json").read_text())
    assert metrics["negatives"].startswith("synth:")
    result = cli("train", "--normal-dir", "gravel", "--variant", "kde", *SMALL, "--out", "kde")
    assert "no negatives" not in result.stdout
    assert json.loads(Path("kde/metrics.json").read_text())["negatives"] == "none"


def test_one_class_names_the_detectors_that_need_no_negatives():
    needing = {
        name for name in DETECTORS if make_detector(resolve({"variant": name})).needs_negatives
    }
    assert needing == set(DETECTORS) - set(ONE_CLASS)
