"""Cameras that write 12 bits into 16: one divisor, from the normal pictures to the served file."""

import io
import json

import numpy as np
import pytest
from conftest import QUICK
from PIL import Image

from lisae_tf.config.settings import read_settings
from lisae_tf.data import pictures
from lisae_tf.data.data_check import treatment
from lisae_tf.data.folders import settle_folder_channels
from lisae_tf.data.levels import depth_remarks
from lisae_tf.data.pictures import Header, decode, portable
from lisae_tf.experiments.settling import settle


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


def test_one_depth_from_training_to_the_served_file(tmp_path, cli, monkeypatch):
    """Train, evaluate, score, calibrate, export and serve see the same pixels of one file."""
    monkeypatch.chdir(tmp_path)
    good = camera(tmp_path / "good", 60, 4000)
    odd = camera(tmp_path / "odd", 6, 9000, seed=1)  # brighter than what was normal
    sides = ("--normal-dir", good, "--anomaly-dir", odd, "--variant", "ae")
    said = cli("train", *sides, *QUICK, "--out", "run")
    assert said.exit_code == 0, said.output
    assert read_settings(tmp_path / "run" / "config.yaml")["data"]["depth"] == 12
    words = " ".join(said.output.split())
    assert "4 anomaly pictures hold values of more than the 12 bits" in words
    assert cli("evaluate", "--run", "run").exit_code == 0

    from lisae_tf.detectors import load_detector

    detector = load_detector(tmp_path / "run")
    files = sorted([*good.iterdir(), *odd.iterdir()])
    encoded = [path.read_bytes() for path in files]
    pixels = np.stack([decode(path, (12, 12), 1, depth=12) for path in files])
    assert len(np.unique(pixels)) > 200
    expected = detector.score(pixels)

    def scores(*options):
        result = cli("score", good, odd, *options, "--format", "jsonl")
        assert result.exit_code == 0, result.stderr
        assert "new pictures hold values of more than the 12 bits" in result.stderr
        return [json.loads(line)["score"] for line in result.stdout.splitlines()]

    np.testing.assert_allclose(scores("--run", "run"), expected, rtol=1e-6)
    for kind in ("onnx", "savedmodel"):
        result = cli("export", "--run", "run", "--format", kind, "--out", "models")
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

    from lisae_tf.exported.saved_model import load
    from lisae_tf.serving import inference
    from lisae_tf.serving.limits import Limits

    version = tmp_path / "models/savedmodel/run/1"
    served = load(version, version.parent, "run", 1)
    bytes_in = {"image_bytes": inference.strings(encoded)}
    found = inference.predict(served, Limits(), "score_bytes", bytes_in)["score"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
