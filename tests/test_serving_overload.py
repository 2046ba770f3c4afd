"""The embedded server and clients that cost much or are slow."""

import asyncio
import contextlib
import io
import logging
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import serving_fixtures as toy
from PIL import Image
from test_serving_limits import IMAGE, PREDICT, encoded, post, refused

from lisae_tf.exported.signatures import Refused, RequestError
from lisae_tf.serving.admission import Admission, Memory
from lisae_tf.serving.metrics import Throttle
from lisae_tf.serving.rest_client import RestClient

REQUESTS, CONNECTIONS = 6, 20
MEMORY = 24  # MiB: the least with bodies of one MiB


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / toy.NAME
    toy.write_model(folder, 1)
    options = ("--max-body", "1", "--max-memory", "1", "--max-connections", CONNECTIONS)
    made = toy.Embedded(folder, *map(str, options), "--max-requests", str(REQUESTS))
    yield made
    assert made.end() == 0
    log = "".join(made.log)
    assert "Traceback" not in log, log[log.index("Traceback") - 200 :]


def blank(side: int, mode: str = "RGB") -> bytes:
    """A picture that is small as a file and large once decoded."""
    stream = io.BytesIO()
    Image.new(mode, (side, side)).save(stream, "PNG")
    return stream.getvalue()


def resident(server) -> int:
    with open(f"/proc/{server.process.pid}/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def peak(server):
    """The most memory that the server had meanwhile, in a list."""
    found, ended = [resident(server)], threading.Event()

    def watch():
        while not ended.wait(0.002):
            found.append(resident(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def works(server) -> None:
    """Whole requests are answered over both fronts."""
    from lisae_tf.serving.grpc_client import GrpcClient

    images = toy.pictures(3)
    with (
        RestClient(toy.NAME, server.rest, retries=0, timeout=5) as rest,
        GrpcClient(toy.NAME, server.grpc, retries=0, timeout=5) as grpc_client,
    ):
        for client in (rest, grpc_client):
            np.testing.assert_allclose(client.score(images).score, toy.expected(images), rtol=1e-5)


def test_a_picture_that_takes_too_much_once_decoded_is_refused_by_its_header(server):
    status, reason = refused(server, PREDICT, encoded(blank(1400)))
    assert status == 400
    assert reason == (
        "1400 x 1400 pixels take 27 MiB to decode, more than the 24 MiB of this server; send the "
        "picture smaller, or start 'serve' with --max-memory 27"
    )
    assert "take 31 MiB" in refused(server, PREDICT, encoded(blank(1000, "RGBA")))[1]
    many = encoded(blank(100))
    many["instances"] += encoded(blank(1400))["instances"]
    assert refused(server, PREDICT, many)[1].startswith("picture 2 of 2: 1400 x 1400 pixels")


def test_memory_of_large_pictures_is_bounded_together_and_given_back(server):
    body = encoded(blank(1300))
    assert post(server, PREDICT, body).status_code == 200
    before = resident(server)
    with ThreadPoolExecutor(8) as pool, peak(server) as seen:
        for _ in range(2):
            answers = list(pool.map(lambda _: post(server, PREDICT, body).status_code, range(5)))
            assert set(answers) == {200}
    assert max(seen) - before < (MEMORY + 12) * 2**20
    assert resident(server) - before < 12 * 2**20


def test_memory_is_never_held_twice():
    memory, held, most = Memory(100), [0], [0]
    lock = threading.Lock()

    def work(size):
        with memory.held(size):
            with lock:
                held[0] += min(size, 100)
                most[0] = max(most[0], held[0])
            time.sleep(0.001)
            with lock:
                held[0] -= min(size, 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [10, 90, 40, 1000, 60, 1] * 8))
    assert held == [0] and 50 < most[0] <= 100


def test_many_pictures_go_through_the_graph_a_few_at_a_time(monkeypatch, tmp_path):
    from lisae_tf.exported import saved_model

    model = saved_model.load(toy.write_model(tmp_path, 1), tmp_path, toy.NAME, 1)
    images = toy.pictures(23)
    whole = model.run("", {"image": images})
    sizes = []
    one = model._run_batch
    monkeypatch.setattr(saved_model, "batch_size", lambda shape: 10)
    monkeypatch.setattr(
        model, "_run_batch",
        lambda name, given: sizes.append(len(given["image"])) or one(name, given),
    )  # fmt: skip
    for threshold in (np.float32(0.1), np.full(23, 0.1, np.float32)):
        found = model.run("with_threshold", {"image": images, "threshold": np.asarray(threshold)})
        np.testing.assert_allclose(found["score"], whole["score"], rtol=1e-6)
        np.testing.assert_array_equal(found["is_anomaly"], whole["score"] > 0.1)
    assert sizes == [10, 10, 3] * 2


@contextlib.contextmanager
def sent(address: str, data: bytes, count: int):
    """That many connections on which this was sent and nothing more comes."""
    host, port = address.split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            made = stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            with contextlib.suppress(OSError):  # it may have been ended already
                made.sendall(data)
        yield


def descriptors(server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@pytest.mark.parametrize("front", ["rest", "grpc"])
def test_half_headers_keep_nobody_out(server, front):
    before = descriptors(server)
    half = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nX-".encode()
    with sent(getattr(server, front), half, 4 * CONNECTIONS):
        for _ in range(3):
            works(server)
        assert descriptors(server) < before + CONNECTIONS + 15


def test_half_bodies_take_no_place(server):
    half = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode()
    with sent(server.rest, half, 2 * REQUESTS):
        time.sleep(0.3)
        assert post(server, PREDICT, {"instances": [IMAGE]}).status_code == 200
        works(server)


def test_calls_without_their_message_take_no_place_and_no_thread(server):
    import grpc

    ended = threading.Event()

    def never():
        ended.wait(30)
        yield from ()

    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_unary("/tensorflow.serving.PredictionService/Predict")
        calls = [call.future(never()) for _ in range(2 * REQUESTS)]
        time.sleep(0.3)
        works(server)
        refused_calls = [each for each in calls if each.done()]
        assert {each.code() for each in refused_calls} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        ended.set()


def test_a_connection_whose_header_does_not_come_is_ended():
    from aiohttp import web

    from lisae_tf.serving.admission import Connections

    async def answer(_request):
        return web.Response(text="well")

    async def scenario():
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        factory = Connections(runner.server, most=3, header_seconds=0.1)
        listener = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        listener.close()
        await runner.cleanup()

    asyncio.run(scenario())


def test_a_request_has_more_time_the_more_of_it_has_come():
    async def arrive(admission, *sizes):
        try:
            async with admission.arriving() as scope:
                for size in sizes:
                    await asyncio.sleep(0.05)
                    admission.received(scope, size)
                await asyncio.sleep(0.05)
        except RequestError as error:
            return error.code
        return "OK"

    async def scenario():
        admission = Admission(4, seconds=30, stalled=0.08, rate=1000)
        whole = arrive(admission, 1000, 2000, 3000)
        return await asyncio.gather(whole, arrive(admission, 1, 2, 3), arrive(admission, 0))

    assert asyncio.run(scenario()) == ["OK", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"]


def test_of_too_many_requests_on_their_way_the_oldest_gives_way():
    async def scenario():
        admission, ended = Admission(2, 30, 30, 1), asyncio.Event()

        async def arrive(data):
            try:
                async with admission.arriving():
                    await data.wait()
            except RequestError as error:
                return error.code
            return "OK"

        calls = []
        for _ in range(4):
            calls.append(asyncio.create_task(arrive(ended)))
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        ended.set()
        return await asyncio.gather(*calls)

    assert asyncio.run(scenario()) == ["RESOURCE_EXHAUSTED"] * 2 + ["OK"] * 2


def test_of_half_sent_bodies_that_hold_too_much_the_oldest_gives_way():
    async def scenario():
        admission, ended = Admission(64, 30, 30, 1, size=100), asyncio.Event()

        async def arrive(*sizes):
            try:
                async with admission.arriving() as scope:
                    for size in sizes:
                        admission.received(scope, size)
                        await asyncio.sleep(0)
                    await ended.wait()
            except RequestError as error:
                return error.code
            return "OK"

        calls = []
        for sizes in ((), (10, 40), (60,), (30,), (5, 10)):
            calls.append(asyncio.create_task(arrive(*sizes)))
            await asyncio.sleep(0.001)
        ended.set()
        return await asyncio.gather(*calls)

    assert asyncio.run(scenario()) == ["OK", "RESOURCE_EXHAUSTED", "OK", "OK", "OK"]


def test_a_log_is_not_filled_by_one_kind_of_trouble(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lisae_tf.serving.metrics.time.monotonic", lambda: now[0])
    throttle, written = Throttle(most=3, seconds=10), []

    def log(line, text):
        record = logging.LogRecord("x", logging.ERROR, "file.py", line, text, (), None)
        if throttle.filter(record):
            written.append(record.getMessage())

    for _ in range(50):
        log(1, "full")
    log(2, "other")
    now[0] += 11
    log(1, "full")
    assert written == ["full"] * 3 + ["other", "full (47 more before)"]


def test_a_refused_client_is_told_what_to_do(server):
    with RestClient(toy.NAME, server.rest) as client, pytest.raises(Refused, match="--max-memory"):
        client.score_encoded([blank(1400)])
    assert requests.get(f"http://{server.rest}/healthz", timeout=5).ok


def test_an_example_that_only_the_graph_finds_malformed_is_refused(tmp_path):
    import tensorflow as tf

    from lisae_tf.exported import saved_model
    from lisae_tf.serving import inference
    from lisae_tf.serving.limits import Limits

    model = saved_model.load(toy.write_model(tmp_path, 1), tmp_path, toy.NAME, 1)
    example = tf.train.Example()
    picture = toy.png(toy.pictures(1)[0])
    example.features.feature["image_bytes"].bytes_list.value.append(picture)
    data = bytearray(example.SerializeToString())
    assert data[3] == 0x0A
    data[3] = 0x1A  # a field that only one of two parsers passes over
    with pytest.raises(RequestError, match="malformed") as caught:
        inference.classify(model, Limits(), "classify", [bytes(data)])
    assert caught.value.code == "INVALID_ARGUMENT"
