"""The registry of datasets: a name becomes pictures with class labels, part by part.

Owns reading, and the embedded photographs; what is normal is decided in `protocols`.
"""

import math
import os
import re
import socket
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from lisae_tf.core.errors import LisaeError
from lisae_tf.data import pictures
from lisae_tf.data.protocols import base_name

PATCH = 32
STRIDE = 8
PHOTOGRAPHS = {
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "moon": "moon.png",
    "cell": "cell.png",
    "coins": "coins.png",
    "page": "page.png",
    "immunohistochemistry": "ihc.png",
    "hubble_deep_field": "hubble_deep_field.jpg",
    "camera": "camera.png",
}
# Shares of a photograph's width, from left to right. Training and test alternate, because the
# two sides of a photograph differ (the camera man has the sky on the left).
BANDS = (
    ("train", 0.2),
    ("stopping", 0.1),
    ("train", 0.2),
    ("test", 0.1),
    ("calibration", 0.1),
    ("train", 0.2),
    ("test", 0.1),
)
MAX_PATCHES = 2000  # of one photograph in one part, so that the largest does not outweigh the rest
DATA_DIR_VARIABLE = "TFDS_DATA_DIR"


def photograph(name: str) -> np.ndarray:
    """One photograph as uint8 (H, W, 1).

    Raises:
        LisaeError: scikit-image is missing or does not carry it.
    """
    try:
        path = resources.files("skimage") / "data" / PHOTOGRAPHS[name]
    except ModuleNotFoundError as error:
        raise LisaeError(
            "the dataset 'surfaces' needs scikit-image; install it with pip"
        ) from error
    if not path.is_file():
        raise LisaeError(
            f"this scikit-image has no {PHOTOGRAPHS[name]}; install a version from 0.22 to 0.26"
        )
    return pictures.decode(Path(str(path)), channels=1)


def bands(width: int, part: str) -> list[tuple[int, int]]:
    """First column and the one past the last of each band of a part.

    A patch lies inside one band, so no pixel is in two parts.
    """
    edges = np.round(np.cumsum([0, *(share for _, share in BANDS)]) * width).astype(int)
    spans = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [span for (name, _), span in zip(BANDS, spans, strict=True) if name == part]


def patches(name: str, part: str) -> np.ndarray:
    """The patches of one part of a photograph, every eighth pixel, uint8 (N, 32, 32, 1)."""
    picture = photograph(name)[:, :, 0]
    cut = []
    for first, end in bands(picture.shape[1], part):
        windows = np.lib.stride_tricks.sliding_window_view(picture[:, first:end], (PATCH, PATCH))
        cut.append(windows[::STRIDE, ::STRIDE].reshape(-1, PATCH, PATCH, 1))
    found = np.concatenate(cut)
    kept = np.linspace(0, len(found) - 1, min(len(found), MAX_PATCHES)).astype(int)
    return found[kept]


class DecodedPictures:
    """The parts of datasets that were read last, each decoded as far as it was asked for.

    `limit` is in bytes, counted for whole parts; 0 keeps nothing.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._parts: OrderedDict[Hashable, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def pixels(
        self,
        key: Hashable,
        shape: tuple[int, ...],
        indices: np.ndarray,
        decode: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Some pictures of a part, a copy that the caller may change.

        Args:
            key: names the part and the size it is decoded to.
            shape: uint8 (N, H, W, C) of the whole part.
            indices: int (M,), which pictures.
            decode: gives uint8 (K, H, W, C) of some indices.

        Returns:
            uint8 (M, H, W, C).
        """
        if math.prod(shape) > self.limit:
            return decode(indices)
        if key not in self._parts:
            # Memory is taken as pictures are filled in.
            self._parts[key] = np.empty(shape, np.uint8), np.zeros(shape[0], bool)
        self._parts.move_to_end(key)
        while sum(pixels.nbytes for pixels, _ in self._parts.values()) > self.limit:
            self._parts.popitem(last=False)
        pixels, known = self._parts[key]
        missing = indices[~known[indices]]
        if len(missing):
            pixels[missing] = decode(missing)
            known[missing] = True
        return pixels[indices]


# A grid reads the same sets again and again and raises this limit; one run does not.
DECODED = DecodedPictures(limit=0)


@dataclass(frozen=True)
class Images:
    """Decoded pictures of some classes."""

    pixels: np.ndarray  # uint8 (N, H, W, C)
    labels: np.ndarray  # int64 (N,)
    groups: np.ndarray | None = None  # (N,); pictures of a group are held out together


@dataclass(frozen=True)
class Dataset:
    """A named set of labelled pictures.

    `read(part, classes, size, channels)` decodes one part: "train", "test", and, where the set
    fixes its own held-out parts, "stopping" and "calibration".
    """

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int] | None  # H, W, C; None where pictures differ in size
    read: Callable[[str, Sequence[int], tuple[int, int], int], Images]
    has_own_held_out: bool = False


def _surfaces(data_dir: Path | None) -> Dataset:
    names = tuple(PHOTOGRAPHS)

    def read(part: str, classes: Sequence[int], size: tuple[int, int], channels: int) -> Images:
        if (*size, channels) != (PATCH, PATCH, 1):
            raise LisaeError("the dataset 'surfaces' is 32x32 grey; leave data.size and channels")
        cut = [patches(names[label], part) for label in classes]
        labels = np.repeat(np.asarray(classes, np.int64), [len(piece) for piece in cut])
        return Images(np.concatenate(cut), labels)

    shape = (PATCH, PATCH, 1)
    return Dataset("surfaces", names, shape, read, has_own_held_out=True)


def _online() -> bool:
    """Whether a download has a chance; TFDS itself retries for minutes before it gives up."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    try:
        socket.create_connection(("storage.googleapis.com", 443), timeout=3).close()
    except OSError:
        return False
    return True


def _photo(example: dict) -> int:
    """The street photograph that an SVHN digit was cut from, where the id names it."""
    named = re.fullmatch(rb"[a-z]+_(\d+)_\d+", example["id"])
    return int(named.group(1)) if named else -1


# What must be held out together: digits of one photograph overlap; an alphabet is a kind.
_GROUPS: dict[str, Callable[[dict], int]] = {
    "svhn_cropped": _photo,
    "omniglot": lambda example: int(example["alphabet"]),
}


@cache
def _tfds_builder(name: str, data_dir: str | None):
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError) as error:
        raise LisaeError(
            f"there is no dataset called '{name}'; use 'surfaces', a TensorFlow Datasets name "
            "such as mnist, or your own folders with --normal-dir and --negative-dir"
        ) from error
    # TFDS also takes "MNIST"; one set under two names would escape the check of the negatives.
    if base_name(name) != builder.name:
        raise LisaeError(f"there is no dataset called '{name}'; write '{builder.name}'")
    if not builder.data_path.exists():
        place = data_dir or "the default TensorFlow Datasets folder"
        if not _online():
            raise LisaeError(
                f"the dataset '{name}' is not in {place} and there is no connection to download "
                f"it; name the folder that holds it with --data-dir or {DATA_DIR_VARIABLE}"
            )
        try:
            builder.download_and_prepare()
        except Exception as error:
            raise LisaeError(
                f"the dataset '{name}' could not be downloaded ({type(error).__name__}); prepare "
                f"it with TensorFlow Datasets and name its folder with --data-dir"
            ) from error
    features = builder.info.features
    wanted = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not isinstance(features, tfds.features.FeaturesDict) or not all(
        key in features and isinstance(features[key], kind) for key, kind in wanted.items()
    ):
        raise LisaeError(f"the dataset '{name}' is no image-classification set (image and label)")
    return builder


@cache
def _tfds_part(name: str, data_dir: str | None, part: str):
    """Encoded pictures, labels and groups of one split, in stored order."""
    import tensorflow_datasets as tfds

    builder = _tfds_builder(name, data_dir)
    if part not in builder.info.splits:
        raise LisaeError(
            f"the dataset '{name}' has no split '{part}'; it has {', '.join(builder.info.splits)}"
        )
    stored = builder.as_dataset(split=part, decoders={"image": tfds.decode.SkipDecoding()})
    group_of = _GROUPS.get(base_name(name))
    encoded, labels, groups = [], [], []
    for batch in stored.batch(1000).as_numpy_iterator():
        encoded += list(batch["image"])
        labels.append(batch["label"])
        if group_of:
            keys = [key for key in ("id", "alphabet") if key in batch]
            rows = zip(*(batch[key] for key in keys), strict=True)
            groups += [group_of(dict(zip(keys, row, strict=True))) for row in rows]
    known = group_of is not None and min(groups) >= 0
    return encoded, np.concatenate(labels), np.asarray(groups) if known else None


def _tfds(name: str, data_dir: Path | None) -> Dataset:
    folder = str(data_dir) if data_dir else os.environ.get(DATA_DIR_VARIABLE)
    features = _tfds_builder(name, folder).info.features
    dimensions = features["image"].shape
    shape = None if None in dimensions[:2] else (*dimensions[:2], 1 if dimensions[2] == 1 else 3)

    def read(part: str, classes: Sequence[int], size: tuple[int, int], channels: int) -> Images:
        encoded, labels, groups = _tfds_part(name, folder, part)
        kept = np.flatnonzero(np.isin(labels, classes))

        def decode(indices: np.ndarray) -> np.ndarray:
            names = [f"{name} {part} {index}" for index in indices]
            chosen = [encoded[index] for index in indices]
            return pictures.decode_all(chosen, size, channels, names=names).pixels

        key = (name, folder, part, size, channels)
        pixels = DECODED.pixels(key, (len(encoded), *size, channels), kept, decode)
        return Images(pixels, labels[kept], None if groups is None else groups[kept])

    return Dataset(name, tuple(features["label"].names), shape, read)


# Sets with a reader of their own; every other name is asked of TensorFlow Datasets.
DATASETS: dict[str, Callable[[Path | None], Dataset]] = {"surfaces": _surfaces}


def open_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """The dataset called `name`.

    Raises:
        LisaeError: no such set, or its data is neither here nor to be downloaded.
    """
    if name in DATASETS:
        return DATASETS[name](data_dir)
    return _tfds(name, data_dir)
