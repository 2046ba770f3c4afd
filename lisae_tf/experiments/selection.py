"""How well a model does on a kind of negatives that was left out of its training.

What a latent size is chosen by, in place of the test set: reads training data only, and knows
no anomaly. A kind is a class, an alphabet of Omniglot, or, where the negatives are of one
kind, a foreign set.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score

from lisae_tf.config.settings import FOLDER, Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.checks import thumbnails
from lisae_tf.data.datasets import Dataset, open_dataset
from lisae_tf.data.parts import TrainingData
from lisae_tf.data.protocols import SYNTH, is_made
from lisae_tf.data.tasks import load_training, open_task, read_like
from lisae_tf.detectors import make_detector
from lisae_tf.detectors.base import Detector
from lisae_tf.training.phase import TrainingOptions
from lisae_tf.training.sharing import SharedPhase1

KINDS = 2  # left out in turn: one alone may be an easy one
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
    # Of the held-out normals and of `pixels`: what is measured on.
    rows: slice = field(default_factory=lambda: slice(None))


def _kinds(source: Dataset, classes: Sequence[int]) -> list[list[int]]:
    """The classes by kind: alphabets where classes are characters, else each for itself."""
    if source.name != "omniglot":
        return [[label] for label in classes]
    images = source.read("train", classes, (8, 8), 1)  # small: labels and alphabets are wanted
    alphabets = np.unique(images.groups)
    return [[int(c) for c in np.unique(images.labels[images.groups == a])] for a in alphabets]


def leave_out(
    config: Config, data_dir: Path | None, *, negatives: str, near: bool = False, back: int = 0
) -> LeftOut:
    """The training data without one kind of negatives.

    Args:
        config: settings of the training; its negatives may be "none".
        data_dir: folder of TensorFlow Datasets.
        negatives: those of the task, of which one kind is left out.
        near: where one kind is joined by made negatives, leave that kind out and train with the
            made ones alone, instead of taking a foreign set.
        back: which kind, counted back from the last; where there are several.

    Raises:
        LisaeError: the negatives are of one kind and no foreign set is known for the dataset.
    """
    given = config.model_copy(update={"negatives": negatives})
    source, kinds, made = _open_kinds(given, data_dir)
    if source is not None and len(kinds) > 1:
        name, left = source.name, kinds[-1 - back]
        kind = f"{name}: {', '.join(source.class_names[c] for c in left)}"
        rest = ",".join(str(c) for kept in kinds if kept is not left for c in kept)
        joined = f"+{SYNTH}{'+'.join(made)}" if made else ""
        given = config.model_copy(update={"negatives": f"{name}:{rest}{joined}"})
    elif near and source is not None and made:
        name, left = source.name, kinds[0]
        kind = f"{name}: {', '.join(source.class_names[c] for c in left)}"
        given = config.model_copy(update={"negatives": SYNTH + "+".join(made)})
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


def _open_kinds(
    config: Config, data_dir: Path | None
) -> tuple[Dataset | None, list[list[int]], tuple[str, ...]]:
    """Where natural negatives come from, their kinds, and the generators of made ones."""
    _, _, found = open_task(config, data_dir)
    if found is None or is_made(found.source):
        return None, [], ()
    source = open_dataset(found.source, data_dir)
    kinds = _kinds(source, found.classes or range(len(source.class_names)))
    return source, kinds, tuple(found.made)


CLUSTERS, SMALLEST_CLUSTER = 4, 20


def leave_out_clusters(config: Config, data: TrainingData) -> list[LeftOut]:
    """The training data without one cluster of similar-looking negatives, and without another.

    For negatives whose kinds nobody has named, as in a folder: k-means on grey thumbnails; the
    smallest clusters of at least `SMALLEST_CLUSTER` pictures are left out.

    Raises:
        LisaeError: no negatives, too few to do without some, or no two kinds of them.
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
    if sizes.max() == len(parts[0]):
        raise LisaeError(
            "all negatives look alike, so no kind of them can be left out; give others"
        )
    order = np.argsort(sizes, kind="stable")
    large = [left for left in order if sizes[left] >= SMALLEST_CLUSTER] or [order[-1]]
    found = []
    for left in large[:KINDS]:
        kept, dropped = [], []
        for pixels in parts:
            away = clusters.predict(thumbnails(pixels)) == left
            if away.all():  # a small held-out part
                away[:] = False
            kept.append(~away)
            dropped.append(pixels[away])
        pixels = np.concatenate(dropped)
        kind = f"cluster {left + 1} of {CLUSTERS} of the negatives ({len(pixels)} pictures)"
        pixels = pixels[:: -(-len(pixels) // MAX_PICTURES)]
        found.append(LeftOut(config, data.with_negatives(kept), pixels, kind))
    return found


def left_out(config: Config, data_dir: Path | None, *, skip_bad: bool = False) -> list[LeftOut]:
    """The training data without one kind of negatives, for each of up to `KINDS` kinds.

    A kind is a class or an alphabet where they have names, else a cluster.

    Raises:
        LisaeError: see `load_training` and `leave_out_clusters`.
    """
    if config.dataset == FOLDER or is_made(config.negatives):
        return leave_out_clusters(config, load_training(config, data_dir, skip_bad=skip_bad))
    _, kinds, _ = _open_kinds(config, data_dir)
    count = min(KINDS, max(1, len(kinds)))
    return [
        leave_out(config, data_dir, negatives=config.negatives, near=True, back=back)
        for back in range(count)
    ]


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
    sides = (left.data.normal.stopping, left.pixels)
    normal, kind = (detector.score(pixels[left.rows]) for pixels in sides)

    def against(scores: np.ndarray) -> float:
        truth = np.repeat([0, 1], [len(normal), len(scores)])
        return float(roc_auc_score(truth, np.concatenate([normal, scores])))

    count = math.ceil(HARDEST * len(kind))
    return HeldOut(against(kind), against(np.sort(kind)[:count]))
