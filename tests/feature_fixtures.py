"""Small pictures of a part with a flaw or without, and trainings on their pretrained features.

One training of the default variant is made once for all workers, with its exports; a test module
takes the fixtures over by assignment. Their folders are shared, and only read.
"""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from conftest import WORKERS
from export_fixtures import made_once
from PIL import Image

SIDE = 64
# `train` options under which a run on features takes a few seconds.
SMALL = (
    *("--set", f"data.size=[{SIDE},{SIDE}]", "--set", "data.calibration_fraction=0.2"),
    *("--set", "features.places=2000", "--set", "features.made=20"),
    *("--set", "network.latent=8", "--set", "network.filters=[16,16]", "--set", "knn.bank=100"),
    *("--set", "feature_extraction.epochs=1", "--set", "latent_shaping.epochs=1"),
    *("--set", "hypersphere.epochs=1"),
)
# A backbone of five blocks instead of ten: built, exported and loaded in half the time.
EARLY = ("--set", "features.taps=[block_4]")
# The same with a coarser second tap, as the default has.
TWO_TAPS = ("--set", "features.taps=[block_4, block_5]")


def parts(count: int, *, flaw: bool = False, seed: int = 0) -> np.ndarray:
    """A disc on brushed metal, now and then with a bright scratch: uint8 (count, SIDE, SIDE, 3)."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((SIDE, SIDE))
    disc = (rows - SIDE / 2) ** 2 + (columns - SIDE / 2) ** 2 < (SIDE / 3) ** 2
    found = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for picture in found:
        grey = 90 + 60 * disc + random.normal(0, 4, (SIDE, 1)) + random.normal(0, 3, (SIDE, SIDE))
        colour = grey[..., None] * [1.0, 0.95, 0.85]
        if flaw:
            y, x = random.integers(16, SIDE - 24, 2)
            colour[y : y + 10, x : x + 3] = [240, 60, 40]
        picture[:] = np.clip(colour, 0, 255)
    return found


def write_parts(folder: Path, count: int, **how) -> Path:
    """The same as PNG files."""
    folder.mkdir(parents=True)
    for k, picture in enumerate(parts(count, **how)):
        Image.fromarray(picture).save(folder / f"{k:03d}.png")
    return folder


def write_folders(base: Path) -> Path:
    """Folders `good` and `bad`."""
    write_parts(base / "good", 40)
    write_parts(base / "bad", 10, flaw=True, seed=1)
    return base


def train(cli, base: Path, *options, out: str = "run"):
    """A training on the folders in `base`; its result and its run folder."""
    with contextlib.chdir(base):
        result = cli("train", "--quiet", "--normal-dir", "good", "--anomaly-dir", "bad", *SMALL,
                     "--out", out, *options)  # fmt: skip
    return result, base / out


@pytest.fixture(scope="session")
def early(tmp_path_factory, cli) -> Path:
    """Folders and a completed run of the default variant, `run`, on the first blocks."""
    own = tmp_path_factory.getbasetemp()
    base = (own.parent if WORKERS else own) / "features"
    base.mkdir(exist_ok=True)
    with made_once(base, "run") as missing:
        if missing:
            result, _ = train(cli, write_folders(base / "work"), *TWO_TAPS)
            assert result.exit_code == 0, result.stderr
    return base / "work"


@pytest.fixture(scope="session")
def early_models(early, cli) -> Path:
    """The folder of the exports of that run in every format, and in int8."""
    out = early.parent / "models"
    with made_once(early.parent, "models") as missing:
        for each in (("all",), ("tflite", "--quantize", "int8")) if missing else ():
            result = cli("export", "--run", early / "run", "--out", out, "--format", *each)
            assert result.exit_code == 0, result.output
    return out
