"""How well a model does on a kind of negatives that was left out of its training.

What a latent size is chosen by, in place of the test set: reads training data only, and knows
no anomaly. A kind is a class, an alphabet of Omniglot, or, where the negatives are of one
kind, a foreign set.
"""

import math
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


def leave_out(
    config: Config, data_dir: Path | None, *, negatives: str, near: bool = False
) -> LeftOut:
    """The training data without the last kind of negatives.

    Args:
        config: settings of the training; its negatives may be "none".
        data_dir: folder of TensorFlow Datasets.
        negatives: those of the task, of which one kind is left out.
        near: where one kind is joined by made negatives, leave that kind out and train with the
            made ones alone, instead of taking a foreign set.

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
    elif near and kinds and found.made:
        name, left = source.name, kinds[0]
        kind = f"{name}: {', '.join(source.class_names[c] for c in left)}"
        given = config.model_copy(update={"negatives": SYNTH + "+".join(found.made)})
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
        return leave_out(config, data_dir, negatives=config.negatives, near=True)
    return leave_out_cluster(config, load_training(config, data_dir, skip_bad=skip_bad))


def fit(left: LeftOut, shared: SharedPhase1 | None = None) -> Detector:
    """A detector trained without the kind left out."""
    detector = make_detector(left.config)
    detector.require_negatives(left.data)
    detector.fit_data(left.data, TrainingOptions(shared=shared))
    return detector


@dataclass(frozen=True)
class HeldOut:
    """AUROC of held-out normal pictures against a kind left out."""

    auroc: float
    hardest: float  # against the tenth of the kind with the lowest scores alone


HARDEST = 0.1  # of the kind left out: what looks most like the normal pictures


def measure(detector: Detector, left: LeftOut) -> HeldOut:
    """Both figures of the kind left out.

    Most of a kind may be told apart by any model; its hardest pictures still tell models apart,
    and are nearest to anomalies that nobody has seen.
    """
    normal, kind = (detector.score(pixels) for pixels in (left.data.normal.stopping, left.pixels))

    def against(scores: np.ndarray) -> float:
        truth = np.repeat([0, 1], [len(normal), len(scores)])
        return float(roc_auc_score(truth, np.concatenate([normal, scores])))

    count = math.ceil(HARDEST * len(kind))
    return HeldOut(against(kind), against(np.sort(kind)[:count]))
