"""The user's own folders of pictures as training data and test."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lisae_tf.config import FOLDER, Config
from lisae_tf.data import checks, picture_files, pictures
from lisae_tf.data.drawings import draw, match_polarity
from lisae_tf.data.parts import Parts, TestData, TrainingData, side_indices, split_side
from lisae_tf.data.protocols import GENERATED, synthetic_generators
from lisae_tf.errors import LisaeError

FOLDER_SIZE = (64, 64)
MIN_NORMAL, MIN_NEGATIVE = 20, 10
NEGATIVE_STREAM = 1  # of the random numbers that divide the pictures


def normal_stream(number: int) -> int:
    """The stream of a folder of normal pictures, by its place among them."""
    return number + (number >= NEGATIVE_STREAM)


def _read(path: str, config: Config, skip_bad: bool) -> pictures.Decoded:
    """One folder's pictures in the size and channels of the settings."""
    found = picture_files.find(Path(path))
    size = tuple(config.data.size or FOLDER_SIZE)
    return pictures.decode_all(found, size, config.data.channels or 3, skip_bad=skip_bad)


def settle_folder_channels(config: Config) -> Config:
    """Grey if every readable normal picture is grey, else RGB; written into the settings.

    Raises:
        LisaeError: a folder is missing or empty, before any picture is read.
    """
    if config.dataset != FOLDER:
        return config
    others = filter(None, (config.negative_dir, config.anomaly_dir))
    picture_files.refuse_missing(map(Path, (*config.normal_dirs, *others)))
    if config.data.channels:
        return config

    def grey(path: Path) -> bool:
        try:
            return pictures.header(path).grey
        except pictures.BadPicture:
            return True  # decoding names it

    files = (path for d in config.normal_dirs for path in picture_files.find(Path(d)))
    channels = 1 if all(map(grey, files)) else 3
    data = config.data.model_copy(
        update={"channels": channels, "size": config.data.size or list(FOLDER_SIZE)}
    )
    return config.model_copy(update={"data": data})


def _refuse_overlap(
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


def _split_folder(
    found: pictures.Decoded, config: Config, stream: int, *, with_test: bool = False
) -> tuple[Parts, np.ndarray]:
    """Parts of a folder; copies of one picture stay together."""
    return split_side(
        found.pixels, config.data, seed=config.seed, stream=stream, groups=_copies(found),
        with_test=with_test,
    )  # fmt: skip


def _copies(found: pictures.Decoded) -> np.ndarray:
    """A number for each picture, the same for copies."""
    return np.unique(pictures.content_hashes(found.pixels), return_inverse=True)[1]


def refuse_indivisible(
    found: pictures.Decoded, config: Config, stream: int, *, with_test: bool
) -> None:
    """What training would refuse when it holds parts of a folder apart; makes none.

    Raises:
        LisaeError: too few pictures that are not copies.
    """
    count, copies = len(found.pixels), _copies(found)
    seed = config.seed
    side_indices(count, config.data, seed=seed, stream=stream, groups=copies, with_test=with_test)


@dataclass(frozen=True)
class _NormalFolder:
    """One folder of normal pictures and which of them are held out for what."""

    found: pictures.Decoded
    parts: Parts
    test: np.ndarray  # indices


def _normals(config: Config, skip_bad: bool) -> list[_NormalFolder]:
    """Each folder of normal pictures with parts of its own.

    A folder is divided alike whatever folders follow it: what was held out stays held out when
    more pictures become normal.
    """
    sides: list[_NormalFolder] = []
    for number, folder in enumerate(config.normal_dirs):
        found = _read(folder, config, skip_bad)
        _refuse_few(len(found.pixels), MIN_NORMAL, "normal", folder)
        parts = _split_folder(found, config, normal_stream(number), with_test=True)
        sides.append(_NormalFolder(found, *parts))
    return sides


def _remarks(found: pictures.Decoded, what: str) -> list[str]:
    left_out = [f"left out: {reason}" for reason in found.bad.values()]
    return left_out + checks.set_remarks(what, checks.check_set(found))


def _remarks_on_others(folders: list[str], what: str) -> list[str]:
    found = (path for folder in folders for path in picture_files.others(Path(folder)))
    return picture_files.remark(found, what)


def _refuse_few(count: int, minimum: int, what: str, folder: str) -> None:
    if count < minimum:
        raise LisaeError(
            f"{folder} holds {count} usable {what} picture{'s' * (count != 1)}; training needs "
            f"at least {minimum}"
        )


def load_folder_training(config: Config, *, skip_bad: bool) -> TrainingData:
    """Everything that training may see of the user's folders.

    Raises:
        LisaeError: missing folders, unreadable or too few pictures, or overlapping folders.
    """
    normals = _normals(config, skip_bad)
    notes = _remarks_on_others(config.normal_dirs, "normal")
    notes += [remark for side in normals for remark in _remarks(side.found, "normal")]
    for k, side in enumerate(normals):
        for earlier in normals[:k]:
            notes += _refuse_overlap(earlier.found, "normal", side.found, "also normal")
    normal_parts = Parts(
        *(
            np.concatenate([getattr(side.parts, part) for side in normals])
            for part in ("fit", "stopping", "calibration")
        )
    )
    negative_parts = None
    if config.negative_dir:
        negative = _read(config.negative_dir, config, skip_bad)
        _refuse_few(len(negative.pixels), MIN_NEGATIVE, "negative", config.negative_dir)
        notes += _remarks_on_others([config.negative_dir], "negative")
        notes += _remarks(negative, "negative")
        for side in normals:
            notes += _refuse_overlap(side.found, "normal", negative, "negative")
        negative_parts, _ = _split_folder(negative, config, NEGATIVE_STREAM)
        if names := synthetic_generators(config.negatives):
            from lisae_tf.data.synthetic import joined

            negative_parts = joined(negative_parts, names, normal_parts, config.seed)
    elif config.negatives in GENERATED:
        shape = normal_parts.fit.shape[1:]
        pixels = match_polarity(draw(config.negatives, shape, config.seed), normal_parts.fit)
        negative_parts, _ = split_side(
            pixels, config.data, seed=config.seed, stream=NEGATIVE_STREAM
        )
    elif names := synthetic_generators(config.negatives):
        from lisae_tf.data.synthetic import synthetic_negatives

        negative_parts = synthetic_negatives(names, normal_parts, config.seed)
    elif config.negatives != "none":
        raise LisaeError(
            "your own folders take --negative-dir or --negatives "
            f"{'|'.join(GENERATED)}|synth:GENERATOR|none, not '{config.negatives}'"
        )
    return TrainingData(normal_parts, negative_parts, notes=tuple(notes))


def load_folder_test(config: Config, *, skip_bad: bool) -> TestData:
    """Held-out normal pictures and the anomalies, if there are any; for evaluation alone.

    Raises:
        LisaeError: anomalies that are also normal or negative pictures.
    """
    normals = _normals(config, skip_bad)
    pixels = np.concatenate([side.found.pixels[side.test] for side in normals])
    labels = [side.found.names[i] for side in normals for i in side.test]
    notes, anomalies = [], 0
    if config.anomaly_dir:
        anomaly = _read(config.anomaly_dir, config, skip_bad)
        notes = _remarks_on_others([config.anomaly_dir], "anomaly")
        notes += _remarks(anomaly, "anomaly")
        for side in normals:
            notes += _refuse_overlap(side.found, "normal", anomaly, "anomaly")
        if config.negative_dir:
            negative = _read(config.negative_dir, config, skip_bad)
            notes += _refuse_overlap(negative, "negative", anomaly, "anomaly")
        pixels = np.concatenate([pixels, anomaly.pixels])
        labels += anomaly.names
        anomalies = len(anomaly.names)
    is_anomaly = np.arange(len(pixels)) >= len(pixels) - anomalies
    counts = tuple(len(side.test) for side in normals)
    return TestData(pixels, is_anomaly, labels, tuple(notes), counts)
