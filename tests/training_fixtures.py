"""Small settings and pictures, on which both phases take a second or two, and interruptions."""

import shutil

import keras
import numpy as np

from lisae_tf.config.settings import merge, resolve
from lisae_tf.data.datasets import patches
from lisae_tf.data.parts import Parts, TrainingData

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
