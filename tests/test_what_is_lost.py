"""What size and depth of pictures take from them."""

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import QUICK, assert_one_sentence
from PIL import Image

from lisae_tf.config.settings import read_settings, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import checks, datasets, pictures
from lisae_tf.data.data_check import treatment
from lisae_tf.data.folders import settle_folder_channels
from lisae_tf.data.levels import depth_remarks
from lisae_tf.data.pictures import Decoded, Header, decode, portable
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
    assert cli("score", "--run", "run", "n/0.png").exit_code == 0


def sixteen(levels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(levels, np.uint16)).save(stream, kind)
    return stream.getvalue()


def camera(folder, count, top, *, seed=0):
    """16-bit grey, as PNG and TIFF in turn; the brightest pixel is `top`, of the first picture."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        levels = random.integers(0, top // (1 + number % 3), (12, 12))
        if not number:
            levels[5, 5] = top
        kind, suffix = (("PNG", "png"), ("TIFF", "tif"))[number % 2]
        (folder / f"{number:03d}.{suffix}").write_bytes(sixteen(levels, kind))
    return folder


def settled(folder, **given):
    return settle_folder_channels(settle({"normal_dir": str(folder)} | given, None, [])[0])


@pytest.mark.parametrize(
    "top, depth",
    [(3, 8), (255, 8), (256, 9), (1023, 10), (4000, 12), (4095, 12), (4096, 13), (65535, 16)],
)
def test_the_depth_is_the_smallest_that_holds_the_normal_pictures(top, depth, tmp_path):
    config = settled(camera(tmp_path / "good", 5, top))
    assert (config.data.depth, config.data.channels) == (depth, 1)
    assert f"depth: {depth}" in config.to_yaml()
    assert settle_folder_channels(config) == config


def test_a_depth_that_is_given_stays_and_is_found_beside_a_given_size(tmp_path):
    good = camera(tmp_path / "good", 5, 4000)
    assert settled(good, data={"depth": 14}).data.depth == 14
    assert settled(good, data={"size": [16, 16], "channels": 1}).data.depth == 12


def test_older_runs_and_pictures_of_8_bits_have_none(tmp_path):
    good = camera(tmp_path / "good", 5, 4000)
    older = settle({"normal_dir": str(good), "data": {"size": [16, 16], "channels": 1}}, None, [])
    assert settle_folder_channels(older[0], settled=True) == older[0]
    (tmp_path / "plain").mkdir()
    Image.new("L", (9, 9), 3).save(tmp_path / "plain" / "a.png")
    config = settled(tmp_path / "plain")
    assert config.data.depth is None
    assert "depth" not in config.to_yaml()


@pytest.mark.parametrize("depth", range(8, 17))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_all_levels_of_the_depth_are_kept_and_brighter_ones_clip(depth, kind):
    levels = np.arange(256) << (depth - 8)
    data = sixteen(np.stack([levels, np.full(256, 65535)]), kind)
    for each in (data, portable(data)):
        found = decode(each, depth=depth)[..., 0]
        np.testing.assert_array_equal(found, [np.arange(256), np.full(256, 255)])


def test_pictures_of_8_bits_do_not_depend_on_the_depth():
    stream = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8)[None]).save(stream, "PNG")
    assert decode(stream.getvalue(), depth=9)[0, :, 0].tolist() == list(range(256))


def test_what_is_lost_is_said():
    over, cut = Header(9, 9, "I;16", top=4096), Header(9, 9, "RGB;16")
    fine = [Header(9, 9, "I;16", top=4095), Header(9, 9, "L")]
    found = pictures.Decoded(np.empty(0), ["a", "b", "c", "d"], {}, [over, cut, *fine])
    bright, colour = depth_remarks("anomaly", found.names, found.headers, 12)
    assert bright.startswith("1 anomaly picture holds values of more than the 12 bits")
    assert bright.endswith("which become white: a")
    assert "16 bits in colour or with alpha, of which the upper 8 are read" in colour
    assert colour.endswith(": b")
    assert depth_remarks("anomaly", found.names, found.headers, None) == [colour]
    assert treatment(fine[0], (9, 9), 1, 12) == "12 of 16 bits to 8"
    assert treatment(fine[0], (9, 9), 1, 16) == treatment(fine[0], (9, 9), 1) == "16 bits to 8"


@pytest.fixture(scope="module")
def deep(tmp_path_factory, cli):
    """A working folder with pictures of 12 bits, a run on them, its scores and the files' bytes."""
    from lisae_tf.detectors import load_detector

    base = tmp_path_factory.mktemp("deep")
    good = camera(base / "good", 60, 4000)
    odd = camera(base / "odd", 6, 9000, seed=1)  # brighter than what was normal
    sides = ("--normal-dir", good, "--anomaly-dir", odd, "--variant", "linear-ae")
    with contextlib.chdir(base):
        said = cli("train", *sides, *QUICK[:8], "--out", "run")
    assert said.exit_code == 0, said.output
    assert read_settings(base / "run" / "config.yaml")["data"]["depth"] == 12
    words = " ".join(said.output.split())
    assert "4 anomaly pictures hold values of more than the 12 bits" in words
    files = sorted([*good.iterdir(), *odd.iterdir()])
    pixels = np.stack([decode(path, (12, 12), 1, depth=12) for path in files])
    assert len(np.unique(pixels)) > 200
    expected = load_detector(base / "run").score(pixels)
    return base, expected, [path.read_bytes() for path in files]


def test_one_depth_from_training_to_the_exported_file(deep, cli, monkeypatch):
    """Train, evaluate, score, calibrate and export see the same pixels of one file."""
    tmp_path, expected, _ = deep
    monkeypatch.chdir(tmp_path)
    good, odd = tmp_path / "good", tmp_path / "odd"
    assert cli("evaluate", "--run", "run").exit_code == 0

    def scores(*options):
        result = cli("score", good, odd, *options, "--format", "jsonl")
        assert result.exit_code == 0, result.stderr
        assert "new pictures hold values of more than the 12 bits" in result.stderr
        return [json.loads(line)["score"] for line in result.stdout.splitlines()]

    np.testing.assert_allclose(scores("--run", "run"), expected, rtol=1e-6)
    result = cli("export", "--run", "run", "--format", "onnx", "--out", "models")
    assert result.exit_code == 0, result.stderr
    onnx = tmp_path / "models/onnx/run/1/model.onnx"
    assert json.loads(onnx.with_name("model.onnx.json").read_text())["depth"] == 12
    np.testing.assert_allclose(scores("--model", onnx), expected, rtol=1e-4)
    unseen = ("--normal-dir", odd, "--fpr", "0.5")
    assert cli("calibrate", "--model", onnx, *unseen).exit_code == 0
    again = tmp_path / "models/onnx/run/2/model.onnx"
    np.testing.assert_allclose(scores("--model", again), expected, rtol=1e-4)
    assert cli("calibrate", "--run", "run", *unseen).exit_code == 0
    assert cli("score", good, odd, "--model", onnx, "--parts", "parts").exit_code == 0

    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "parts" / "part-000000.parquet")
    np.testing.assert_allclose(table["score"].to_numpy(), expected, rtol=1e-4)


def test_the_graph_that_reads_bytes_has_the_depth_of_the_training(deep):
    from export.exportable import make_exportable
    from export.savedmodel import signatures
    from lisae_tf.detectors import load_detector

    base, expected, encoded = deep
    exportable = make_exportable(load_detector(base / "run"), base / "run")
    readable = tf.constant([portable(each) for each in encoded])  # as a server hands them on
    found = signatures(exportable)["score_bytes"](readable)["score"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert exportable.record["depth"] == 12


@pytest.mark.slow("another export of the same run, whose graph is tested above")
def test_the_served_file_has_the_depth_of_the_training(deep, cli, monkeypatch):
    from lisae_tf.exported.saved_model import load
    from lisae_tf.serving import inference
    from lisae_tf.serving.limits import Limits

    tmp_path, expected, encoded = deep
    monkeypatch.chdir(tmp_path)
    result = cli("export", "--run", "run", "--format", "savedmodel", "--out", "models")
    assert result.exit_code == 0, result.stderr
    version = tmp_path / "models/savedmodel/run/1"
    served = load(version, version.parent, "run", 1)
    bytes_in = {"image_bytes": inference.strings(encoded)}
    found = inference.predict(served, Limits(), "score_bytes", bytes_in)["score"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
