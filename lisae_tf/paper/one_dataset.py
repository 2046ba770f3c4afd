"""Every task of one dataset, one result file each; running again continues.

The tables of the paper are in `tables`; this is for any configuration.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lisae_tf import __version__
from lisae_tf.config.settings import dataset_settings, merge, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, write_text
from lisae_tf.data.datasets import open_dataset
from lisae_tf.grids.cells import Cell


def cells(
    name: str,
    variants: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
    over: dict | None = None,
    data_dir: Path | None = None,
) -> Iterator[Cell]:
    """The tasks of `configs/<name>.yaml`: each class in turn as the normal one.

    Raises:
        LisaeError: no such configuration or class.
    """
    settings = dataset_settings(name)
    if settings is None:
        raise LisaeError(f"there is no configs/{name}.yaml to benchmark")
    settings = merge(settings, over or {})
    names = open_dataset(str(settings["dataset"]), data_dir).class_names
    step = 2 if settings.get("protocol") == "two-class" else 1
    for variant in variants:
        for seed in seeds:
            for normal in classes or names[::step]:
                own = {"variant": variant, "seed": seed, "normal_class": [normal]}
                config = resolve(merge(settings, own), f"configs/{name}.yaml")
                file = f"{normal}-seed{seed}.json".replace("/", "-")
                yield Cell(config, folder / name / variant / file)


def stored(chosen: Sequence[Cell]) -> list[tuple[Cell, dict]]:
    """The cells that have a result, with it."""
    found = ((cell, cell.stored()) for cell in chosen)
    return [(cell, record) for cell, record in found if record]


def table(results: Sequence[tuple[Cell, dict]]) -> str:
    """A Markdown table: a row for each normal class, for each variant what each phase reached."""
    # {(variant, stage): {normal: AUROC of each seed}}; only some variants have a phase 1.
    columns: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell, record in results:
        for stage, key in (("phase 1", "auroc_phase1"), ("final", "auroc")):
            if record[key] is not None:
                column = columns.setdefault((cell.config.variant, stage), {})
                column.setdefault(", ".join(record["normal"]), []).append(record[key])
    rows = dict.fromkeys(", ".join(record["normal"]) for _, record in results)
    lines = [
        "| normal | " + " | ".join(map(": ".join, columns)) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name in rows:
        means = [np.mean(column.get(name, np.nan)) for column in columns.values()]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    means = [
        np.mean([np.mean(column.get(name, np.nan)) for name in rows]) for column in columns.values()
    ]
    lines.append("| **mean** | " + " | ".join(f"**{mean:.4f}**" for mean in means) + " |")
    return "\n".join(lines) + "\n"


def write_table(path: Path, text: str, command: str) -> None:
    """The table with the command that made it."""
    make_folder(path.parent)  # its cells may be in a table of a folder above it
    write_text(path, f"AUROC, made by `{command}` (version {__version__}).\n\n{text}")
