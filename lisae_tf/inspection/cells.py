"""Sets in MVTec's layout, and the trainings over them: a set, a split of its kinds, a row, a seed.

Settings are those of `train --mvtec`; in the files folders are named from the sets' on.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import picture_files
from lisae_tf.data.folders import settle_folder_channels
from lisae_tf.data.layout import GOOD, mvtec_settings
from lisae_tf.experiments.settling import settle
from lisae_tf.grids.cells import Cell
from lisae_tf.inspection.records import Row

if TYPE_CHECKING:
    from lisae_tf.training.sharing import SharedPhase1

NEGATIVE = "negative"  # folder beside train/, of negatives that are no anomalies of the test
CELLS = "cells"  # folder of the files, below that of the results


def _folders(root: Path) -> tuple[str, ...]:
    """The kinds in a folder, by name."""
    found = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return tuple(sorted(path.name for path in found))


@dataclass(frozen=True)
class Split:
    """What one training is given as real negatives, and what it is tested on.

    Attributes:
        negatives: kinds of negatives; none in the usual test.
        tested: kinds of anomalies.
        beside: whether the negatives lie in `NEGATIVE`, and not among the anomalies.
    """

    negatives: tuple[str, ...]
    tested: tuple[str, ...]
    beside: bool = False

    @property
    def name(self) -> str:
        """Of its result files."""
        return "against-" + "-".join(self.negatives) if self.negatives else "usual"


@dataclass(frozen=True)
class InspectionSet:
    """One set in MVTec's layout."""

    root: Path

    @property
    def name(self) -> str:
        """The folder's."""
        return self.root.name

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of anomalies, sorted."""
        return tuple(kind for kind in _folders(self.root / "test") if kind != GOOD)

    @property
    def usual(self) -> Split:
        """No real negatives; every kind is tested."""
        return Split((), self.kinds)

    def splits(self) -> tuple[Split, ...]:
        """Those with real negatives, whose kinds are never tested.

        Every other kind is a negative, and then the rest. Where there is one kind alone, the
        negatives are those in the folder `negative`, if it has one.
        """
        if len(self.kinds) > 1:
            halves = self.kinds[0::2], self.kinds[1::2]
            return Split(*halves), Split(*halves[::-1])
        beside = self.root / NEGATIVE
        found = _folders(beside) if beside.is_dir() else ()
        return (Split(found, self.kinds, beside=True),) if found else ()

    @contextmanager
    def laid_out(self, split: Split) -> Iterator[dict[str, str]]:
        """The folders of a split as settings; those of real negatives last as long as the block.

        Pictures of a split that shares kinds out are links in a temporary folder. Nobody marks
        negatives, and masks of the others are not looked at.
        """
        own = mvtec_settings(self.root)
        if not split.negatives:
            yield own
            return
        own.pop("mask_dir", None)
        if split.beside:
            yield own | {"negative_dir": str(self.root / NEGATIVE)}
            return
        with TemporaryDirectory(prefix="lisae-inspection-") as folder:
            sides = {"test_dir": (GOOD, *split.tested), "negative_dir": split.negatives}
            for side, kinds in sides.items():
                own[side] = str(Path(folder) / side)
                for kind in kinds:
                    _link(self.root / "test" / kind, Path(own[side]) / kind)
            yield own


def _link(source: Path, target: Path) -> None:
    """Links to the pictures of a folder, in a new one."""
    for path in picture_files.find(source):
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def find_sets(folder: Path, wanted: Sequence[str] | None = None) -> list[InspectionSet]:
    """The sets in MVTec's layout in a folder, by name.

    Raises:
        LisaeError: there is none, or not the one that is wanted.
    """
    if not folder.is_dir():
        raise LisaeError(f"the folder {folder} does not exist; check the path")
    parts = (Path("train", GOOD), Path("test", GOOD))
    found = {
        path.name: InspectionSet(path)
        for path in sorted(folder.iterdir())
        if all((path / part).is_dir() for part in parts)
    }
    if not found:
        raise LisaeError(
            f"{folder} holds no set in MVTec's layout (SET/train/good, SET/test/good, "
            "SET/test/KIND); name the folder above the sets"
        )
    unknown = [name for name in wanted or () if name not in found]
    if unknown:
        raise LisaeError(f"{folder} holds no set '{unknown[0]}'; it holds {', '.join(found)}")
    return [each for name, each in found.items() if wanted is None or name in wanted]


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
