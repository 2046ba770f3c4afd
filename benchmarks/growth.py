"""Time and memory of training as pictures and network grow; each training in its own process."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import RESULTS, Row, figures_row, subject
from lisae_tf.config.settings import dataset_settings, merge, resolve
from lisae_tf.core.files import read_json, update_json
from lisae_tf.data.parts import TrainingData, split_side

ROOT = Path(__file__).parents[1]
FIGURE = Path(__file__).with_name("growth.png")
PICTURES, FACTORS, WIDTHS = 2000, (1, 2, 4, 8), (1, 2, 4)
FILTERS = (16, 32)
ALL, FEW = 50_000, 1000


def train(file: Path, width: int) -> dict:
    """Both phases as `train` runs them, half of some stored pictures normal and half negative.

    Args:
        file: a `.npy`, uint8 (N, H, W, C).
        width: times the filters of `FILTERS`.

    Returns:
        Seconds of each phase and the peak resident memory in MiB.
    """
    from lisae_tf.detectors import make_detector
    from lisae_tf.training.phase import TrainingOptions

    filters = [width * count for count in FILTERS]
    over = {
        "variant": "lis",
        "data": {"mirror": False},
        "network": {"filters": filters, "decoder_filters": filters},
        "feature_extraction": {"epochs": 1, "collapse_fraction": 0.0},
        "latent_shaping": {"epochs": 2},
    }
    config = resolve(merge(dataset_settings("cifar10"), over))
    stored = np.load(file, mmap_mode="r")
    half = len(stored) // 2
    sides = (
        split_side(pixels, config.data, seed=0, stream=stream)[0]
        for stream, pixels in enumerate((stored[:half], stored[half:]))
    )
    data = TrainingData(*sides)
    del stored
    detector = make_detector(config)
    detector.fit_data(data, TrainingOptions())
    history = detector.history
    seconds = {f"phase{k}": sum(r["seconds"] for r in history if r["phase"] == k) for k in (1, 2)}
    return {"pictures": 2 * half, "width": width, "peak_mib": peak_mib(), **seconds}


def peak_mib() -> float:
    """The highest resident memory of this process so far, in MiB (Linux)."""
    # Not ru_maxrss, which a new process inherits from the one that started it.
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def apart(pictures: int, width: int, data_dir: Path | None) -> dict:
    """`train` in a process of its own, which never sees where the pictures come from."""
    item = subject("cifar10", data_dir, pictures // 2)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pictures.npy"
        np.save(file, np.concatenate([item.normal, item.negative]))
        command = [sys.executable, "-m", "benchmarks", "child"]
        command += [str(file), str(width)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory(data_dir: Path | None, quick: bool) -> list[Row]:
    """Training on 50,000 pictures beside three times the decoded set and the framework's own."""
    count = FEW * 2 if quick else ALL
    framework = apart(FEW, 1, data_dir)["peak_mib"]
    decoded = count * int(np.prod((32, 32, 3))) / 2**20
    note = f"limit: 3 x {decoded:.0f} MiB of pixels + {framework:.0f} MiB of a training on {FEW}"
    return [
        figures_row(
            f"peak memory, training on {count} CIFAR-10 pictures: limit",
            [apart(count, 1, data_dir)["peak_mib"]], [3 * decoded + framework],
            target=1.0, unit="MiB", note=note,
        )
    ]  # fmt: skip


def measure(
    data_dir: Path | None, quick: bool, path: Path = RESULTS, figure: Path = FIGURE
) -> None:
    """Trains at every size and writes the figures and their plot."""
    pictures = FEW if quick else PICTURES
    sizes = [(pictures * factor, 1) for factor in FACTORS[: 2 if quick else None]]
    sizes += [(pictures, width) for width in WIDTHS[1 : 2 if quick else None]]
    update_json(path, "growth", [apart(*size, data_dir) for size in sizes])
    draw(path, figure)


def draw(path: Path = RESULTS, figure: Path = FIGURE) -> None:
    """The plot of a file of figures."""
    from lisae_tf.core.plots import plt, save

    rows = read_json(path)["growth"]
    first = min(rows, key=lambda row: (row["width"], row["pictures"]))
    series = {
        "pictures": [row for row in rows if row["width"] == first["width"]],
        "width": [row for row in rows if row["pictures"] == first["pictures"]],
    }
    plot, axes = plt.subplots(2, 2, figsize=(8, 6), layout="constrained", sharex="col")
    for column, (name, points) in enumerate(series.items()):
        x = [row[name] for row in points]
        for phase in ("phase1", "phase2"):
            axes[0, column].plot(x, [row[phase] for row in points], "o-", label=phase)
        axes[1, column].plot(x, [row["peak_mib"] for row in points], "o-")
        axes[1, column].set_xlabel({"pictures": "pictures", "width": "times 16, 32 filters"}[name])
        for axis in axes[:, column]:
            axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("peak memory, MiB")
    axes[0, 0].legend()
    save(plot, figure)
