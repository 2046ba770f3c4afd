"""Masks beside pictures: whose they are, what they mark, and masks that lie where they should not.

A mask shows in white on black where a picture is anomalous. It is named as its picture or with
`_mask` behind that (MVTec's way), and masks are laid out in folders as their pictures are.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import sha256
from lisae_tf.data import picture_files, pictures
from lisae_tf.data.checks import few
from lisae_tf.data.layout import kind_of
from lisae_tf.data.levels import Header, apart

PROPORTIONS = 0.02  # of a picture and its mask may differ by so much: rounded when scaled
BLACK = 0  # what a mask shows where it is transparent
WHITE = 127  # a mask marks what is above
_MASK = "_mask"
_ENDINGS = (_MASK, "_label", "_gt")  # of names that are seen in the field


@dataclass(frozen=True)
class Masks:
    """What masks say of a set of pictures."""

    marked: np.ndarray  # bool (N, H, W); False all over without a mask or with an empty one
    notes: tuple[str, ...] = ()  # what the user should know

    @property
    def known(self) -> np.ndarray:
        """Which pictures have a mask that marks something, bool (N,)."""
        return self.marked.any(axis=(1, 2))


def _stem(path: Path, root: Path) -> Path:
    return picture_files.below(path, root).with_suffix("")


def _assign(folder: Path, files: Sequence[Path], root: Path) -> dict[Path, Path]:
    """The mask below `folder` of each picture that has one, by the picture's path without ending.

    Raises:
        LisaeError: a mask of no picture, or two of one.
    """
    stems = {_stem(path, root) for path in files}
    found: dict[Path, Path] = {}
    foreign = []
    for mask in picture_files.find(folder):
        stem = _stem(mask, folder)
        if stem not in stems and stem.name.endswith(_MASK) and stem.name != _MASK:
            stem = stem.with_name(stem.name.removesuffix(_MASK))
        if stem not in stems:
            foreign.append(mask)
        elif stem in found:
            raise LisaeError(f"{found[stem]} and {mask} are masks of one picture; keep one of them")
        else:
            found[stem] = mask
    if foreign:
        more = f" (nor do {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise LisaeError(
            f"{foreign[0]} belongs to no picture in {root}{more}; give a mask the folder and name "
            f"of its picture, with or without {_MASK}, or remove it"
        )
    return found


def read_masks(
    folder: Path,
    chosen: Sequence[Path],
    files: Sequence[Path],
    root: Path,
    size: tuple[int, int],
    *,
    what: str,
    so: str,
) -> Masks:
    """The masks of some pictures: of every picture of a kind, or of none of it.

    Args:
        folder: of the masks, laid out as `root`; the ending may differ.
        chosen: the pictures whose masks are wanted.
        files: all pictures below `root`: each mask must belong to one.
        root: folder of the pictures.
        size: (H, W) of the result.
        what: the pictures are, for notes: "anomaly" or "negative".
        so: what is done with pictures whose masks say nothing, for notes.

    Returns:
        marked: bool (len(chosen), H, W).

    Raises:
        LisaeError: a mask is missing, unreadable, of other proportions, or of no picture.
    """
    found = _assign(folder, files, root)
    notes = picture_files.remark(picture_files.others(folder), "mask")
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for path in chosen:
        by_kind[kind_of(path, root)].append(path)
    for kind, paths in by_kind.items():
        without = [path for path in paths if _stem(path, root) not in found]
        if len(without) == len(paths):
            of = f" of the kind {kind}" if kind else ""
            notes.append(f"the {what} pictures{of} ({len(paths)}) have no masks; they {so}")
        elif without:
            stem = _stem(without[0], root)
            more = f" and {len(without) - 1} others" if len(without) > 1 else ""
            raise LisaeError(
                f"{folder} holds no mask {stem}.png or {stem}{_MASK}.png for {without[0]}{more}; "
                "add it, or remove the masks of all pictures of its kind"
            )
    marked = np.zeros((len(chosen), *size), bool)
    empty = []
    for row, picture in zip(marked, chosen, strict=True):
        mask = found.get(_stem(picture, root))
        if mask is not None:
            row[:] = _read(mask, picture, size)
            if not row.any():
                empty.append(str(mask))
    if empty:
        s = "s of {} pictures mark" if len(empty) > 1 else " of {} pictures marks"
        notes.append(
            f"{len(empty)} mask{s.format(what)} nothing (no pixel is above {WHITE} of 255); "
            f"pictures of such masks {so}: {few(empty)}"
        )
    return Masks(marked, tuple(notes))


def _read(path: Path, picture: Path, size: tuple[int, int]) -> np.ndarray:
    """One mask: bool (H, W)."""
    mask = pictures.decode(path, channels=1, background=BLACK)[..., 0]
    shape = pictures.decode(picture).shape[:2]
    _refuse_proportions(path, mask.shape, shape, str(picture), "the picture")
    # A thin defect must not fall between two pixels of a small map.
    return np.asarray(_white(mask).resize(size[::-1], Image.Resampling.BOX)) > 0


def _white(mask: np.ndarray) -> Image.Image:
    """What a mask marks, in white: uint8 (H, W) of any levels -> of two."""
    return Image.fromarray(np.where(mask > WHITE, 255, 0).astype(np.uint8))


def _refuse_proportions(
    path: Path, own: tuple[int, int], wanted: tuple[int, int], of: str, over: str
) -> None:
    """Raises where a mask, (H, W), cannot be drawn over what it is said to be of."""
    (own_height, own_width), (height, width) = own, wanted
    if apart(own, wanted) > PROPORTIONS:
        raise LisaeError(
            f"{path} is {own_width}x{own_height}, other proportions than the "
            f"{width}x{height} of {of}; draw the mask over {over}"
        )


def read_ignored(
    path: Path, headers: Sequence[Header], size: tuple[int, int], digest: str | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The mask of what does not count in any picture, at the size of the pictures.

    Args:
        path: of the mask, a picture of any size; white is what does not count.
        headers: of the normal pictures, whose proportions it must have.
        size: (H, W) that the pictures get.
        digest: the SHA-256 that the file must have, if any.

    Returns:
        bool (H, W); and what is to be noted of greys.

    Raises:
        LisaeError: it is missing, no picture, of other proportions, all black or all white, or
            another file than it was.
    """
    if path.is_dir():
        raise LisaeError(f"{path} is a folder; --ignore-mask takes one picture, white on black")
    if digest and path.is_file() and sha256(path) != digest:
        raise LisaeError(
            f"{path} has changed since it was named in the settings; put it back, or name it anew "
            "with --ignore-mask"
        )
    mask = pictures.decode(path, channels=1, background=BLACK)[..., 0]
    (usual, _), *_ = Counter((each.height, each.width) for each in headers).most_common(1)
    _refuse_proportions(path, mask.shape, usual, "the normal pictures", "one of them")
    ignored = _reached(mask > WHITE, usual, size)
    if ignored.all():
        raise LisaeError(
            f"{path} leaves nothing of the pictures; white is what does not count, black what does"
        )
    if not ignored.any():
        raise LisaeError(
            f"{path} marks nothing (no region is above {WHITE} of 255); draw what does not count "
            "in white, or leave --ignore-mask out"
        )
    greys = float(np.mean((mask > BLACK) & (mask < 255)))
    if not greys:
        return ignored, ()
    return ignored, (
        f"{100 * greys:.2g} % of {path} are grey: what is above {WHITE} of 255 is taken for white, "
        "which does not count",
    )


def _reached(marked: np.ndarray, usual: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The pixels of scaled pictures that show anything marked: bool (h, w) -> (H, W).

    Scaling mixes neighbours, so that a pixel beside the mark may hold some of it. The mask goes the
    way of a picture: first to the size that pictures have, then as `pictures.decode` scales them.
    """
    whole = Image.fromarray(marked.astype(np.float32))
    whole = whole.resize(usual[::-1], Image.Resampling.NEAREST)
    return np.asarray(whole.resize(size[::-1], Image.Resampling.BILINEAR)) > 0


def _two_valued(path: Path) -> bool:
    try:
        pixels = pictures.decode(path, background=BLACK)
    except pictures.BadPicture:  # named where all are decoded
        return False
    return bool(((pixels == pixels.min()) | (pixels == pixels.max())).all())


def lookalikes(files: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Files that look like masks of pictures beside them, each with that picture.

    Such a file is named as the picture, maybe with `_mask`, `_label` or `_gt` behind, and holds at
    most two values. Of two files of one name just one may; else nobody can tell which is the mask.
    Only files with such a partner are decoded.
    """
    named: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        named[path.with_suffix("")].append(path)
    for stem, paths in named.items():
        partners = (
            named.get(stem.with_name(stem.name[: -len(ending)]))
            for ending in _ENDINGS
            if stem.name.lower().endswith(ending) and len(stem.name) > len(ending)
        )
        partner = next(filter(None, partners), None)
        if partner is None and len(paths) == 1:
            continue
        flat = [path for path in paths if _two_valued(path)]
        if partner is not None:
            yield from ((path, partner[0]) for path in flat)
        elif len(flat) < len(paths):
            picture = next(path for path in paths if path not in flat)
            yield from ((path, picture) for path in flat)


def lookalike_sentence(mask: Path | str, picture: Path | str, option: str = "--mask-dir") -> str:
    """What is wrong with one and what to do."""
    return (
        f"{mask} looks like a mask of {picture}; move masks elsewhere and name their folder with "
        f"{option}"
    )
