"""Exports of detectors on pretrained features: the same scores and maps in every format."""

import contextlib
import json
import shutil

import feature_fixtures
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from feature_fixtures import EARLY

from lisae_tf.detectors import load_detector
from lisae_tf.exported.runtimes import open_model

SHARES = {"fp16": 0.02, "int8": 0.2}  # by which scores may differ
EXPORTS = (("all",), ("tflite", "--quantize", "fp16"), ("tflite", "--quantize", "int8"))
TILES = ("--tile", "64", "--stride", "32", "--set", "data.size=[64,96]")  # one row of two


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return feature_fixtures.write_folders(tmp_path_factory.mktemp("features"))


def exported(cli, folders, out, *options, exports=EXPORTS):
    """The detector and every exported model of a run, by quantisation or kind."""
    result, run = feature_fixtures.train(cli, folders, *options, out=out)
    assert result.exit_code == 0, result.stderr
    with contextlib.chdir(folders):
        for each in exports:
            result = cli("export", "--run", run, "--out", f"{out}-models", "--format", *each)
            assert result.exit_code == 0, result.output
    models = folders / f"{out}-models"
    paths = [*models.rglob("model.*x"), *models.rglob("model.tflite")]
    paths += [path.parent for path in models.rglob("saved_model.pb")]
    return load_detector(run), [open_model(path) for path in paths]


@pytest.fixture(scope="module")
def usual(cli, folders):
    """Of the default variant, in every format."""
    return exported(cli, folders, "usual")


def assert_alike(detector, model):
    pictures = np.concatenate(
        [feature_fixtures.parts(3, seed=5), feature_fixtures.parts(3, flaw=True, seed=6)]
    )
    right = detector.shape[1] - feature_fixtures.SIDE
    pictures = np.pad(pictures, [(0, 0), (0, 0), (0, right), (0, 0)], mode="reflect")
    expected, maps = detector.score(pictures), detector.error_maps(pictures)
    share = SHARES.get(model.record["quantization"], 1e-4)
    scale = max(np.abs(expected).max(), 1e-6)
    np.testing.assert_allclose(model.score(pictures), expected, atol=share * scale)
    found = model.error_maps(pictures)
    assert found.shape == maps.shape
    assert np.abs(found - maps).max() <= share * np.abs(maps).max()
    other = float(np.median(expected))
    again = model.run(pictures, threshold=other)
    np.testing.assert_array_equal(again["is_anomaly"], again["score"] > np.float32(other))


def test_every_format_scores_and_maps_as_keras_does(usual):
    detector, models = usual
    assert len(models) == 5
    for model in models:
        assert_alike(detector, model)


def test_a_model_gets_another_threshold(usual, cli, folders, tmp_path):
    """As a new version beside it; its own pictures say where."""
    _, models = usual
    (model,) = (each for each in models if each.path.suffix == ".onnx")
    shutil.copytree(model.path.parent, tmp_path / "parts" / "1")
    unseen = feature_fixtures.write_parts(tmp_path / "unseen", 30, seed=11)
    place = tmp_path / "parts" / "1" / model.path.name
    result = cli("calibrate", "--model", place, "--normal-dir", unseen, "--fpr", "0.1")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "parts").rglob("model.onnx"))) == 2


ONNX, INT8 = ("onnx",), ("tflite", "--quantize", "int8")
VARIANTS = ("linear-lis", "knn", "lis", "mahalanobis", "ae", "linsep-fused", "bce", "deep-sad")


# Each variant is a training and two exports of the whole backbone, half a minute and more; every
# format of the default variant, which holds `knn`, is tested above, and here a network behind the
# first blocks.
@pytest.mark.parametrize(
    ("variant", "options", "exports"),
    [("lis", EARLY, [ONNX]),
     *(pytest.param(name, (), [ONNX, INT8], marks=pytest.mark.slow) for name in VARIANTS)],
)  # fmt: skip
def test_every_variant_on_features_is_exported(variant, options, exports, cli, folders):
    detector, models = exported(
        cli, folders, f"{variant}-{len(exports)}", "--variant", variant, *options, exports=exports
    )
    for model in models:
        assert_alike(detector, model)


def operations(path, name):
    """Inputs' type of each operation of a signature's graph, by the operation's code."""
    model = flatbuffer_utils.read_model(str(path))
    index = next(s.subgraphIndex for s in model.signatureDefs if s.signatureKey == name.encode())
    graph, found = model.subgraphs[index], {}
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        found.setdefault(code, []).append(graph.tensors[operator.inputs[0]].type)
    return found


@pytest.mark.parametrize("signature", ["serving_default", "with_threshold", "error_map"])
def test_in_int8_the_backbone_is_int8_but_its_first_layers_and_what_follows_are_float(
    usual, signature
):
    _, models = usual
    (model,) = (each for each in models if each.record["quantization"] == "int8")
    found, codes = operations(model.path, signature), schema.BuiltinOperator
    kinds = schema.TensorType
    for code in (codes.CONV_2D, codes.DEPTHWISE_CONV_2D):
        assert found[code].count(kinds.FLOAT32) >= 3
        assert found[code].count(kinds.INT8) >= 5
        assert found[code] == sorted(found[code], key=lambda kind: kind == kinds.INT8)
    for code in (codes.FULLY_CONNECTED, codes.AVERAGE_POOL_2D, codes.CONCATENATION):
        assert set(found[code]) == {kinds.FLOAT32}


def test_files_hold_the_weights_once(usual):
    detector, models = usual
    arrays = detector.arrays()
    backbone = sum(a.nbytes for name, a in arrays.items() if "backbone" in name)
    bank = sum(a.nbytes for name, a in arrays.items() if name.startswith("inner:"))
    assert bank > 400_000
    files = [model for model in models if model.path.is_file()]
    assert [each.record["quantization"] for each in files].count(None) == len(files) - 2 == 2
    for model in files:
        share = {"fp16": 0.5, "int8": 0.325}.get(model.record["quantization"], 1.0)
        least = 0.9 * share * backbone
        assert least < model.path.stat().st_size < share * backbone + bank + 400_000


def test_a_saved_models_warm_up_is_small(usual):
    _, models = usual
    (model,) = (each for each in models if each.path.is_dir())
    assert (model.path / "assets.extra" / "tf_serving_warmup_requests").stat().st_size < 100_000


def test_the_onnx_graph_turns_pictures_around_once(usual):
    onnx = pytest.importorskip("onnx")
    _, models = usual
    (model,) = (each for each in models if each.path.suffix == ".onnx")
    kinds = [node.op_type for node in onnx.load(str(model.path)).graph.node]
    # To channels first, and back to rows; padding is that of the two local means alone.
    assert kinds.count("Transpose") == 2 and kinds.count("Pad") == 2
    assert "BatchNormalization" not in kinds


def test_large_pictures_go_through_in_small_batches(usual):
    _, models = usual
    for model in models:
        assert model.batch_size == 256
    parity = json.loads((models[0].path.parent / "parity.json").read_text())
    assert parity["batches"] == [1, 2, 7, 64]


# The second format takes as long again, over the same graph; the deep backbone is tested above.
@pytest.mark.parametrize("kind", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_tiles_of_features_are_exported(kind, cli, folders):
    detector, models = exported(cli, folders, f"tiles-{kind}", *TILES, *EARLY, exports=[(kind,)])
    assert detector.batch_size == 16 // 2
    for model in models:
        assert_alike(detector, model)
