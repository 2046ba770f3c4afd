"""What is measured: the networks and pictures of the two datasets, and how much a picture costs."""

import statistics
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lisae_tf.config.settings import Config, dataset_settings, merge, resolve
from lisae_tf.data.datasets import open_dataset

FLOPS = 2  # of a multiply-add
TRAINING = 3  # forward passes that a training step costs
LABELS = {"mnist": "28×28×1", "cifar10": "32×32×3"}


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
