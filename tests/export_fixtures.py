"""A tiny trained detector and its exports in every format, made once for all workers of a session.

It is a linear one: what reads and checks exports cares for no layers, and networks take three times
as long. They are exported in test_export_variants and test_feature_exports.
A test module takes the fixtures over by assignment; the folders are shared, and only read.
"""

import contextlib
import fcntl
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import WORKERS

from lisae_tf.exported import model_record

# Format, and what `--quantize` says.
FLOATS = ("savedmodel", "onnx", "tflite")
ALL = (*FLOATS, "tflite-fp16", "tflite-int8")
TRAIN = (
    *("--set", "feature_extraction.epochs=1", "--set", "feature_extraction.warmup_steps=5"),
    *("--set", "latent_shaping.epochs=1", "--set", "feature_extraction.collapse_fraction=0"),
    *("--set", "network.latent=8", "--set", "network.filters=[8, 8]"),
)
LINEAR = ("--variant", "linear-ae", "--set", "network.latent=10")


@contextlib.contextmanager
def made_once(base: Path, name: str):
    """Whether something is still to be made; other workers wait until it is there."""
    done = base / f"{name} is made"
    with open(base / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def run(tmp_path_factory, cli) -> Path:
    """A completed run on the embedded photographs, 32x32 grey."""
    own = tmp_path_factory.getbasetemp()
    base = (own.parent if WORKERS else own) / "export"
    base.mkdir(exist_ok=True)
    with made_once(base, "run") as missing:
        if missing:
            with contextlib.chdir(base):
                result = cli("train", "--quiet", *LINEAR)
            assert result.exit_code == 0, result.stderr
    return base / (base / "runs" / "last").read_text().strip()


@pytest.fixture(scope="session")
def models(run, cli) -> Path:
    """The folder of all exports of `run`, each at version 1."""
    out, to = run.parent / "models", ("--name", "tiny", "--format")
    kinds = (["all"], ["tflite", "--quantize", "fp16"], ["tflite", "--quantize", "int8"])
    with made_once(run.parents[1], "models") as missing:
        for options in kinds if missing else ():
            result = cli("export", "--run", run, "--out", out, *to, *options)
            assert result.exit_code == 0, result.stderr
    return out


def path_of(models: Path, which: str, version: int = 1) -> Path:
    """The file, or the version folder of a SavedModel."""
    kind, _, quantize = which.partition("-")
    name = "tiny" + (f"-{quantize}" if quantize else "")
    folder = models / kind / name / str(version)
    return folder if kind == "savedmodel" else folder / f"model.{kind}"


@pytest.fixture(scope="session")
def opened(models) -> dict:
    """Every export in its own runtime."""
    from lisae_tf.exported.runtimes import open_model

    return {which: open_model(path_of(models, which)) for which in ALL}


@pytest.fixture(scope="session")
def detector(run):
    """The Keras detector that was exported."""
    from lisae_tf.detectors import load_detector

    return load_detector(run)


@pytest.fixture(scope="session")
def samples(detector) -> dict[str, np.ndarray]:
    """Pictures by kind, 64 of each."""
    from lisae_tf.data.tasks import load_test

    real = load_test(detector.config).pixels
    return {
        "real": real[:: len(real) // 64][:64],
        "noise": np.random.default_rng(5).integers(0, 256, (64, 32, 32, 1)).astype(np.uint8),
        "black": np.zeros((64, 32, 32, 1), np.uint8),
        "white": np.full((64, 32, 32, 1), 255, np.uint8),
    }


def edit_record(path: Path, change, *, sealed: bool = True) -> None:
    """Changes the record at `path`, and its own digest with it as a forger would."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(model_record.sealed(record) if sealed else record))


def strings(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array
