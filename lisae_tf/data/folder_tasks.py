"""The user's folders of pictures as training data, and as the final test.

The test is pictures, truth and masks, for evaluation alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import checks, levels, masks, picture_files, pictures
from lisae_tf.data.augmentation import draw, match_polarity
from lisae_tf.data.folders import refuse_few, refuse_overlap, remarks, size_of
from lisae_tf.data.groups import names_in_test
from lisae_tf.data.layout import kind_of
from lisae_tf.data.manifest import ANOMALY, KNOWN, NORMAL_TEST
from lisae_tf.data.opened_folders import NEGATIVE_STREAM, Folders
from lisae_tf.data.parts import Parts, TestData, TrainingData, split_side
from lisae_tf.data.protocols import GENERATED, synthetic_generators
from lisae_tf.data.stored import concatenated


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


def training_of(opened: Folders) -> TrainingData:
    """Everything that training may see of the user's folders; nothing of the test is opened.

    Raises:
        LisaeError: missing folders, unreadable or too few pictures, or overlapping folders.
    """
    config, normals = opened.config, opened.normals
    notes = _remarks_on_others(config.normal_dirs, "normal")
    notes += [
        remark
        for side in normals
        for remark in (*remarks(side.found, "normal", config.data.depth), *side.notes)
    ]
    for k, side in enumerate(normals):
        for earlier in normals[:k]:
            notes += refuse_overlap(earlier.found, "normal", side.found, "also normal")
    normal_parts = Parts(
        *(concatenated([side.found.pixels[side.indices[k]] for side in normals]) for k in range(3))
    )
    sides: dict[str, Parts | None] = {"negative": None}
    if opened.negative:
        negative = opened.negative.found
        notes += _remarks_on_others([config.negative_dir], "negative")
        notes += remarks(negative, "negative", config.data.depth)
        for side in normals:
            notes += refuse_overlap(side.found, "normal", negative, "negative")
        sides, more = _negatives(config, negative, opened.negative.indices[:3], normal_parts)
        notes += [*opened.negative.notes, *more]
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
    known = None
    if opened.knowns:
        notes += _known_remarks(opened)
        known = concatenated([each.part(0).pixels for each in opened.knowns])
    return TrainingData(normal_parts, **sides, notes=tuple(notes), known=known)


def ignoring(
    data: TrainingData, opened: Folders, ignored: np.ndarray | None = None
) -> TrainingData:
    """Training data of which some regions do not count, where the settings name a mask of them.

    Args:
        data: of the folders.
        opened: the folders.
        ignored: the regions, bool (H, W), instead of those of the mask.

    Raises:
        LisaeError: see `masks.read_ignored` and `TrainingData.ignoring`.
    """
    config = opened.config
    if ignored is not None:
        return data.ignoring(ignored)
    if not config.ignore_mask:
        return data
    headers = [header for side in opened.normals for header in side.found.headers]
    ignored, notes = masks.read_ignored(
        Path(config.ignore_mask), headers, size_of(config), config.ignore_mask_sha256
    )
    return replace(data, notes=(*data.notes, *notes)).ignoring(ignored)


def _known_remarks(opened: Folders) -> list[str]:
    """What the user should know of known flaws.

    Raises:
        LisaeError: one of them is also a normal or a negative picture, or known twice.
    """
    notes = []
    others = [(side.found, "normal") for side in opened.normals]
    if opened.negative:
        others.append((opened.negative.found, "negative"))
    for known in opened.knowns:
        found = known.side.found
        notes += picture_files.remark(known.side.others, KNOWN)
        notes += [*remarks(found, KNOWN, opened.config.data.depth), *known.notes]
        for other, is_other in others:
            notes += refuse_overlap(other, is_other, found, KNOWN)
        others.append((found, KNOWN))
    return notes


def test_of(opened: Folders) -> TestData:
    """The normal test pictures, given or held out, and the anomalies; for evaluation alone.

    Known flaws that choose nothing are the last anomalies.

    Raises:
        LisaeError: pictures of the test that are also in the training or twice in the test.
    """
    normals = opened.normals
    known = [(side.found, "normal") for side in normals]
    if opened.negative and opened.tests:
        known.append((opened.negative.found, "negative"))
    if opened.tests:
        known += [(each.side.found, KNOWN) for each in opened.knowns]
    held_out = [(side.found.pixels[side.test], side.found.names, side.test) for side in normals]
    pixels = [rows for rows, _, _ in held_out]
    labels = [names[row] for _, names, rows in held_out for row in rows]
    counts = [len(rows) for rows in pixels]
    notes: list[str] = []
    kinds = [""] * len(labels)
    pattern = opened.config.data.group_by
    # A pattern's names mean the same everywhere; those of near copies are paths in one folder.
    groups = [
        name if pattern or not name else f"{number}/{name}"
        for number, side in enumerate(normals)
        for name in (side.groups[row] for row in side.test)
    ]
    for what, side in opened.tests.items():
        read = side.found
        notes += picture_files.remark(side.others, what) + remarks(
            read, what, opened.config.data.depth
        )
        notes += levels.stretched_remarks(
            what, read.names, read.headers, opened.config.ignore_mask_size
        )
        rows = list(range(len(read.names)))
        if what == NORMAL_TEST:
            unused = {pair.other for pair in opened.known_tests}
            rows = [row for row in rows if read.names[row] not in unused]
            read = read.only(rows)
            notes += checks.known_remarks(opened.known_tests)
        refuse_few(len(read.pixels), 1, what, str(side.root))
        for other, is_other in known:
            notes += refuse_overlap(other, is_other, read, what)
        known.append((read, what))
        pixels.append(read.pixels)
        labels += read.names
        paths = [picture_files.below(Path(name), side.root).as_posix() for name in read.names]
        names = names_in_test(read, paths, pattern, what)
        groups += [name if pattern or not name else f"{what}/{name}" for name in names]
        if what == ANOMALY:
            kinds += [kind_of(Path(name), side.root) for name in read.names]
        else:  # nothing was held out; they go with the pictures that were normal first
            kinds += [""] * len(read.names)
            counts[0] = len(read.names)
    for number, each in enumerate(opened.knowns):
        read = each.part(1)
        pixels.append(read.pixels)
        labels += read.names
        names = [each.groups[row] for row in each.indices[1]]
        groups += [name if pattern or not name else f"{KNOWN}{number}/{name}" for name in names]
        kinds += [kind_of(Path(name), each.side.root) for name in read.names]
    anomalies = len(labels) - sum(counts)
    is_anomaly = np.arange(len(labels)) >= len(labels) - anomalies
    return TestData(
        concatenated(pixels), is_anomaly, labels, tuple(notes), tuple(counts), tuple(kinds),
        opened.tested_rows(labels), tuple(groups),
    )  # fmt: skip


test_of.__test__ = False  # no test, whatever pytest thinks


def read_test_masks(config: Config, anomalies: list[str]) -> masks.Masks | None:
    """What masks say of the anomalies; None where none are given. For evaluation alone.

    Args:
        config: settings.
        anomalies: the paths of their pictures; known flaws among them, the last ones, have none.

    Raises:
        LisaeError: see `masks.read_masks`.
    """
    if not config.mask_dir:
        return None
    # Masks of normal test pictures, all black, are no mistake.
    root = Path(config.test_dir or config.anomaly_dir)
    files = picture_files.find(root)
    there = set(files)
    own = [path for path in map(Path, anomalies) if path in there]
    found = masks.read_masks(
        Path(config.mask_dir), own, files, root, size_of(config), what="anomaly",
        so="do not count in the pixel figures",
    )  # fmt: skip
    marked = np.zeros((len(anomalies), *size_of(config)), bool)
    marked[: len(own)] = found.marked
    return replace(found, marked=marked)
