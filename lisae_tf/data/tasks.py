"""From settings to arrays: D⁺ and D⁻ with their held-out parts, and, apart from them, the test.

`load_training` reads nothing of the test; `load_test` is called by evaluation alone.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lisae_tf.config.settings import FOLDER, Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import folders, manifest
from lisae_tf.data.augmentation import background_is_bright, draw
from lisae_tf.data.datasets import Dataset, Images, open_dataset
from lisae_tf.data.folder_tasks import ignoring, read_test_masks, test_of, training_of
from lisae_tf.data.folders import FOLDER_SIZE
from lisae_tf.data.manifest import Manifest
from lisae_tf.data.masks import Masks
from lisae_tf.data.opened_folders import Folders
from lisae_tf.data.parts import Parts, TestData, TrainingData, mirrored, split_side
from lisae_tf.data.protocols import (
    GENERATED,
    Negatives,
    Task,
    base_name,
    make_negatives,
    make_task,
    synthetic_generators,
)

# Drawn sets: ink and paper are brought to the polarity of the normal pictures.
_DRAWN = ("omniglot", *GENERATED)
# Small sets that the paper diversifies by augmentation (section 5.1).
_AUGMENTED = ("omniglot",)


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


def _negatives(
    negatives: Negatives, normal_parts: Parts, config: Config, data_dir: Path | None
) -> tuple[Parts, list[str]]:
    """D⁻ in the size and channels of the normal pictures."""
    notes: list[str] = []
    normal = normal_parts.fit
    if names := synthetic_generators(negatives.source):
        from lisae_tf.data.synthetic import synthetic_negatives

        return synthetic_negatives(names, normal_parts, config.seed), notes
    if negatives.source in GENERATED:
        parts, _ = split_side(
            draw(negatives.source, normal.shape[1:], config.seed),
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
        if base_name(negatives.source) == "svhn_cropped" and not grouped:
            notes.append("SVHN ids name no photograph here: negatives are held out at random")
    if _other_polarity(negatives.source, parts.fit, normal):
        parts = Parts(255 - parts.fit, 255 - parts.stopping, 255 - parts.calibration)
    if negatives.made:
        from lisae_tf.data.synthetic import joined

        parts = joined(parts, negatives.made, normal_parts, config.seed)
    return parts, notes


def _other_polarity(source: str, drawn: np.ndarray, normal: np.ndarray) -> bool:
    drawn_set = base_name(source) in _DRAWN
    return drawn_set and background_is_bright(drawn) != background_is_bright(normal)


def read_like(
    source: str, classes: Sequence[int], normal: np.ndarray, data_dir: Path | None
) -> np.ndarray:
    """Training pictures of some classes of a set, as negatives of these normal ones would be.

    Args:
        source: name of the set.
        classes: of that set.
        normal: uint8 (N, H, W, C); gives size, channels and polarity.
        data_dir: folder of TensorFlow Datasets.

    Returns:
        uint8 (M, H, W, C).
    """
    height, width, channels = normal.shape[1:]
    found = open_dataset(source, data_dir).read("train", classes, (height, width), channels).pixels
    return 255 - found if _other_polarity(source, found, normal) else found


class TaskData:
    """The data of a task, opened once: what training may see, the test, and the run's list.

    Args:
        config: settings.
        data_dir: of TensorFlow Datasets.
        skip_bad: whether unreadable pictures of folders are left out.
        kept: the pictures of an earlier run, which keep their parts; of folders alone.
        ignored: which regions of all pictures do not count, bool (H, W), instead of what the
            settings name.
    """

    def __init__(
        self,
        config: Config,
        data_dir: Path | None = None,
        *,
        skip_bad: bool = False,
        kept: Manifest | None = None,
        ignored: np.ndarray | None = None,
    ):
        config = folders.here(config)
        self._config, self._data_dir, self._ignored = config, data_dir, ignored
        own = config.dataset == FOLDER
        self._folders = Folders(config, skip_bad=skip_bad, kept=kept) if own else None

    @property
    def since(self) -> list[str]:
        """What has become of the earlier run's pictures, as far as folders were opened."""
        return self._folders.since if self._folders else []

    def training(self) -> TrainingData:
        """Everything that training may see.

        Raises:
            LisaeError: missing data, unreadable pictures, too few of them, forbidden negatives, a
                mask that says nothing of what does not count.
        """
        if self._folders:
            data = ignoring(training_of(self._folders), self._folders, self._ignored)
        else:
            data = _load_named_training(self._config, self._data_dir)
        return mirrored(data) if self._config.data.mirror else data

    def test(self) -> TestData:
        """The normal and anomalous test pictures of the task; for evaluation alone.

        Raises:
            LisaeError: missing data, or anomalies that are also normal or negative pictures.
        """
        if self._folders:
            return test_of(self._folders)
        dataset, task, _ = open_task(self._config, self._data_dir)
        size, channels = resolve_shape(self._config, dataset)
        images = dataset.read("test", (*task.normal, *task.anomaly), size, channels)
        labels = [dataset.class_names[label] for label in images.labels]
        return TestData(images.pixels, np.isin(images.labels, task.anomaly), labels)

    def manifest(self) -> Manifest | None:
        """The list of pictures that a run keeps; None of named data, which has versions."""
        return self._folders.manifest() if self._folders else None


def reopen(
    run: Path,
    config: Config,
    data_dir: Path | None = None,
    *,
    skip_bad: bool = False,
) -> TaskData:
    """The data of a completed run, each picture in the part that it had.

    Args:
        run: its folder.
        config: its settings.
        data_dir: of TensorFlow Datasets.
        skip_bad: whether unreadable pictures of folders are left out.

    Raises:
        LisaeError: its list of pictures is damaged, or a folder is gone.
    """
    folders.refuse_missing(folders.here(config), run)
    kept = manifest.read(run)
    # What does not count is in the run, which leaves it out by itself.
    config = config.model_copy(update={"ignore_mask": None})
    opened = TaskData(config, data_dir, skip_bad=skip_bad, kept=kept)
    if kept is None and config.dataset == FOLDER:
        opened.since.append(
            f"{run} was made by a version that kept no list of its pictures: whether they are "
            "still the same, and were not trained on, cannot be told"
        )
    return opened


def load_training(
    config: Config, data_dir: Path | None = None, *, skip_bad: bool = False
) -> TrainingData:
    """Everything that training may see; see `TaskData.training`."""
    return TaskData(config, data_dir, skip_bad=skip_bad).training()


def _load_named_training(config: Config, data_dir: Path | None) -> TrainingData:
    dataset, task, negatives = open_task(config, data_dir)
    normal, grouped = _held_out_of_dataset(dataset, task.normal, config, stream=0)
    notes = []
    if base_name(config.dataset) == "svhn_cropped" and not grouped:
        notes.append("SVHN ids name no photograph here: normals are held out at random")
    if negatives is None:
        return TrainingData(normal, None, notes=tuple(notes))
    negative, more = _negatives(negatives, normal, config, data_dir)
    augmented = base_name(negatives.source) in _AUGMENTED
    return TrainingData(normal, negative, augmented, (*notes, *more))


def load_test(config: Config, data_dir: Path | None = None, *, skip_bad: bool = False) -> TestData:
    """The test pictures of the task, for evaluation alone; see `TaskData.test`."""
    return TaskData(config, data_dir, skip_bad=skip_bad).test()


def load_masks(config: Config, test: TestData) -> Masks | None:
    """What masks say of the anomalies of a test; for evaluation alone.

    Args:
        config: its settings.
        test: from `load_test`.

    Returns:
        Rows are the anomalies of the test; None where the settings name no masks.

    Raises:
        LisaeError: masks that do not belong to the anomalies.
    """
    anomalies = [test.labels[row] for row in np.flatnonzero(test.is_anomaly)]
    return read_test_masks(folders.here(config), anomalies)
