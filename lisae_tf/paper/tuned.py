"""The trainings of `benchmark tuning`: each task with the folder defaults and with tuned settings.

Pure descriptions; how the settings were chosen is in `tuned_columns`.
"""

from collections.abc import Sequence
from pathlib import Path

from lisae_tf.config import Config, dataset_settings, read_settings, resolve
from lisae_tf.paper.cells import Cell, cell_of
from lisae_tf.paper.tables import COLUMNS

SEED = 0
FOLDER, BEST = "tuning", "best.yaml"
DEFAULTS, TUNED = "folder defaults", "tuned"


def folder_defaults(column: str, task: Sequence[str]) -> Config:
    """The settings that a folder of pictures gets, on a task of a dataset."""
    own = dataset_settings(COLUMNS[column].config) or {}
    kept = {name: own[name] for name in ("dataset", "protocol", "negatives")}
    return resolve(kept | {"variant": "lis", "seed": SEED, "normal_class": list(task)})


def settings_file(root: Path, column: str) -> Path:
    """Where the settings chosen for a column lie."""
    return root / FOLDER / column / BEST


def cells_of(root: Path, column: str) -> dict[str, list[Cell]]:
    """The trainings of both settings, task by task; the tuned ones once settings are chosen."""
    tasks, path = COLUMNS[column].tasks, settings_file(root, column)
    found = {DEFAULTS: [folder_defaults(column, task) for task in tasks]}
    if path.is_file():
        chosen = read_settings(path)
        found[TUNED] = [resolve(chosen | {"normal_class": list(task)}) for task in tasks]
    return {
        name: [cell_of(config, path.parent / name.replace(" ", "-")) for config in configs]
        for name, configs in found.items()
    }
