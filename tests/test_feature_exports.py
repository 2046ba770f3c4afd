"""Exports of detectors on pretrained features: the same scores and maps in every format."""

import contextlib
import json
import shutil

import feature_fixtures
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from lisae_tf.detectors import load_detector
from lisae_tf.exported.runtimes import open_model

SHARES = {"fp16": 0.02, "int8": 0.2}  # by which scores may differ
EXPORTS = (("all",), ("tflite", "--quantize", "fp16"), ("tflite", "--quantize", "int8"))
TILES = ("--tile", "64", "--stride", "32", "--set", "data.size=[64,96]")  # one row of two
# The fewest convolutions that are float and that are int8, of each kind.
CONVOLUTIONS = {"first blocks": (2, 3), "whole backbone": (3, 5)}

early, early_models = feature_fixtures.early, feature_fixtures.early_models


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
    return opened(run, folders / f"{out}-models")


def opened(run, models):
    paths = [*models.rglob("model.*x"), *models.rglob("model.tflite")]
    paths += [path.parent for path in models.rglob("saved_model.pb")]
    return load_detector(run), [open_model(path) for path in paths]


WHOLE = pytest.mark.slow("the same graph twice as deep; its first blocks have both taps as well")


@pytest.fixture(
    scope="module", params=["first blocks", pytest.param("whole backbone", marks=WHOLE)]
)
def usual(request):
    """Of the default variant, in every format; of the whole backbone also in halves."""
    if request.param == "first blocks":
        early, models = map(request.getfixturevalue, ("early", "early_models"))
        return opened(early / "run", models)
    return exported(*map(request.getfixturevalue, ("cli", "folders")), "usual")


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


def quantised(models):
    return sorted(each.record["quantization"] or "" for each in models)


def test_every_format_scores_and_maps_as_keras_does(usual, request):
    detector, models = usual
    halves = ["fp16"] if "whole" in request.node.callspec.id else []
    assert quantised(models) == ["", "", "", *halves, "int8"]
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


@pytest.mark.slow(
    "a training and two exports of the whole backbone each; the default variant, which holds "
    "`knn`, is exported above, a network below"
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_on_features_is_exported(variant, cli, folders):
    exports = (ONNX, INT8)
    detector, models = exported(cli, folders, variant, "--variant", variant, exports=exports)
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
    usual, signature, request
):
    _, models = usual
    [(floats, rounded)] = [
        each for which, each in CONVOLUTIONS.items() if which in request.node.callspec.id
    ]
    (model,) = (each for each in models if each.record["quantization"] == "int8")
    found, codes = operations(model.path, signature), schema.BuiltinOperator
    kinds = schema.TensorType
    for code in (codes.CONV_2D, codes.DEPTHWISE_CONV_2D):
        assert found[code].count(kinds.FLOAT32) >= floats
        assert found[code].count(kinds.INT8) >= rounded
        assert found[code] == sorted(found[code], key=lambda kind: kind == kinds.INT8)
    for code in (codes.FULLY_CONNECTED, codes.AVERAGE_POOL_2D, codes.CONCATENATION):
        assert set(found[code]) == {kinds.FLOAT32}


def test_files_hold_the_weights_once(usual, request):
    detector, models = usual
    graphs = 400_000 if "whole" in request.node.callspec.id else 250_000  # beside the weights
    arrays = detector.arrays()
    backbone = sum(a.nbytes for name, a in arrays.items() if "backbone" in name)
    bank = sum(a.nbytes for name, a in arrays.items() if name.startswith("inner:"))
    assert min(bank, backbone) > graphs
    files = [model for model in models if model.path.is_file()]
    assert [each.record["quantization"] for each in files].count(None) == 2
    for model in files:
        share = {"fp16": 0.5, "int8": 0.325}.get(model.record["quantization"], 1.0)
        least = 0.9 * share * backbone
        assert least < model.path.stat().st_size < share * backbone + bank + graphs


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


# Two things at once, each of which is a training and an export: tiles, and a network on features.
@pytest.mark.parametrize(
    "kind",
    ["onnx", pytest.param("tflite", marks=pytest.mark.slow("the same graph in another format"))],
)
def test_tiles_of_features_and_a_network_behind_them_are_exported(kind, cli, folders):
    options = ("--variant", "lis", *TILES, "--set", "features.taps=[block_2]")
    detector, models = exported(cli, folders, f"tiles-{kind}", *options, exports=[(kind,)])
    assert detector.batch_size == 16 // 2
    for model in models:
        assert_alike(detector, model)
    with contextlib.chdir(folders):
        run = ("--run", f"tiles-{kind}", "--maps", f"maps-{kind}")
        assert cli("score", "bad", *run).exit_code == 0
        assert len(list((folders / f"maps-{kind}").iterdir())) == 10
