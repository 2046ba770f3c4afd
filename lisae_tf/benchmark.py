"""Every task of a dataset, one result file each, written whole; running again continues.

A cell is stale when its resolved configuration or `TRAINING_VERSION` differs.
"""

import gc
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lisae_tf import __version__, experiment
from lisae_tf.config import Config, dataset_settings, merge, resolve
from lisae_tf.datasets import open_dataset
from lisae_tf.errors import LisaeError
from lisae_tf.files import make_folder, read_json, write_json, write_text

# Raised by hand whenever the same settings would train to other weights.
TRAINING_VERSION = 2
KEPT = (
    "auroc", "auroc_phase1", "auroc_negatives", "average_precision", "fpr_at_95_tpr",
    "false_positive_rate", "detection_rate", "n_normal", "n_anomaly", "normal", "negatives",
    "protocol", "restart_seeds", "epochs", "seconds", "notes",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One training: a configuration and where its result lies."""

    config: Config
    path: Path

    def stored(self) -> dict | None:
        """The result, if it is there and not stale."""
        if not self.path.is_file():
            return None
        record = read_json(self.path)
        try:
            # A setting that came later stood at its default before.
            same = resolve(record["config"]) == self.config
        except (KeyError, LisaeError):
            return None
        fresh = same and record.get("training_version") == TRAINING_VERSION
        return record if fresh else None


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


def run_cell(cell: Cell, data_dir: Path | None) -> dict:
    """Trains and tests one cell and writes its file."""
    outcome = experiment.run(cell.config, experiment.load(cell.config, data_dir))
    record = {key: outcome.metrics[key] for key in KEPT}
    record |= {
        "config": cell.config.model_dump(),
        "config_hash": cell.config.digest(),
        "training_version": TRAINING_VERSION,
        "version": __version__,
        "seed": cell.config.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "scores_sha256": hashlib.sha256(outcome.after.scores.tobytes()).hexdigest(),
    }
    make_folder(cell.path.parent)
    write_json(cell.path, record)
    # Models and functions refer to each other; a grid must not wait for the collector.
    del outcome
    gc.collect()
    return record


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
