"""The final test of the user's own folders: pictures, truth and masks, for evaluation alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lisae_tf.config.settings import Config
from lisae_tf.data import checks, levels, masks, picture_files
from lisae_tf.data.folders import refuse_few, refuse_overlap, remarks, size_of
from lisae_tf.data.layout import kind_of
from lisae_tf.data.manifest import ANOMALY, KNOWN, NORMAL_TEST
from lisae_tf.data.opened_folders import Folders
from lisae_tf.data.parts import TestData
from lisae_tf.data.stored import concatenated


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
        if what == ANOMALY:
            kinds += [kind_of(Path(name), side.root) for name in read.names]
        else:  # nothing was held out; they go with the pictures that were normal first
            kinds += [""] * len(read.names)
            counts[0] = len(read.names)
    for each in opened.knowns:
        read = each.part(1)
        pixels.append(read.pixels)
        labels += read.names
        kinds += [kind_of(Path(name), each.side.root) for name in read.names]
    anomalies = len(labels) - sum(counts)
    is_anomaly = np.arange(len(labels)) >= len(labels) - anomalies
    return TestData(
        concatenated(pixels), is_anomaly, labels, tuple(notes), tuple(counts), tuple(kinds),
        opened.tested_rows(labels),
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
