"""A model whose score is the brightness, pictures for it, and a server that takes messages."""

import csv
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lisae_tf.exported import packed
from lisae_tf.exported.runtimes import Model
from lisae_tf.watching.watcher import Settings, Watcher

SIDE, ALPHA = 8, 0.5
FAST = Settings(settle=0, poll=0.01, window=0, grace=5)


class Toy(Model):
    """The score is the mean of the pixels; anomalies are bright."""

    def __init__(self, digest="1", calibration=None):
        super().__init__(Path("toy"), {
            "shape": [SIDE, SIDE, 1], "input": {"dtype": "uint8"}, "version": 1, "metadata": {},
            "files": {"toy": {"sha256": digest, "size": 1}},
            "threshold": {"alpha": ALPHA, "requested_fpr": 0.05, "guaranteed_fpr": 0.05,
                          "n_calibration": 100},
            "error_map": {"shape": [-1, SIDE, SIDE], "highest_share": 1.0},
            "calibration_scores": None if calibration is None else packed.pack_scores(calibration),
        })  # fmt: skip

    def stored(self):
        return ALPHA, self.metadata

    def _run(self, image, threshold, outputs):
        maps = image[..., 0] / np.float32(255)
        found = {"score": maps.mean((1, 2)), "error_map": maps}
        return [found.get(name, found["score"] > ALPHA) for name in outputs]


def picture(path, level=60):
    Image.fromarray(np.full((SIDE, SIDE), level, np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Ten pictures, the last two of which are bright, and one that is none."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number in range(10):
        picture(tmp_path / "in" / ("sub" if number % 2 else ".") / f"{number}.png",
                200 + number if number > 7 else 60 + number)  # fmt: skip
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "scores.csv"


def watch(folder, out, settings=FAST, model=None, say=lambda line: None):
    return Watcher(folder, model or Toy(), out, settings, say).run(once=True)


def rows(out):
    with open(out, newline="") as stream:
        return list(csv.DictReader(stream))


class Server(HTTPServer):
    """Takes JSON, and answers with each of some codes in turn, the last one for ever."""

    def __init__(self, *codes):
        super().__init__(("127.0.0.1", 0), Taking)
        self.codes, self.taken = list(codes), []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server_port}/x"

    def end(self):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Taking(BaseHTTPRequestHandler):
    def do_POST(self):
        code = self.server.codes.pop(0) if len(self.server.codes) > 1 else self.server.codes[0]
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.taken.append((code, self.headers["Idempotency-Key"], content))
        self.send_response(code)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = []
    yield lambda *codes: made.append(Server(*codes)) or made[-1]
    for each in made:
        each.end()
