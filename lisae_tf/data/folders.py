"""The user's own folders of pictures as training data; the test is in `folder_test`."""

import contextlib
from dataclasses import dataclass
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


def _split_folder(
    found: pictures.Decoded, config: Config, stream: int, *, with_test: bool = False
) -> tuple[Parts, np.ndarray]:
    """Parts of a folder; copies of one picture stay together."""
    return split_side(
        found.pixels, config.data, seed=config.seed, stream=stream, groups=_copies(found),
        with_test=with_test,
    )  # fmt: skip


def _copies(found: pictures.Decoded) -> np.ndarray:
    """A number for each picture, the same for copies."""
    return np.unique(pictures.content_hashes(found.pixels), return_inverse=True)[1]


def refuse_indivisible(
    found: pictures.Decoded, config: Config, stream: int, *, with_test: bool
) -> None:
    """What training would refuse when it holds parts of a folder apart; makes none.

    Raises:
        LisaeError: too few pictures that are not copies.
    """
    count, copies = len(found.pixels), _copies(found)
    seed = config.seed
    side_indices(count, config.data, seed=seed, stream=stream, groups=copies, with_test=with_test)


@dataclass(frozen=True)
class NormalFolder:
    """One folder of normal pictures and which of them are held out for what."""

    found: pictures.Decoded
    parts: Parts
    test: np.ndarray  # indices


def read_normals(config: Config, skip_bad: bool) -> list[NormalFolder]:
    """Each folder of normal pictures with parts of its own.

    A folder is divided alike whatever folders follow it: what was held out stays held out when
    more pictures become normal. Nothing is held out for a test whose normal pictures are given.
    """
    with_test = normal_test_set(config.test_dir) is None
    sides: list[NormalFolder] = []
    for number, folder in enumerate(config.normal_dirs):
        found = read_set(PictureSet(Path(folder)), config, skip_bad)
        refuse_few(len(found.pixels), MIN_NORMAL, "normal", folder)
        parts = _split_folder(found, config, normal_stream(number), with_test=with_test)
        sides.append(NormalFolder(found, *parts))
    return sides


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
    config: Config, found: pictures.Decoded, normal_parts: Parts
) -> tuple[dict[str, Parts | None], tuple[str, ...]]:
    """The sides of the training data that a folder of negatives gives, and what is to be noted."""
    chosen = side_indices(
        len(found.pixels), config.data, seed=config.seed, stream=NEGATIVE_STREAM,
        groups=_copies(found),
    )  # fmt: skip
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
    normals = read_normals(config, skip_bad)
    notes = _remarks_on_others(config.normal_dirs, "normal")
    notes += [
        remark for side in normals for remark in remarks(side.found, "normal", config.data.depth)
    ]
    for k, side in enumerate(normals):
        for earlier in normals[:k]:
            notes += refuse_overlap(earlier.found, "normal", side.found, "also normal")
    normal_parts = Parts(
        *(
            concatenated([getattr(side.parts, part) for side in normals])
            for part in ("fit", "stopping", "calibration")
        )
    )
    sides: dict[str, Parts | None] = {"negative": None}
    if config.negative_dir:
        folder = PictureSet(Path(config.negative_dir))
        negative = read_set(folder, config, skip_bad, "--negative-mask-dir")
        refuse_few(len(negative.pixels), MIN_NEGATIVE, "negative", config.negative_dir)
        notes += _remarks_on_others([config.negative_dir], "negative")
        notes += remarks(negative, "negative", config.data.depth)
        for side in normals:
            notes += refuse_overlap(side.found, "normal", negative, "negative")
        sides, more = _negatives(config, negative, normal_parts)
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
