"""The embedded server and requests that are malformed, too large or too many."""

import gzip
import json
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import serving_fixtures as toy
from click.testing import CliRunner

from lisae_tf.cli import main
from lisae_tf.exported.signatures import Refused
from lisae_tf.serving.rest_client import RestClient

PREDICT = f"/v1/models/{toy.NAME}:predict"
CLASSIFY = f"/v1/models/{toy.NAME}:classify"
BODY = 2**20
REQUESTS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / toy.NAME
    toy.write_model(folder, 1)
    return folder


@pytest.fixture(scope="module")
def server(model):
    limits = ["--max-body", "1", "--max-batch", "64", "--max-pixels", "1"]
    made = toy.Embedded(model, *limits, "--max-requests", str(REQUESTS))
    yield made
    assert made.end() == 0
    log = "".join(made.log)
    assert "Traceback" not in log, log[log.index("Traceback") - 200 :]


def post(server, path, body) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(f"http://{server.rest}{path}", data=data, timeout=20)


def refused(server, path, body) -> tuple[int, str]:
    response = post(server, path, body)
    assert response.headers["Content-Type"].startswith("application/json")
    document = response.json()
    assert list(document) == ["error"]
    assert "Traceback" not in document["error"]
    return response.status_code, document["error"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int) -> bytes:
    """A PNG that claims to be so large and holds next to nothing."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size)
    return start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(data: bytes) -> dict:
    import base64

    value = {"b64": base64.b64encode(data).decode()}
    return {"signature_name": "score_bytes", "instances": [{"image_bytes": value}]}


IMAGE = toy.pictures(1)[0].tolist()
MALFORMED = {
    "empty": b"",
    "no json": b"{",
    "no object": [1],
    "no unicode": b"\xff\xfe",
    "deep": b"[" * 50_000,
    "deep value": b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}",
    "no key": {},
    "both keys": {"instances": [IMAGE], "inputs": [IMAGE]},
    "no instances": {"instances": []},
    "instances no list": {"instances": 3},
    "mixed instances": {"instances": [IMAGE, {"image": IMAGE}]},
    "other name": {"instances": [{"picture": IMAGE}]},
    "ragged": {"instances": [IMAGE, IMAGE[:2]]},
    "other shape": {"instances": [IMAGE[:2]]},
    "scalar": {"inputs": 3},
    "null": {"inputs": None},
    "string": {"inputs": "abc"},
    "floats": {"instances": (np.array([IMAGE]) / 2.0).tolist()},
    "booleans": {"instances": (np.array([IMAGE]) > 3).tolist()},
    "too high": {"instances": (np.array([IMAGE]) + 300).tolist()},
    "very high": {"instances": [10**400]},
    "signature no string": {"signature_name": 3, "instances": [IMAGE]},
    "no signature": {"signature_name": "x", "instances": [IMAGE]},
    "surrogate": b'{"signature_name": "score_bytes", "instances": ["\\ud800"]}',
    "missing threshold": {"signature_name": "with_threshold", "instances": [{"image": IMAGE}]},
    "no base64": {"signature_name": "score_bytes", "instances": [{"b64": "***"}]},
    "no picture": encoded(b"no picture"),
    "gif": encoded(b"GIF89a" + b"\0" * 100),
    "damaged": encoded(toy.png(toy.pictures(1)[0])[:60]),
    "thresholds for others": {
        "signature_name": "with_threshold",
        "inputs": {"image": [IMAGE], "threshold": [[0.1], [0.2]]},
    },
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies(server, name):
    assert refused(server, PREDICT, MALFORMED[name])[0] == 400


PICTURE = toy.png(toy.pictures(1)[0])
NO_NUMBERS = {"nan": "NaN", "infinity": "Infinity", "minus": "-Infinity", "too large": "1e39"}


@pytest.mark.parametrize("token", NO_NUMBERS)
def test_thresholds_that_are_no_numbers_are_refused_over_rest(server, token):
    body = {"signature_name": "with_threshold", "inputs": {"image": [IMAGE], "threshold": "@"}}
    data = json.dumps(body).replace('"@"', NO_NUMBERS[token]).encode()
    sentence = "input threshold holds NaN or infinity; send finite numbers"
    assert refused(server, PREDICT, data) == (400, sentence)


@pytest.mark.parametrize("threshold", [np.nan, np.inf, -np.inf])
def test_thresholds_that_are_no_numbers_are_refused_over_grpc(server, threshold):
    from lisae_tf.serving.grpc_client import GrpcClient

    images = toy.pictures(2)
    inputs = {"image": images, "threshold": np.array([0.1, threshold], np.float32)}
    with GrpcClient(toy.NAME, server.grpc) as client:
        with pytest.raises(Refused, match="input threshold holds NaN or infinity") as caught:
            client.predict(inputs, "with_threshold")
        assert caught.value.code == "INVALID_ARGUMENT"
        assert len(client.score(images, threshold=0.1).score) == 2


@pytest.mark.parametrize("place", [1, 4, 7])
@pytest.mark.parametrize(
    "data", [PICTURE[:60], PICTURE[:40], b"no picture"], ids=["short", "shorter", "none"]
)
def test_a_damaged_picture_among_several_is_named_by_its_place(server, place, data):
    from lisae_tf.serving.grpc_client import GrpcClient

    pictures = [PICTURE] * 7
    pictures[place - 1] = data
    pictures[5] = pictures[5] if place == 7 else data  # the first one is named
    with (
        GrpcClient(toy.NAME, server.grpc) as grpc_client,
        RestClient(toy.NAME, server.rest) as rest,
    ):
        for client in (grpc_client, rest):
            for call in (
                client.score_encoded,
                lambda all_, one=client: one.classify([{"image_bytes": each} for each in all_]),
            ):
                with pytest.raises(Refused, match=f"picture {place} of 7: ") as caught:
                    call(pictures)
                assert caught.value.code == "INVALID_ARGUMENT"
                assert "Graph execution" not in str(caught.value)
                assert "[[" not in str(caught.value)
        assert len(rest.score_encoded([PICTURE] * 7).score) == 7


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"examples": []},
        {"examples": [3], "signature_name": "classify"},
        {"examples": [{"image_bytes": 3}], "signature_name": "classify"},
        {"examples": [{"image_bytes": [3, "a"]}], "signature_name": "classify"},
        {"examples": [{"image_bytes": [2**70]}], "signature_name": "classify"},
        {"examples": [{"image_bytes": "a"}], "signature_name": "classify"},
        {"examples": [{}], "signature_name": "classify"},
        {"examples": [{}], "context": 3, "signature_name": "classify"},
        {"examples": [{"image_bytes": "a"}]},
    ],
)
def test_malformed_examples(server, body):
    assert refused(server, CLASSIFY, body)[0] == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/", 400),
        ("GET", "/v1/models", 400),
        ("GET", "/v1/models/nobody", 404),
        ("GET", f"/v1/models/{toy.NAME}/versions/7", 404),
        ("GET", f"/v1/models/{toy.NAME}/versions/x", 400),
        ("GET", f"/v1/models/{toy.NAME}/versions/{10**30}", 400),
        ("GET", f"/v1/models/{toy.NAME}/labels/x", 400),
        ("GET", PREDICT, 400),
        ("POST", f"/v1/models/{toy.NAME}:explain", 400),
        ("POST", "/v1/models/nobody:predict", 404),
        ("DELETE", f"/v1/models/{toy.NAME}", 400),
        ("GET", f"/v1/models/{toy.NAME}%ff%00", 404),
    ],
)
def test_other_paths(server, method, path, status):
    response = requests.request(method, f"http://{server.rest}{path}", timeout=20)
    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_paths_ignore_case_and_context_is_common(server):
    value = encoded(toy.png(toy.pictures(1)[0]))["instances"][0]
    body = {"signature_name": "regress", "context": value, "examples": [{}, {}]}
    found = post(server, f"/V1/models/{toy.NAME}:Regress".replace("/V1", "/v1"), body)
    assert found.json()["results"] == pytest.approx(toy.expected(toy.pictures(1))[0].repeat(2))


def test_bodies_pictures_and_batches_are_limited(server):
    assert refused(server, PREDICT, b" " * (BODY + 1))[0] == 413
    assert "smaller batches" in refused(server, PREDICT, {"instances": [IMAGE] * 65})[1]
    started = time.monotonic()
    status, reason = refused(server, PREDICT, encoded(header(60_000, 60_000)))
    assert (status, "pixels" in reason) == (400, True)
    status, reason = refused(server, PREDICT, encoded(header(1001, 1000)))
    assert (status, "pixels" in reason) == (400, True)
    assert time.monotonic() - started < 2


def test_a_compressed_body_is_limited_by_what_it_unpacks_to(server):
    packed = gzip.compress(b" " * (40 * BODY))
    response = requests.post(
        f"http://{server.rest}{PREDICT}",
        data=packed,
        headers={"Content-Encoding": "gzip"},
        timeout=20,
    )
    assert response.status_code == 413
    broken = {"data": b"no gzip", "headers": {"Content-Encoding": "gzip"}, "timeout": 20}
    assert requests.post(f"http://{server.rest}{PREDICT}", **broken).status_code == 400


def slow_pictures() -> list[bytes]:
    """As many as a request may hold, which take a while to decode."""
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    return [toy.png(picture)] * 60


def test_more_requests_than_may_be_held_are_refused(server):
    value = [encoded(data)["instances"][0] for data in slow_pictures()]
    body = json.dumps({"signature_name": "score_bytes", "instances": value}).encode()
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: post(server, PREDICT, body).status_code, range(80)))
    assert set(answers) == {200, 429}
    assert requests.get(f"http://{server.rest}/healthz", timeout=5).ok
    with RestClient(toy.NAME, server.rest) as client:
        assert len(client.score(toy.pictures(2)).score) == 2


def test_more_grpc_requests_than_may_be_held_are_refused(server):
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = toy.NAME
    request.model_spec.signature_name = "score_bytes"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(slow_pictures()))
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        sent = [stub.Predict.future(request, timeout=20) for _ in range(100)]
        codes = {each.code() for each in sent}
    assert codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_grpc_limits(server):
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    from lisae_tf.serving.grpc_client import GrpcClient

    with GrpcClient(toy.NAME, server.grpc) as client:
        for images in (toy.pictures(65), np.zeros((1, 2, 2, 3), np.uint8)):
            with pytest.raises(Refused) as caught:
                client.score(images, batch_size=100)
            assert caught.value.code == "INVALID_ARGUMENT"
        with pytest.raises(Refused) as caught:
            client.predict({"image": np.zeros((2, 1000, 1000, 3), np.uint8)})
        assert caught.value.code == "RESOURCE_EXHAUSTED"
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request, timeout=5)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        request.model_spec.name = toy.NAME
        tensor = request.inputs["image"]
        tensor.dtype = 4
        for sizes in ((64, 10**9, 10**9, 3), (-1, 6, 5, 3), (2**62, 2**62, 4)):
            del tensor.tensor_shape.dim[:]
            for size in sizes:
                tensor.tensor_shape.dim.add(size=size)
            tensor.int_val[:] = [1]
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(request, timeout=5)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        for kind in (20, 21, 77):  # a resource, a variant, none that there is
            tensor.dtype = kind
            del tensor.tensor_shape.dim[:]
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(request, timeout=5)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        raw = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as caught:
            raw(b"\xff\xff", timeout=5)
        assert "Traceback" not in caught.value.details()


def test_metrics_and_health(server):
    page = requests.get(f"http://{server.rest}/monitoring/prometheus/metrics", timeout=5).text
    assert 'lisae_serving_version_available{version="1"} 1.0' in page
    assert 'code="INVALID_ARGUMENT",entrypoint="REST",method="predict"' in page
    assert requests.get(f"http://{server.rest}/healthz", timeout=5).json()["ready"] is True


@pytest.mark.parametrize("wrong", ["missing", "empty", "version", "broken", "two models"])
def test_what_cannot_be_served_is_refused_in_one_sentence(tmp_path, model, wrong):
    folder = tmp_path / "served"
    if wrong != "missing":
        folder.mkdir()
    if wrong == "version":
        folder = model / "1"
    if wrong == "broken":
        (folder / "1").mkdir()
        (folder / "1" / "saved_model.pb").write_bytes(b"\x00no model")
    if wrong == "two models":
        (folder / "a" / "1").mkdir(parents=True)
        (folder / "b" / "1").mkdir(parents=True)
    ended = CliRunner().invoke(main, ["serve", "--model", str(folder), "--rest-port", "0"])
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("given", ["", "m", "m/1", "m/1/model"])
def test_an_export_in_another_format_is_not_served_and_what_to_do_is_said(tmp_path, kind, given):
    file = tmp_path / kind / "m" / "1" / f"model.{kind}"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    place = tmp_path / kind / given
    place = place.with_suffix(f".{kind}") if given.endswith("model") else place
    ended = CliRunner().invoke(main, ["serve", "--model", str(place), "--rest-port", "0"])
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[-1] == (
        f"Error: {file} is no SavedModel, and 'serve' takes nothing else; write one with 'export "
        "--format savedmodel', or score without a server: 'score --model' takes that file"
    )
