"""Settings of own folders: features by default, pixels where they are asked for, size, records."""

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT
from PIL import Image

from lisae_tf.config import settings as configuration
from lisae_tf.config.sections import NO_LONGER_READ, Features, Network
from lisae_tf.config.settings import (
    Config,
    config_folder,
    is_record,
    merge,
    read_settings,
    resolve,
)
from lisae_tf.config.variants import ONE_CLASS, PICTURES_ONLY, VARIANTS
from lisae_tf.data.folders import FEATURES_SIDE, STEP, _own_size, settle_folder_channels, size_of
from lisae_tf.data.pictures import Header
from lisae_tf.experiments.settling import settle
from lisae_tf.grids import stored as stored_cells

GOOD = {"normal_dir": "good"}
BOTH = {"normal_dir": "good", "negative_dir": "other"}
PIXELS = ("--features", "none")
CELLS = stored_cells.paths(CHECKOUT / "results" / "cells")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_own_folders_train_on_features_against_made_flaws():
    settled, notes = settle(GOOD, None, [])
    assert settled.features == Features()
    assert (settled.variant, settled.negatives) == ("lis-knn", "synth:flaws")
    assert settled.latent_shaping.closed_form
    assert settled.latent_shaping.gamma_times == 10
    assert (settled.network.latent, settled.scoring.highest_share) == (40, 0.02)
    assert notes == [
        "no negatives are given; --negatives synth:flaws makes them of the normal pictures"
    ]


def test_made_flaws_stand_beside_real_negatives_without_a_word():
    settled, notes = settle(BOTH, None, [])
    assert (settled.features, settled.negatives, notes) == (Features(), "synth:flaws", [])
    named, _ = settle(BOTH | {"negatives": "none"}, None, [])
    assert named.negatives == "none"


@pytest.mark.parametrize("way", ["option", "set", "file", "named file"])
def test_without_features_own_folders_are_what_they_were(way, tmp_path):
    option = {"features": "none"} if way == "option" else {}
    assigned = ["features=null"] if way == "set" else []
    mine = write(tmp_path / "mine.yaml", "features:\n") if way == "file" else None
    if way == "named file":
        mine = config_folder() / "folder_pixels.yaml"
    settled, notes = settle(BOTH | option, mine, assigned)
    assert notes == []
    expected = {
        "dataset": "folder",
        "feature_extraction": {"decoder_steps": 300},
        "latent_shaping": {"gamma_times": 10.0},
    }
    assert settled == resolve(expected | BOTH)
    assert (settled.variant, settled.features, settled.network) == ("lis", None, Network())
    assert "\nfeatures:" not in settled.to_yaml()
    alone, notes = settle(GOOD | option, mine, assigned)
    assert alone.negatives == "synth:elastic"
    assert notes == [
        "no negatives are given; --negatives synth:elastic makes them of the normal pictures"
    ]


@pytest.mark.parametrize("variant", PICTURES_ONLY)
def test_what_needs_pictures_falls_back_to_pixels(variant, tmp_path):
    settled, notes = settle(GOOD | {"variant": variant}, None, [])
    assert (settled.features, settled.negatives, notes) == (None, "none", [])
    assert settled.feature_extraction.decoder_steps == 300
    mine = write(tmp_path / "mine.yaml", f"variant: {variant}\n")
    assert settle(GOOD, mine, [])[0] == settled
    assert settle(GOOD, None, [f"variant={variant}"])[0] == settled


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in PICTURES_ONLY])
def test_all_others_stay_on_features(variant):
    settled, _ = settle(GOOD | {"variant": variant}, None, [])
    assert (settled.features, settled.variant) == (Features(), variant)
    assert settled.negatives == ("none" if variant in ONE_CLASS else "synth:flaws")


def test_single_settings_of_the_features_may_be_changed(tmp_path):
    settled, _ = settle(GOOD, None, ["features.taps=[block_2, block_6]", "features.local_mean=5"])
    assert settled.features == Features(taps=["block_2", "block_6"], local_mean=5)
    assert settled.latent_shaping.closed_form  # the rest is that of own folders
    mine = write(tmp_path / "mine.yaml", "features: {made: 40}\n")
    settled, _ = settle(GOOD | {"features": "resnet50"}, mine, [])
    assert settled.features == Features(backbone="resnet50", made=40)


@pytest.fixture
def other_defaults(tmp_path, monkeypatch):
    """After the call own folders have other settings than before, as in a later version."""

    def change():
        folder = tmp_path / "later"
        folder.mkdir()
        for name in ("folder", "folder_pixels"):
            write(folder / f"{name}.yaml", "dataset: folder\nvariant: knn\nseed: 77\n")
        monkeypatch.setattr(configuration, "config_folder", lambda: folder)

    return change


@pytest.mark.parametrize("features", [None, "none", "mobilenet_v3_small"])
def test_a_runs_record_stays_as_it_is_whatever_the_defaults_become(
    features, other_defaults, tmp_path
):
    settled, _ = settle(BOTH | {"features": features, "seed": 3}, None, [])
    record = write(tmp_path / "config.yaml", settled.to_yaml())
    assert is_record(read_settings(record))
    other_defaults()
    assert settle(GOOD, None, [])[0].variant == "knn"
    again, notes = settle({}, record, [])
    assert (again, notes) == (settled, [])
    assert again.digest() == settled.digest()
    seed, _ = settle({"seed": 4}, record, [])
    assert seed == settled.model_copy(update={"seed": 4})


def test_a_few_settings_in_a_file_are_no_record(tmp_path):
    mine = write(tmp_path / "mine.yaml", "normal_dir: good\nseed: 5\nnetwork: {latent: 7}\n")
    assert not is_record(read_settings(mine))
    settled, _ = settle({}, mine, [])
    assert (settled.seed, settled.network.latent, settled.variant) == (5, 7, "lis-knn")
    assert settled.features == Features()


def test_a_record_of_before_there_were_features_is_still_one():
    record = Config(dataset="folder", normal_dir="good").model_dump()
    assert {"features", "knn", "scoring", "test_dir"}.isdisjoint(record)
    assert is_record(record)


def test_there_are_stored_results():
    assert len(CELLS) > 1000


@pytest.mark.parametrize("cell", CELLS[:: max(1, len(CELLS) // 12)], ids=lambda path: path.stem)
def test_stored_results_have_the_digests_that_their_settings_have_now(cell, tmp_path):
    stored = stored_cells.read(cell)
    assert "features" not in stored["config"]
    now, then = resolve(stored["config"]).model_dump(), copy.deepcopy(stored["config"])
    text = json.dumps(then, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == stored["config_hash"]
    for name in NO_LONGER_READ:
        then["latent_shaping"].pop(name, None)
    assert now == then
    named = {name: stored["config"][name] for name in ("dataset", "variant", "normal_class")}
    settled, _ = settle(named, None, [])
    assert settled.features is None
    assert settled.digest() == resolve(merge(read_named(named["dataset"]), named)).digest()


def read_named(dataset: str) -> dict:
    """The settings of a named data set, without any of own folders."""
    return configuration.dataset_settings(dataset) or {}


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ([(500, 500)], (256, 256)),
        ([(700, 900)], (192, 256)),
        ([(900, 700)], (256, 192)),
        ([(30, 40)], (192, 256)),  # enlarged
        ([(1000, 1000), (500, 1000), (500, 1000)], (128, 256)),  # the usual ones
        ([(20, 4000)], (64, 256)),  # two steps at least
        ([(1080, 1920)], (128, 256)),  # 144 is 4.5 steps
        ([], (256, 256)),
    ],
)
def test_pictures_for_features_keep_their_usual_proportions(sides, size):
    found = _own_size([Header(*each, "RGB") for each in sides])
    assert found == size
    assert max(found) == FEATURES_SIDE
    assert all(side % STEP == 0 for side in found)


@pytest.fixture
def wide(tmp_path):
    """Grey pictures of 40 x 60, one of them turned."""
    folder = tmp_path / "wide"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        levels = random.integers(0, 256, (40, 60) if number else (60, 40), np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.png")
    return str(folder)


@pytest.mark.parametrize(
    ("given", "size", "channels"),
    [
        ({}, [160, 256], 1),
        ({"features": "none"}, [64, 64], 1),
        ({"data": {"size": [96, 32]}}, [96, 32], 1),
        ({"data": {"channels": 3}}, [160, 256], 3),
    ],
)
def test_size_and_channels_of_own_folders_are_written_into_the_settings(
    given, size, channels, wide
):
    settled = settle_folder_channels(settle({"normal_dir": wide} | given, None, [])[0])
    assert (settled.data.size, settled.data.channels) == (size, channels)
    assert size_of(settled) == tuple(size)
    assert settle_folder_channels(settled) == settled


def test_named_data_sets_have_their_own_size():
    named = settle({"dataset": "surfaces"}, None, [])[0]
    assert settle_folder_channels(named) == named
    assert named.features is None


@pytest.mark.slow("two trainings on features by command; test_feature_commands trains one")
def test_a_run_on_features_says_so_and_its_record_trains_the_same(
    picture_folder, cli, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, count, level in (("normal", 30, 60), ("anomaly", 6, 200)):
        picture_folder(tmp_path / name, count, level=level)
    small = (
        "--set",
        "data.size=[64, 64]",
        "--set",
        "network.latent=8",
        "--set",
        "features.made=20",
    )
    sides = ("--normal-dir", "normal", "--anomaly-dir", "anomaly", "--quiet")
    result = cli("train", *sides, *small, "--out", "run")
    assert result.exit_code == 0, result.stderr
    record = json.loads(Path("run/metrics.json").read_text())
    assert (record["variant"], record["negatives"]) == ("lis-knn", "synth:flaws")
    assert record["auroc"] > 0.9  # brighter by more than half the range
    assert "note: negatives: made" in result.stdout
    again = cli("train", "--config", "run/config.yaml", "--quiet", "--out", "again")
    assert again.exit_code == 0, again.stderr
    second = json.loads(Path("again/metrics.json").read_text())
    for name in ("auroc", "threshold", "config_hash"):
        assert second.get(name) == record.get(name)
    scored = cli("score", "--run", "run", "anomaly", "--format", "jsonl", "--maps", "maps")
    assert scored.exit_code == 0, scored.stderr
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    assert len(rows) == 6 and all(Path(row["map"]).is_file() for row in rows)
