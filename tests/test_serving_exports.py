"""Exported models for TensorFlow Serving: what lies beside them, and `serve` in its codes."""

import contextlib
import re
import shutil
import subprocess
import sys

import export_fixtures
import feature_fixtures
import numpy as np
import pytest
import serving_fixtures as toy
import yaml
from conftest import assert_one_sentence
from export_fixtures import path_of, strings

from lisae_tf.core.files import read_json, write_json
from lisae_tf.detectors import load_detector
from lisae_tf.exported import model_record
from lisae_tf.exported.signatures import (
    CODES,
    STRINGS,
    RequestError,
    Signature,
    Tensor,
    from_http,
    from_number,
)
from lisae_tf.serving import json_format
from lisae_tf.serving.limits import Limits

early, early_models = feature_fixtures.early, feature_fixtures.early_models
SIDES = (64, 320, 512)
WHOLE = pytest.mark.slow("the same on the whole backbone, and of pictures that fill a request")


@pytest.fixture(
    scope="module", params=["first blocks", *(pytest.param(each, marks=WHOLE) for each in SIDES)]
)
def served(request, tmp_path_factory, cli):
    """A detector on features of colour pictures, and a server of its export as `m`."""
    side = request.param
    if side == "first blocks":
        early, models = map(request.getfixturevalue, ("early", "early_models"))
        run, model = early / "run", models / "savedmodel" / "run"
    else:
        base = feature_fixtures.write_folders(tmp_path_factory.mktemp("served"))
        result, run = feature_fixtures.train(cli, base, "--set", f"data.size=[{side},{side}]")
        assert result.exit_code == 0, result.stderr
        with contextlib.chdir(base):
            result = cli("export", "--run", run, "--format", "savedmodel")
        assert result.exit_code == 0, result.output
        model = base / "models" / "savedmodel" / "run"
    server = toy.Embedded(model, "--name", "m")
    yield load_detector(run), server
    assert server.end() == 0


def test_scores_and_maps_over_both_fronts(served):
    from lisae_tf.serving.grpc_client import GrpcClient
    from lisae_tf.serving.rest_client import RestClient

    detector, server = served
    times = detector.shape[0] // feature_fixtures.SIDE
    small = feature_fixtures.parts(3, flaw=True, seed=6)
    pictures = small.repeat(times, axis=1).repeat(times, axis=2)
    scores, maps = detector.score(pictures), detector.error_maps(pictures)
    with (
        GrpcClient("m", server.grpc, timeout=120) as grpc_client,
        RestClient("m", server.rest, timeout=120) as rest,
    ):
        for client in (grpc_client, rest):
            assert [each.state for each in client.status()] == ["AVAILABLE"]
            np.testing.assert_allclose(client.score(pictures).score, scores, rtol=1e-3)
            found = client.error_maps(pictures)
            assert np.abs(found - maps).max() <= 1e-3 * np.abs(maps).max()
            encoded = [toy.png(picture) for picture in pictures]
            np.testing.assert_allclose(client.score_encoded(encoded).score, scores, rtol=1e-3)


def test_the_rest_client_needs_no_tensorflow():
    code = """
import sys
from lisae_tf.serving import rest_client
assert not {"tensorflow", "keras", "grpc", "tensorflow_serving"} & sys.modules.keys()
mine = {name.removeprefix("lisae_tf.") for name in sys.modules if name.startswith("lisae_tf.")}
mine = {name for name in mine if not name.startswith("serving")}
pictures = {"data.levels", "data.pictures", "data.picture_files", "data.stored"}
core = {"core", "core.errors", "core.files", "exported", "exported.signatures"}
assert mine <= {*core, "data", *pictures}, mine
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=toy.ROOT)


def test_codes_go_both_ways():
    for name, (number, http) in CODES.items():
        assert from_number(number) == name
        assert CODES[from_http(http)][1] == http or name == "UNKNOWN"
    assert from_number(99) == from_http(418) == "UNKNOWN"


IMAGE = Tensor(np.dtype(np.uint8), (None, 2, 2, 1))
ONE = Signature({"image": IMAGE}, {}, "predict")
TWO = Signature({"image": IMAGE, "threshold": Tensor(np.dtype(np.float32), None)}, {}, "predict")
TEXT = Signature({"data": Tensor(STRINGS, (None,))}, {}, "predict")
PIXELS = [[[1], [2]], [[3], [255]]]


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [PIXELS, PIXELS]},
        {"instances": [{"image": PIXELS}, {"image": PIXELS}]},
        {"inputs": [PIXELS, PIXELS]},
        {"inputs": {"image": [PIXELS, PIXELS]}},
    ],
)
def test_rows_and_columns_say_the_same(document):
    arrays, form = json_format.to_arrays(document, ONE)
    assert form in document
    assert arrays["image"].dtype == np.uint8
    assert arrays["image"].tolist() == [PIXELS, PIXELS]
    ONE.check(arrays)


def test_thresholds_may_be_scalars_or_one_for_each():
    for threshold in (0.5, [0.5], 1, float("nan")):
        document = {"inputs": {"image": [PIXELS], "threshold": threshold}}
        arrays, _ = json_format.to_arrays(document, TWO)
        assert arrays["threshold"].dtype == np.float32
        TWO.check(arrays)
    with pytest.raises(RequestError):
        TWO.check(arrays | {"threshold": np.zeros((1, 1), np.float32)})


@pytest.mark.parametrize("text", ["eHg=", "eHg", "e H\ng=", "eHg\n"])
def test_base64_as_lenient_as_tensorflow_serving(text):
    arrays, _ = json_format.to_arrays({"instances": [{"b64": text}, "é"]}, TEXT)
    assert arrays["data"].tolist() == [b"xx", "é".encode()]


def test_answers_in_both_forms():
    outputs = {"a": np.array([1.5, np.nan]), "b_bytes": np.array([b"x", b"\xff"], object)}
    rows = json_format.from_arrays(outputs, json_format.ROWS)
    assert rows["predictions"][1]["b_bytes"] == {"b64": "/w=="}
    columns = json_format.from_arrays(outputs, json_format.COLUMNS)
    assert columns["outputs"]["a"][0] == 1.5
    sole = json_format.from_arrays({"text": np.array([b"x", b"y"], object)}, json_format.ROWS)
    assert sole == {"predictions": ["x", "y"]}
    for odd in ({"a": np.float32(1)}, {"a": np.zeros(2), "b": np.zeros(3)}):
        arrays = {name: np.asarray(value) for name, value in odd.items()}
        with pytest.raises(RequestError):
            json_format.from_arrays(arrays, json_format.ROWS)


def test_limits_on_shapes():
    limits = Limits(body=1000, batch=10)
    limits.check_shape("image", (10, 100))
    for shape in ((11,), (10, 101), (-1,), (1,) * 9, (10, 2**62, 2**62)):
        with pytest.raises(RequestError):
            limits.check_shape("image", shape)


run, models, opened = export_fixtures.run, export_fixtures.models, export_fixtures.opened
detector, samples = export_fixtures.detector, export_fixtures.samples


def test_warm_up_requests_are_what_tensorflow_serving_replays(models, opened):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    path = path_of(models, "savedmodel") / "assets.extra" / "tf_serving_warmup_requests"
    seen = {}
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = getattr(log, log.WhichOneof("log_type")).request
        assert request.model_spec.name == "tiny"
        signature = request.model_spec.signature_name
        if log.HasField("predict_log"):
            inputs = {key: tf.make_ndarray(each) for key, each in request.inputs.items()}
        else:
            examples = request.input.example_list.examples
            inputs = {"inputs": strings(*(each.SerializeToString() for each in examples))}
        seen.setdefault(signature, []).append(len(next(iter(inputs.values()))))
        opened["savedmodel"].loaded.run(signature, inputs)
    assert set(seen) == set(opened["savedmodel"].loaded.signatures)
    assert all(sizes == [1, 2, 4, 8, 16, 32, 64] for sizes in seen.values())


def message_class(name, fields):
    """A message of tensorflow.serving that the published stubs leave out."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto", package="tensorflow.serving", syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )  # fmt: skip
    for message, entries in fields.items():
        made = file.message_type.add(name=message)
        for number, (key, (kind, label, type_name)) in enumerate(entries, start=1):
            entry = made.field.add(name=key, number=number, type=kind, label=label)
            if type_name:
                entry.type_name = type_name
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))


def test_serving_files_are_valid_text_protocol_buffers(models):
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2 as stubs

    folder = models / "savedmodel"
    parsed = stubs.ModelServerConfig()
    text_format.Parse((folder / "models.config").read_text(), parsed)
    [entry] = parsed.model_config_list.config
    assert (entry.name, entry.base_path) == ("tiny", "/models/tiny")
    assert entry.model_version_policy.latest.num_versions == 2
    assert dict(entry.version_labels) == {"stable": 1, "canary": 1}

    wrapped, one, many = (11, 1, ".google.protobuf.Int64Value"), 1, 3
    batching = message_class(
        "BatchingParameters",
        {
            "BatchingParameters": [
                ("max_batch_size", wrapped), ("batch_timeout_micros", wrapped),
                ("max_enqueued_batches", wrapped), ("num_batch_threads", wrapped),
                ("thread_pool_name", (11, one, ".google.protobuf.StringValue")),
                ("allowed_batch_sizes", (3, many, "")),
            ]
        },
    )()  # fmt: skip
    text_format.Parse((folder / "batching.config").read_text(), batching)
    assert list(batching.allowed_batch_sizes)[-1] == batching.max_batch_size.value == 64

    monitoring = message_class(
        "MonitoringConfig",
        {
            "MonitoringConfig": [
                ("prometheus_config", (11, one, ".tensorflow.serving.PrometheusConfig"))
            ],
            "PrometheusConfig": [("enable", (8, one, "")), ("path", (9, one, ""))],
        },
    )()
    text_format.Parse((folder / "monitoring.config").read_text(), monitoring)
    assert monitoring.prometheus_config.enable

    compose = yaml.safe_load((folder / "docker-compose.yml").read_text())
    service = compose["services"]["serving"]
    assert len(service["ports"]) == 2
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    named = [option.rpartition("/models/")[2] for option in service["command"]
             if "/models/" in option]  # fmt: skip
    assert len(named) > 2 and all((folder / name).is_file() for name in named)


def test_batches_are_no_larger_than_large_pictures_allow(models, tmp_path):
    from export.serving_files import write_serving_files

    sizes = []
    for name, side in (("small", 64), ("large", 512), ("medium", 200)):
        version = shutil.copytree(path_of(models, "savedmodel"), tmp_path / name / "1")
        record = read_json(version / "lisae.json") | {"shape": [side, side, 3]}
        write_json(version / "lisae.json", model_record.sealed(record))
        write_serving_files(tmp_path)
        text = (tmp_path / "batching.config").read_text()
        sizes.append([int(line.split()[1]) for line in text.splitlines() if "allowed" in line])
        assert f"max_batch_size {{ value: {sizes[-1][-1]} }}" in text
    assert sizes == [[1, 2, 4, 8, 16, 32, 64], [1, 2, 4], [1, 2, 4]]


def test_stable_stays_until_somebody_moves_it(models, tmp_path):
    from export.serving_files import write_serving_files
    from lisae_tf.serving import model_config

    def config():
        write_serving_files(tmp_path)
        return model_config.read(tmp_path / "models.config", "tiny")

    for version in ("1", "2"):
        shutil.copytree(path_of(models, "savedmodel"), tmp_path / "tiny" / version)
        assert config().labels == {"stable": 1, "canary": int(version)}
    text = (tmp_path / "models.config").read_text()
    promoted = re.sub(r'(key: "stable"\s+value:) 1', r"\1 2", text)
    assert promoted != text
    (tmp_path / "models.config").write_text(promoted)
    (tmp_path / "batching.config").write_text("max_batch_size { value: 8 }\n")
    shutil.copytree(path_of(models, "savedmodel"), tmp_path / "tiny" / "3")
    assert config().newest == 3
    assert "value: 8" in (tmp_path / "batching.config").read_text()
    shutil.rmtree(tmp_path / "tiny" / "2")
    assert config().labels["stable"] == 3


def test_a_config_that_is_none_is_refused_before_anything_is_written(models, tmp_path, cli, run):
    shutil.copytree(path_of(models, "savedmodel"), tmp_path / "savedmodel" / "tiny" / "1")
    (tmp_path / "savedmodel" / "models.config").write_text("model_config_list {")
    before = sorted(tmp_path.rglob("*"))
    result = cli("export", "--run", run, "--format", "savedmodel", "--out", tmp_path)
    assert_one_sentence(result, "models.config is no model config file")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_version_that_is_copied_in_is_served(models, tmp_path):
    from export.serving_files import write_serving_files
    from lisae_tf.serving import model_config

    def copy(version):
        shutil.copytree(path_of(models, "savedmodel"), tmp_path / "tiny" / str(version))

    served = []
    for version in range(1, 7):
        copy(version)
        write_serving_files(tmp_path)
        config = model_config.read(tmp_path / "models.config", "tiny")
        assert config.labels == {"stable": 1, "canary": version}
        there = range(1, version + 1)
        assert config.choose(there) >= {1, version}
        served.append(config.choose([*there, version + 1]))  # the next one by hand
    assert served == [{1, 2}, {1, 2, 3}, {1, 2, 3, 4}, {1, 4}, {1, 5}, {1, 6}]
