"""Trainings with the same phase 1, one after the other in one process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.training.sharing import SharedPhase1

DECODED_BYTES = 2**30  # of pictures kept between trainings, in each process


class Training(Protocol):
    """What a group consists of; equal ones are the same training."""

    @property
    def config(self) -> Config:
        """Its settings."""

    def train(self, data_dir: Path | None, shared: SharedPhase1) -> dict:
        """Trains, writes what it writes, and returns its record."""


@dataclass(frozen=True)
class Finished:
    """What became of a training: a record, or one sentence on what went wrong."""

    cell: Any
    record: dict | None
    error: str | None = None


def run_group(group: Sequence[Training], data_dir: Path | None) -> Iterator[Finished]:
    """Trains one group in this process; an error becomes a sentence."""
    from lisae_tf.data import datasets

    datasets.DECODED.limit = DECODED_BYTES
    shared = SharedPhase1()
    for cell in group:
        try:
            yield Finished(cell, cell.train(data_dir, shared))
        except LisaeError as error:
            yield Finished(cell, None, str(error))
        except Exception as error:  # a full memory or a bug in one system must not end the grid
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Finished(cell, None, text)
