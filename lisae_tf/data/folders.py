"""The user's own folders of pictures as training data; the test is in `folder_test`."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lisae_tf.config import FOLDER, Config
from lisae_tf.data import checks, masks, picture_files, pictures
from lisae_tf.data.drawings import draw, match_polarity
from lisae_tf.data.layout import (
    PictureSet,
    kind_of,
    normal_test_set,
    refuse_empty_kinds,
    test_sets,
)
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
from lisae_tf.data.parts import Parts, TrainingData, side_indices, split_side
from lisae_tf.data.protocols import GENERATED, synthetic_generators
from lisae_tf.data.stored import concatenated
from lisae_tf.errors import LisaeError

FOLDER_SIZE = (64, 64)
FEATURES_SIDE, STEP = 256, 32  # pixels: the longer side of pictures for features, and its steps
MIN_NORMAL, MIN_NEGATIVE = 20, 10
NEGATIVE_STREAM = 1  # of the random numbers that divide the pictures


def normal_stream(number: int) -> int:
    """The stream of a folder of normal pictures, by its place among them."""
    return number + (number >= NEGATIVE_STREAM)


def size_of(config: Config) -> tuple[int, int]:
    """(H, W) that pictures of folders get."""
    return tuple(config.data.size or FOLDER_SIZE)


def read_set(
    found: PictureSet, config: Config, skip_bad: bool, option: str = "--mask-dir"
) -> pictures.Decoded:
    """One folder's pictures in the size and channels of the settings.

    Args:
        found: the folder.
        config: settings.
        skip_bad: whether unreadable pictures are left out.
        option: that takes masks of these pictures.

    Raises:
        LisaeError: no or unreadable pictures, or one that looks like a mask of another.
    """
    files = found.files()
    for mask, picture in masks.lookalikes(files):
        raise LisaeError(masks.lookalike_sentence(mask, picture, option))
    return pictures.decode_all(
        files, size_of(config), config.data.channels or 3, depth=config.data.depth,
        skip_bad=skip_bad, in_file=config.features is not None,
    )  # fmt: skip


def settle_folder_channels(config: Config, *, settled: bool = False) -> Config:
    """What of size, channels and depth is not set, by the normal pictures; put into the settings.

    Grey if every readable one is grey, else RGB. 64x64 pixels; for features, see `_own_size`. The
    depth is one for all, for a divisor of each picture's own would change how bright it is.

    Args:
        config: settings.
        settled: whether they are a run's own, which may be older than the setting of the depth.

    Raises:
        LisaeError: a folder is missing or empty, before any picture is read.
    """
    if config.dataset != FOLDER:
        return config
    others = (
        config.negative_dir, config.anomaly_dir, config.test_dir, config.mask_dir,
        config.negative_mask_dir,
    )  # fmt: skip
    picture_files.refuse_missing(map(Path, (*config.normal_dirs, *filter(None, others))))
    test_sets(config.test_dir, config.anomaly_dir)
    if config.negative_dir:
        refuse_empty_kinds(Path(config.negative_dir))
    if config.data.channels and config.data.size and (config.data.depth or settled):
        return config
    files = (path for d in config.normal_dirs for path in picture_files.find(Path(d)))
    found = {}
    for path in files:
        with contextlib.suppress(pictures.BadPicture):  # decoding names it
            found[path] = pictures.header(path)
    headers = list(found.values())
    deep = [path for path, header in found.items() if header.deep]
    depth = config.data.depth or pictures.depth_in_use(deep)
    channels = config.data.channels or (1 if all(each.grey for each in headers) else 3)
    size = config.data.size or list(_own_size(headers) if config.features else FOLDER_SIZE)
    data = config.data.model_copy(update={"channels": channels, "size": size, "depth": depth})
    return config.model_copy(update={"data": data})


def _own_size(headers: list[pictures.Header]) -> tuple[int, int]:
    """(H, W) for features: the usual proportions, the longer side `FEATURES_SIDE`."""
    if not headers:
        return FEATURES_SIDE, FEATURES_SIDE
    height, width = (
        float(np.median([getattr(each, side) for each in headers])) for side in ("height", "width")
    )
    scale = FEATURES_SIDE / max(height, width)
    # Whole steps of the coarsest tap, and at least two of them.
    rounded = (STEP * max(2, round(scale * side / STEP)) for side in (height, width))
    return tuple(rounded)


def refuse_overlap(
    one: pictures.Decoded, is_one: str, other: pictures.Decoded, is_other: str
) -> list[str]:
    """Raises on a picture that lies in both sets; returns what near copies are to be noted."""
    found = checks.leaks(one, other)
    for pair in found:
        if pair.exact:
            raise LisaeError(
                f"{pair.other} ({is_other}) holds the same picture as {pair.one} ({is_one}); "
                f"remove it from one of the two folders"
            )
    return checks.leak_remarks(found, is_one, is_other)


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

    def training(self) -> TrainingData:
        """Everything that training may see; nothing of the test is opened."""
        return _training(self)

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


def remarks(found: pictures.Decoded, what: str, depth: int | None) -> list[str]:
    """What the user should know of a set: files left out, lost bits, constant ones and copies."""
    said = [f"left out: {reason}" for reason in found.bad.values()]
    said += checks.depth_remarks(what, found, depth)
    return said + checks.set_remarks(what, checks.check_set(found))


def _remarks_on_others(folders: list[str], what: str) -> list[str]:
    found = (path for folder in folders for path in picture_files.others(Path(folder)))
    return picture_files.remark(found, what)


def read_negative_masks(config: Config, negatives: list[str]) -> masks.Masks | None:
    """What masks say of the negatives; None where none are given.

    Args:
        config: settings.
        negatives: the paths of their pictures.

    Raises:
        LisaeError: see `masks.read_masks`.
    """
    if not config.negative_mask_dir:
        return None
    root = Path(config.negative_dir)
    return masks.read_masks(
        Path(config.negative_mask_dir), [Path(name) for name in negatives],
        picture_files.find(root), root, size_of(config), what="negative", so="count as unmarked",
    )  # fmt: skip


def _negatives(
    config: Config, found: pictures.Decoded, chosen: Sequence[np.ndarray], normal_parts: Parts
) -> tuple[dict[str, Parts | None], tuple[str, ...]]:
    """The sides of the training data that a folder of negatives gives, and what is to be noted."""
    root = Path(config.negative_dir)
    kinds = np.array([kind_of(Path(name), root) for name in found.names])
    marks = read_negative_masks(config, found.names)
    sides = {"negative": found.pixels, "negative_kinds": kinds}
    if marks is not None:
        sides["negative_masks"] = marks.marked
    parts = {name: Parts(rows, rows, rows).rows(chosen) for name, rows in sides.items()}
    names = synthetic_generators(config.negatives)
    if names and config.features:
        parts["made"], parts["made_masks"] = _made(names, config, normal_parts)
    elif names:
        from lisae_tf.data.synthetic import joined

        parts["negative"] = joined(parts["negative"], names, normal_parts, config.seed)
        parts["negative_kinds"] = parts["negative_kinds"].followed_by(config.negatives)
        if marks is not None:
            parts["negative_masks"] = parts["negative_masks"].followed_by(False)
    return parts, marks.notes if marks else ()


def _made(names: tuple[str, ...], config: Config, normal_parts: Parts) -> tuple[Parts, Parts]:
    """Negatives made for features, a few large pictures, and where each was changed."""
    from lisae_tf.data.synthetic import made_with_masks

    return made_with_masks(names, normal_parts, config.seed, config.features.made)


def refuse_few(count: int, minimum: int, what: str, folder: str) -> None:
    """Raises unless there are enough pictures."""
    if count < minimum:
        raise LisaeError(
            f"{folder} holds {count} usable {what} picture{'s' * (count != 1)}; training needs "
            f"at least {minimum}"
        )


def load_folder_training(config: Config, *, skip_bad: bool) -> TrainingData:
    """Everything that training may see of the user's folders.

    Raises:
        LisaeError: missing folders, unreadable or too few pictures, or overlapping folders.
    """
    return Folders(config, skip_bad=skip_bad).training()


def _training(opened: Folders) -> TrainingData:
    config, normals = opened.config, opened.normals
    notes = _remarks_on_others(config.normal_dirs, "normal")
    notes += [
        remark for side in normals for remark in remarks(side.found, "normal", config.data.depth)
    ]
    for k, side in enumerate(normals):
        for earlier in normals[:k]:
            notes += refuse_overlap(earlier.found, "normal", side.found, "also normal")
    normal_parts = Parts(
        *(concatenated([side.found.pixels[side.indices[k]] for side in normals]) for k in range(3))
    )
    sides: dict[str, Parts | None] = {"negative": None}
    if opened.negative:
        negative, chosen = opened.negative
        notes += _remarks_on_others([config.negative_dir], "negative")
        notes += remarks(negative, "negative", config.data.depth)
        for side in normals:
            notes += refuse_overlap(side.found, "normal", negative, "negative")
        sides, more = _negatives(config, negative, chosen[:3], normal_parts)
        notes += more
    elif config.negatives in GENERATED:
        shape = normal_parts.fit.shape[1:]
        pixels = match_polarity(draw(config.negatives, shape, config.seed), normal_parts.fit)
        sides["negative"], _ = split_side(
            pixels, config.data, seed=config.seed, stream=NEGATIVE_STREAM
        )
    elif (names := synthetic_generators(config.negatives)) and config.features:
        sides["negative"], sides["negative_masks"] = _made(names, config, normal_parts)
    elif names:
        from lisae_tf.data.synthetic import synthetic_negatives

        sides["negative"] = synthetic_negatives(names, normal_parts, config.seed)
    elif config.negatives != "none":
        raise LisaeError(
            "your own folders take --negative-dir or --negatives "
            f"{'|'.join(GENERATED)}|synth:GENERATOR|none, not '{config.negatives}'"
        )
    return TrainingData(normal_parts, **sides, notes=tuple(notes))
