"""What the size that pictures get takes from them is said; long pictures are cut into tiles."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_one_sentence
from PIL import Image

from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import checks, datasets
from lisae_tf.data.pictures import Decoded, Header
from lisae_tf.data.synthetic import GENERATORS, made_of
from lisae_tf.experiments.settling import settle


def of(height: int, width: int, count: int = 3) -> Decoded:
    headers = [Header(height, width, "RGB")] * count
    return Decoded(np.zeros((count, 8, 8, 3), np.uint8), ["p"] * count, {}, headers)


def test_flaws_that_vanish_are_said_width_first():
    (said,) = checks.size_remarks("normal", of(3000, 4000), (64, 64))
    assert said.startswith("normal pictures of 4000x3000 become 64x64 (width x height): flaws of")
    assert "less than about 54 pixels vanish" in said and "--tile" in said
    assert checks.size_remarks("normal", of(3000, 4000), (768, 1024)) == []


def test_stretching_beyond_one_and_a_half_is_said():
    (said,) = checks.size_remarks("normal", of(64, 128), (64, 64))
    assert said == (
        "3 normal pictures change their proportions, up to 2.0 times; a data.size like theirs "
        "keeps them"
    )
    assert checks.size_remarks("normal", of(64, 80), (64, 64)) == []
    assert checks.size_remarks("normal", of(64, 80), (64, 64), 1.1) != []


def test_data_check_says_what_is_lost(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    Path("n").mkdir()
    for k in range(20):
        noise = random.integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(noise).resize((400, 300)).save(Path("n") / f"{k}.png")
    sides = ("data", "check", "--normal-dir", "n", "--set", "data.channels=1")
    result = cli(*sides, "--set", "data.size=[16, 24]", "--features", "none")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "normal pictures of 400x300 become 24x16 (width x height)" in said
    assert cli(*sides).exit_code == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_interpolation_never_gives_a_normal_picture_back(count):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 16, 16, 1)).astype(np.float32)
    copies = np.concatenate([images, images[-1:]])  # neighbours that are copies
    for given in (images, copies):
        made = GENERATORS["interpolation"](tf.constant(given), (1, 2)).numpy()
        gaps = np.abs(made[:, None] - given[None]).max(axis=(2, 3, 4))
        assert gaps.min() >= 1
    bank = made_of(["interpolation"], images.astype(np.uint8), 0)
    assert len(bank) > 0
    assert not {p.tobytes() for p in bank} & {p.tobytes() for p in images.astype(np.uint8)}


@pytest.mark.parametrize("name", ["svhn_cropped", "svhn_cropped:3.1.0"])
def test_a_dataset_with_a_version_keeps_its_groups(name, monkeypatch):
    class Builder:
        info = SimpleNamespace(splits=["train"])

        def as_dataset(self, **_):
            ids = [b"train_7_0", b"train_7_1", b"train_8_0"]
            return tf.data.Dataset.from_tensor_slices(
                {"image": [b""] * 3, "label": [1, 2, 3], "id": ids}
            )

    monkeypatch.setattr(datasets, "_tfds_builder", lambda *_: Builder())
    _, _, groups = datasets._tfds_part.__wrapped__(name, None, "train")
    assert groups.tolist() == [7, 7, 8]


def test_a_version_changes_no_setting_of_a_dataset():
    settled, notes = settle({"dataset": "svhn_cropped:3.1.0"}, None, [])
    plain, _ = settle({"dataset": "svhn_cropped"}, None, [])
    assert settled == plain.model_copy(update={"dataset": "svhn_cropped:3.1.0"})
    assert notes == []


def test_line_scans_are_cut_into_tiles(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    given = {"dataset": "folder", "normal_dir": "n"}
    long = {"size": [5000, 200], "channels": 1}
    assert resolve(given | {"data": long | {"tile": 200}}).data.size == [5000, 200]
    with pytest.raises(LisaeError, match="at most, unless pictures are cut into tiles"):
        resolve(given | {"data": long})
    random = np.random.default_rng(0)
    Path("n").mkdir()
    for k in range(20):
        line = random.integers(0, 256, (1100, 16), np.uint8)
        Image.fromarray(line).save(Path("n") / f"{k}.png")
    result = cli(
        "train", "--normal-dir", "n", "--variant", "linear-ae", "--features", "none",
        "--tile", 16, "--stride", 271, "--input-size", "1100,16", "--out", "run",
    )  # fmt: skip
    assert_one_sentence(result, "a stride of 271 leaves gaps")
    result = cli(
        "train", "--normal-dir", "n", "--variant", "linear-ae", "--features", "none",
        "--tile", 16, "--input-size", "1104,16", "--set", "network.latent=4",
        "--out", "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert cli("score", "--run", "run", "n").exit_code == 0
