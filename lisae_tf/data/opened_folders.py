"""The user's folders, each opened once: their pictures, and which part each belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import checks, picture_files, pictures
from lisae_tf.data.folders import MIN_ADDED, MIN_NEGATIVE, MIN_NORMAL, read_set, refuse_few
from lisae_tf.data.groups import Groups, group, remarks
from lisae_tf.data.layout import PictureSet, kind_of, normal_test_set, test_sets
from lisae_tf.data.manifest import (
    ANOMALY,
    CALIBRATION,
    CHOOSING,
    FIT,
    KNOWN,
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
from lisae_tf.data.parts import halves, side_indices

_Part = TypeVar("_Part", str, int)
PARTS = (FIT, STOPPING, CALIBRATION, TEST, UNUSED)
CALIBRATION_PART, UNUSED_PART = PARTS.index(CALIBRATION), PARTS.index(UNUSED)
HALVES = (CHOOSING, TEST)  # of known flaws
MIN_KNOWN = 2
NEGATIVE_STREAM = 1  # of the random numbers that divide the pictures
KNOWN_STREAM = 2**30  # behind those of all folders of normal pictures


def normal_stream(number: int) -> int:
    """The stream of a folder of normal pictures, by its place among them."""
    return number + (number >= NEGATIVE_STREAM)


@dataclass(frozen=True)
class Divided:
    """The pictures of one folder, and which of them are held out for what.

    Attributes:
        found: the pictures.
        indices: of each of `PARTS`. Unused are normal pictures of a group of which another
            calibrates: a new picture is of another group, so each counts once for the threshold.
        groups: of each picture; "" of one that stands alone.
        notes: what the user should know of groups.
    """

    found: pictures.Decoded
    indices: list[np.ndarray]
    groups: list[str]
    notes: list[str]

    @property
    def test(self) -> np.ndarray:
        """Indices of what is held out for the test; none where its normal pictures are given."""
        return self.indices[3]


def divided(
    found: pictures.Decoded,
    root: Path,
    config: Config,
    stream: int,
    what: str,
    *,
    with_test: bool = False,
    earlier: Sequence[Divided] = (),
) -> Divided:
    """The parts of a folder; pictures of one group stay together.

    Args:
        found: its pictures.
        root: the folder.
        config: settings.
        stream: of the random numbers that decide.
        what: the set that the pictures are of.
        with_test: whether some are held out for the test.
        earlier: folders that are divided already; what goes with pictures of theirs follows them.

    Raises:
        LisaeError: too few pictures that are not copies, or names that settings cannot group.
    """
    paths = [_below(name, root) for name in found.names]
    groups = group(found, paths, config.data.group_by, what)
    indices = side_indices(
        len(found.pixels), config.data, seed=config.seed, stream=stream, groups=groups.numbers,
        with_test=with_test,
    )  # fmt: skip
    none = np.empty(0, np.int64)
    indices = [*indices, none] if with_test else [*indices, none, none]
    if earlier:
        indices = _following(found, indices, groups, earlier)
    if what == NORMAL:
        indices = _once(found, indices, groups)
    return Divided(found, indices, groups.names, groups.notes)


def _once(
    found: pictures.Decoded, indices: Sequence[np.ndarray], groups: Groups
) -> list[np.ndarray]:
    """The same parts, but of each group in the calibration part one picture alone."""
    fit, stopping, calibration, test, unused = indices
    chosen = pictures.one_of_each(groups.numbers[calibration], found.pixels[calibration])
    once = calibration[chosen]
    unused = np.union1d(unused, np.setdiff1d(calibration, once))
    return [fit, stopping, once, test, unused]


def _following(
    found: pictures.Decoded,
    indices: Sequence[np.ndarray],
    groups: Groups,
    earlier: Sequence[Divided],
) -> list[np.ndarray]:
    """The same parts, but for groups of which an earlier folder holds a picture, or a near copy.

    What an earlier folder calibrates with is unused here.
    """
    part_of = _by_row(indices, range(len(indices)), len(found.names))
    row_of = {name: row for row, name in enumerate(found.names)}
    for each in reversed(earlier):
        theirs = _by_row(each.indices, range(len(each.indices)), len(each.found.names))
        leading = {}
        if groups.by_name:
            by_group = dict(zip(each.groups, theirs, strict=True))
            named = zip(groups.numbers, groups.names, strict=True)
            leading = {number: by_group[name] for number, name in named if name in by_group}
        elif groups.near:
            by_name = dict(zip(each.found.names, theirs, strict=True))
            near = checks.leaks(each.found, found)
            leading = {groups.numbers[row_of[pair.other]]: by_name[pair.one] for pair in near}
        leading = {k: UNUSED_PART if p == CALIBRATION_PART else p for k, p in leading.items()}
        part_of = [leading.get(k, old) for k, old in zip(groups.numbers, part_of, strict=True)]
    return [np.flatnonzero(np.array(part_of) == part) for part in range(len(indices))]


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

    def divided(self, by_name: bool) -> Divided:
        """As the run did."""
        groups = [entry.group for entry in self.entries]
        return Divided(
            self.found, self.rows_of(*PARTS), groups, remarks(groups, self.role, by_name)
        )


@dataclass(frozen=True)
class Known:
    """Known flaws, and which of them choose settings and which measure.

    Attributes:
        side: their folder.
        indices: of the choosing ones, and of those that join the test.
        groups: of each picture; "" of one that stands alone.
        notes: what the user should know.
    """

    side: Side
    indices: list[np.ndarray]
    groups: list[str]
    notes: list[str]

    def part(self, number: int) -> pictures.Decoded:
        """The choosing ones, 0, or those of the test, 1."""
        return self.side.found.only(self.indices[number].tolist())


def halved(side: Side, config: Config, number: int) -> Known:
    """Two halves of the known flaws, each with about half of every kind; groups stay together.

    Args:
        side: the folder.
        config: settings.
        number: of the folder among those of known flaws.

    Raises:
        LisaeError: too few pictures that are not copies, or names that settings cannot group.
    """
    found, root = side.found, side.root
    refuse_few(len(found.pixels), MIN_KNOWN, KNOWN, str(root))
    groups = group(found, [_below(name, root) for name in found.names], config.data.group_by, KNOWN)
    kinds = [kind_of(Path(name), root) for name in found.names]
    generator = np.random.default_rng([config.seed, KNOWN_STREAM + number])
    indices = halves(kinds, groups=groups.numbers, generator=generator)
    if not all(map(len, indices)):
        raise LisaeError(
            f"the known flaws of {root} are copies of one another or of one group, so they cannot "
            f"be divided into some that choose and some that measure; give {MIN_KNOWN} different "
            "ones at least"
        )
    return Known(side, indices, groups.names, groups.notes)


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
        if role == NEGATIVE:
            return
        known, choosing = self.kept.digests(TRAINED_ON), self.kept.digests([CHOOSING])
        for name, digest in zip(names, now, strict=True):
            if digest in known or digest in choosing:
                what = "settings of the run were chosen with"
                if digest in known:
                    what = "the run was trained on already"
                raise LisaeError(
                    f"{name} ({role}) holds a picture that {what}; put it back where it was, or "
                    "train anew"
                )

    @cached_property
    def _normal_sides(self) -> list[Side]:
        folders = enumerate(self.config.normal_dirs)
        return [self._open(PictureSet(Path(each)), NORMAL, number) for number, each in folders]

    @cached_property
    def normals(self) -> list[Divided]:
        """Each folder of normal pictures with parts of its own.

        A folder is divided alike whatever folders follow it: what was held out stays held out when
        more pictures become normal. Nothing is held out for a test whose normal pictures are given.
        """
        with_test = normal_test_set(self.config.test_dir) is None
        normals: list[Divided] = []
        for number, side in enumerate(self._normal_sides):
            minimum = MIN_ADDED if number and self.kept is not None else MIN_NORMAL
            refuse_few(len(side.found.pixels), minimum, NORMAL, str(side.root))
            if side.entries is None:
                parts = divided(
                    side.found, side.root, self.config, normal_stream(number), NORMAL,
                    with_test=with_test, earlier=normals,
                )  # fmt: skip
            else:
                parts = side.divided(self.config.data.group_by is not None)
            normals.append(parts)
        return normals

    @cached_property
    def negative(self) -> Divided | None:
        """The folder of negatives with its parts."""
        if not self.config.negative_dir:
            return None
        side = self._negative_side
        refuse_few(len(side.found.pixels), MIN_NEGATIVE, NEGATIVE, self.config.negative_dir)
        if side.entries is None:
            return divided(side.found, side.root, self.config, NEGATIVE_STREAM, NEGATIVE)
        return side.divided(self.config.data.group_by is not None)

    @cached_property
    def _negative_side(self) -> Side:
        folder = PictureSet(Path(self.config.negative_dir))
        return self._open(folder, NEGATIVE, option="--negative-mask-dir")

    @cached_property
    def knowns(self) -> list[Known]:
        """Each folder of known flaws, those that choose settings apart from those of the test."""
        return [self._known(number) for number in range(len(self.config.known_dirs))]

    def _known(self, number: int) -> Known:
        side = self._open(PictureSet(Path(self.config.known_dirs[number])), KNOWN, number)
        if side.entries is None:
            return halved(side, self.config, number)
        groups = [entry.group for entry in side.entries]
        notes = remarks(groups, KNOWN, self.config.data.group_by is not None)
        return Known(side, side.rows_of(*HALVES), groups, notes)

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
        known = (each.side for each in self.knowns)
        return [*self._normal_sides, *self.tests.values(), *known]

    def manifest(self) -> Manifest:
        """The pictures of a run on these folders, a line each."""
        entries: list[Entry] = []
        sides = zip(self._normal_sides, self.normals, strict=True)
        opened = [(number, *each) for number, each in enumerate(sides)]
        if self.negative:
            opened.append((0, self._negative_side, self.negative))
        for number, side, own in opened:
            part_of = _by_row(own.indices, PARTS, len(side.found.names))
            entries += _entries(side, number, part_of, own.groups)
        for side in self.tests.values():
            unused = {pair.other for pair in self.known_tests} if side.role == NORMAL_TEST else ()
            part_of = [UNUSED if name in unused else TEST for name in side.found.names]
            entries += _entries(side, 0, part_of, [""] * len(part_of))
        for number, known in enumerate(self.knowns):
            part_of = _by_row(known.indices, HALVES, len(known.side.found.names))
            entries += _entries(known.side, number, part_of, known.groups)
        return Manifest(entries)


def _below(name: str, root: Path) -> str:
    return picture_files.below(Path(name), root).as_posix()


def _by_row(indices: Sequence[np.ndarray], parts: Sequence[_Part], count: int) -> list[_Part]:
    """The part of each of `count` rows, from the rows of each part."""
    named = [parts[0]] * count
    for part, rows in zip(parts, indices, strict=True):
        for row in rows:
            named[row] = part
    return named


def _entries(side: Side, number: int, parts: Sequence[str], groups: Sequence[str]) -> list[Entry]:
    """A line for each picture of a folder."""
    found = side.found
    with_kinds = side.role in (NEGATIVE, ANOMALY, KNOWN)
    return [
        Entry(
            side.role, number, _below(name, side.root), digest, part,
            kind_of(Path(name), side.root) if with_kinds else "",
            header.height, header.width, header.mode, name_of_group,
        )
        for name, digest, part, header, name_of_group in zip(
            found.names, digests(found.names), parts, found.headers, groups, strict=True
        )
    ]  # fmt: skip
