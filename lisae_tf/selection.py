"""How well a model does on a kind of negatives that was left out of its training.

What a latent size is chosen by, in place of the test set: reads training data only, and knows
no anomaly. A kind is a class, an alphabet of Omniglot, or, where the negatives are of one
kind, a foreign set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score

from lisae_tf.config import FOLDER, Config
from lisae_tf.data.checks import thumbnails
from lisae_tf.data.datasets import Dataset, open_dataset
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.data.protocols import SYNTH, is_made
from lisae_tf.data.tasks import load_training, open_task, read_like
from lisae_tf.detectors import make_detector
from lisae_tf.detectors.base import Detector
from lisae_tf.errors import LisaeError
from lisae_tf.phase import TrainingOptions
from lisae_tf.sharing import SharedPhase1

MAX_PICTURES = 2000  # of the kind left out; more change the figure little
# The kind left out where all negatives are of one kind.
FOREIGN = {
    "mnist": "fashion_mnist", "fashion_mnist": "mnist", "cifar10": "svhn_cropped",
    "svhn_cropped": "cifar10",
}  # fmt: skip


@dataclass(frozen=True)
class LeftOut:
    """A training without one kind of negatives, and pictures of that kind."""

    config: Config
    data: TrainingData
    pixels: np.ndarray  # uint8 (N, H, W, C)
    kind: str  # in words


def _kinds(source: Dataset, classes: Sequence[int]) -> list[list[int]]:
    """The classes by kind: alphabets where classes are characters, else each for itself."""
    if source.name != "omniglot":
        return [[label] for label in classes]
    images = source.read("train", classes, (8, 8), 1)  # small: labels and alphabets are wanted
    alphabets = np.unique(images.groups)
    return [[int(c) for c in np.unique(images.labels[images.groups == a])] for a in alphabets]


def leave_out(config: Config, data_dir: Path | None, *, negatives: str) -> LeftOut:
    """The training data without the last kind of negatives.

    Args:
        config: settings of the training; its negatives may be "none".
        data_dir: folder of TensorFlow Datasets.
        negatives: those of the task, of which one kind is left out.

    Raises:
        LisaeError: the negatives are of one kind and no foreign set is known for the dataset.
    """
    given = config.model_copy(update={"negatives": negatives})
    _, _, found = open_task(given, data_dir)
    kinds: list[list[int]] = []
    if found is not None and not is_made(found.source):
        source = open_dataset(found.source, data_dir)
        kinds = _kinds(source, found.classes or range(len(source.class_names)))
    if len(kinds) > 1:
        name, left = source.name, kinds[-1]
        kind = f"{name}: {', '.join(source.class_names[c] for c in left)}"
        rest = ",".join(str(c) for kept in kinds[:-1] for c in kept)
        made = f"+{SYNTH}{'+'.join(found.made)}" if found.made else ""
        given = config.model_copy(update={"negatives": f"{name}:{rest}{made}"})
    elif config.dataset in FOREIGN:
        name = kind = FOREIGN[config.dataset]
        left = list(range(len(open_dataset(name, data_dir).class_names)))
    else:
        raise LisaeError(
            f"the negatives '{negatives}' of {config.dataset} are of one kind, so none can be left "
            "out; name several classes with --negatives"
        )
    given = given if config.negatives != "none" else config
    data = load_training(given, data_dir)
    pixels = read_like(name, left, data.normal.stopping, data_dir)
    if name == "omniglot":
        kind = f"omniglot: one alphabet ({len(left)} characters)"
    return LeftOut(given, data, pixels[:: -(-len(pixels) // MAX_PICTURES)], kind)


CLUSTERS, SMALLEST_CLUSTER = 4, 20


def leave_out_cluster(config: Config, data: TrainingData) -> LeftOut:
    """The training data without one cluster of similar-looking negatives.

    For negatives whose kinds nobody has named, as in a folder: k-means on grey thumbnails; the
    smallest cluster of at least `SMALLEST_CLUSTER` pictures is left out.

    Raises:
        LisaeError: no negatives, or too few to do without some.
    """
    if data.negative is None or len(data.negative.fit) < 2 * SMALLEST_CLUSTER:
        raise LisaeError(
            "choosing settings needs negatives, of which one kind is left out of the training: "
            f"give at least {2 * SMALLEST_CLUSTER}"
        )
    negative = data.negative
    parts = (negative.fit, negative.stopping, negative.calibration)
    clusters = KMeans(CLUSTERS, random_state=config.seed, n_init=4).fit(thumbnails(parts[0]))
    sizes = np.bincount(clusters.labels_, minlength=CLUSTERS)
    sizes[sizes < SMALLEST_CLUSTER] = len(parts[0])
    left = int(np.argmin(sizes))
    kept, dropped = [], []
    for pixels in parts:
        away = clusters.predict(thumbnails(pixels)) == left
        if away.all():  # a small held-out part
            away[:] = False
        kept.append(pixels[~away])
        dropped.append(pixels[away])
    pixels = np.concatenate(dropped)
    return LeftOut(
        config, replace(data, negative=Parts(*kept)), pixels[:: -(-len(pixels) // MAX_PICTURES)],
        f"one of {CLUSTERS} clusters of the negatives ({len(pixels)} pictures)",
    )  # fmt: skip


def left_out(config: Config, data_dir: Path | None, *, skip_bad: bool = False) -> LeftOut:
    """The training data without one kind of negatives.

    A kind is a class or an alphabet where they have names, else a cluster.

    Raises:
        LisaeError: see `load_training` and `leave_out_cluster`.
    """
    if config.dataset != FOLDER and not is_made(config.negatives):
        return leave_out(config, data_dir, negatives=config.negatives)
    return leave_out_cluster(config, load_training(config, data_dir, skip_bad=skip_bad))


def fit(left: LeftOut, shared: SharedPhase1 | None = None) -> Detector:
    """A detector trained without the kind left out."""
    detector = make_detector(left.config)
    detector.require_negatives(left.data)
    detector.fit_data(left.data, TrainingOptions(shared=shared))
    return detector


@dataclass(frozen=True)
class HeldOut:
    """How far a kind left out stands off from held-out normal pictures."""

    auroc: float
    separation: float  # see `separation`; tells models apart that all reach an AUROC near 1


def measure(detector: Detector, left: LeftOut) -> HeldOut:
    """Both figures of the kind left out."""
    normal, kind = (detector.score(pixels) for pixels in (left.data.normal.stopping, left.pixels))
    truth = np.repeat([0, 1], [len(normal), len(kind)])
    auroc = roc_auc_score(truth, np.concatenate([normal, kind]))
    return HeldOut(float(auroc), separation(normal, kind))


SMALLEST = 1e-8  # of an error, for its logarithm


def separation(normal: np.ndarray, kind: np.ndarray) -> float:
    """The difference of the mean scores in standard deviations, d' of signal detection.

    Errors count by their logarithm, for a model is better whose errors of the kind are a larger
    multiple of those of normal pictures; scores that can be negative count as they are.

    Args:
        normal: scores (N,) of held-out normal pictures.
        kind: scores (M,) of the kind left out.
    """
    if min(normal.min(), kind.min()) >= 0:
        normal, kind = (np.log(np.maximum(scores, SMALLEST)) for scores in (normal, kind))
    spread = np.sqrt((np.var(normal, dtype=float) + np.var(kind, dtype=float)) / 2)
    return float(
        (np.mean(kind, dtype=float) - np.mean(normal, dtype=float)) / max(spread, SMALLEST)
    )
