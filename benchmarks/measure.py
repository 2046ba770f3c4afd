"""Two sides in turns, on a network and pictures: medians, spread, ratio; the file of all figures.

A row's ratio above 1 means that ours is better, whatever the unit.
"""

import datetime
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lisae_tf import __version__
from lisae_tf.config.settings import Config, dataset_settings, merge, resolve
from lisae_tf.core.files import read_json, update_json
from lisae_tf.data.datasets import open_dataset

RESULTS = Path(__file__).with_name("results.json")
FLOPS = 2  # of a multiply-add
TRAINING = 3  # forward passes that a training step costs
LABELS = {"mnist": "28×28×1", "cifar10": "32×32×3"}


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: of the comparison.
        ours: median, or a single figure.
        theirs: likewise; a limit counts as theirs.
        unit: what ends in "/s" is better when larger, everything else when smaller.
        target: the ratio aimed at.
        spread: smallest and largest of ours, then of theirs.
        repeats: of each side.
        peak: share of the measured matrix-multiply peak that ours reaches; None where it says
            nothing.
        note: what a reader must know.
    """

    name: str
    ours: float
    theirs: float
    unit: str
    target: float
    spread: tuple[float, float, float, float]
    repeats: int
    peak: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """Above 1: ours is better."""
        better = self.ours / self.theirs
        return better if self.unit.endswith("/s") else 1 / better

    def record(self) -> dict:
        """As `results.json` holds it."""
        return asdict(self) | {
            "ratio": round(self.ratio, 3),
            "date": datetime.date.today().isoformat(),
            "version": __version__,
            "cores": os.cpu_count(),
        }


def in_turns(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of each side, measured alternately after one call of each that does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for side, work in zip(seconds, (ours, theirs), strict=True):
            begin = time.perf_counter()
            work()
            if turn:
                side.append(time.perf_counter() - begin)
    return seconds


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    target: float,
    repeats: int,
    work: float | None = None,
    unit: str = "s",
    **more,
) -> Row:
    """A row of two sides that do the same work.

    Args:
        name: of the row.
        ours: does it once.
        theirs: likewise.
        target: of the ratio.
        repeats: of each side.
        work: pictures in a call, for a rate; seconds are compared without it.
        unit: of the figures.
        more: `peak` or `note`.
    """
    seconds = in_turns(ours, theirs, repeats)
    figures = [sorted(work / s for s in side) if work else sorted(side) for side in seconds]
    return figures_row(name, *figures, target=target, unit=unit, **more)


def figures_row(
    name: str, ours: Sequence[float], theirs: Sequence[float], *, target: float, unit: str, **more
) -> Row:
    """A row of figures that were measured elsewhere."""
    medians = (statistics.median(ours), statistics.median(theirs))
    spread = (min(ours), max(ours), min(theirs), max(theirs))
    return Row(name, *medians, unit, target, spread, len(ours), **more)


def stored(path: Path = RESULTS) -> list[dict]:
    """The rows measured so far."""
    return read_json(path).get("rows", []) if path.exists() else []


def store(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Adds rows; a row of the same name is replaced where it stands."""
    kept = {record["name"]: record for record in stored(path)}
    kept |= {row.name: row.record() for row in rows}
    update_json(path, "rows", list(kept.values()))


def line(row: Row) -> str:
    """One row for the terminal."""
    low, high, low_theirs, high_theirs = row.spread
    peak = "" if row.peak is None else f", {100 * row.peak:.0f} % of peak"
    return (
        f"{row.name}: {row.ours:.4g} [{low:.4g}-{high:.4g}] against {row.theirs:.4g} "
        f"[{low_theirs:.4g}-{high_theirs:.4g}] {row.unit}, ratio {row.ratio:.2f} "
        f"(target {row.target:g}){peak}"
    )


@dataclass(frozen=True)
class Subject:
    """A dataset's network, as in `configs/`, and its pictures."""

    dataset: str
    config: Config
    normal: np.ndarray  # uint8 (N, H, W, C)
    negative: np.ndarray

    @property
    def label(self) -> str:
        """Height, width and channels."""
        return LABELS[self.dataset]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.normal.shape[1:]


def subject(dataset: str, data_dir: Path | None, pictures: int) -> Subject:
    """`pictures` normal and as many other training pictures of a dataset."""
    config = resolve(merge(dataset_settings(dataset), {"variant": "lis"}))
    source = open_dataset(dataset, data_dir)
    read = source.read("train", range(10), source.shape[:2], source.shape[2])
    lower = read.labels < 5
    return Subject(dataset, config, read.pixels[lower][:pictures], read.pixels[~lower][:pictures])


def multiplications(*networks) -> int:
    """Multiply-adds of one picture's way through Keras networks; dense and convolutions only."""
    total = 0
    for network in networks:
        for layer in network.layers:
            kernel = getattr(layer, "kernel", None)
            if kernel is None:
                continue
            shape = layer.input.shape if "Transpose" in type(layer).__name__ else layer.output.shape
            # A transposed convolution multiplies its kernel at each place of its input.
            places = int(np.prod(shape[1:-1])) if len(kernel.shape) == 4 else 1
            total += places * int(np.prod(kernel.shape))
    return total


@cache
def peak_flops() -> float:
    """Floating-point operations a second of a large matrix product on all cores."""
    import tensorflow as tf

    size = 2048
    one = tf.random.stateless_normal((size, size), (1, 2))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(one, one)))
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        product().numpy()
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(seconds[1:])
