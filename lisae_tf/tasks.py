"""From settings to arrays: D⁺ and D⁻ with their held-out parts, and, apart from them, the test.

`load_training` reads nothing of the test; `load_test` is called by evaluation alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lisae_tf import pictures
from lisae_tf.config import FOLDER, Config, Data
from lisae_tf.datasets import Dataset, Images, open_dataset
from lisae_tf.errors import LisaeError
from lisae_tf.protocols import GENERATED, Negatives, Task, make_negatives, make_task

FOLDER_SIZE = (64, 64)
MIN_NORMAL, MIN_NEGATIVE = 20, 10
GENERATED_COUNT = 10_000
# Drawn sets: ink and paper are brought to the polarity of the normal pictures.
_DRAWN = ("omniglot", *GENERATED)
# Small sets that the paper diversifies by augmentation (section 5.1).
_AUGMENTED = ("omniglot",)


@dataclass(frozen=True)
class Parts:
    """One side of the training data, uint8 (N, H, W, C) each, disjoint."""

    fit: np.ndarray
    stopping: np.ndarray  # decides when to stop
    calibration: np.ndarray  # normal: sets α; negative: `auroc_negatives`; used for nothing else


@dataclass(frozen=True)
class TrainingData:
    """All that training and calibration may see."""

    normal: Parts
    negative: Parts | None
    augment: bool = False  # whether negatives are augmented
    notes: tuple[str, ...] = ()  # what the user should know

    @property
    def shape(self) -> tuple[int, int, int]:
        """H, W, C."""
        return self.normal.fit.shape[1:]


@dataclass(frozen=True)
class TestData:
    """Test pictures; `is_anomaly` is read by evaluation alone."""

    __test__ = False  # no test class, whatever pytest thinks

    pixels: np.ndarray  # uint8 (N, H, W, C)
    is_anomaly: np.ndarray  # bool (N,)
    labels: list[str] = field(default_factory=list)  # class or file of each


def split(
    count: int,
    shares: Sequence[float],
    *,
    groups: np.ndarray | None = None,
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """Sorted, disjoint indices: the rest first, then a part for each share.

    Args:
        count: number of pictures.
        shares: of the held-out parts, each at least one picture.
        groups: (count,); a group is never divided between parts.
        generator: decides who goes where.

    Raises:
        LisaeError: too few pictures or groups to leave some for training.
    """
    keys = np.arange(count) if groups is None else groups
    names, sizes = np.unique(keys, return_counts=True)
    order = generator.permutation(len(names))
    ends = np.cumsum(sizes[order])
    parts, taken = [], 0
    for share in shares:
        wanted = sizes[order[:taken]].sum() + max(1, round(share * count))
        upto = max(taken + 1, int(np.searchsorted(ends, wanted, side="left")) + 1)
        parts.append(np.flatnonzero(np.isin(keys, names[order[taken:upto]])))
        taken = upto
    if taken >= len(names):
        raise LisaeError(
            f"{count} picture{'s' * (count != 1)} ({len(names)} different or independent) cannot "
            "be held apart for training, stopping, calibration and test; give more of them or "
            "lower data.stopping_fraction, calibration_fraction and test_fraction"
        )
    return [np.flatnonzero(np.isin(keys, names[order[taken:]])), *parts]


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


def split_side(
    pixels: np.ndarray,
    data: Data,
    *,
    seed: int,
    stream: int,
    groups: np.ndarray | None = None,
    with_test: bool = False,
) -> tuple[Parts, np.ndarray]:
    """Fit, stopping and calibration parts, and the indices of a test part (empty without)."""
    shares = [data.stopping_fraction, data.calibration_fraction]
    if with_test:
        shares.append(data.test_fraction)
    fit, stopping, calibration, *test = split(
        len(pixels), shares, groups=groups, generator=_rng(seed, stream)
    )
    parts = Parts(pixels[fit], pixels[stopping], pixels[calibration])
    return parts, test[0] if test else np.empty(0, np.int64)


def background_is_bright(pixels: np.ndarray) -> bool:
    """Whether the median pixel of the pictures' borders is nearer to white than to black."""
    border = np.concatenate(
        [pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1
    )
    return float(np.median(border)) > 127.5


def match_polarity(pixels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Inverts drawings whose paper is bright where that of `like` is dark, or the reverse."""
    return 255 - pixels if background_is_bright(pixels) != background_is_bright(like) else pixels


def resolve_shape(config: Config, dataset: Dataset) -> tuple[tuple[int, int], int]:
    """(H, W) and C: as set, or the dataset's own."""
    own = dataset.shape or (*FOLDER_SIZE, 3)
    size = tuple(config.data.size) if config.data.size else own[:2]
    return size, config.data.channels or own[2]


def open_task(config: Config, data_dir: Path | None) -> tuple[Dataset, Task, Negatives | None]:
    """The dataset, the task and the negatives that the settings name, all checked.

    Raises:
        LisaeError: unknown names, or a combination that the protocols forbid.
    """
    dataset = open_dataset(config.dataset, data_dir)
    task = make_task(
        config.protocol, config.normal_class, config.anomaly_class, dataset.class_names
    )
    negatives = make_negatives(config.negatives, config.dataset, task, dataset.class_names)
    return dataset, task, negatives


def _held_out_of_dataset(
    dataset: Dataset, classes: Sequence[int], config: Config, stream: int
) -> tuple[Parts, bool]:
    """Parts of the given classes, and whether they were held out by group."""
    size, channels = resolve_shape(config, dataset)

    def read(part: str) -> Images:
        return dataset.read(part, classes, size, channels)

    if dataset.has_own_held_out:
        own = (read(part).pixels for part in ("train", "stopping", "calibration"))
        return Parts(*own), True
    images = read("train")
    parts, _ = split_side(
        images.pixels, config.data, seed=config.seed, stream=stream, groups=images.groups
    )
    return parts, images.groups is not None


def _generated(name: str, shape: tuple[int, int, int], config: Config) -> np.ndarray:
    import tensorflow as tf

    from lisae_tf.augmentation import random_strokes

    generators = {"strokes": random_strokes}
    batches = [
        generators[name](1000, shape, tf.constant([config.seed, batch], tf.int32)).numpy()
        for batch in range(GENERATED_COUNT // 1000)
    ]
    return np.concatenate(batches)


def _negatives(
    negatives: Negatives, normal: np.ndarray, config: Config, data_dir: Path | None
) -> tuple[Parts, list[str]]:
    """D⁻ in the size and channels of the normal pictures."""
    notes = []
    if negatives.source in GENERATED:
        parts, _ = split_side(
            _generated(negatives.source, normal.shape[1:], config),
            config.data, seed=config.seed, stream=1,
        )  # fmt: skip
    else:
        source = open_dataset(negatives.source, data_dir)
        classes = negatives.classes or tuple(range(len(source.class_names)))
        if max(classes) >= len(source.class_names):
            raise LisaeError(
                f"{negatives.source} has classes 0 to {len(source.class_names) - 1}, "
                f"not {max(classes)}; choose others for --negatives"
            )
        height, width, channels = normal.shape[1:]
        sized = config.data.model_copy(update={"size": [height, width], "channels": channels})
        sized_config = config.model_copy(update={"data": sized})
        parts, grouped = _held_out_of_dataset(source, classes, sized_config, stream=1)
        if negatives.source == "svhn_cropped" and not grouped:
            notes.append("SVHN ids name no photograph here: negatives are held out at random")
    if negatives.source in _DRAWN and background_is_bright(parts.fit) != background_is_bright(
        normal
    ):
        parts = Parts(255 - parts.fit, 255 - parts.stopping, 255 - parts.calibration)
    return parts, notes


def _folder(path: str, config: Config, skip_bad: bool) -> pictures.Decoded:
    found = pictures.find(Path(path))
    size = tuple(config.data.size or FOLDER_SIZE)
    return pictures.decode_all(found, size, config.data.channels or 3, skip_bad=skip_bad)


def settle_folder_channels(config: Config) -> Config:
    """Grey if every readable normal picture is grey, else RGB; written into the settings."""
    if config.dataset != FOLDER or config.data.channels:
        return config

    def grey(path: Path) -> bool:
        try:
            return pictures.is_grey(path)
        except pictures.BadPicture:
            return True  # decoding names it

    channels = 1 if all(map(grey, pictures.find(Path(config.normal_dir)))) else 3
    data = config.data.model_copy(
        update={"channels": channels, "size": config.data.size or list(FOLDER_SIZE)}
    )
    return config.model_copy(update={"data": data})


def _refuse_overlap(
    one: pictures.Decoded, is_one: str, other: pictures.Decoded, is_other: str
) -> None:
    known = dict(zip(pictures.content_hashes(one.pixels), one.names, strict=True))
    for digest, name in zip(pictures.content_hashes(other.pixels), other.names, strict=True):
        if digest in known:
            raise LisaeError(
                f"{name} ({is_other}) holds the same picture as {known[digest]} ({is_one}); "
                f"remove it from one of the two folders"
            )


def _split_folder(
    found: pictures.Decoded, config: Config, *, stream: int, with_test: bool = False
) -> tuple[Parts, np.ndarray]:
    """Parts of a folder; copies of one picture stay together."""
    _, same = np.unique(pictures.content_hashes(found.pixels), return_inverse=True)
    return split_side(
        found.pixels, config.data, seed=config.seed, stream=stream, groups=same,
        with_test=with_test,
    )  # fmt: skip


def _refuse_few(count: int, minimum: int, what: str, folder: str) -> None:
    if count < minimum:
        raise LisaeError(
            f"{folder} holds {count} usable {what} picture{'s' * (count != 1)}; training needs "
            f"at least {minimum}"
        )


def _folder_training(config: Config, skip_bad: bool) -> TrainingData:
    normal = _folder(config.normal_dir, config, skip_bad)
    _refuse_few(len(normal.pixels), MIN_NORMAL, "normal", config.normal_dir)
    notes = [f"left out: {reason}" for reason in normal.bad.values()]
    normal_parts, _ = _split_folder(normal, config, stream=0, with_test=True)
    negative_parts = None
    if config.negative_dir:
        negative = _folder(config.negative_dir, config, skip_bad)
        _refuse_few(len(negative.pixels), MIN_NEGATIVE, "negative", config.negative_dir)
        _refuse_overlap(normal, "normal", negative, "negative")
        notes += [f"left out: {reason}" for reason in negative.bad.values()]
        negative_parts, _ = _split_folder(negative, config, stream=1)
    elif config.negatives in GENERATED:
        shape = normal.pixels.shape[1:]
        pixels = match_polarity(_generated(config.negatives, shape, config), normal.pixels)
        negative_parts, _ = split_side(pixels, config.data, seed=config.seed, stream=1)
    elif config.negatives != "none":
        raise LisaeError(
            f"your own folders take --negative-dir or --negatives {'|'.join(GENERATED)}|none, "
            f"not '{config.negatives}'"
        )
    return TrainingData(normal_parts, negative_parts, notes=tuple(notes))


def load_training(
    config: Config, data_dir: Path | None = None, *, skip_bad: bool = False
) -> TrainingData:
    """Everything that training may see.

    Raises:
        LisaeError: missing data, unreadable pictures, too few of them, or forbidden negatives.
    """
    if config.dataset == FOLDER:
        return _folder_training(config, skip_bad)
    dataset, task, negatives = open_task(config, data_dir)
    normal, grouped = _held_out_of_dataset(dataset, task.normal, config, stream=0)
    notes = []
    if config.dataset == "svhn_cropped" and not grouped:
        notes.append("SVHN ids name no photograph here: normals are held out at random")
    if negatives is None:
        return TrainingData(normal, None, notes=tuple(notes))
    negative, more = _negatives(negatives, normal.fit, config, data_dir)
    augmented = negatives.source in _AUGMENTED
    return TrainingData(normal, negative, augmented, (*notes, *more))


def load_test(config: Config, data_dir: Path | None = None, *, skip_bad: bool = False) -> TestData:
    """The normal and anomalous test pictures of the task; for evaluation alone.

    Raises:
        LisaeError: missing data, or anomalies that are also normal or negative pictures.
    """
    if config.dataset == FOLDER:
        normal = _folder(config.normal_dir, config, skip_bad)
        _, test = _split_folder(normal, config, stream=0, with_test=True)
        pixels, labels, anomalies = normal.pixels[test], [normal.names[i] for i in test], 0
        if config.anomaly_dir:
            anomaly = _folder(config.anomaly_dir, config, skip_bad)
            _refuse_overlap(normal, "normal", anomaly, "anomaly")
            if config.negative_dir:
                negative = _folder(config.negative_dir, config, skip_bad)
                _refuse_overlap(negative, "negative", anomaly, "anomaly")
            pixels = np.concatenate([pixels, anomaly.pixels])
            labels += anomaly.names
            anomalies = len(anomaly.names)
        return TestData(pixels, np.arange(len(pixels)) >= len(pixels) - anomalies, labels)
    dataset, task, _ = open_task(config, data_dir)
    size, channels = resolve_shape(config, dataset)
    images = dataset.read("test", (*task.normal, *task.anomaly), size, channels)
    labels = [dataset.class_names[label] for label in images.labels]
    return TestData(images.pixels, np.isin(images.labels, task.anomaly), labels)
