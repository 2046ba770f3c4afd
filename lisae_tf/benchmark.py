"""Every task of one dataset, one result file each; running again continues.

The tables of the paper are in `tables` and `grid`; this is for any configuration.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lisae_tf import __version__
from lisae_tf.cells import Cell, run_cell
from lisae_tf.config import dataset_settings, merge, resolve
from lisae_tf.datasets import open_dataset
from lisae_tf.errors import LisaeError
from lisae_tf.files import write_text


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


def run(
    chosen: Sequence[Cell], data_dir: Path | None, say: Callable[[str], None]
) -> list[tuple[Cell, dict]]:
    """All cells, stored ones first come first served; a failed one is named and stops nothing."""
    done = []
    for number, cell in enumerate(chosen, 1):
        record = cell.stored()
        origin = "stored" if record else "trained"
        try:
            record = record or run_cell(cell, data_dir)
        except LisaeError as error:
            say(f"[{number}/{len(chosen)}] {cell.path}: failed: {error}")
            continue
        say(
            f"[{number}/{len(chosen)}] {cell.config.variant} {', '.join(record['normal'])}: "
            f"{record['auroc_phase1']:.4f} -> {record['auroc']:.4f} "
            f"({record['seconds']['training']:.0f} s, {origin})"
        )
        done.append((cell, record))
    return done


def table(results: Sequence[tuple[Cell, dict]]) -> str:
    """A Markdown table: a row for each normal class, before and after for each variant."""
    variants = list(dict.fromkeys(cell.config.variant for cell, _ in results))
    rows: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for cell, record in results:
        row = rows.setdefault(", ".join(record["normal"]), {})
        pair = (record["auroc_phase1"], record["auroc"])
        row.setdefault(cell.config.variant, []).append(pair)
    lines = [
        "| normal | " + " | ".join(f"{v}: phase 1 | {v}: final" for v in variants) + " |",
        "|---|" + "---|---|" * len(variants),
    ]
    columns: dict[str, list[np.ndarray]] = {}
    for name, row in rows.items():
        parts = []
        for variant in variants:
            mean = np.mean(row[variant], axis=0) if variant in row else np.full(2, np.nan)
            columns.setdefault(variant, []).append(mean)
            parts += [f"{value:.3f}" for value in mean]
        lines.append(f"| {name} | " + " | ".join(parts) + " |")
    means = [f"**{v:.4f}**" for variant in variants for v in np.mean(columns[variant], axis=0)]
    lines.append("| **mean** | " + " | ".join(means) + " |")
    return "\n".join(lines) + "\n"


def write_table(path: Path, text: str, command: str) -> None:
    """The table with the command that made it."""
    write_text(path, f"AUROC, made by `{command}` (version {__version__}).\n\n{text}")
