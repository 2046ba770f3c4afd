"""The user's own folders of pictures: where they lie, how they are read, what is refused.

What is read becomes sets with parts in `opened_folders`.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lisae_tf.config.settings import FOLDER, Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import checks, levels, masks, picture_files, pictures
from lisae_tf.data.layout import PictureSet, refuse_empty_kinds, test_sets

FOLDERS = (
    "normal_dir", "negative_dir", "anomaly_dir", "test_dir", "mask_dir", "negative_mask_dir",
    "known_dir",
)  # fmt: skip
PATHS = (*FOLDERS, "ignore_mask")  # a run has a copy of what the last one says
FOLDER_SIZE = (64, 64)
FEATURES_SIDE, STEP = 256, 32  # pixels: the longer side of pictures for features, and its steps
MIN_NORMAL, MIN_NEGATIVE = 20, 10
MIN_ADDED = 4  # normal pictures that a run is continued with: one for each part


def folders_of(config: Config) -> list[str]:
    """All folders of pictures that the settings name."""
    lists = ("normal_dir", "known_dir")
    others = (getattr(config, name) for name in FOLDERS if name not in lists)
    return [*config.normal_dirs, *config.known_dirs, *filter(None, others)]


def _changed(config: Config, change: Callable[[str], str]) -> Config:
    found = {}
    for name in PATHS:
        given = getattr(config, name)
        if given:
            found[name] = change(given) if isinstance(given, str) else [change(f) for f in given]
    return config.model_copy(update=found)


def absolute(config: Config) -> Config:
    """The same with whole paths, as a run keeps them: it is found from any working folder."""
    return _changed(config, lambda folder: os.path.abspath(os.path.expanduser(folder)))


def here(config: Config) -> Config:
    """The same with what lies in the working folder named from there on: shorter in messages."""
    now = Path.cwd()

    def near(folder: str) -> str:
        path = Path(os.path.expanduser(folder))
        return str(path.relative_to(now) if path.is_relative_to(now) else path)

    return _changed(config, near)


def moved(config: Config, roots: Sequence[str]) -> Config:
    """The same with folders that have moved.

    Args:
        config: settings.
        roots: each "OLD=NEW": what lay in the folder OLD lies in NEW now.

    Raises:
        LisaeError: another form, or no folder lies in OLD.
    """
    for root in roots:
        old, equals, new = root.partition("=")
        if not (old and equals and new):
            raise LisaeError(f"--data-root {root}: write OLD=NEW, as in /data/old=/data/new")
        old, new = (os.path.abspath(os.path.expanduser(each)) for each in (old, new))
        config = absolute(config)
        known = [*folders_of(config), *filter(None, [config.ignore_mask])]
        if not any(Path(folder).is_relative_to(old) for folder in known):
            raise LisaeError(
                f"--data-root {root}: no folder of the run lies in {old}; it has "
                f"{', '.join(known) or 'none'}"
            )

        def change(folder: str, old: str = old, new: str = new) -> str:
            path = Path(folder)
            return str(Path(new) / path.relative_to(old)) if path.is_relative_to(old) else folder

        config = _changed(config, change)
    return config


def moved_back(config: Config, roots: Sequence[str]) -> Config:
    """What `moved` has made this of."""
    return moved(config, ["=".join(reversed(root.split("=", 1))) for root in reversed(roots)])


def refuse_missing(config: Config, run: Path) -> None:
    """Raises unless the folders of a completed run are there; says how they are named anew."""
    for folder in folders_of(config):
        if not os.path.exists(folder):
            raise LisaeError(
                f"the folder {folder} of the run {run} does not exist; put it back, or say where "
                f"it lies with --data-root {folder}=NEW"
            )


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
