"""The tutorial's commands, in its order, as they stand there, each in a shell of its own."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import feature_fixtures
import numpy as np
import pytest
from conftest import CHECKOUT
from PIL import Image
from serving_fixtures import free_port

pytestmark = pytest.mark.slow("every command of the tutorial, on pictures of usual size")
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
