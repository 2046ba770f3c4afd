"""Full-size runs against the embedded server: 100,000 requests, and 30,000 fuzzed ones.

LISAE_REQUESTS and LISAE_FUZZED lower the counts.
"""

import base64
import io
import json
import os
import random
import shutil
import socket
import time

import numpy as np
import pytest
import requests
import serving_fixtures as toy
from PIL import Image
from test_serving import Traffic, ended_well
from test_serving_limits import CLASSIFY, IMAGE, PREDICT

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.pictures import array_to_uint8, load_array

REQUESTS = int(os.environ.get("LISAE_REQUESTS", "100000"))
FUZZED = int(os.environ.get("LISAE_FUZZED", "30000"))
SETTLED = FUZZED // 10  # requests after which memory should not grow any more
GROWTH = 64 * 2**20


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / toy.NAME
    toy.write_model(folder, 1)
    return folder


@pytest.mark.slow("a hundred thousand requests; test_serving changes a version once")
def test_a_hundred_thousand_requests_three_new_versions_and_the_end(model, measured):
    versions = (1, 2, 3, 4)
    for version in versions:
        toy.built(version)
    server = toy.Started(model)
    traffic = Traffic(server, versions, threads=3)
    started, each = time.monotonic(), REQUESTS // len(versions)
    for version in versions:
        if version > 1:
            toy.write_model(model, version)
        traffic.until(lambda now=version: traffic.answers[now] > each, seconds=3600)
    traffic.until(lambda: sum(traffic.answers.values()) >= REQUESTS, seconds=3600)
    rate = round(sum(traffic.answers.values()) / (time.monotonic() - started))
    assert traffic.wrong == []
    server.terminate()
    assert server.end() == 0
    traffic.stop()
    assert ended_well(traffic.wrong), traffic.wrong
    assert "Traceback" not in "".join(server.log)
    measured(
        requests=sum(traffic.answers.values()), answers_by_version=traffic.answers,
        by_client=traffic.fronts, requests_per_second=rate,
    )  # fmt: skip


KINDS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
# Of gRPC: no other is a client's fault.
REFUSALS = ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED")


class Fuzz:
    """Broken requests and files from one seed; `step` sends the next."""

    def __init__(self, server, model, seed=0):
        import grpc

        self.server, self.model = server, model
        self.random = random.Random(seed)
        self.session = requests.Session()
        self.channel = grpc.insecure_channel(server.grpc)
        self.seen: dict[str, int] = {}
        picture = toy.pictures(1)[0]
        self.pictures = [_encode(picture, kind) for kind in KINDS]
        text = base64.b64encode(self.pictures[0]).decode()
        encoded = {"image_bytes": {"b64": text}}
        raised = {"image": [IMAGE], "threshold": 0.1}
        self.bodies = [
            (PREDICT, {"instances": [IMAGE, IMAGE]}),
            (PREDICT, {"inputs": raised, "signature_name": "with_threshold"}),
            (PREDICT, {"signature_name": "score_bytes", "instances": [{"b64": text}]}),
            (CLASSIFY, {"signature_name": "classify", "examples": [encoded, encoded]}),
        ]
        self.messages = _messages(self.pictures[0])
        self.arrays = [_npy(toy.pictures(2)), _npy(toy.pictures(2) / np.float32(255))]
        self.kinds = (
            self.body, self.value, self.picture, self.http, self.message, self.array, self.files
        )  # fmt: skip
        self.weights = (25, 20, 25, 8, 11, 10, 1)

    def step(self):
        kind = self.random.choices(self.kinds, self.weights)[0]
        answer = f"{kind.__name__} {kind()}"
        self.seen[answer] = self.seen.get(answer, 0) + 1

    def bend(self, data: bytes) -> bytes:
        """Flips, cuts, doubles or inserts bytes."""
        data = bytearray(data)
        for _ in range(self.random.choice((1, 1, 2, 6))):
            at = self.random.randrange(len(data) + 1)
            match self.random.randrange(5):
                case 0 if at < len(data):
                    data[at] = self.random.randrange(256)
                case 1:
                    del data[at : at + self.random.randint(1, 40)]
                case 2:
                    data[at:at] = self.random.randbytes(self.random.randint(1, 8))
                case 3:
                    data[at:at] = data[at : at + 30]
                case _:
                    extra = (b"[", b"{", b"]", b"NaN", b"-1", b"1e999", b'"', b"null", b"\\ud800")
                    data[at:at] = self.random.choice(extra) * self.random.choice((1, 1, 3, 2000))
        return bytes(data)

    def post(self, path: str, body: bytes) -> str:
        response = self.session.post(f"http://{self.server.rest}{path}", data=body, timeout=30)
        assert b"Traceback" not in response.content
        document = json.loads(response.content)
        assert isinstance(document, dict)
        assert response.status_code == 200 or list(document) == ["error"]
        assert response.status_code in (200, 400, 404, 413, 501), (response.status_code, body[:500])
        return str(response.status_code)

    def body(self) -> str:
        path, document = self.random.choice(self.bodies)
        return self.post(path, self.bend(json.dumps(document).encode()))

    def value(self) -> str:
        """Well-formed JSON with another value somewhere."""
        path, document = self.random.choice(self.bodies)
        document = json.loads(json.dumps(document))
        place = document
        while isinstance(place, dict | list) and place:
            key = self.random.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if self.random.random() < 0.3 or not isinstance(place[key], dict | list):
                odd = (None, True, -1, 256, 1.5, 10**30, "x", [], {}, [[]], {"b64": "x"},
                       float("nan"), [1] * 500, "\ud800", {"a": {"a": 1}})  # fmt: skip
                place[key] = self.random.choice(odd)
                break
            place = place[key]
        return self.post(path, json.dumps(document).encode())

    def picture(self) -> str:
        data = self.bend(self.random.choice(self.pictures))
        value = {"b64": base64.b64encode(data).decode()}
        if self.random.random() < 0.5:
            document = {"signature_name": "score_bytes", "instances": [value]}
            return self.post(PREDICT, json.dumps(document).encode())
        document = {"signature_name": "classify", "examples": [{"image_bytes": value}]}
        return self.post(CLASSIFY, json.dumps(document).encode())

    def http(self) -> str:
        """Requests that are hardly HTTP."""
        host, port = self.server.rest.split(":")
        body = json.dumps(self.bodies[0][1])
        lines = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        text = f"{lines}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(self.bend(text[: self.random.randint(20, len(text))]))
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while data := connection.recv(65536):
                    answer += data
            except ConnectionResetError:
                return "reset"
        assert b"Traceback" not in answer
        assert b" 500 " not in answer[:20], text
        return answer[9:12].decode() or "closed"

    def message(self) -> str:
        import grpc

        method, data = self.random.choice(self.messages)
        if self.random.random() < 0.8:  # what still parses gets further
            data = bytearray(data)
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        else:
            data = self.bend(data)
        try:
            self.channel.unary_unary(method)(bytes(data), timeout=30)
        except grpc.RpcError as error:
            assert "Traceback" not in error.details()
            assert error.code() != grpc.StatusCode.DEADLINE_EXCEEDED
            assert error.code().name in REFUSALS, (error, data)
            return error.code().name
        return "OK"

    def array(self) -> str:
        """A `.npy` file as `score` reads it."""
        path = self.model.parent / "fuzzed.npy"
        path.write_bytes(self.bend(self.random.choice(self.arrays)))
        try:
            array_to_uint8(load_array(path, toy.SHAPE), str(path))
        except LisaeError:
            return "refused"
        return "read"

    def files(self) -> str:
        """A damaged version folder or config file appears beside the good version, and goes."""
        folder = self.model / "7"
        shutil.rmtree(folder, ignore_errors=True)
        if self.random.random() < 0.3:
            toy.write_config(self.model.parent, {"stable": 1}, newest=1)
            config = self.model.parent / "models.config"
            config.write_bytes(self.bend(config.read_bytes()))
            return "config"
        shutil.copytree(toy.built(1), self.model / ".7")
        path = self.random.choice(
            [each for each in (self.model / ".7").rglob("*") if each.is_file()]
        )
        path.write_bytes(self.bend(path.read_bytes()))
        (self.model / ".7").rename(folder)
        return "version"


def _npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _encode(picture, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind)
    return stream.getvalue()


def _messages(picture: bytes) -> list[tuple[str, bytes]]:
    """Valid gRPC requests of each method."""
    import tensorflow as tf
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        predict_pb2,
    )

    predict = predict_pb2.PredictRequest()
    predict.inputs["image"].CopyFrom(tf.make_tensor_proto(toy.pictures(2)))
    encoded = predict_pb2.PredictRequest()
    encoded.model_spec.signature_name = "score_bytes"
    encoded.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([picture]))
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.signature_name = "classify"
    example = classify.input.example_list.examples.add()
    example.features.feature["image_bytes"].bytes_list.value.append(picture)
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    status = get_model_status_pb2.GetModelStatusRequest()
    found = []
    for method, request in (
        ("PredictionService/Predict", predict),
        ("PredictionService/Predict", encoded),
        ("PredictionService/Classify", classify),
        ("PredictionService/Regress", classify),
        ("PredictionService/GetModelMetadata", metadata),
        ("ModelService/GetModelStatus", status),
    ):
        request.model_spec.name = toy.NAME
        found.append((f"/tensorflow.serving.{method}", request.SerializeToString()))
    return found


def memory(server) -> int:
    page = requests.get(f"http://{server.rest}/monitoring/prometheus/metrics", timeout=5).text
    return int(float(page.split("\nprocess_resident_memory_bytes ")[1].split()[0]))


@pytest.mark.slow("thirty thousand requests; test_serving_limits has one of each kind")
def test_thirty_thousand_fuzzed_requests_and_files(model, measured):
    server = toy.Started(model)
    fuzz = Fuzz(server, model)
    settled = 0
    for count in range(FUZZED):
        if count == SETTLED:
            settled = memory(server)
        fuzz.step()
    grown = memory(server) - settled
    fuzz.channel.close()
    fuzz.session.close()
    assert server.process.poll() is None
    from lisae_tf.serving.grpc_client import GrpcClient

    shutil.rmtree(model / "7", ignore_errors=True)
    with GrpcClient(toy.NAME, server.grpc) as client:
        client.wait()
        images = toy.pictures(5)
        np.testing.assert_allclose(client.score(images).score, toy.expected(images), rtol=1e-5)
    assert server.end() == 0
    log = "".join(server.log)
    for line in ("a request failed", "polling"):
        assert line not in log, log[log.index(line) :][:4000]
    assert grown < GROWTH
    mib = {"memory_mib": settled >> 20, "grown_mib": round(grown / 2**20, 1)}
    measured(fuzzed=FUZZED, outcomes=fuzz.seen, **mib)
