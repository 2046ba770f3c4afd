"""The embedded server under traffic: a new version, and the end, without a lost answer."""

import random
import shutil
import threading
import time

import numpy as np
import serving_fixtures as toy

from lisae_tf.exported.codes import Refused
from lisae_tf.serving.rest_client import RestClient


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
