"""Result files as a grid would write them, without any training, and trainings of a moment."""

import contextlib
import zlib
from pathlib import Path

import pytest

from lisae_tf.core.files import make_folder, write_json
from lisae_tf.data import datasets
from lisae_tf.grids import cells
from lisae_tf.grids.cells import Figure
from lisae_tf.paper import tables

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
