"""The trainings of `benchmark tuning`: each task with the folder defaults and with tuned settings.

Pure descriptions; how the settings were chosen is in `column_tuning`.
"""

from collections.abc import Sequence
from pathlib import Path

from lisae_tf.config.settings import Config, dataset_settings, resolve
from lisae_tf.core.files import read_json
from lisae_tf.grids.cells import Cell, cell_of
from lisae_tf.paper.tables import COLUMNS

SEED = 0
FOLDER, CHOICES = "tuning", "choices.json"  # below the folder of the results, and in it
DEFAULTS, TUNED = "folder defaults", "tuned"


def folder_defaults(column: str, task: Sequence[str]) -> Config:
    """The settings that a folder of pictures gets, on a task of a dataset."""
    own = dataset_settings(COLUMNS[column].config) or {}
    kept = {name: own[name] for name in ("dataset", "protocol", "negatives")}
    return resolve(kept | {"variant": "lis", "seed": SEED, "normal_class": list(task)})


def choices_file(root: Path) -> Path:
    """Where the choices of all columns lie."""
    return root / FOLDER / CHOICES


def choice(root: Path, column: str) -> dict | None:
    """The settings chosen for a column, once they are, and what they were chosen by.

    That is the number of trials and held-out figures.
    """
    path = choices_file(root)
    return read_json(path).get(column) if path.is_file() else None


def cells_of(root: Path, column: str) -> dict[str, list[Cell]]:
    """The trainings of both settings, task by task; the tuned ones once settings are chosen."""
    tasks, folder = COLUMNS[column].tasks, root / FOLDER / column
    defaults = [folder_defaults(column, task) for task in tasks]
    found = {DEFAULTS: [cell_of(config, folder / "folder-defaults") for config in defaults]}
    if made := choice(root, column):
        configs = [resolve(made["settings"] | {"normal_class": list(task)}) for task in tasks]
        # Where the defaults were kept, theirs are the trainings of both.
        kept = configs == defaults
        tuned_ = [cell_of(config, folder / TUNED) for config in configs]
        found[TUNED] = found[DEFAULTS] if kept else tuned_
    return found
