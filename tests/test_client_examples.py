"""The clients in docs/serving.md and in the model card, run against a server."""

import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import serving_fixtures as toy
from conftest import CHECKOUT
from PIL import Image

from export.model_card import model_card

DOCUMENT = (CHECKOUT / "docs" / "serving.md").read_text()
RECORD = {
    "name": "NAME", "version": 1, "kind": "savedmodel", "variant": "lis", "seed": 0,
    "data": {"dataset": "folder", "normal": ["good"], "negatives": "none", "protocol": "one-class"},
    "threshold": {"alpha": 0.1, "n_calibration": 9, "guaranteed_fpr": 0.1, "requested_fpr": 0.1},
    "metrics": {}, "config_hash": "0", "parent": {"sha256": "0", "version": 0}, "license": "mit",
    "metadata": {
        "paper": "A paper", "input": "uint8", "channel_order": "RGB", "input_range": "0-255",
        "description": "the error",
    },
}  # fmt: skip


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a turned photograph, its right scores, and a server of the toy."""
    folder = tmp_path_factory.mktemp("examples")
    toy.write_model(folder / toy.NAME, 1)
    image = toy.pictures(1)[0]
    tags = Image.Exif()
    tags[274] = 6
    Image.fromarray(np.rot90(image).copy()).save(folder / "picture.jpg", "PNG", exif=tags)
    server = toy.Embedded(folder / toy.NAME)
    yield folder, server, toy.expected(image[None])[0]
    assert server.end() == 0


def run(place, kind: str, text: str) -> str:
    folder, server, _ = place
    if kind == "sh" and shutil.which("curl") is None:
        pytest.skip("there is no curl")
    for before, after in (
        ("NAME", toy.NAME), ("127.0.0.1:8501", server.rest), ("127.0.0.1:8500", server.grpc)
    ):  # fmt: skip
        text = text.replace(before, after)
    command = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[kind]
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([*command, text], check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def score_in(text: str) -> float:
    return float(re.search(r"\d+\.\d+(e-\d+)?", text)[0])


@pytest.mark.parametrize("text", blocks(DOCUMENT, "python"))
def test_the_python_clients_of_the_document(place, text):
    assert score_in(run(place, "python", text)) == pytest.approx(place[2], rel=1e-4)


def test_the_curl_commands_of_the_document(place):
    status, predict = blocks(DOCUMENT, "sh")
    assert '"state": "AVAILABLE"' in run(place, "sh", status)
    assert score_in(run(place, "sh", predict)) == pytest.approx(place[2], rel=1e-4)


def test_the_clients_of_the_model_card(place):
    card = model_card(RECORD, None)
    for kind in ("sh", "python"):
        (text,) = blocks(card, kind)
        assert score_in(run(place, kind, text)) == pytest.approx(place[2], rel=1e-4)


def test_a_version_that_cannot_be_served_is_named_with_the_reason(place):
    from lisae_tf.serving.rest_client import RestClient

    folder, server, _ = place
    version = folder / toy.NAME / "2"
    version.mkdir()
    (version / "model.onnx").write_bytes(b"x")
    with RestClient(toy.NAME, server.rest) as client:
        for _ in range(200):
            states = {each.version: each for each in client.status()}
            if 2 in states and states[2].error:
                break
            time.sleep(0.05)
    assert states[1].state == "AVAILABLE" and states[1].error == ""
    assert states[2].state == "END" and "'serve' takes nothing else" in states[2].error
