"""The final test of the user's own folders: pictures, truth and masks, for evaluation alone."""

from pathlib import Path

import numpy as np

from lisae_tf.config import Config
from lisae_tf.data import checks, masks, picture_files, pictures
from lisae_tf.data.folders import (
    read_normals,
    read_set,
    refuse_few,
    refuse_overlap,
    remarks,
    size_of,
)
from lisae_tf.data.layout import PictureSet, kind_of, test_sets
from lisae_tf.data.parts import TestData
from lisae_tf.data.stored import concatenated


def _without_known(
    found: pictures.Decoded, normals: list[pictures.Decoded]
) -> tuple[pictures.Decoded, list[str]]:
    """Normal test pictures without those that training has, and a remark on these.

    Simple subjects come out alike twice; that is no mistake of the user's, but no test either.
    """
    known = [pair for each in normals for pair in checks.leaks(each, found) if pair.exact]
    names = {pair.other for pair in known}
    kept = [row for row, name in enumerate(found.names) if name not in names]
    left = pictures.Decoded(found.pixels[kept], [found.names[row] for row in kept], found.bad)
    return left, checks.known_remarks(known)


def load_folder_test(config: Config, *, skip_bad: bool) -> TestData:
    """The normal test pictures, given or held out, and the anomalies; for evaluation alone.

    Raises:
        LisaeError: pictures of the test that are also in the training or twice in the test.
    """
    normals = read_normals(config, skip_bad)
    known = [(side.found, "normal") for side in normals]
    given, anomaly = test_sets(config.test_dir, config.anomaly_dir)
    if config.negative_dir and (given or anomaly):
        folder = PictureSet(Path(config.negative_dir))
        known.append((read_set(folder, config, skip_bad, "--negative-mask-dir"), "negative"))
    held_out = [(side.found.pixels[side.test], side.found.names, side.test) for side in normals]
    pixels = [rows for rows, _, _ in held_out]
    labels = [names[row] for _, names, rows in held_out for row in rows]
    counts = [len(rows) for rows in pixels]
    notes: list[str] = []
    kinds = [""] * len(labels)
    for found, what in ((given, "normal test"), (anomaly, "anomaly")):
        if found is None:
            continue
        read = read_set(found, config, skip_bad)
        notes += picture_files.remark(found.others(), what) + remarks(read, what, config.data.depth)
        if found is given:
            read, more = _without_known(read, [side.found for side in normals])
            notes += more
        refuse_few(len(read.pixels), 1, what, str(found.root))
        for other, is_other in known:
            notes += refuse_overlap(other, is_other, read, what)
        known.append((read, what))
        pixels.append(read.pixels)
        labels += read.names
        if found is anomaly:
            kinds += [kind_of(Path(name), found.root) for name in read.names]
        else:  # nothing was held out; they go with the pictures that were normal first
            kinds += [""] * len(read.names)
            counts[0] = len(read.names)
    anomalies = len(labels) - sum(counts)
    is_anomaly = np.arange(len(labels)) >= len(labels) - anomalies
    return TestData(
        concatenated(pixels), is_anomaly, labels, tuple(notes), tuple(counts), tuple(kinds)
    )


def read_test_masks(config: Config, anomalies: list[str]) -> masks.Masks | None:
    """What masks say of the anomalies; None where none are given. For evaluation alone.

    Args:
        config: settings.
        anomalies: the paths of their pictures.

    Raises:
        LisaeError: see `masks.read_masks`.
    """
    if not config.mask_dir:
        return None
    # Masks of normal test pictures, all black, are no mistake.
    root = Path(config.test_dir or config.anomaly_dir)
    return masks.read_masks(
        Path(config.mask_dir), [Path(name) for name in anomalies], picture_files.find(root), root,
        size_of(config), what="anomaly", so="do not count in the pixel figures",
    )  # fmt: skip
