"""The trainings of `benchmark tuning`: each task with the folder defaults and with tuned settings.

Pure descriptions; how the settings were chosen is in `column_tuning`.
"""

from collections.abc import Sequence
from pathlib import Path

from lisae_tf.config.settings import Config, dataset_settings, read_settings, resolve
from lisae_tf.core.files import read_json
from lisae_tf.grids.cells import Cell, cell_of
from lisae_tf.paper.tables import COLUMNS
from lisae_tf.runs.files import BEST

SEED = 0
FOLDER, CHOICE = "tuning", "choice.json"
DEFAULTS, TUNED = "folder defaults", "tuned"


def folder_defaults(column: str, task: Sequence[str]) -> Config:
    """The settings that a folder of pictures gets, on a task of a dataset."""
    own = dataset_settings(COLUMNS[column].config) or {}
    kept = {name: own[name] for name in ("dataset", "protocol", "negatives")}
    return resolve(kept | {"variant": "lis", "seed": SEED, "normal_class": list(task)})


def settings_file(root: Path, column: str) -> Path:
    """Where the settings chosen for a column lie."""
    return root / FOLDER / column / BEST


def chosen(root: Path, column: str) -> dict | None:
    """The settings chosen for a column, once they are."""
    path = settings_file(root, column)
    return read_settings(path) if path.is_file() else None


def choice(root: Path, column: str) -> dict | None:
    """What a column's settings were chosen by: number of trials and held-out figures."""
    path = settings_file(root, column).with_name(CHOICE)
    return read_json(path) if path.is_file() else None


def cells_of(root: Path, column: str) -> dict[str, list[Cell]]:
    """The trainings of both settings, task by task; the tuned ones once settings are chosen."""
    tasks, folder = COLUMNS[column].tasks, settings_file(root, column).parent
    defaults = [folder_defaults(column, task) for task in tasks]
    found = {DEFAULTS: [cell_of(config, folder / "folder-defaults") for config in defaults]}
    if settings := chosen(root, column):
        configs = [resolve(settings | {"normal_class": list(task)}) for task in tasks]
        # Where the defaults were kept, theirs are the trainings of both.
        kept = configs == defaults
        tuned_ = [cell_of(config, folder / TUNED) for config in configs]
        found[TUNED] = found[DEFAULTS] if kept else tuned_
    return found
