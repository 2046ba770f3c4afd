"""Exports of scores that are no errors or pooled from few places, and of maps of other sizes."""

import contextlib
import functools
import json

import export_fixtures
import keras
import numpy as np
import pytest
from export_fixtures import TRAIN
from keras import layers, ops
from scipy.stats import spearmanr

from export import tflite
from export.exportable import make_exportable
from export.savedmodel import signatures
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.pictures import decode
from lisae_tf.data.tasks import load_test
from lisae_tf.detectors import DETECTORS, load_detector
from lisae_tf.detectors.lisae import LatentInsensitiveDetector
from lisae_tf.exported.model_record import write_record
from lisae_tf.exported.runtimes import open_model
from lisae_tf.model.scoring import Pool

SETTINGS = (
    *("--set", "feature_extraction.epochs=10", "--set", "hypersphere.epochs=1"),
    *("--set", "anogan.epochs=1", "--set", "anogan.encoder_epochs=1"),
)


FILES = {"onnx": "model.onnx", "tflite": "model.tflite", "savedmodel": ""}
LONG = pytest.mark.slow(
    "a training and five exports each; a network with maps is exported below, test_detectors "
    "writes each variant as ONNX, and what has no map is tested below"
)
VARIANTS = ("bce", "lis", "linsep-fused", "oc-dsvdd", "anogan-fm")
run, detector = export_fixtures.run, export_fixtures.detector


@pytest.fixture(scope="module", params=[pytest.param(name, marks=LONG) for name in VARIANTS])
def exported(request, tmp_path_factory, cli):
    """A run of a variant, and its exports by format."""
    base = tmp_path_factory.mktemp("variants")
    with contextlib.chdir(base):
        for command in (
            ("train", "--quiet", *TRAIN, *SETTINGS, "--variant", request.param, "--out", "run"),
            ("export", "--run", "run", "--name", "tiny", "--format", "all"),
        ):
            result = cli(*command)
            assert result.exit_code == 0, result.stderr
    paths = {kind: base / "models" / kind / "tiny" / "1" / file for kind, file in FILES.items()}
    return load_detector(base / "run"), paths


def test_every_format_scores_as_keras_does_and_asks_the_same_questions(exported):
    detector, paths = exported
    pictures = load_test(detector.config).pixels[::97]
    expected = detector.score(pictures)
    usual = np.median(np.abs(expected)) if expected.min() < 0 else 0
    for path in paths.values():
        model = open_model(path)
        found = model.run(pictures)
        np.testing.assert_allclose(found["score"], expected, rtol=1e-4, atol=1e-4 * usual)
        assert model.has_maps == detector.has_maps
        if model.has_maps:
            maps = detector.error_maps(pictures)
            np.testing.assert_allclose(model.error_maps(pictures), maps, atol=1e-5)
        else:
            with pytest.raises(LisaeError, match="scores whole pictures and has no maps"):
                model.error_maps(pictures)


def test_what_has_no_map_is_written_without(run, detector, tmp_path, monkeypatch):
    pictures = load_test(detector.config).pixels[::97]
    expected = detector.score(pictures)
    monkeypatch.setattr(detector, "has_maps", False)
    exportable = make_exportable(detector, run)
    assert "error_map" not in signatures(exportable)
    path = tflite.write(exportable.labelled("tflite", "m", 1, None), tmp_path, None)
    write_record(path, exportable.labelled("tflite", "m", 1, None).record)
    model = open_model(path)
    assert set(model.interpreter.get_signature_list()) == {"serving_default", "with_threshold"}
    np.testing.assert_allclose(model.score(pictures), expected, rtol=1e-4)
    with pytest.raises(LisaeError, match="scores whole pictures and has no maps"):
        model.error_maps(pictures)


def test_only_what_there_is_can_be_asked_for(exported):
    detector, paths = exported
    there = detector.has_maps
    asked = {
        "onnx": lambda model: [each.name for each in model.session.get_outputs()],
        "tflite": lambda model: model.interpreter.get_signature_list(),
        "savedmodel": lambda model: model.loaded.signatures,
    }
    for kind, path in paths.items():
        assert ("error_map" in asked[kind](open_model(path))) == there
    run = next(iter(paths.values())).parents[4] / "run"
    assert ("error_map" in signatures(make_exportable(detector, run))) == there
    for path in paths.values():
        card = ((path if path.is_dir() else path.parent) / "README.md").read_text()
        assert ("`error_map`" in card) == there
        assert detector.meaning in card


def test_the_gate_measured_against_scores_of_the_usual_size(exported):
    detector, paths = exported
    for path in paths.values():
        folder = path if path.is_dir() else path.parent
        parity = json.loads((folder / "parity.json").read_text())
        assert parity["passed"] is True
        assert parity["scores"].keys() == {"real", "noise", "black", "white"}
        assert all(each["worst_relative"] <= 1e-4 for each in parity["scores"].values())
        assert all(each["decisions_differ"] == 0 for each in parity["scores"].values())
        assert ("error_map_worst_relative" in parity) == detector.has_maps


@pytest.mark.parametrize("quantized", ["fp16", "int8"])
def test_quantised_files_rank_pictures_as_keras_does(quantized, exported, tmp_path, cli):
    detector, paths = exported
    run = paths["tflite"].parents[4] / "run"
    arguments = ("--run", run, "--format", "tflite", "--quantize", quantized, "--out", tmp_path)
    result = cli("export", *arguments)
    if quantized == "int8" and result.exit_code == 1:
        # Without a decoder the score hangs on few codes of 256 values each; the gate decides, and
        # of a classifier's one unit there are always too few.
        assert not detector.has_maps, result.stderr
        assert "does not score as the trained one" in result.stderr
        assert not list(tmp_path.rglob("*.*"))
        return
    assert (detector.config.variant, quantized) != ("bce", "int8")
    assert result.exit_code == 0, result.output
    (model,) = tmp_path.rglob("model.tflite")
    pictures = load_test(detector.config).pixels[::37]
    found = spearmanr(open_model(model).score(pictures), detector.score(pictures)).statistic
    assert found > {"fp16": 0.999, "int8": 0.97}[quantized]


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
def mapped(request, tmp_path_factory, cli):
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
def test_scores_and_maps_are_those_of_keras(which, mapped):
    side, detector, path_of = mapped
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
def test_record_and_card_tell_of_map_and_pooling(which, mapped):
    side, _, path_of = mapped
    path = path_of(which)
    record = path / "lisae.json" if path.is_dir() else path.with_name(f"{path.name}.json")
    found = json.loads(record.read_text())["error_map"]
    assert found == {"shape": ["batch", side, side], "highest_share": 0.05}
    assert open_model(path).highest_share == 0.05
    card = ((path if path.is_dir() else path.parent) / "README.md").read_text()
    assert f"float32 [batch, {side}, {side}]" in card
    assert "the error over the highest 5 % of places" in card


def test_the_error_is_computed_in_float_where_the_network_is_not(mapped):
    side, detector, path_of = mapped
    model = open_model(path_of("tflite-int8"))
    pictures = load_test(detector.config).pixels[::151]
    scores = model.score(pictures)
    assert len(np.unique(scores)) == len(pictures)
    if side == 8:
        pooled = np.asarray(Pool(detector.highest_share)(model.error_maps(pictures)))
        np.testing.assert_allclose(scores, pooled, rtol=1e-5)


def test_overlays_of_any_map_have_the_size_of_the_picture(mapped, cli, tmp_path):
    _, detector, path_of = mapped
    np.save(tmp_path / "rows.npy", load_test(detector.config).pixels[:3])
    options = ("--model", path_of("tflite-int8"), "--maps", tmp_path / "maps")
    result = cli("score", tmp_path / "rows.npy", *options)
    assert result.exit_code == 0, result.stderr
    drawn = [decode(path) for path in (tmp_path / "maps").iterdir()]
    assert [each.shape for each in drawn] == [(32, 32, 3)] * 3
