"""`data check`: a dry run over the user's folders, with everything that training would do to them.

Reads every file once at the size that training would use; memory grows by that size alone.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from lisae_tf.config.settings import Config
from lisae_tf.config.tiling import tiling_of
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import checks, levels, masks, picture_files, pictures
from lisae_tf.data.folder_tasks import read_negative_masks, read_test_masks
from lisae_tf.data.folders import MIN_NEGATIVE, MIN_NORMAL, here, settle_folder_channels
from lisae_tf.data.layout import PictureSet, kind_of, test_sets
from lisae_tf.data.levels import FULL_DEPTH
from lisae_tf.data.opened_folders import MIN_KNOWN, NEGATIVE_STREAM, divided, normal_stream

TEST = "normal test"  # the name of that set
STRETCHED = 1.1  # sides scaled more unequally than this are mentioned


@dataclass(frozen=True)
class SetReport:
    """One folder."""

    folder: str
    files: int
    usable: int
    kinds: dict[str, int]  # "640x480 RGB" (upright width x height, mode) -> readable files
    treatment: dict[str, str]  # the same kinds -> what training does to them
    unreadable: dict[str, str]  # file -> reason
    constant: list[str]
    copies: list[checks.Pair]
    others: list[str]  # left out: by name no pictures
    by_kind: dict[str, int]  # usable pictures by their first folder below this one, "" at its top
    masks: dict[str, str]  # files that look like masks of others -> these


@dataclass(frozen=True)
class LeakReport:
    """Pictures that lie in two folders."""

    one: str  # of the names of the sets
    other: str
    pairs: list[checks.Pair]


@dataclass(frozen=True)
class DataReport:
    """What `data check` found."""

    size: tuple[int, int]  # height, width that pictures are brought to
    channels: int
    tiles: dict | None  # side of a tile, stride, and grid (rows, columns) in a picture
    ignored_share: float | None  # of each picture, that does not count
    sets: dict[str, SetReport]  # by normal, normal (2) and so on, negative, normal test, anomaly
    leaks: list[LeakReport]
    errors: list[str]  # training would stop at these
    warnings: list[str]  # training would go on and say these

    def as_json(self) -> dict:
        """Plain dictionaries and lists."""
        return asdict(self)


def treatment(
    header: pictures.Header, size: tuple[int, int], channels: int, depth: int | None = None
) -> str:
    """What decoding does to a picture of this kind, in words."""
    height, width = size
    done = ["turned upright (EXIF)"] if header.turned else []
    if (header.height, header.width) != size:
        stretch = checks.stretch(header, size)
        larger = " (enlarged)" if height > header.height or width > header.width else ""
        done.append(f"resized to {width}x{height}{larger}")
        if stretch > STRETCHED:
            done.append(f"stretched {stretch:.2f} times")
    if header.deep:
        used = f"{depth} of " if depth and depth < FULL_DEPTH else ""
        done.append(f"{used}16 bits to 8")
    if header.cut:
        done.append("upper 8 of 16 bits")
    if header.clear:
        done.append("transparency laid over white")
    if header.grey and channels == 3:
        done.append("grey repeated to RGB")
    elif not header.grey and channels == 1:
        done.append("colour turned to grey")
    elif header.mode[:3] != "RGB" and channels == 3:
        done.append("turned to RGB")
    return ", ".join(done) or "as it is"


def _report(folder: PictureSet, size: tuple[int, int], channels: int, depth: int | None):
    files = folder.files()
    decoded = pictures.decode_all(files, size, channels, depth=depth, skip_bad=True, in_file=True)
    kinds: Counter[str] = Counter()
    treatments = {}
    for header in decoded.headers:
        kind = f"{header.width}x{header.height} {header.mode}{' (turned)' * header.turned}"
        kinds[kind] += 1
        treatments[kind] = treatment(header, size, channels, depth)
    found = checks.check_set(decoded)
    report = SetReport(
        str(folder.root), len(files), len(decoded.names), dict(kinds.most_common()), treatments,
        decoded.bad, found.constant, found.copies, [str(path) for path in folder.others()],
        dict(Counter(kind_of(Path(name), folder.root) for name in decoded.names)),
        {str(mask): str(picture) for mask, picture in masks.lookalikes(files)},
    )  # fmt: skip
    return decoded, found, report


def _tiles(config: Config) -> dict | None:
    if config.data.tile is None:
        return None
    tiling = tiling_of(config.data, config.data.channels)
    return {"side": tiling.tile, "stride": tiling.stride, "grid": tiling.grid}


@dataclass(frozen=True)
class _Needs:
    """What training needs of a folder, and how it divides it."""

    folder: PictureSet
    minimum: int
    stream: int | None = None  # of the random numbers that hold parts of it apart
    with_test: bool = False
    mask_option: str = "--mask-dir"


def _folders(config: Config) -> dict[str, _Needs]:
    """The folders of the settings by the names of their sets.

    Raises:
        LisaeError: a test that is not laid out as it must be.
    """
    given, anomaly = test_sets(config.test_dir, config.anomaly_dir)
    found = {}
    for k, path in enumerate(config.normal_dirs):
        name = "normal" if k == 0 else f"normal ({k + 1})"
        folder = PictureSet(Path(path))
        found[name] = _Needs(folder, MIN_NORMAL, normal_stream(k), with_test=given is None)
    if config.negative_dir:
        folder = PictureSet(Path(config.negative_dir))
        found["negative"] = _Needs(
            folder, MIN_NEGATIVE, NEGATIVE_STREAM, mask_option="--negative-mask-dir"
        )
    for k, path in enumerate(config.known_dirs):
        name = "known" if k == 0 else f"known ({k + 1})"
        found[name] = _Needs(PictureSet(Path(path)), MIN_KNOWN)
    if given:
        found[TEST] = _Needs(given, 1)
    if anomaly:
        found["anomaly"] = _Needs(anomaly, 1)
    return found


def _check_masks(
    config: Config, decoded: dict[str, pictures.Decoded], errors: list[str], warnings: list[str]
) -> None:
    """Reads masks as training would; adds to what it finds."""
    for name, read in (("negative", read_negative_masks), ("anomaly", read_test_masks)):
        if name not in decoded:
            continue
        try:
            found = read(config, decoded[name].names)
        except LisaeError as error:
            errors.append(str(error))
        else:
            warnings += found.notes if found else ()


def _check_ignored(
    config: Config, decoded: dict[str, pictures.Decoded], errors: list[str], warnings: list[str]
) -> float | None:
    """The share of each picture that does not count, where a mask says so; likewise."""
    normals = [found for name, found in decoded.items() if name.partition(" (")[0] == "normal"]
    headers = [header for found in normals for header in found.headers]
    if not config.ignore_mask or not headers:
        return None
    try:
        ignored, notes = masks.read_ignored(
            Path(config.ignore_mask), headers, tuple(config.data.size), config.ignore_mask_sha256
        )
    except LisaeError as error:
        errors.append(str(error))
        return None
    warnings += notes
    return float(ignored.mean())


def check(config: Config, *, skip_bad: bool = False) -> DataReport:
    """Looks at the folders of the settings.

    Args:
        config: with normal_dir and, where there are such, the other folders.
        skip_bad: unreadable files are warnings, as they are with `train --skip-bad`.

    Raises:
        LisaeError: a folder is missing, holds no picture or is not laid out as it must be.
    """
    config = here(settle_folder_channels(config))
    size, channels = tuple(config.data.size), config.data.channels
    decoded, sets, errors, warnings = {}, {}, [], []
    for name, needs in _folders(config).items():
        decoded[name], found, report = _report(needs.folder, size, channels, config.data.depth)
        sets[name] = report
        if report.unreadable:
            count = len(report.unreadable)
            line = f"{count} {name} file{'s' * (count > 1)} of {report.files} cannot be read"
            (warnings if skip_bad else errors).append(line)
        if report.masks:
            mask, picture = next(iter(report.masks.items()))
            more = f" (and {len(report.masks) - 1} more)" if len(report.masks) > 1 else ""
            errors.append(masks.lookalike_sentence(mask, picture, needs.mask_option) + more)
        if report.usable < needs.minimum:
            errors.append(
                f"{report.usable} usable {name} picture{'s' * (report.usable != 1)}; training "
                f"needs at least {needs.minimum}"
            )
        elif needs.stream is not None:
            try:
                parts = divided(
                    decoded[name], needs.folder.root, config, needs.stream, name,
                    with_test=needs.with_test,
                )  # fmt: skip
                warnings += parts.notes
            except LisaeError as error:
                errors.append(f"{name}: {error}")
        warnings += picture_files.remark(report.others, name)
        warnings += levels.depth_remarks(
            name, decoded[name].names, decoded[name].headers, config.data.depth
        )
        warnings += checks.size_remarks(name, decoded[name], size, STRETCHED)
        warnings += checks.set_remarks(name, found)
    _check_masks(config, decoded, errors, warnings)
    ignored_share = _check_ignored(config, decoded, errors, warnings)
    leaks = []
    for one, other in combinations(decoded, 2):
        pairs = checks.leaks(decoded[one], decoded[other])
        if not pairs:
            continue
        leaks.append(LeakReport(one, other, pairs))
        exact = [f"{pair.other} = {pair.one}" for pair in pairs if pair.exact]
        if other == TEST and one.startswith("normal"):
            warnings += checks.known_remarks(pairs)
        elif exact:
            lie = "pictures lie" if len(exact) > 1 else "picture lies"
            errors.append(
                f"{len(exact)} {other} {lie} among the {one} ones: {picture_files.few(exact)}"
            )
        warnings += checks.leak_remarks(pairs, one, other)
    known = {
        pair.other
        for leak in leaks
        if leak.other == TEST and leak.one.startswith("normal")
        for pair in leak.pairs
        if pair.exact
    }
    if known and len(known) == sets[TEST].usable:
        errors.append("all normal test pictures lie among the normal ones; give others")
    if config.negative_dir is None and config.negatives == "none":
        warnings.append("there are no negatives; the variants ae, kde and their like need none")
    return DataReport(
        size, channels, _tiles(config), ignored_share, sets, leaks, errors, warnings
    )  # fmt: skip
