"""The clients against a server: the same tests for the embedded one and for TensorFlow Serving.

Those for TensorFlow Serving run with Docker by this line in a checkout:

    TENSORFLOW_MODEL_SERVER="docker run --rm --init --network host --volume /tmp:/tmp
    --entrypoint tensorflow_model_server tensorflow/serving" .venv/bin/python -m pytest
    tests/test_serving.py

or with TENSORFLOW_MODEL_SERVER=PATH of the binary, or against a server that runs elsewhere on
what `python tests/serving_fixtures.py FOLDER` writes, with TF_SERVING_REST=host:port and
TF_SERVING_GRPC=host:port.
"""

import contextlib
import json
import random
import shutil
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import serving_fixtures as toy

from lisae_tf.core.errors import LisaeError
from lisae_tf.exported.signatures import Refused
from lisae_tf.serving import scores
from lisae_tf.serving.rest_client import RestClient

FRONTS = ("rest rows", "rest columns", "grpc")
INVALID = {"INVALID_ARGUMENT", "FAILED_PRECONDITION"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return toy.write_served(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module", params=["embedded", "tensorflow_model_server"])
def server(request, served):
    made = toy.Embedded(served / toy.NAME) if request.param == "embedded" else toy.Real(served)
    yield made
    made.end()


@pytest.fixture(params=FRONTS)
def connect(request, server):
    """Makes clients of one front, with the options given."""
    from lisae_tf.serving.grpc_client import GrpcClient

    clients = []

    def make(model=toy.NAME, **options):
        if request.param == "grpc":
            clients.append(GrpcClient(model, server.grpc, **options))
        else:
            form = request.param.split()[1]
            clients.append(RestClient(model, server.rest, form=form, **options))
        return clients[-1]

    make().wait()
    yield make
    for client in clients:
        client.close()


def refusal(call, *arguments) -> str:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert "Traceback" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("count", [1, 2, 7, 64, 150])
def test_scores_of_any_batch(connect, count):
    images = toy.pictures(count, seed=count)
    found = connect().score(images)
    np.testing.assert_allclose(found.score, toy.expected(images, 2), rtol=1e-5)
    assert found.score.dtype == np.float32
    assert found.is_anomaly.tolist() == (found.score > toy.ALPHA).tolist()


def test_no_pictures_give_no_scores(connect):
    assert len(connect().score(toy.pictures(0)).score) == 0


def test_the_threshold_can_be_given_with_the_call(connect):
    images = toy.pictures(20)
    found = connect().score(images, threshold=0.15)
    assert found.is_anomaly.tolist() == (found.score > 0.15).tolist()
    assert 0 < found.is_anomaly.sum() < 20


def test_maps_come_on_request_alone(connect):
    images = toy.pictures(70)
    found = connect().error_maps(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, toy.expected_maps(images, 2), rtol=1e-5)
    assert connect().predict({"image": images}).keys() == {"score", "is_anomaly"}


def test_encoded_pictures(connect):
    images = toy.pictures(5)
    found = connect().score_encoded([toy.png(image) for image in images])
    np.testing.assert_allclose(found.score, toy.expected(images, 2), rtol=1e-5)


def test_versions_and_labels(connect):
    images = toy.pictures(3)
    for option, version in (
        ({"version": 1}, 1),
        ({"version": 2}, 2),
        ({"label": "stable"}, 1),
        ({"label": "canary"}, 2),
        ({}, 2),
    ):
        found = connect(**option).score(images)
        np.testing.assert_allclose(found.score, toy.expected(images, version), rtol=1e-5)


def test_classify_and_regress(connect):
    images = toy.pictures(6)
    examples = [{"image_bytes": toy.png(image)} for image in images]
    want = toy.expected(images, 2)
    np.testing.assert_allclose(connect().regress(examples), want, rtol=1e-5)
    found = connect().classify(examples)
    assert [pairs[0][0] for pairs in found] == [
        "anomaly" if score > toy.ALPHA else "normal" for score in want
    ]
    np.testing.assert_allclose([pairs[0][1] for pairs in found], want, rtol=1e-5)


def test_status(connect):
    assert {(each.version, each.state) for each in connect().status()} == {
        (1, "AVAILABLE"),
        (2, "AVAILABLE"),
    }
    assert [each.version for each in connect(version=1).status()] == [1]
    assert refusal(connect(version=9).status) == "NOT_FOUND"


def test_metadata(connect):
    found = connect().metadata()
    assert found["serving_default"]["inputs"]["image"]["dtype"] == "DT_UINT8"
    assert found["classify"]["method_name"] == "tensorflow/serving/classify"
    assert found["regress"]["method_name"] == "tensorflow/serving/regress"
    assert {"score_bytes", "with_threshold"} <= found.keys()


def test_refusals(connect):
    images = toy.pictures(2)
    assert refusal(connect("nobody").score, images) == "NOT_FOUND"
    assert refusal(connect(version=9).score, images) == "NOT_FOUND"
    assert refusal(connect(label="nightly").score, images) in INVALID
    assert refusal(connect().score, images[:, :3]) in INVALID
    assert refusal(connect().score_encoded, [b"no picture"]) in INVALID
    assert refusal(connect().score_encoded, [toy.png(images[0])[:40]]) in INVALID
    assert refusal(connect().predict, {"image": images}, "missing") in INVALID
    assert refusal(connect().predict, {"picture": images}) in INVALID
    assert refusal(connect().classify, [{"image_bytes": b"x"}], "serving_default") in INVALID


IMAGES = toy.pictures(2)
GOOD = {"predictions": [{"score": 0.5, "is_anomaly": False}, {"score": 1.5, "is_anomaly": True}]}


@contextmanager
def answering(*answers, delay: threading.Event | None = None):
    """A server that gives the answers in turn, (status, body), or hangs up for None."""
    left, seen = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            size = int(self.headers.get("Content-Length", 0))  # 0 of a GET
            seen.append(json.loads(self.rfile.read(size) or "null"))
            if delay is not None:
                delay.wait(10)
            answer = left.pop(0) if len(left) > 1 else left[0]
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client has stopped waiting
                self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", seen
    finally:
        if delay is not None:
            delay.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_refusals_for_load_and_lost_connections_are_retried():
    with answering((503, {"error": "busy"}), None, (429, {"error": "busy"}), (200, GOOD)) as found:
        with RestClient("m", found[0], retries=3) as client:
            assert client.score(IMAGES).score.tolist() == [0.5, 1.5]
        assert len(found[1]) == 4


def test_a_refusal_of_the_request_is_not_retried():
    with answering((400, {"error": "bad shape"})) as found:
        with RestClient("m", found[0]) as client, pytest.raises(Refused, match="bad shape") as e:
            client.score(IMAGES)
        assert e.value.code == "INVALID_ARGUMENT"
        assert len(found[1]) == 1


def test_a_time_out_is_not_retried():
    with answering((200, GOOD), delay=threading.Event()) as found:
        with (
            RestClient("m", found[0], timeout=0.2) as client,
            pytest.raises(Refused, match="gave no answer") as e,
        ):
            client.score(IMAGES)
        assert e.value.code == "DEADLINE_EXCEEDED"
        assert len(found[1]) == 1


def test_a_server_that_stays_busy_is_reported():
    with answering((503, {"error": "busy"})) as found:
        with RestClient("m", found[0], retries=1) as client, pytest.raises(Refused) as e:
            client.score(IMAGES)
        assert e.value.code == "UNAVAILABLE"
        assert len(found[1]) == 2


def test_nobody_there():
    address = f"127.0.0.1:{toy.free_port()}"
    with RestClient("m", address, retries=0) as client:
        with pytest.raises(Refused, match="cannot be reached") as e:
            client.score(IMAGES)
        assert e.value.code == "UNAVAILABLE"
        with pytest.raises(LisaeError, match="waited"):
            client.wait(0.1)


@pytest.mark.parametrize("key", ["result", "results"])
def test_both_spellings_of_results(key):
    with answering((200, {key: [0.5]})) as found, RestClient("m", found[0]) as client:
        assert client.regress([{"image_bytes": b"x"}]).tolist() == [0.5]
        assert found[1][0]["examples"] == [{"image_bytes": {"b64": "eA=="}}]


def test_nan_and_infinity_tokens():
    body = b'{"predictions": [{"score": NaN, "is_anomaly": false}, '
    body += b'{"score": -Infinity, "is_anomaly": false}]}'
    with answering((200, body)) as found, RestClient("m", found[0]) as client:
        scores = client.score(IMAGES).score
    assert np.isnan(scores[0]) and scores[1] == -np.inf


def test_a_sole_output_and_binary_outputs():
    with answering((200, {"predictions": [[1], [2]]})) as found, RestClient("m", found[0]) as c:
        assert c.predict({"image": IMAGES})["output"].tolist() == [[1], [2]]
    body = {"outputs": {"a_bytes": [{"b64": "eA=="}], "b": [1]}}
    with answering((200, body)) as found, RestClient("m", found[0], form="columns") as c:
        assert c.predict({"image": IMAGES})["a_bytes"].tolist() == [b"x"]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"predictions": 3}', b"[" * 10**5])
def test_answers_that_are_none(body):
    with answering((200, body)) as found, RestClient("m", found[0]) as client:
        with pytest.raises(LisaeError):
            client.score(IMAGES)
        with pytest.raises(LisaeError):
            client.regress([{"image_bytes": b"x"}])
        with pytest.raises(LisaeError):
            client.status()
        with pytest.raises(LisaeError):
            client.metadata()


def test_names_are_quoted():
    with answering((200, GOOD)) as found, RestClient("a/b c", found[0], label="x:y") as client:
        assert client._path(":predict") == "/v1/models/a%2Fb%20c/labels/x%3Ay:predict"


def test_large_pictures_go_in_several_requests(monkeypatch):
    monkeypatch.setattr(scores, "REQUEST_BYTES", 2 * IMAGES[0].nbytes)
    many = np.concatenate([IMAGES, IMAGES])
    with answering((200, GOOD)) as (address, seen), RestClient("toy", address) as client:
        assert len(client.score(many).score) == 4
        client.score_encoded([b"a" * IMAGES[0].nbytes] * 4)
    assert [len(each["instances"]) for each in seen] == [2, 2, 2, 2]
    monkeypatch.setattr(scores, "REQUEST_BYTES", 1)  # one picture goes by itself in any case
    assert [len(part) for part in scores._parts(many, 64)] == [1, 1, 1, 1]
    assert list(scores._parts(many[:0], 64)) == []


class Traffic:
    """Clients in threads that check every answer until they are told to stop."""

    def __init__(self, server, versions, threads=2):
        from lisae_tf.serving.grpc_client import GrpcClient

        self.answers = {version: 0 for version in versions}
        self.fronts = {"RestClient": 0, "GrpcClient": 0}
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        clients = [RestClient(toy.NAME, server.rest, retries=0, timeout=60) for _ in range(threads)]
        clients += [
            GrpcClient(toy.NAME, server.grpc, retries=0, timeout=60) for _ in range(threads)
        ]
        self._threads = [
            threading.Thread(target=self._work, args=(client, seed))
            for seed, client in enumerate(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, client, seed):
        images, sizes = toy.pictures(64, seed), random.Random(seed)
        with client:
            while not self._stop.is_set():
                batch = images[: sizes.choice((1, 1, 1, 2, 3, 7, 16, 64))]
                try:
                    scores = client.score(batch).score
                except Refused as error:
                    self.wrong.append(f"{error.code}: {error} ({error.__cause__})")
                    return
                fits = [
                    version
                    for version in self.answers
                    if np.allclose(scores, toy.expected(batch, version), rtol=1e-4)
                ]
                with self._lock:
                    if fits:
                        self.answers[fits[0]] += 1
                        self.fronts[type(client).__name__] += 1
                    else:
                        self.wrong.append(f"{scores}")

    def until(self, condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            assert self.wrong == []
            assert time.monotonic() < end, f"it did not happen in time: {self.answers}"
            time.sleep(0.05)

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def let_go(server, version) -> bool:
    """Whether that version is no longer served."""
    with RestClient(toy.NAME, server.rest, version=version) as client:
        try:
            client.score(toy.pictures(1))
        except Refused as error:
            return error.code == "NOT_FOUND"
    return False


def ended_well(refusals: list[str]) -> bool:
    """Whether clients were told that the server is ending, or found it gone; nothing else."""
    return all(
        "UNAVAILABLE" in each and ("is ending" in each or "Connection refused" in each)
        for each in refusals
    )


def test_a_new_version_and_sigterm_while_busy_lose_no_answer(tmp_path):
    model = tmp_path / toy.NAME
    toy.write_model(model, 1)
    toy.built(2)
    server = toy.Embedded(model)
    traffic = Traffic(server, (1, 2))
    try:
        traffic.until(lambda: traffic.answers[1] > 50)
        (model / "3").mkdir()  # no model: passed over
        (model / "v4").mkdir()
        toy.write_model(model, 2)
        (model / "3" / "saved_model.pb").write_bytes(b"no model")
        traffic.until(lambda: traffic.answers[2] > 50)
        shutil.rmtree(model / "3")
        traffic.until(lambda: let_go(server, 1))
        assert traffic.wrong == []
        server.terminate()
    finally:
        code = server.end()
        traffic.stop()
    assert code == 0
    assert len(traffic.wrong) == 4
    assert ended_well(traffic.wrong), traffic.wrong
    assert "Traceback" not in "".join(server.log)
