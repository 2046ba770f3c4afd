"""The exported scoring graph: the same scores, its signatures, the gate."""

import hashlib
import io
import json
import shutil
import struct
import zlib

import export_fixtures
import numpy as np
import pytest
import yaml
from conftest import contents
from export_fixtures import ALL, FLOATS, path_of, strings
from PIL import Image

from lisae_tf.core.errors import LisaeError

run, models, opened = export_fixtures.run, export_fixtures.models, export_fixtures.opened
detector, samples = export_fixtures.detector, export_fixtures.samples


@pytest.mark.parametrize("kind", ["real", "noise", "black", "white"])
@pytest.mark.parametrize("batch", [1, 2, 7, 64])
@pytest.mark.parametrize("which", ALL)
def test_an_export_scores_and_decides_as_keras_does(which, batch, kind, opened, samples, detector):
    if (which, kind) == ("tflite-int8", "white"):
        pytest.skip("int8 clips what lies far from all pictures; in a network test_export_variants")
    pictures = samples[kind][:batch]
    expected, found = detector.score(pictures), opened[which].run(pictures)
    assert found["score"].shape == found["is_anomaly"].shape == (batch,)
    assert found["score"].dtype == np.float32
    assert found["is_anomaly"].dtype == bool
    relative = {"tflite-fp16": 0.01, "tflite-int8": 0.2}.get(which, 1e-4)
    np.testing.assert_allclose(found["score"], expected, rtol=relative, atol=1e-7)
    alpha = detector.threshold_.alpha
    clear = np.abs(expected - alpha) > max(relative, 1e-4) * alpha
    np.testing.assert_array_equal(found["is_anomaly"][clear], expected[clear] > alpha)


@pytest.mark.parametrize("which", ALL)
def test_no_pictures_have_no_scores(which, opened):
    nothing = np.empty((0, 32, 32, 1), np.uint8)
    assert opened[which].score(nothing).shape == (0,)
    assert opened[which].error_maps(nothing).shape == (0, 32, 32)


@pytest.mark.parametrize("which", ALL)
def test_pictures_of_another_shape_are_refused(which, opened):
    for wrong in (np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32, 1), np.float32), [[0]]):
        with pytest.raises(LisaeError, match="must be uint8"):
            opened[which].score(wrong)


@pytest.mark.parametrize("which", ALL)
def test_real_pictures_keep_distinct_scores(which, opened, samples, detector):
    distinct = len(np.unique(detector.score(samples["real"])))
    assert distinct > 60
    assert len(np.unique(opened[which].score(samples["real"]))) >= 0.95 * distinct


@pytest.mark.parametrize("which", ALL)
def test_the_threshold_can_be_given_at_call_time(which, opened, samples):
    model = opened[which]
    scores = model.score(samples["real"])
    for alpha in (0.0, float(np.median(scores)), float(scores.max()), 1.0):
        found = model.run(samples["real"], threshold=alpha)
        np.testing.assert_array_equal(found["score"], scores)
        np.testing.assert_array_equal(found["is_anomaly"], scores > np.float32(alpha))
    np.testing.assert_array_equal(
        model.run(samples["real"])["is_anomaly"], scores > np.float32(model.threshold)
    )


@pytest.mark.parametrize("which", ALL)
def test_the_map_of_errors_is_there_on_request(which, opened, samples, detector):
    model, pictures = opened[which], samples["real"][:9]
    found, expected = model.error_maps(pictures), detector.error_maps(pictures)
    assert (found.shape, found.dtype) == ((9, 32, 32), np.float32)
    share = {"tflite-fp16": 0.01, "tflite-int8": 0.1}.get(which, 1e-4)
    assert np.abs(found - expected).max() < share * expected.max()
    # Whatever became of the decoder's output, the error of it is computed in float.
    np.testing.assert_allclose(found.mean(axis=(1, 2)), model.score(pictures), rtol=1e-5)
    assert model.run(pictures).keys() == {"score", "is_anomaly"}


def test_onnx_names_types_and_free_batch(opened, models):
    import onnx

    session = opened["onnx"].session
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("image", "tensor(uint8)", ["batch", 32, 32, 1])
    ]
    assert {o.name: (o.type, o.shape) for o in session.get_outputs()} == {
        "score": ("tensor(float)", ["batch"]),
        "is_anomaly": ("tensor(bool)", ["batch"]),
        "error_map": ("tensor(float)", ["batch", 32, 32]),
    }
    assert [i.name for i in session.get_overridable_initializers()] == ["threshold"]
    model = onnx.load(path_of(models, "onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert next(each.version for each in model.opset_import if not each.domain) == 18
    stored = session.get_modelmeta().custom_metadata_map
    assert stored == opened["onnx"].metadata
    assert stored["opset"] == "18"
    for key in ("name", "version", "paper", "input_range", "channel_order", "threshold"):
        assert stored[key]
    assert {"dataset", "normal", "negatives", "protocol", "config_hash"} <= set(stored)


@pytest.mark.parametrize("which", ["tflite", "tflite-fp16", "tflite-int8"])
def test_tflite_names_types_and_free_batch(which, opened):
    interpreter = opened[which].interpreter
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["is_anomaly", "score"]},
        "with_threshold": {"inputs": ["image", "threshold"], "outputs": ["is_anomaly", "score"]},
        "error_map": {"inputs": ["image"], "outputs": ["error_map"]},
    }
    image = interpreter.get_signature_runner("serving_default").get_input_details()["image"]
    assert image["dtype"] == np.uint8
    assert list(image["shape_signature"]) == [-1, 32, 32, 1]


def test_quantised_files_are_smaller(models):
    size = {which: path_of(models, which).stat().st_size for which in ALL if "tflite" in which}
    assert size["tflite-int8"] < size["tflite-fp16"] < size["tflite"]


def test_constants_that_a_layer_of_keras_holds_are_in_the_onnx_file():
    """The mean and variance of `Normalization`, which backbones of Keras begin with."""
    import keras
    import onnxruntime
    import tensorflow as tf

    from export import onnx_format

    x = keras.Input((4, 4, 3))
    whole = keras.Model(
        x, keras.layers.Normalization(mean=[0.1, 0.5, 0.9], variance=[2.0, 1.0, 0.5])(x)
    )
    inputs = [tf.TensorSpec((None, 4, 4, 3), tf.float32, "image")]
    model = onnx_format.converted(tf.function(whole, inputs, autograph=False), inputs)
    assert [each.name for each in model.graph.input] == ["image"]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    (found,) = session.run(None, {"image": images})
    np.testing.assert_allclose(found, whole(images), rtol=1e-5)


def test_savedmodel_signatures(opened):
    definitions = opened["savedmodel"].loaded.definitions
    methods = {name: each.method_name.rpartition("/")[2] for name, each in definitions.items()}
    assert methods == {
        **dict.fromkeys(
            ("serving_default", "with_threshold", "error_map", "score_bytes"), "predict"
        ),
        "classify": "classify",
        "regress": "regress",
    }
    for name, definition in definitions.items():
        for output in definition.outputs.values():
            assert output.tensor_shape.dim[0].size == -1, name
    assert definitions["serving_default"].outputs.keys() == {"score", "is_anomaly"}
    [error_map] = definitions["error_map"].outputs.values()
    assert [each.size for each in error_map.tensor_shape.dim] == [-1, 32, 32]
    image = definitions["serving_default"].inputs["image"]
    assert [each.size for each in image.tensor_shape.dim] == [-1, 32, 32, 1]


def test_a_savedmodel_that_is_let_go_leaves_no_graph_behind(models):
    import gc

    import tensorflow as tf

    def graphs():
        gc.collect()
        return sum(type(each).__name__ == "FuncGraph" for each in gc.get_objects())

    before = graphs()
    for _ in range(2):
        tf.saved_model.load(str(path_of(models, "savedmodel")))
    assert graphs() <= before


def encode(array, form):
    stream = io.BytesIO()
    Image.fromarray(array.squeeze()).save(stream, form)
    return stream.getvalue()


def test_encoded_pictures_of_any_size_score_as_pillow_decodes_them(opened, samples):
    from lisae_tf.data import pictures

    model = opened["savedmodel"]
    rng = np.random.default_rng(0)
    colour = [rng.integers(0, 256, size).astype(np.uint8) for size in ((50, 41, 3), (9, 70, 3))]
    encoded = [encode(samples["real"][0], "PNG"), encode(samples["real"][1], "JPEG")]
    encoded += [encode(each, form) for each in colour for form in ("PNG", "JPEG")]
    found = model.loaded.run("score_bytes", {"image_bytes": strings(*encoded)})["score"]
    expected = model.score(pictures.decode_all(encoded, (32, 32), 1).pixels)
    np.testing.assert_allclose(found, expected, rtol=0.01)
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-5)


def huge_png():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a PNG or JPEG"),
        (b"GIF89a" + bytes(40), "not a PNG or JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"\xff\xd8\xff", ""),
        (huge_png(), "too large"),
    ],
)
def test_what_is_no_picture_is_refused_inside_the_graph(opened, data, reason):
    from lisae_tf.exported.signatures import RequestError

    with pytest.raises(RequestError) as refused:
        opened["savedmodel"].loaded.run("score_bytes", {"image_bytes": strings(data)})
    assert refused.value.code == "INVALID_ARGUMENT"
    assert reason in str(refused.value.__cause__)


@pytest.mark.parametrize("which", ALL)
def test_record_card_and_parity_lie_beside_the_model(which, models, detector):
    path = path_of(models, which)
    folder = path if path.is_dir() else path.parent
    record = json.loads(
        (folder / ("lisae.json" if path.is_dir() else f"{path.name}.json")).read_text()
    )
    if which in FLOATS:  # a quantised file has one of its own
        assert record["threshold"] == detector.threshold_.to_json()
    assert (record["version"], record["shape"], record["parent"]) == (1, [32, 32, 1], None)
    assert record["config_hash"] == detector.config.digest()
    assert record["error_map"] == {"shape": ["batch", 32, 32], "highest_share": 1.0}
    assert record["data"]["normal"] == ["gravel"]
    assert record["files"]
    for name, each in record["files"].items():
        stored = (folder / name).read_bytes()
        assert (len(stored), hashlib.sha256(stored).hexdigest()) == (each["size"], each["sha256"])
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["passed"] is True
    assert set(parity["scores"]) == {"real", "noise", "black", "white"}
    assert parity["error_map_worst_relative"] < 0.1
    card = (folder / "README.md").read_text()
    assert "`error_map`, on request: float32 [batch, 32, 32]" in card
    header = yaml.safe_load(card.split("---")[1])
    assert header["model-index"][0]["results"][0]["metrics"]
    for part in ("Threshold", "Data and protocol", "Metrics", "Parity", "Limits and intended use"):
        assert f"## {part}" in card
    assert str(folder) not in card + json.dumps(record)


def test_a_second_export_is_the_next_version(run, models, opened, samples, tmp_path, cli):
    from lisae_tf.exported.runtimes import open_model

    shutil.copytree(models / "onnx", tmp_path / "onnx")
    before = contents(tmp_path)
    result = cli("export", "--run", run, "--out", tmp_path, "--name", "tiny")
    assert result.exit_code == 0, result.stderr
    assert "worst relative difference" in result.output
    after = contents(tmp_path)
    assert before.items() <= after.items()
    again = open_model(path_of(tmp_path, "onnx", 2))
    assert again.record["version"] == 2
    assert again.score(samples["real"]).tobytes() == opened["onnx"].score(samples["real"]).tobytes()


ALIKE = pytest.mark.slow("the gate and what it leaves behind are the same for each format")
LATER = [pytest.param(form, marks=ALIKE) for form in ("savedmodel", "tflite")]


@pytest.mark.parametrize("form", ["onnx", "all", *LATER])
def test_a_failed_gate_leaves_nothing(form, run, tmp_path, cli, monkeypatch):
    from export.exportable import Exportable

    answer = Exportable.answer

    def spoilt(self, image, threshold=None):
        found = answer(self, image, threshold)
        return found | {"score": found["score"] * np.float32(np.nan)}

    monkeypatch.setattr(Exportable, "answer", spoilt)
    result = cli("export", "--run", run, "--out", tmp_path, "--format", form)
    assert result.exit_code != 0
    assert "NaN" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_scores_that_differ_a_little_do_not_pass(run, tmp_path, cli, monkeypatch):
    from export.exportable import Exportable

    answer = Exportable.answer

    def off(self, image, threshold=None):
        found = answer(self, image, threshold)
        return found | {"score": found["score"] * 1.001}

    monkeypatch.setattr(Exportable, "answer", off)
    result = cli("export", "--run", run, "--out", tmp_path)
    assert result.exit_code != 0
    assert "does not score as the trained one" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_in_one_sentence(run, tmp_path, cli):
    result = cli("export", "--run", run, "--out", tmp_path, "--quantize", "int8")
    assert result.exit_code != 0
    assert "concerns TFLite alone" in result.stderr
    result = cli("export", "--run", run, "--out", tmp_path, "--name", "../up")
    assert result.exit_code != 0
    assert "must consist of" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_detector_without_a_graph_is_refused(run):
    from export.exportable import make_exportable
    from lisae_tf.detectors.base import Detector

    class Classical(Detector):
        fit_data = _score = arrays = restore = None

    with pytest.raises(LisaeError, match="Classical has no Keras graph"):
        make_exportable(Classical(), run)


BEFORE = pytest.mark.slow("the graph has another input before any format is written")


@pytest.mark.parametrize(
    ("kind", "file"),
    [("onnx", "model.onnx"), pytest.param("tflite", "model.tflite", marks=BEFORE),
     pytest.param("savedmodel", "", marks=BEFORE)],
)  # fmt: skip
def test_float_pictures_make_an_artefact_of_their_own(
    kind, file, run, tmp_path, cli, samples, detector
):
    from lisae_tf.exported.runtimes import open_model

    result = cli("export", "--run", run, "--out", tmp_path, "--format", kind, "--input", "float32")
    assert result.exit_code == 0, result.stderr
    expected = detector.score(samples["real"])
    model = open_model(tmp_path / kind / f"{run.name}-float32" / "1" / file)
    assert model.metadata["input_range"] == "0-1"
    np.testing.assert_allclose(model.score(samples["real"]), expected, rtol=1e-4)
    if kind == "onnx":
        assert model.session.get_inputs()[0].type == "tensor(float)"


@pytest.mark.slow("test_detectors writes each variant as ONNX, this one as well")
def test_the_linear_variant_exports(tmp_path, cli, picture_folder, monkeypatch):
    from lisae_tf.exported.runtimes import open_model

    monkeypatch.chdir(tmp_path)  # `train` notes its run as the last one of the working folder
    linear = tmp_path / "linear"
    sides = {"normal": (50, 60), "negative": (20, 150), "anomaly": (9, 200)}
    for name, (count, level) in sides.items():
        picture_folder(tmp_path / name, count, level=level)
    folders = [f"--{side}-dir={tmp_path / side}" for side in sides]
    options = ["--features", "none", "--variant", "linear-lis", "--out", linear]
    small = ("--set", "data.size=[12, 12]", "--set", "network.latent=4")
    result = cli("train", "--quiet", *folders, *small, *options)
    assert result.exit_code == 0, result.stderr
    result = cli("export", "--run", linear, "--out", tmp_path / "models")
    assert result.exit_code == 0, result.stderr
    open_model(tmp_path / "models" / "onnx" / "linear" / "1" / "model.onnx")
