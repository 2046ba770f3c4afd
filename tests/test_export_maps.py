"""Exports of scores that are pooled from few places, and of maps smaller than their pictures."""

import contextlib
import functools
import json

import keras
import numpy as np
import pytest
from export_fixtures import TRAIN
from keras import layers, ops

from lisae_tf.data.pictures import decode
from lisae_tf.data.tasks import load_test
from lisae_tf.detectors import DETECTORS, load_detector
from lisae_tf.detectors.lisae import LatentInsensitiveDetector
from lisae_tf.exported.runtimes import open_model
from lisae_tf.model.scoring import Pool

OTHERS = pytest.mark.slow(
    "an export of its own; each format has small maps and pooled scores in test_feature_exports"
)
LATER = [
    pytest.param(which, marks=OTHERS) for which in ("onnx", "savedmodel", "tflite", "tflite-fp16")
]
TILES = {"whole": (), "in tiles": ("--input-size", "32,32", "--tile", 16, "--stride", 8)}
SIDES = {"whole": 8, "in tiles": 32}  # of the map: tiles are mended at the resolution of pixels


class MeanOfPatches(layers.Layer):
    """Maps (N, h, w) -> (N, h / 4, w / 4)."""

    def call(self, maps):
        height, width = maps.shape[1:]
        patches = ops.reshape(maps, (-1, height // 4, 4, width // 4, 4))
        return ops.mean(patches, axis=(2, 4))


class Coarse(LatentInsensitiveDetector):
    """`ae` with maps of a quarter of the resolution, as of a detector that looks at features."""

    def inference(self):
        plain = super().inference()
        error_map = MeanOfPatches()(plain.output["error_map"])
        score = Pool(self.highest_share, name="pooled")(error_map)
        return keras.Model(plain.input, {"score": score, "error_map": error_map})


IN_TILES = pytest.mark.slow(
    "each export holds the network once for each row of tiles; test_tiling has tiles in the graph"
)


@pytest.fixture(scope="module", params=["whole", pytest.param("in tiles", marks=IN_TILES)])
def exported(request, tmp_path_factory, cli):
    """The side of the map, the detector, and what exports it in a format and gives the path."""
    base = tmp_path_factory.mktemp("maps")
    options = ("--set", "scoring.highest_share=0.05", *TILES[request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DETECTORS, "ae", Coarse)
        with contextlib.chdir(base):
            result = cli("train", "--quiet", "--variant", "ae", *TRAIN, *options, "--out", "run")
        assert result.exit_code == 0, result.stderr

        @functools.cache
        def path_of(which):
            kind, _, quantize = which.partition("-")
            how = (kind, "--quantize", quantize) if quantize else (kind,)
            given = ("--run", base / "run", "--name", "m", "--out", base / "models")
            result = cli("export", *given, "--format", *how)
            assert result.exit_code == 0, result.stderr
            folder = base / "models" / kind / (f"m-{quantize}" if quantize else "m") / "1"
            return folder if kind == "savedmodel" else folder / f"model.{kind}"

        yield SIDES[request.param], load_detector(base / "run"), path_of


@pytest.mark.parametrize("which", ["tflite-int8", *LATER])
def test_scores_and_maps_are_those_of_keras(which, exported):
    side, detector, path_of = exported
    model = open_model(path_of(which))
    pictures = load_test(detector.config).pixels[::151]
    share = {"tflite-fp16": 0.01, "tflite-int8": 0.2}.get(which, 1e-4)
    for count in (1, 7):
        expected = detector.score(pictures[:count])
        np.testing.assert_allclose(model.score(pictures[:count]), expected, rtol=share)
    white = np.full_like(pictures[:7], 255)
    noise = np.random.default_rng(5).integers(0, 256, white.shape).astype(np.uint8)
    for extreme in (white, np.zeros_like(white), noise):
        np.testing.assert_allclose(model.score(extreme), detector.score(extreme), rtol=share)
    maps, found = detector.error_maps(pictures), model.error_maps(pictures)
    assert found.shape == maps.shape == (len(pictures), side, side)
    assert np.abs(found - maps).max() < share * maps.max()


@pytest.mark.parametrize("which", ["tflite-int8", *LATER[:3]])
def test_record_and_card_tell_of_map_and_pooling(which, exported):
    side, _, path_of = exported
    path = path_of(which)
    record = path / "lisae.json" if path.is_dir() else path.with_name(f"{path.name}.json")
    found = json.loads(record.read_text())["error_map"]
    assert found == {"shape": ["batch", side, side], "highest_share": 0.05}
    assert open_model(path).highest_share == 0.05
    card = ((path if path.is_dir() else path.parent) / "README.md").read_text()
    assert f"float32 [batch, {side}, {side}]" in card
    assert "the error over the highest 5 % of places" in card


def test_the_error_is_computed_in_float_where_the_network_is_not(exported):
    side, detector, path_of = exported
    model = open_model(path_of("tflite-int8"))
    pictures = load_test(detector.config).pixels[::151]
    scores = model.score(pictures)
    assert len(np.unique(scores)) == len(pictures)
    if side == 8:
        pooled = np.asarray(Pool(detector.highest_share)(model.error_maps(pictures)))
        np.testing.assert_allclose(scores, pooled, rtol=1e-5)


def test_overlays_of_any_map_have_the_size_of_the_picture(exported, cli, tmp_path):
    _, detector, path_of = exported
    np.save(tmp_path / "rows.npy", load_test(detector.config).pixels[:3])
    options = ("--model", path_of("tflite-int8"), "--maps", tmp_path / "maps")
    result = cli("score", tmp_path / "rows.npy", *options)
    assert result.exit_code == 0, result.stderr
    drawn = [decode(path) for path in (tmp_path / "maps").iterdir()]
    assert [each.shape for each in drawn] == [(32, 32, 3)] * 3
