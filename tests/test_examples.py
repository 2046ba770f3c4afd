"""Examples, clients of the pages, the tutorial's commands in their order, and `import lisae_tf`."""

import base64
import contextlib
import importlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import feature_fixtures
import numpy as np
import pytest
import serving_fixtures as toy
from conftest import CHECKOUT
from PIL import Image
from serving_fixtures import free_port

import lisae_tf
from export.model_card import model_card

EXAMPLES = CHECKOUT / "examples"
QUICKLY = (
    "epochs=1, shaping_epochs=1, settings={'feature_extraction': {'collapse_fraction': 0.0}, "
    "'network': {'filters': [4, 4]}}"
)
pytestmark = pytest.mark.filterwarnings("ignore:.*calibration samples? supports?:UserWarning")


def example(name: str):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_own_folder(tmp_path, capsys):
    feature_fixtures.write_folders(tmp_path)
    scores = example("own_folder")(tmp_path / "good", tmp_path / "bad", (64, 64))
    assert scores.shape == (10,)
    assert capsys.readouterr().out.count("anomaly\n") == 10


def test_onnx_on_a_device(workplace, cli, tmp_path):
    from lisae_tf import open_model
    from lisae_tf.data.pictures import decode

    assert cli("export", "--format", "onnx", "--name", "tiny").exit_code == 0
    path = "models/onnx/tiny/1/model.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ((score, is_anomaly),) = example("onnx_on_a_device")(path, str(tmp_path / "a.png"))
    model = open_model(path)
    found = model.run(decode(tmp_path / "a.png", model.shape[:2], model.shape[2])[None])
    assert (score, is_anomaly) == (found["score"][0], found["is_anomaly"][0])


def test_tf_serving_client(place, tmp_path):
    images = toy.pictures(2)
    (tmp_path / "new").mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(tmp_path / "new" / f"{k}.png")
    _, server, _ = place
    scores = example("tf_serving_client")(toy.NAME, str(tmp_path / "new"), server.rest)
    np.testing.assert_allclose(scores, toy.expected(images), rtol=1e-4)


def test_sklearn_pipeline():
    assert 0 <= example("sklearn_pipeline")(epochs=1) <= 1


def test_notebook(monkeypatch):
    import matplotlib.pyplot as plt

    cells = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 3 and all(cell["outputs"] for cell in code)
    monkeypatch.setattr(plt, "show", plt.close)
    names = {}
    for cell in code:
        # Fewer pictures and epochs than a reader has, on which a network learns nothing.
        source = "".join(cell["source"]).replace("epochs=8, shaping_epochs=8", QUICKLY)
        exec(compile(source.replace("[::", "[::10 * "), "first_steps.ipynb", "exec"), names)
    assert names["errors"].shape == (4, 32, 32)


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
    for before, after in (
        ("NAME", toy.NAME), ("127.0.0.1:8501", server.rest), ("127.0.0.1:8500", server.grpc)
    ):  # fmt: skip
        text = text.replace(before, after)
    if kind == "python":  # in here: another process would import TensorFlow once more
        said = io.StringIO()
        quiet = warnings.catch_warnings(action="ignore", category=ResourceWarning)  # as by default
        with contextlib.chdir(folder), contextlib.redirect_stdout(said), quiet:
            exec(compile(text, "client.py", "exec"), {"__name__": "__main__"})
        return said.getvalue()
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=False, **options)
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


HEAVY = ("tensorflow", "keras", "sklearn", "pydantic", "PIL", "numpy")
LIGHT = f"""
import json, sys
import lisae_tf
first = [name for name in {HEAVY} if name in sys.modules]
lisae_tf.LisaeError, lisae_tf.open_model
print(json.dumps([first, [name for name in {HEAVY} if name in sys.modules]]))
"""


def test_the_import_is_light_and_open_model_needs_no_tensorflow():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    first, then = json.loads(done.stdout)
    assert first == []
    assert {"tensorflow", "keras", "sklearn", "pydantic"}.isdisjoint(then)


GARBAGE = """
import gc
from lisae_tf.core.quiet import kept_forever
imported = []
for set_before in (gc.enable, gc.disable):
    set_before()
    before = gc.isenabled(), gc.get_freeze_count()
    with kept_forever():
        assert not gc.isenabled()
        imported.append([[] for _ in range(1000)])
    assert gc.isenabled() == before[0]
    assert gc.get_freeze_count() >= before[1] + 1000
"""


def test_no_garbage_is_looked_for_in_what_is_imported_once():
    subprocess.run([sys.executable, "-c", GARBAGE], check=True)


def test_each_name_is_that_of_its_module():
    assert set(lisae_tf.__all__) == set(lisae_tf._MODULES) <= set(dir(lisae_tf))
    for name, module in lisae_tf._MODULES.items():
        assert getattr(lisae_tf, name) is getattr(importlib.import_module(module), name)


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        lisae_tf.Detektor


STEPS = re.compile(r"^## \d+\. (.+?)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands() -> dict[str, list[str]]:
    """The blocks of commands of each step."""
    text = (CHECKOUT / "docs" / "tutorial.md").read_text()
    return {name: BLOCK.findall(step) for name, step in STEPS.findall(text)}


class Shell:
    """Runs blocks in a folder where `cli.py` and `benchmarks` are, as in a clone."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("cli.py", "benchmarks"):
            (folder / name).symlink_to(CHECKOUT / name)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {
            "PATH": path, "PYTHONPATH": str(CHECKOUT), "XDG_CACHE_HOME": str(folder / "cache")
        }  # fmt: skip

    def run(self, block: str, code: int = 0) -> str:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", block],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def begin(self, command: str) -> subprocess.Popen:
        """A command that runs until it is stopped."""
        return subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip


def at_the_desk(shell: Shell, command: str, use) -> None:
    """Opens the desk as the command does, for `use(data, post)`."""
    with shell.begin(f"{command} --no-browser") as process:
        try:
            address = re.search(r"http://\S+/", process.stdout.readline())[0]
            with urllib.request.urlopen(f"{address}data") as answer:
                data = json.load(answer)

            def post(path: str, sent: dict) -> dict:
                origin = "/".join(address.split("/")[:3])
                headers = {"Content-Type": "application/json", "Origin": origin}
                asked = urllib.request.Request(
                    address + path, json.dumps(sent).encode(), headers, method="POST"
                )
                with urllib.request.urlopen(asked) as answer:
                    return json.load(answer)

            use(data, post)
        finally:
            process.send_signal(signal.SIGINT)


def made_cells(folder: Path) -> None:
    """Parts in place of the cells, in the same folders."""
    for k, (part, count, flaw) in enumerate((
        ("train/good", 400, False), ("test/good", 20, False), ("test/defect", 20, True),
        ("negative/poly", 10, True), ("new", 30, True),
    )):  # fmt: skip
        feature_fixtures.write_parts(folder / part, count, flaw=flaw, seed=k)
    for k, picture in enumerate(feature_fixtures.parts(8, seed=9)):
        Image.fromarray(picture).save(folder / "new" / f"normal{k}.png")


@pytest.mark.slow("every command of the tutorial, on pictures of usual size")
@pytest.mark.parametrize("pictures", ["made", "cells"])
def test_the_tutorial_leads_from_a_folder_to_a_watched_one(pictures, tmp_path, measured):
    shell, steps = Shell(tmp_path), commands()
    if pictures == "cells":
        pytest.importorskip("elpv_dataset", reason="needs pip install elpv-dataset")
        (block,) = steps["Get pictures"]
        assert block.startswith("pip install elpv-dataset && ")
        shell.run(block.removeprefix("pip install elpv-dataset && "))
    else:
        made_cells(tmp_path / "cells")
    shell.run(*steps["Check the folders"])
    said = shell.run(*steps["Train"])
    assert "verdict: finds " in said
    shell.run(*steps["Look at it"])
    assert (tmp_path / "runs/cells/report.html").stat().st_size > 10_000

    calibrate, desk = steps["Choose the threshold"][0].splitlines()
    shell.run(calibrate)
    metrics = json.loads((tmp_path / "runs/cells/metrics.json").read_text())
    assert metrics["threshold_requested_fpr"] == 0.03

    def drag(data, post):
        moved = post("threshold", {"threshold": 1.25 * data["threshold"]})
        assert moved["threshold"] == pytest.approx(1.25 * data["threshold"], rel=1e-6)
        assert post("undo", {})["threshold"] == pytest.approx(metrics["threshold"], rel=1e-6)

    at_the_desk(shell, desk, drag)

    *score, desk = steps["Score new pictures"][0].splitlines()
    for command in score:
        shell.run(command)
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert len(lines) - 1 == len(list((tmp_path / "cells/new").rglob("*.png")))
    assert list((tmp_path / "maps").rglob("*.*"))

    def mark(data, post):
        order = np.argsort(np.frombuffer(base64.b64decode(data["scores"]), "<f4"))
        for which, rows in (("normal", order[:6]), ("anomaly", order[-4:])):
            for row in rows.tolist():
                post("mark", {"index": row, "mark": which, "threshold": data["threshold"]})

    at_the_desk(shell, desk, mark)
    assert len((tmp_path / "runs/cells/marks.jsonl").read_text().splitlines()) == 10

    again = shell.run(*steps["Train again with the marks"])
    assert "runs/cells-2" in again
    shell.run(*steps["Export"])
    shell.run(*steps["Watch a folder"], code=3)
    assert len((tmp_path / "arrivals.csv").read_text().splitlines()) == len(lines)
    assert list((tmp_path / "flagged").rglob("*.*"))

    serve, ask = steps["Serve"]
    port = free_port()
    with shell.begin(f"{serve.strip()} --rest-port {port} --grpc-port 0") as process:
        try:
            wait = f"curl -s --retry 60 --retry-all-errors --retry-delay 1 http://127.0.0.1:{port}"
            shell.run(f"{wait}/v1/models/cells")
            answer = json.loads(shell.run(ask.replace(":8501", f":{port}")))
        finally:
            process.terminate()
    (found,) = answer["predictions"]
    assert found["score"] > 0 and found["is_anomaly"] in (0, 1)
    old, new = (
        json.loads((tmp_path / run / "metrics.json").read_text())["auroc"]
        for run in ("runs/cells", "runs/cells-2")
    )
    measured(pictures=len(lines) - 1, auroc=round(old, 4), auroc_with_marks=round(new, 4))
