"""Named arrays with a JSON record in one file, without pickle or code; rows in batches.

Runs without TensorFlow.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import refuse_special, replacing

Arrays = dict[str, np.ndarray]
BATCH_SIZE = 500  # pictures in one call of a network, unless it says otherwise


def batches(rows: Sequence | np.ndarray, size: int = BATCH_SIZE) -> Iterator:
    """Slices of at most `size` rows, one after the other."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def in_batches(
    run: Callable[[Any], Any], rows: Sequence | np.ndarray, size: int = BATCH_SIZE
) -> np.ndarray:
    """What `run` gives of all rows, of which there is one at least: a batch in memory at a time."""
    return np.concatenate([np.asarray(run(part)) for part in batches(rows, size)])


def save_arrays(path: Path, arrays: Arrays, record: dict[str, Any] | None = None) -> None:
    """Writes named arrays, and a JSON record beside them in the same file."""
    text = json.dumps(record or {}, sort_keys=True).encode()
    packed = {f"{index:04d}": array for index, array in enumerate(arrays.values())}
    names = np.frombuffer(json.dumps(list(arrays)).encode(), np.uint8)
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, names=names, record=np.frombuffer(text, np.uint8), **packed)


def load_arrays(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """What `save_arrays` wrote.

    Raises:
        LisaeError: the file is missing, truncated or of another kind.
    """
    refuse_special(path)
    try:
        # NumPy leaves a file open that it cannot read.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            names = json.loads(stored["names"].tobytes())
            record = json.loads(stored["record"].tobytes())
            arrays = {name: stored[f"{index:04d}"] for index, name in enumerate(names)}
            if not isinstance(record, dict):
                raise ValueError("no record")
    except FileNotFoundError as error:
        raise LisaeError(f"{path} is missing; give a folder that a run has completed") from error
    except Exception as error:  # a damaged archive raises all kinds
        raise LisaeError(f"{path} is damaged; restore it or train again") from error
    return arrays, record
