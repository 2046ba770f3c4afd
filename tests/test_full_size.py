"""The paper's claims at full size, and ways that take minutes ('make slow').

What the last run measured lies in results/slow.json with its date and version.
"""

import csv
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT
from PIL import Image, ImageDraw
from skimage import data

from lisae_tf.grids import grid
from lisae_tf.paper import one_dataset

needs_datasets = pytest.mark.skipif(
    not os.environ.get("TFDS_DATA_DIR"), reason="TFDS_DATA_DIR names no datasets"
)
DATA = Path(os.environ.get("TFDS_DATA_DIR", "."))


def records(tmp_path, name, variant, seeds=1, classes=None):
    chosen = list(
        one_dataset.cells(name, [variant], range(seeds), tmp_path, classes=classes, data_dir=DATA)
    )
    finished = list(grid.run(chosen, DATA))
    assert not [one.error for one in finished if one.error]
    return [one.record for one in finished]


@needs_datasets
@pytest.mark.slow("trainings of the paper's size")
def test_mnist_one_class_with_omniglot(tmp_path, measured):
    results = records(tmp_path, "mnist", "lis")
    after = np.array([record["auroc"] for record in results])
    before = np.array([record["auroc_phase1"] for record in results])
    measured(auroc=after.tolist(), auroc_phase1=before.tolist(), mean=float(np.mean(after)))
    assert np.mean(after) >= 0.983
    assert np.sum(after > before) >= 9
    assert not any(record["restart_seeds"] for record in results)


@needs_datasets
@pytest.mark.slow("trainings of the paper's size")
def test_no_digit_collapses_in_five_seeds(tmp_path, measured):
    results = records(tmp_path, "mnist", "ae", seeds=5)
    assert len(results) == 50
    measured(auroc=[record["auroc"] for record in results])
    assert not any(record["restart_seeds"] for record in results)


@needs_datasets
@pytest.mark.slow("trainings of the paper's size")
@pytest.mark.parametrize("variant, least", [("lis", 0.92), ("linsep", 0.955)])
def test_cifar10_automobile(tmp_path, variant, least, measured):
    result = records(tmp_path, "cifar10", variant, classes=["automobile"])[0]
    measured(auroc=result["auroc"], auroc_phase1=result["auroc_phase1"])
    assert result["auroc"] >= least
    # Reconstruction alone tells automobiles from the rest no better than chance.
    assert result["auroc_phase1"] < 0.55


@needs_datasets
@pytest.mark.slow("trainings of the paper's size")
@pytest.mark.parametrize("variant, gravel", [("lis", 0.85), ("linsep", 0.93)])
def test_surfaces(tmp_path, variant, gravel, measured):
    results = records(tmp_path, "surfaces", variant)
    # The AE figure never comes from a LinSep phase 1.
    plain = records(tmp_path, "surfaces", "lis") if variant == "linsep" else results
    by_name = {record["normal"][0]: record for record in results}
    measured(auroc={name: record["auroc"] for name, record in by_name.items()})
    assert by_name["gravel"]["auroc"] >= gravel
    after = np.array([record["auroc"] for record in results])
    before = np.array([record["auroc_phase1"] for record in results])
    assert len(results) == len(plain) == 10
    assert np.sum(after > before) >= 7
    assert by_name["gravel"]["auroc_phase1"] < 0.7
    assert np.mean(after) - np.mean([record["auroc_phase1"] for record in plain]) >= 0.08


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


@pytest.mark.slow("a whole afternoon of commands, each a process of its own")
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


COUNT, EVERY = 10_000, 100  # pictures, and of how many one is damaged
# Prints the command's exit code and its peak memory in KiB on standard error's last line.
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(done.returncode, peak, file=sys.stderr)
"""
KINDS = (("L", ".png"), ("L", ".jpg"), ("RGB", ".png"), ("RGB", ".jpeg"), ("RGBA", ".png"),
         ("RGB", ".bmp"), ("P", ".png"), ("I;16", ".png"))  # fmt: skip


def command(folder, *arguments):
    """Runs the command line in a folder; exit code, output, errors and peak memory in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, sys.executable, CLI, *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *errors, last = done.stderr.splitlines()
    code, peak = map(int, last.split())
    return code, done.stdout, "\n".join(errors), peak / 1024


def picture(generator, kind):
    height, width = generator.integers(48, 200, 2)
    texture = generator.normal(128, 40, (height // 8 + 1, width // 8 + 1))
    grey = Image.fromarray(np.clip(texture, 0, 255).astype(np.uint8)).resize((width, height))
    if kind == "I;16":
        return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return grey.convert(kind)


def damage(path, generator):
    """Cuts the file short, or overwrites its beginning."""
    content = path.read_bytes()
    if generator.random() < 0.5:
        path.write_bytes(content[: len(content) // 3])
    else:
        path.write_bytes(b"\0" * 64 + content[64:])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    base = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    for name, count in (("normal", COUNT), ("negative", 500)):
        (base / name).mkdir()
        for index in range(count):
            kind, suffix = KINDS[index % len(KINDS)]
            picture(generator, kind).save(base / name / f"{index:05d}{suffix}")
    damaged = sorted((base / "normal").iterdir())[::EVERY]
    for path in damaged:
        damage(path, generator)
    return base, damaged


@pytest.mark.slow("a whole afternoon of commands, each a process of its own")
def test_ten_thousand_mixed_pictures(many, measured):
    base, damaged = many
    run = partial(command, base)
    sides = ("--normal-dir", base / "normal", "--negative-dir", base / "negative")
    code, _, errors, check_peak = run("data", "check", *sides, "--json", base / "found.json")
    assert code == 1
    assert f"{len(damaged)} normal files of {COUNT} cannot be read" in errors
    found = json.loads((base / "found.json").read_text())["sets"]["normal"]
    assert sorted(found["unreadable"]) == sorted(map(str, damaged))
    assert found["usable"] == COUNT - len(damaged)

    small = ("network.filters=[4,4]", "network.latent=8", "feature_extraction.epochs=1",
             "feature_extraction.collapse_fraction=0", "latent_shaping.epochs=1")  # fmt: skip
    sets = [part for setting in small for part in ("--set", setting)]
    train = ("train", *sides, "--features", "none", *sets, "--quiet")
    code, _, errors, _ = run(*train, "--out", base / "refused")
    assert code == 1
    assert str(damaged[0]) in errors
    assert not (base / "refused").exists()
    code, said, errors, train_peak = run(*train, "--skip-bad", "--out", base / "run")
    assert code == 0, errors
    assert all(str(path) in said for path in damaged)

    # Pictures are decoded at the model's size, one batch at a time.
    code, scores, errors, score_peak = run(
        "score", "--run", base / "run", base / "normal", "--skip-bad"
    )
    assert code == 0
    assert scores.count("\n") == COUNT - len(damaged) + 1
    assert errors.count("left out: ") == len(damaged)
    decoded = COUNT * 64 * 64 * 3 / 2**20
    measured(
        pictures=COUNT, damaged=len(damaged), decoded_mib=round(decoded),
        check_peak_mib=round(check_peak), train_peak_mib=round(train_peak),
        score_peak_mib=round(score_peak),
    )  # fmt: skip
    # TensorFlow by itself takes about 600 MiB.
    assert check_peak < 3 * decoded + 300
    assert train_peak < 5 * decoded + 1000
    assert score_peak < 1200


@pytest.mark.slow("a whole afternoon of commands, each a process of its own")
def test_ten_thousand_pictures_on_features(tmp_path, measured):
    generator = np.random.default_rng(1)
    (tmp_path / "good").mkdir()
    ring = np.hypot(*(np.indices((300, 300)) - 150)) % 40 * 6
    for index in range(COUNT):
        top, left = generator.integers(0, 45, 2)
        noise = generator.normal(0, 6, (256, 256, 3))
        part = ring[top : top + 256, left : left + 256, None] + noise
        saved = Image.fromarray(part.clip(0, 255).astype(np.uint8))
        saved.save(tmp_path / "good" / f"{index:05d}.jpg", quality=90)
    code, said, errors, peak = command(
        tmp_path, "train", "--normal-dir", "good", "--quiet", "--out", "run"
    )
    assert code == 0, errors
    assert "no anomalies to test on" in said
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    shown = {name: round(seconds) for name, seconds in record["seconds"].items()}
    measured(pictures=COUNT, size=[256, 256], train_peak_mib=round(peak), seconds=shown)
    assert peak < 2048


@pytest.mark.slow("a whole afternoon of commands, each a process of its own")
def test_the_documentation_is_built(tmp_path):
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path / "site"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "commands" / "index.html").read_text()
    assert "--negative-mask-dir" in page
    page = (tmp_path / "site" / "reference" / "python" / "index.html").read_text()
    assert "false_positive_rate" in page and "An exported model, ready to score" in page
