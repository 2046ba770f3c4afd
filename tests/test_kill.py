"""kill -9 in each phase, then --resume: the run ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lisae_tf.arrays import load_arrays
from lisae_tf.errors import LisaeError

CLI = [sys.executable, str(Path(__file__).parents[1] / "cli.py")]
TRAIN = [
    *CLI, "train", "--quiet", "--set", "feature_extraction.epochs=4",
    "--set", "latent_shaping.epochs=4", "--set", "network.filters=[8,16]",
]  # fmt: skip


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


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_kill_9_in_each_phase_then_resume_is_byte_equal(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    train(undisturbed)
    kill_in(killed, 1)
    kill_in(killed, 2, "--resume")
    train(killed, "--resume")
    for name in ("weights.npz", "detector.json", "scores.npz", "config.yaml"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert without_times(killed) == without_times(undisturbed)
    left = sorted(path.name for path in killed.iterdir())
    assert left == sorted(path.name for path in undisturbed.iterdir())
    assert "checkpoint.npz" not in left
