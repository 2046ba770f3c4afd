"""A training of the inspection tables: the rows of the table, and settings and file of a cell."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.folders import settle_folder_channels
from lisae_tf.experiments.settling import settle
from lisae_tf.grids.cells import Cell
from lisae_tf.inspection.sets import InspectionSet, Split

if TYPE_CHECKING:
    from lisae_tf.training.sharing import SharedPhase1

MADE, REAL, BOTH, AUTO = "made", "real", "both", "auto"
WITH_REAL = (REAL, BOTH, AUTO)  # without real negatives they are made ones alone
CELLS = "cells"  # folder of the files, below that of the results


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        variant: as `--variant` takes it.
        negatives: as `features.negatives`; None for one that trains on normal pictures alone.
        pixels: sees the pixels themselves, not pretrained features.
        chance: whether another seed trains another model of the same pictures.
    """

    variant: str
    negatives: str | None = None
    pixels: bool = False
    chance: bool = True

    @property
    def name(self) -> str:
        """In tables and for `--rows`."""
        words = [self.variant, self.negatives, "pixels" if self.pixels else None]
        return " ".join(word for word in words if word)

    @property
    def real(self) -> bool:
        """Whether it asks for real negatives."""
        return self.negatives in WITH_REAL


# In the order in which they run: what takes a moment first. A variant without negatives is
# `ae`, or `linear-ae` in the linear case: those are the rows "none".
_ROWS = (
    Row("linear-ae", chance=False),
    Row("linear-lis", MADE),
    Row("mahalanobis", chance=False),
    Row("knn"),
    Row("lis-knn", MADE),
    Row("linear-lis", REAL),
    Row("linear-lis", BOTH),
    Row("linear-lis", AUTO),
    Row("lis-knn", REAL),
    Row("lis-knn", AUTO),
    Row("ae"),
    Row("lis", MADE),
    Row("lis", REAL),
    Row("bce", MADE),
    Row("bce", REAL),
    Row("deep-sad", MADE),
    Row("deep-sad", REAL),
    Row("linsep", MADE),
    Row("linsep-fused", MADE),
    Row("ae", pixels=True),
    Row("lis", MADE, pixels=True),
)
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}


def chosen(names: Sequence[str] | None) -> list[Row]:
    """Rows by name, in the order above; all where None.

    Raises:
        LisaeError: an unknown one.
    """
    unknown = [name for name in names or () if name not in ROWS]
    if unknown:
        raise LisaeError(f"there is no row '{unknown[0]}'; there are {', '.join(ROWS)}")
    return [row for name, row in ROWS.items() if names is None or name in names]


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
