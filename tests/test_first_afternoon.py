"""A new user's afternoon: folders of photographs, README's commands, a report and an ONNX file."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage import data

pytestmark = pytest.mark.slow
CLI = Path(__file__).parents[1] / "cli.py"
SIDE = 96


def tiles(photograph, count, band, random):
    """Pieces from a horizontal band, given by the shares of the height where it begins and ends."""
    height, width = photograph.shape
    top, bottom = (int(share * height) for share in band)
    for _ in range(count):
        y, x = random.integers(top, bottom - SIDE + 1), random.integers(0, width - SIDE + 1)
        yield Image.fromarray(photograph[y : y + SIDE, x : x + SIDE])


def damaged(picture, random):
    """A scratch or a dark spot."""
    pen = ImageDraw.Draw(picture)
    if random.random() < 0.5:
        ends, width = random.integers(5, 91, 4).tolist(), int(random.integers(2, 5))
        pen.line(ends, fill=int(random.integers(200, 255)), width=width)
    else:
        x, y, size = random.integers(15, 70), random.integers(15, 70), random.integers(6, 16)
        pen.ellipse([int(x), int(y), int(x + size), int(y + size)], fill=int(random.integers(60)))
    return picture


def put(pictures, folder):
    folder.mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number:04d}.png")


@pytest.fixture
def folders(tmp_path):
    """Bricks are good; grass, gravel, coins, a page are other; bricks with damage are defects."""
    random = np.random.default_rng(0)
    brick = data.brick()
    others = (data.grass(), data.gravel(), data.coins(), data.page())
    put(tiles(brick, 600, (0, 0.75), random), tmp_path / "good")
    put((t for each in others for t in tiles(each, 150, (0, 1), random)), tmp_path / "other")
    rest = tiles(brick, 60, (0, 0.75), random)
    put((damaged(tile, random) for tile in rest), tmp_path / "defects")
    put(tiles(brick, 100, (0, 0.75), random), tmp_path / "new_pictures")
    return tmp_path


def test_from_folders_to_a_report_and_an_onnx_file(folders, measured):
    seconds = {}

    def run(name, *arguments):
        began, command = time.monotonic(), [sys.executable, CLI, *arguments]
        done = subprocess.run(command, cwd=folders, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        seconds[name] = round(time.monotonic() - began)
        return done.stdout

    sides = ("--normal-dir", "good/", "--negative-dir", "other/", "--anomaly-dir", "defects/")
    assert "training would start" in run("data check", "data", "check", *sides)
    run("train", "train", *sides)
    scores = run("score", "score", "new_pictures/")
    (folders / "scores.csv").write_text(scores)
    run("calibrate", "calibrate", "--fpr", "0.02")
    run("report", "report")
    run("export", "export", "--format", "onnx")
    (model,) = folders.glob("models/onnx/*/*/model.onnx")
    (report,) = folders.glob("runs/*/report.html")
    exported = run("score the ONNX file", "score", "--model", model, "new_pictures/")
    both = [list(csv.DictReader(text.splitlines())) for text in (scores, exported)]
    assert len(both[0]) == len(both[1]) == 100
    for ours, theirs in zip(*both, strict=True):
        assert float(theirs["score"]) == pytest.approx(float(ours["score"]), rel=1e-4)
    assert report.stat().st_size > 100_000
    metrics = json.loads((report.parent / "metrics.json").read_text())
    assert min(metrics["auroc_phase1"], metrics["auroc"]) > 0.6  # the figures are in the file
    measured(
        step_seconds=seconds, total=sum(seconds.values()), auroc=metrics["auroc"],
        auroc_phase1=metrics["auroc_phase1"],
    )  # fmt: skip
