"""The user's folders, each opened once: their pictures, and which part each belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lisae_tf.config import Config
from lisae_tf.data import checks, pictures
from lisae_tf.data.folders import MIN_NEGATIVE, MIN_NORMAL, read_set, refuse_few
from lisae_tf.data.layout import PictureSet, kind_of, normal_test_set, test_sets
from lisae_tf.data.manifest import (
    ANOMALY,
    CALIBRATION,
    FIT,
    NEGATIVE,
    NORMAL,
    NORMAL_TEST,
    STOPPING,
    TEST,
    TRAINED_ON,
    UNUSED,
    Entry,
    Manifest,
    digests,
    match,
)
from lisae_tf.data.parts import side_indices
from lisae_tf.errors import LisaeError

NEGATIVE_STREAM = 1  # of the random numbers that divide the pictures


def normal_stream(number: int) -> int:
    """The stream of a folder of normal pictures, by its place among them."""
    return number + (number >= NEGATIVE_STREAM)


def divided(
    found: pictures.Decoded, config: Config, stream: int, *, with_test: bool = False
) -> list[np.ndarray]:
    """Indices of four parts of a folder, the test's last; copies of one picture stay together.

    Raises:
        LisaeError: too few pictures that are not copies.
    """
    indices = side_indices(
        len(found.pixels), config.data, seed=config.seed, stream=stream, groups=_copies(found),
        with_test=with_test,
    )  # fmt: skip
    return indices if with_test else [*indices, np.empty(0, np.int64)]


def _copies(found: pictures.Decoded) -> np.ndarray:
    """A number for each picture, the same for copies."""
    return np.unique(pictures.content_hashes(found.pixels), return_inverse=True)[1]


@dataclass(frozen=True)
class NormalFolder:
    """One folder of normal pictures and which of them are held out for what."""

    found: pictures.Decoded
    indices: list[np.ndarray]  # of the fit, stopping and calibration parts, and of the test's

    @property
    def test(self) -> np.ndarray:
        """Indices of what is held out for the test; none where its normal pictures are given."""
        return self.indices[3]


@dataclass(frozen=True)
class Side:
    """One folder that is opened: where, in which role, and what a run has kept of it."""

    root: Path
    role: str
    found: pictures.Decoded
    others: list[Path]  # files left out as no pictures
    entries: list[Entry] | None = None  # of the run that is looked at again, row by row

    def rows_of(self, *parts: str) -> list[np.ndarray]:
        """The rows that each part was given by the run."""
        given = np.array([entry.part for entry in self.entries])
        return [np.flatnonzero(given == part) for part in parts]


class Folders:
    """The user's folders, each opened once: their pictures, and which part each belongs to.

    Args:
        config: settings.
        skip_bad: whether unreadable pictures are left out.
        kept: of an earlier run on the same folders: its pictures keep their parts, and others in
            those folders are left out.
    """

    def __init__(self, config: Config, *, skip_bad: bool = False, kept: Manifest | None = None):
        self.config, self.skip_bad, self.kept = config, skip_bad, kept
        self.since: list[str] = []  # what has become of the pictures of that run

    def _open(
        self, found: PictureSet, role: str, number: int = 0, option: str = "--mask-dir"
    ) -> Side:
        read = read_set(found, self.config, self.skip_bad, option)
        others = found.others()
        if self.kept is None:
            return Side(found.root, role, read, others)
        entries, now = self.kept.of(role, number), digests(read.names)
        if not entries:
            self._refuse_trained_on(read.names, now, role)
            return Side(found.root, role, read, others)
        paths = [_below(name, found.root) for name in read.names]
        matched = match(entries, paths, now)
        self.since += matched.remarks(str(found.root))
        if not matched.entries:
            raise LisaeError(
                f"{found.root} holds none of the {role} pictures that the run was made of; put "
                "them back"
            )
        if matched.rows != list(range(len(paths))):
            read = read.only(matched.rows)
        return Side(found.root, role, read, others, matched.entries)

    def _refuse_trained_on(self, names: list[str], now: list[str], role: str) -> None:
        """Raises on a picture of a new folder that the earlier run was trained on elsewhere."""
        known = self.kept.digests(TRAINED_ON) if role != NEGATIVE else ()
        for name, digest in zip(names, now, strict=True):
            if digest in known:
                raise LisaeError(
                    f"{name} ({role}) holds a picture that the run was trained on already; put it "
                    "back where it was, or train anew"
                )

    @cached_property
    def _normal_sides(self) -> list[Side]:
        folders = enumerate(self.config.normal_dirs)
        return [self._open(PictureSet(Path(each)), NORMAL, number) for number, each in folders]

    @cached_property
    def normals(self) -> list[NormalFolder]:
        """Each folder of normal pictures with parts of its own.

        A folder is divided alike whatever folders follow it: what was held out stays held out when
        more pictures become normal. Nothing is held out for a test whose normal pictures are given.
        """
        with_test = normal_test_set(self.config.test_dir) is None
        normals = []
        for number, side in enumerate(self._normal_sides):
            refuse_few(len(side.found.pixels), MIN_NORMAL, "normal", str(side.root))
            if side.entries is None:
                indices = divided(
                    side.found, self.config, normal_stream(number), with_test=with_test
                )
            else:
                indices = side.rows_of(FIT, STOPPING, CALIBRATION, TEST)
            normals.append(NormalFolder(side.found, indices))
        return normals

    @cached_property
    def negative(self) -> tuple[pictures.Decoded, list[np.ndarray]] | None:
        """The folder of negatives and the indices of its parts."""
        if not self.config.negative_dir:
            return None
        side = self._negative_side
        refuse_few(len(side.found.pixels), MIN_NEGATIVE, "negative", self.config.negative_dir)
        if side.entries is None:
            return side.found, divided(side.found, self.config, NEGATIVE_STREAM)
        return side.found, side.rows_of(FIT, STOPPING, CALIBRATION, TEST)

    @cached_property
    def _negative_side(self) -> Side:
        folder = PictureSet(Path(self.config.negative_dir))
        return self._open(folder, NEGATIVE, option="--negative-mask-dir")

    @cached_property
    def tests(self) -> dict[str, Side]:
        """The normal test pictures and anomalies that are given, by role."""
        sets = test_sets(self.config.test_dir, self.config.anomaly_dir)
        roles = zip((NORMAL_TEST, ANOMALY), sets, strict=True)
        return {role: self._open(found, role) for role, found in roles if found}

    @cached_property
    def known_tests(self) -> list[checks.Pair]:
        """Normal test pictures that training has as well, which are no test.

        Simple subjects come out alike twice; that is no mistake of the user's.
        """
        side = self.tests.get(NORMAL_TEST)
        normals = [normal.found for normal in self.normals] if side else []
        return [pair for each in normals for pair in checks.leaks(each, side.found) if pair.exact]

    def tested_rows(self, names: Sequence[str]) -> np.ndarray | None:
        """Where pictures of the test stand among the test scores of the run that is looked at."""
        if self.kept is None or any(side.entries is None for side in self._test_sides()):
            return None
        tested = (each for each in self.kept.entries if each.part == TEST)
        row_of = {entry: row for row, entry in enumerate(tested)}
        entry_of = {
            name: entry
            for side in self._test_sides()
            for name, entry in zip(side.found.names, side.entries, strict=True)
        }
        return np.array([row_of[entry_of[name]] for name in names], int)

    def _test_sides(self) -> list[Side]:
        return [*self._normal_sides, *self.tests.values()]

    def manifest(self) -> Manifest:
        """The pictures of a run on these folders, a line each."""
        entries: list[Entry] = []
        parts = (FIT, STOPPING, CALIBRATION, TEST)
        for number, (side, normal) in enumerate(zip(self._normal_sides, self.normals, strict=True)):
            entries += _entries(
                side, number, _names_of(normal.indices, parts, len(side.found.names))
            )
        if self.negative:
            found, indices = self.negative
            entries += _entries(self._negative_side, 0, _names_of(indices, parts, len(found.names)))
        for side in self.tests.values():
            unused = {pair.other for pair in self.known_tests} if side.role == NORMAL_TEST else ()
            part_of = [UNUSED if name in unused else TEST for name in side.found.names]
            entries += _entries(side, 0, part_of)
        return Manifest(entries)


def _below(name: str, root: Path) -> str:
    return Path(name).relative_to(root).as_posix()


def _names_of(indices: Sequence[np.ndarray], parts: Sequence[str], count: int) -> list[str]:
    """The part of each of `count` rows, from the rows of each part."""
    named = [""] * count
    for part, rows in zip(parts, indices, strict=True):
        for row in rows:
            named[row] = part
    return named


def _entries(side: Side, number: int, parts: Sequence[str]) -> list[Entry]:
    """A line for each picture of a folder."""
    found = side.found
    with_kinds = side.role in (NEGATIVE, ANOMALY)
    return [
        Entry(
            side.role, number, _below(name, side.root), digest, part,
            kind_of(Path(name), side.root) if with_kinds else "",
            header.height, header.width, header.mode,
        )
        for name, digest, part, header in zip(
            found.names, digests(found.names), parts, found.headers, strict=True
        )
    ]  # fmt: skip
