"""`report`: what a run found, around the desk's page of its test pictures, in one file.

The pictures as they lie in the run's folders now, without reading one of them.
"""

import html
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lisae_tf.config.settings import FOLDER, Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import folders, manifest, picture_files
from lisae_tf.data.layout import GOOD, PictureSet
from lisae_tf.data.manifest import ANOMALY, KNOWN, NORMAL, TEST, Entry
from lisae_tf.data.tasks import reopen
from lisae_tf.desk import frozen
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.pictures import Pictures
from lisae_tf.evaluation.metrics import independent
from lisae_tf.report import run_report
from lisae_tf.runs import folders as runs

MOST = 2000  # pictures in the file
MAPPED = 200  # with their error maps: to draw one is to score again
SIZE = 10_000_000  # bytes of the file
_REST = 1_500_000  # of it, for all but the text and the thumbnails
_OTHERS = "the test pictures of {} are not those that it was tested on; train again"


def tested(
    folder: Path, config: Config, data_dir: Path | None = None, data_roots: Sequence[str] = ()
) -> tuple[Pictures, str | None]:
    """The test pictures of a run; without the pictures themselves, and why, where they are lost.

    Args:
        folder: of the run.
        config: its settings.
        data_dir: of TensorFlow Datasets, for runs on named data.
        data_roots: folders of the run's pictures that have moved, each "OLD=NEW".

    Raises:
        LisaeError: the run is incomplete or damaged.
    """
    stored = runs.read_scores(folder)
    try:
        return pictures_of(folder, config, data_dir, data_roots), None
    except LisaeError as error:
        reason = f"The test pictures cannot be read: {error}."
    scores, truth = np.asarray(stored["test"], np.float32), stored["is_anomaly"].astype(np.int8)
    names = [f"{config.dataset}#{row}" for row in range(len(scores))]
    kinds = [str(kind) for kind in stored.get("kind", [""] * len(scores))]
    return Pictures(names, scores, truth, kinds, independent=_independent(folder)), reason


def _independent(run: Path) -> tuple[float, float]:
    """Groups of copies for each normal picture and each anomaly of a run's test."""
    record = runs.read_metrics(run)
    normal, anomaly = independent(record)
    return normal / max(1, record["n_normal"]), anomaly / max(1, record["n_anomaly"])


def telling(scores: np.ndarray, truth: np.ndarray, alpha: float, most: int) -> list[int]:
    """The pictures that tell most: of each of these orders the first, then the second, and so on.

    Highest scores, nearest to the threshold, lowest scores, missed anomalies, false alarms.

    Args:
        scores: float32 (N,).
        truth: (N,), 1 where a picture is an anomaly.
        alpha: the threshold.
        most: so many, or all where there are fewer.
    """
    rising = np.argsort(scores, kind="stable")
    near = np.argsort(np.abs(scores - alpha), kind="stable")
    above, anomaly = scores[rising] > alpha, truth[rising] == 1
    missed, alarms = rising[anomaly & ~above], rising[~anomaly & above][::-1]
    orders = [rising[::-1], near, rising, missed, alarms]
    turns = np.full((len(scores), len(orders)), -1)
    for column, order in enumerate(orders):
        turns[: len(order), column] = order
    found = dict.fromkeys(turns.ravel().tolist())
    found.pop(-1, None)
    return list(found)[:most]


def page(folder: Path, desk: Desk, reason: str | None = None) -> str:
    """The whole report as HTML that opens offline.

    Args:
        folder: of the run.
        desk: with the run's detector, on its test pictures.
        reason: why these cannot be shown, if they cannot.

    Raises:
        LisaeError: the run is incomplete or damaged.
    """
    found, text = desk.pictures, run_report.render(folder, desk.scorer)
    shown = telling(found.scores, found.truth, desk.thresholds.now(), MOST)
    document = frozen.document(desk, shown, shown[:MAPPED], SIZE - _REST - len(text))
    if reason := reason or document["lost"]:
        text += f'<p class="text">{html.escape(reason)}</p>\n'
    return frozen.whole(document, text)


def pictures_of(
    run: Path, config: Config, data_dir: Path | None = None, data_roots: Sequence[str] = ()
) -> Pictures:
    """The test pictures of a completed run with their stored scores.

    Args:
        run: its folder.
        config: its settings.
        data_dir: of TensorFlow Datasets, for runs on named data.
        data_roots: folders of the run's pictures that have moved, each "OLD=NEW".

    Raises:
        LisaeError: stored scores or lists are damaged, or the data of a named set is not there.
    """
    stored = runs.read_scores(run)
    scores = np.asarray(stored["test"], np.float32)
    truth = stored["is_anomaly"].astype(np.int8)
    config = folders.absolute(folders.moved(config, data_roots))
    kept = manifest.read(run)
    if kept is None:  # a named set, mostly, which has no files
        test = reopen(run, config, data_dir).test()
        if not np.array_equal(test.is_anomaly, stored["is_anomaly"]):
            raise LisaeError(_OTHERS.format(run))
        names, kinds = [f"{config.dataset}#{row}" for row in range(len(scores))], test.labels
        if config.dataset == FOLDER:  # a run of an earlier version
            names, kinds = [os.path.abspath(name) for name in test.labels], test.kinds
        return Pictures(names, scores, truth, kinds, None, test.pixels)
    entries = [entry for entry in kept.entries if entry.part == TEST]
    if len(entries) != len(scores):
        raise LisaeError(_OTHERS.format(run))
    names = _names(entries, config)
    return Pictures(
        names, scores, truth, [entry.kind for entry in entries],
        [entry.sha256 for entry in entries], independent=_independent(run),
    )  # fmt: skip


def _names(entries: Sequence[Entry], config: Config) -> list[str]:
    """Where each picture lies; one that was renamed within its folder is found by its content."""
    names = [""] * len(entries)
    for role, number in sorted({(each.role, each.number) for each in entries}):
        root = _root(role, number, config)
        rows = [k for k, each in enumerate(entries) if (each.role, each.number) == (role, number)]
        top = root.parent if picture_files.is_list(root) else root
        for k in rows:
            names[k] = os.path.normpath(top / entries[k].path)
        if all(os.path.exists(names[k]) for k in rows) or not root.exists():
            continue
        found = [str(path) for path in PictureSet(root).files()]
        paths = [picture_files.below(Path(path), root).as_posix() for path in found]
        matched = manifest.match([entries[k] for k in rows], paths, manifest.digests(found))
        at = dict(zip(matched.entries, matched.rows, strict=True))
        for k in rows:
            if entries[k] in at:
                names[k] = os.path.normpath(found[at[entries[k]]])
    return names


def _root(role: str, number: int, config: Config) -> Path:
    """The folder, or list, that the pictures of a role are of."""
    if role == NORMAL:
        return Path(config.normal_dirs[number])
    if role == KNOWN:
        return Path(config.known_dirs[number])
    if role == ANOMALY:
        return Path(config.anomaly_dir or config.test_dir)
    return Path(config.test_dir) / GOOD
