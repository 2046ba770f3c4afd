"""`report`: what a run found, around the desk's page of its test pictures, in one file."""

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.desk import frozen
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.pictures import Pictures
from lisae_tf.desk.tested import pictures_of
from lisae_tf.report import run_report
from lisae_tf.runs import folders as runs

MOST = 2000  # pictures in the file
MAPPED = 200  # with their error maps: to draw one is to score again
SIZE = 10_000_000  # bytes of the file
_REST = 1_500_000  # of it, for all but the text and the thumbnails


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
    return Pictures(names, scores, truth, kinds), reason


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
