"""Small settings, pictures and trainings of seconds, interruptions, and result files of a grid."""

import contextlib
import shutil
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest

from lisae_tf.config.settings import merge, resolve
from lisae_tf.core.files import make_folder, write_json
from lisae_tf.data import datasets
from lisae_tf.data.datasets import patches
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.grids import cells
from lisae_tf.grids.cells import Figure
from lisae_tf.paper import tables

TINY = {
    "variant": "lis",
    "network": {"latent": 8, "filters": [4, 8]},
    "feature_extraction": {
        "epochs": 3,
        "batch_size": 32,
        "warmup_steps": 20,
        "collapse_fraction": 0.0,
        "learning_rate": 3e-3,
    },
    "latent_shaping": {"epochs": 3, "batch_size": 32, "gamma": 0.2},
    "hypersphere": {"epochs": 4},
    "anogan": {"epochs": 3, "critic_steps": 2, "encoder_epochs": 3},
}


def tiny_config(**over):
    """The tiny settings with sections laid over them."""
    return resolve(merge(TINY, over))


def surface(name: str, count: int, band: str = "train") -> np.ndarray:
    """Evenly spread patches of one photograph, uint8 (count, 32, 32, 1)."""
    found = patches(name, band)
    return found[np.linspace(0, len(found) - 1, count).astype(int)]


def tiny_data(augment: bool = False, normal: str = "gravel") -> TrainingData:
    """Gravel against coins."""

    def parts(name: str) -> Parts:
        held_out = surface(name, 40, "stopping")
        return Parts(surface(name, 320), held_out, surface(name, 40, "calibration"))

    return TrainingData(parts(normal), parts("coins"), augment)


class Killed(Exception):
    """Raised by `KillAfter`."""


class KillAfter(keras.callbacks.Callback):
    """Ends the process's work right after an epoch's checkpoint, as kill -9 would."""

    def __init__(self, phase: str, epoch: int):
        super().__init__()
        self.phase, self.epoch = phase, epoch

    def on_epoch_end(self, epoch, logs=None):
        if (self.model.phase, epoch) == (self.phase, self.epoch):
            raise Killed


class KeepEach(keras.callbacks.Callback):
    """Copies the checkpoint of each epoch, which is what a kill after it would leave.

    Of one phase alone where it is named.
    """

    def __init__(self, checkpoint, phase=None):
        super().__init__()
        self.checkpoint, self.phase = checkpoint, phase

    def on_epoch_end(self, epoch, logs=None):
        if self.phase in (None, self.model.phase):
            kept = self.checkpoint.with_name(f"{self.model.phase}-{epoch}.npz")
            shutil.copy(self.checkpoint, kept)


def without_times(history: list[dict]) -> list[dict]:
    """The rows of a history that two equal runs share."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def as_bytes(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    """Arrays by name, to compare byte for byte."""
    return {name: array.tobytes() for name, array in arrays.items()}


NAMES = {
    "mnist": tables.DIGITS, "svhn_cropped": tables.DIGITS, "fashion_mnist": tables.CLOTHES,
    "cifar10": tuple(tables.CIFAR10.values()),
}  # fmt: skip


def invented(cell: cells.Cell, auroc: float | None = None) -> dict:
    """A record whose figures depend on the path, or are the one given."""
    config = cell.config
    number = zlib.crc32("/".join(cell.path.parts[-6:]).encode()) % 1000
    value = auroc if auroc is not None else 0.5 + number / 2500
    others = [name for name in NAMES[config.dataset] if name not in config.normal_class]
    rows = {
        name: {"auroc": value, "auroc_phase1": value - 0.1, "n": 900 + k}
        for k, name in enumerate(others)
    }
    return {
        "auroc": value, "auroc_phase1": value - 0.1, "outliers": rows,
        "detection": {"final": [1.0, value, 0.0], "phase1": [1.0, value - 0.1, 0.0]},
        "config": config.model_dump(), "training_version": cells.TRAINING_VERSION,
        "version": "0.1.0", "latent": config.network.latent, "seconds": {"training": 1.0},
    }  # fmt: skip


def store(figure: Figure, root: Path, seeds=(0,), tasks: int | None = None, auroc=None) -> None:
    """Writes the cells of a figure."""
    for seed in seeds:
        for entry in figure.entries(root, seed, {})[:tasks]:
            make_folder(entry.cell.path.parent)
            write_json(entry.cell.path, invented(entry.cell, auroc))


@contextlib.contextmanager
def tiny_surfaces():
    """The embedded photographs in few and small patches: what is in closed form takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "PATCH", 8)
        patch.setattr(datasets, "MAX_PATCHES", 100)
        yield


class TinyCell(cells.Cell):
    """A cell on tiny surfaces, in whatever process it is trained."""

    def train(self, data_dir, shared=None):
        with tiny_surfaces():
            return super().train(data_dir, shared)
