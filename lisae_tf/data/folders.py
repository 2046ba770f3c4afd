"""The user's own folders of pictures: in which size and channels they are read, what is refused.

What is read becomes sets with parts in `opened_folders`.
"""

import contextlib
from pathlib import Path

import numpy as np

from lisae_tf.config.settings import FOLDER, Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import checks, levels, masks, picture_files, pictures
from lisae_tf.data.layout import PictureSet, refuse_empty_kinds, test_sets
from lisae_tf.data.roots import folders_of, here

FOLDER_SIZE = (64, 64)
FEATURES_SIDE, STEP = 256, 32  # pixels: the longer side of pictures for features, and its steps
MIN_NORMAL, MIN_NEGATIVE = 20, 10
MIN_ADDED = 4  # normal pictures that a run is continued with: one for each part


def size_of(config: Config) -> tuple[int, int]:
    """(H, W) that pictures of folders get."""
    return tuple(config.data.size or FOLDER_SIZE)


def read_set(
    found: PictureSet, config: Config, skip_bad: bool, option: str = "--mask-dir"
) -> pictures.Decoded:
    """One folder's pictures in the size and channels of the settings.

    Args:
        found: the folder.
        config: settings.
        skip_bad: whether unreadable pictures are left out.
        option: that takes masks of these pictures.

    Raises:
        LisaeError: no or unreadable pictures, or one that looks like a mask of another.
    """
    files = found.files()
    for mask, picture in masks.lookalikes(files):
        raise LisaeError(masks.lookalike_sentence(mask, picture, option))
    return pictures.decode_all(
        files, size_of(config), config.data.channels or 3, depth=config.data.depth,
        skip_bad=skip_bad, in_file=config.features is not None,
    )  # fmt: skip


def settle_folder_channels(config: Config, *, settled: bool = False) -> Config:
    """What of size, channels and depth is not set, by the normal pictures; put into the settings.

    Grey if every readable one is grey, else RGB. 64x64 pixels; for features, see `_own_size`. The
    depth is one for all, for a divisor of each picture's own would change how bright it is.

    Args:
        config: settings.
        settled: whether they are a run's own, which may be older than the setting of the depth.

    Raises:
        LisaeError: a folder is missing or empty, before any picture is read.
    """
    if config.dataset != FOLDER:
        return config
    near = here(config)
    # A run that is continued has its own copy of the mask.
    mask = [near.ignore_mask] if near.ignore_mask and not settled else []
    picture_files.refuse_missing(map(Path, [*folders_of(near), *mask]))
    test_sets(near.test_dir, near.anomaly_dir)
    for folder in filter(None, (near.negative_dir, *near.known_dirs)):
        refuse_empty_kinds(Path(folder))
    if config.data.channels and config.data.size and (config.data.depth or settled):
        return config
    files = (path for d in near.normal_dirs for path in picture_files.find(Path(d)))
    found = {}
    for path in files:
        with contextlib.suppress(pictures.BadPicture):  # decoding names it
            found[path] = pictures.header(path)
    headers = list(found.values())
    deep = [path for path, header in found.items() if header.deep]
    depth = config.data.depth or pictures.depth_in_use(deep)
    channels = config.data.channels or (1 if all(each.grey for each in headers) else 3)
    size = config.data.size or list(_own_size(headers) if config.features else FOLDER_SIZE)
    data = config.data.model_copy(update={"channels": channels, "size": size, "depth": depth})
    return config.model_copy(update={"data": data})


def _own_size(headers: list[pictures.Header]) -> tuple[int, int]:
    """(H, W) for features: the usual proportions, the longer side `FEATURES_SIDE`."""
    if not headers:
        return FEATURES_SIDE, FEATURES_SIDE
    height, width = (
        float(np.median([getattr(each, side) for each in headers])) for side in ("height", "width")
    )
    scale = FEATURES_SIDE / max(height, width)
    # Whole steps of the coarsest tap, and at least two of them.
    rounded = (STEP * max(2, round(scale * side / STEP)) for side in (height, width))
    return tuple(rounded)


def refuse_overlap(
    one: pictures.Decoded, is_one: str, other: pictures.Decoded, is_other: str
) -> list[str]:
    """Raises on a picture that lies in both sets; returns what near copies are to be noted."""
    found = checks.leaks(one, other)
    for pair in found:
        if pair.exact:
            raise LisaeError(
                f"{pair.other} ({is_other}) holds the same picture as {pair.one} ({is_one}); "
                f"remove it from one of the two folders"
            )
    return checks.leak_remarks(found, is_one, is_other)


def remarks(found: pictures.Decoded, what: str, depth: int | None) -> list[str]:
    """What the user should know of a set: files left out, what is lost, constant ones, copies."""
    said = [f"left out: {reason}" for reason in found.bad.values()]
    said += levels.depth_remarks(what, found.names, found.headers, depth)
    said += checks.size_remarks(what, found, found.pixels.shape[1:3])
    return said + checks.set_remarks(what, checks.check_set(found))


def refuse_few(count: int, minimum: int, what: str, folder: str) -> None:
    """Raises unless there are enough pictures."""
    if count < minimum:
        raise LisaeError(
            f"{folder} holds {count} usable {what} picture{'s' * (count != 1)}; training needs "
            f"at least {minimum}"
        )
