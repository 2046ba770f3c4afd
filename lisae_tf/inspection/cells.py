"""The trainings of the benchmark: a set, a split of its kinds, a row and a seed, a file each.

Settings are those of `train --mvtec`; in the files their folders are named from the sets' on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lisae_tf.config.settings import Config
from lisae_tf.data.folders import settle_folder_channels
from lisae_tf.experiments.settling import settle
from lisae_tf.grids.cells import Cell
from lisae_tf.inspection.records import Row
from lisae_tf.inspection.sets import InspectionSet, Split

if TYPE_CHECKING:
    from lisae_tf.training.sharing import SharedPhase1

CELLS = "cells"  # folder of the files, below that of the results


@dataclass(frozen=True)
class InspectionCell(Cell):
    """One training."""

    of: InspectionSet
    split: Split
    row: Row

    def train(self, data_dir: Path | None, shared: "SharedPhase1 | None" = None) -> dict:
        """Trains, tests, writes the file and returns its record."""
        from lisae_tf.inspection.measure import measure

        return measure(self)


@cache
def _size(of: InspectionSet, pixels: bool) -> dict[str, object]:
    """Size, channels and depth that `train` gives the pictures of a set."""
    options = {"mvtec": str(of.root), "features": "none" if pixels else None}
    config = settle_folder_channels(settle(options, None, [])[0])
    return {name: getattr(config.data, name) for name in ("size", "channels", "depth")}


def config_of(of: InspectionSet, split: Split, row: Row, seed: int) -> Config:
    """The settings of a training, as `train --mvtec` would make them.

    Raises:
        LisaeError: no readable pictures.
    """
    options = {"mvtec": str(of.root), "variant": row.variant, "seed": seed}
    options["data"] = _size(of, row.pixels)
    assigned = []
    if row.pixels:
        options["features"] = "none"
    elif row.negatives:
        assigned = [f"features.negatives={row.negatives}"]
    if split.negatives:
        options["negative_dir"] = "+".join(split.negatives)
    config, _ = settle(options, None, assigned)
    named = {
        name: str(Path(folder).relative_to(of.root.parent))
        for name in ("normal_dir", "test_dir", "mask_dir")
        if (folder := getattr(config, name))
    }
    return config.model_copy(update=named)


def cells_of(
    of: InspectionSet, rows: Iterable[Row], seeds: Sequence[int], root: Path
) -> list[InspectionCell]:
    """The trainings of one set: by seed, those without real negatives first.

    Rows without chance have one seed, the first.
    """
    found = []
    for seed in seeds:
        own = [row for row in rows if row.chance or seed == seeds[0]]
        trainings = [(of.usual, row) for row in own if not row.real]
        trainings += [(split, row) for split in of.splits() for row in own if row.real]
        # Pictures are kept for the trainings that see the same ones.
        trainings.sort(key=lambda training: training[1].pixels)
        for split, row in trainings:
            folder = root / CELLS / of.name / row.name.replace(" ", "-")
            path = folder / f"{split.name}-seed{seed}.json"
            found.append(InspectionCell(config_of(of, split, row, seed), path, of, split, row))
    return found
