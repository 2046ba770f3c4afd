"""kill -9 in each phase, then --resume: the run ends as if nothing had happened.

LISAE_KILLS lowers the counts of the full-size tests.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import QUICK

from lisae_tf.core.arrays import load_arrays
from lisae_tf.core.errors import LisaeError

CLI = [sys.executable, str(Path(__file__).parents[1] / "cli.py")]
EPOCHS = ("--set", "feature_extraction.epochs=4", "--set", "latent_shaping.epochs=4")
TRAIN = [*CLI, "train", "--quiet", *EPOCHS, "--set", "network.filters=[4,4]"]


def train(folder: Path, *more: str) -> None:
    # In a folder of its own: a completed run is remembered there as the last one.
    subprocess.run(
        [*TRAIN, "--out", str(folder), *more], check=True, capture_output=True, cwd=folder.parent
    )


def stands_in(checkpoint: Path, phase: int, epoch: int) -> bool:
    try:
        record = load_arrays(checkpoint)[1]
    except LisaeError:  # not there yet
        return False
    return record["phase"] == phase and len(record["state"].get("history", [])) >= epoch


def kill_in(folder: Path, phase: int, *more: str) -> None:
    process = subprocess.Popen(
        [*TRAIN, "--out", str(folder), *more], stdout=subprocess.DEVNULL, cwd=folder.parent
    )
    while process.poll() is None and not stands_in(folder / "checkpoint.npz", phase, 2):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "metrics.json").exists()


def without_times(folder: Path) -> dict:
    return {
        k: v for k, v in json.loads((folder / "metrics.json").read_text()).items() if k != "seconds"
    }


@pytest.mark.slow(
    "four processes that import TensorFlow; test_training resumes from what a kill leaves after an "
    "epoch of either phase, test_run_files kills a process that writes a run"
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_kill_9_then_resume_is_byte_equal(tmp_path, picture_folder):
    small = ("--normal-dir", str(picture_folder(tmp_path / "normal", 60)), *QUICK, *EPOCHS)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"

    train(undisturbed, *small)
    for phase in (1, 2):
        kill_in(killed, phase, *small, "--resume")
    train(killed, *small, "--resume")
    check_same_run(killed, undisturbed)


KILLS = int(os.environ.get("LISAE_KILLS", "50"))


def killed_at_random(
    command: list, seconds: float, generator: random.Random, folder: Path, killed=lambda _: None
) -> int:
    """Starts it again and again, and kills it, until it ends by itself; gives how often."""
    kills = 0
    while True:
        process = subprocess.Popen(
            [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            cwd=folder.parent,
        )  # fmt: skip
        try:
            _, errors = process.communicate(timeout=generator.uniform(0, 1.2 * seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            killed(folder)
        else:
            # Killed between its last file and its end, it has nothing left to do.
            assert process.returncode == 0 or b"is complete" in errors, errors.decode()
            return kills


def kept(folder: Path, names: str) -> dict[str, bytes]:
    """The files of such names; what a killed process left half-written is hidden."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob(names))}


def check_same_run(folder: Path, undisturbed: Path) -> None:
    for name in ("weights.npz", "detector.json", "scores.npz", "config.yaml"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert without_times(folder) == without_times(undisturbed)
    left = sorted(path.name for path in folder.iterdir())
    assert left == sorted(path.name for path in undisturbed.iterdir())
    assert "checkpoint.npz" not in left


@pytest.mark.slow("fifty kills, each of a process that imports TensorFlow")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_fifty_random_kills_of_training(tmp_path, measured):
    undisturbed = tmp_path / "undisturbed"
    began = time.monotonic()
    train(undisturbed)
    seconds = time.monotonic() - began
    generator, kills, runs, phases = random.Random(0), 0, 0, Counter()

    def noted(folder):
        with contextlib.suppress(LisaeError):  # before the first epoch there is no checkpoint
            phases[load_arrays(folder / "checkpoint.npz")[1]["phase"]] += 1

    while kills < KILLS:
        folder = tmp_path / f"killed-{runs}"
        command = [*TRAIN, "--out", folder, "--resume"]
        kills += killed_at_random(command, seconds, generator, folder, noted)
        runs += 1
        check_same_run(folder, undisturbed)
    assert phases[1] and phases[2]
    measured(kills=kills, runs=runs, kills_by_phase=phases, run_seconds=round(seconds, 1))


@pytest.mark.slow("fifty kills of a scoring of 400 pictures")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_fifty_random_kills_of_the_bulk_scorer(trained, cli, picture_folder, tmp_path, measured):
    with contextlib.chdir(trained):
        out = ("--out", tmp_path / "models", "--name", "killed", "--format", "onnx")
        assert cli("export", "--run", "runs/normal-lis-seed0", *out).exit_code == 0
    (model,) = (tmp_path / "models").rglob("model.onnx")
    pictures = picture_folder(tmp_path / "pictures", 400, level=90)
    command = [*CLI, "score", pictures, "--model", model, "--part-size", "10", "--parts"]
    undisturbed = tmp_path / "undisturbed"
    began = time.monotonic()
    subprocess.run([*command, undisturbed], check=True, capture_output=True)
    seconds = time.monotonic() - began
    generator, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        folder = tmp_path / f"killed-{runs}"
        kills += killed_at_random([*command, folder], seconds, generator, folder)
        runs += 1
        parts = kept(folder, "part-*.parquet")
        assert len(parts) == 40 and parts == kept(undisturbed, "part-*.parquet")
    measured(kills=kills, runs=runs, run_seconds=round(seconds, 1))
