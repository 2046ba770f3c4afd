"""Which pictures of a folder stay in one part: copies, near copies, and those that share a name.

Frames of one video, or photographs of one part, on both sides of a split make its test too good.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lisae_tf.core.errors import LisaeError
from lisae_tf.data import checks
from lisae_tf.data.manifest import NORMAL
from lisae_tf.data.picture_files import few
from lisae_tf.data.pictures import Decoded, content_hashes
from lisae_tf.data.stored import Pictures

# Near copies that join more than this share of a set, or leave fewer groups, are pictures under a
# fixed camera that look alike: they cannot be held apart so.
LARGEST, FEWEST = 0.25, 8
MOST_COMPARED = 10_000  # pictures without names, each with each: seconds


@dataclass(frozen=True)
class Groups:
    """Of the pictures of one folder.

    Attributes:
        numbers: int (N,), the same within a group.
        names: of each picture's group, "" of one that no name and no near copy puts into one.
        by_name: whether a pattern made them, so that a name means the same in another folder.
        near: whether near copies were put together.
        notes: what the user should know.
    """

    numbers: np.ndarray
    names: list[str]
    by_name: bool
    near: bool
    notes: list[str]


def named(paths: Sequence[str], pattern: str, what: str, remedy: str | None = None) -> list[str]:
    """The group of each picture by its path: the pattern's first group, else all that it matches.

    Args:
        paths: below the folder, with "/".
        pattern: a regular expression, sought anywhere in the path.
        what: the set that the pictures are of.
        remedy: what to do about paths that it does not match; another pattern by default.

    Raises:
        LisaeError: paths that it does not match.
    """
    remedy = remedy or f"write '{pattern}|.*' to let each of them stand alone"
    found = [re.search(pattern, path) for path in paths]
    if missed := [path for path, match in zip(paths, found, strict=True) if match is None]:
        files = "files do" if len(missed) > 1 else "file does"
        raise LisaeError(
            f"{len(missed)} {what} {files} not match --group-by '{pattern}': {few(missed)}; "
            f"{remedy}"
        )
    return [_name_of(match) for match in found if match]


def _name_of(match: re.Match[str]) -> str:
    return (match.groups() and match[1]) or match[0]


def group(
    found: Decoded, paths: Sequence[str], pattern: str | None, what: str, remedy: str | None = None
) -> Groups:
    """The groups of a folder's pictures: by name where a pattern is given, else by near copies.

    Exact copies stay together in any case.

    Args:
        found: the pictures.
        paths: of each below its folder, with "/".
        pattern: see `named`.
        what: the set that the pictures are of.
        remedy: see `named`.

    Raises:
        LisaeError: see `named`.
    """
    # Numbers are ranks of contents: a folder without near copies is divided as it always was.
    copies = np.unique(content_hashes(found.pixels), return_inverse=True)[1]
    if pattern is not None:
        by_name = named(paths, pattern, what, remedy)
        joined = _joined(copies, np.unique(by_name, return_inverse=True)[1])
        return Groups(_lowest(joined, copies), by_name, True, False, remarks(by_name, what, True))
    joined = _near(copies, found.pixels)
    if joined is None:
        note = (
            f"many {what} pictures are near copies of one another (one scene, or parts that look "
            "alike to the camera), so only exact copies are kept in one part; if several show one "
            "part, name it with --group-by"
        )
        return Groups(copies, [""] * len(paths), False, False, [note])
    sizes = np.bincount(joined)
    firsts = np.unique(joined, return_index=True)[1]
    names = [paths[firsts[k]] if sizes[k] > 1 else "" for k in joined]
    return Groups(_lowest(joined, copies), names, False, True, remarks(names, what, False))


def first_rows(samples: np.ndarray) -> np.ndarray:
    """The first row of the group that each sample is in, int (N,): for arrays, which have no names.

    Args:
        samples: feature rows (N, m), of which exact copies are a group; or pictures, uint8
            (N, H, W, C), of which near copies are one as well, as in `group`, unless there are more
            than `MOST_COMPARED`.
    """
    _, first, copies = np.unique(content_hashes(samples), return_index=True, return_inverse=True)
    near = samples.ndim == 4 and 0 < len(samples) <= MOST_COMPARED
    joined = _near(copies, samples) if near else None
    return first[copies] if joined is None else _lowest(joined, first[copies])


def names_in_test(
    found: Decoded, paths: Sequence[str], pattern: str | None, what: str
) -> list[str]:
    """The group of each picture of a given test, "" of one that stands alone.

    Args:
        found: the pictures.
        paths: of each below its folder, with "/"; those that the pattern misses stand alone.
        pattern: see `named`; near copies are a group without one.
        what: the set that the pictures are of.
    """
    if pattern is None:
        return group(found, paths, None, what).names
    matches = [re.search(pattern, path) for path in paths]
    return [_name_of(match) if match else "" for match in matches]


def count_groups(pixels: Pictures, names: Sequence[str]) -> int:
    """How many groups pictures are of: exact copies, and those of one name; "" is no name."""
    if not len(pixels):
        return 0
    by_name: dict[str, int] = {}
    own = [by_name.setdefault(name, row) if name else row for row, name in enumerate(names)]
    numbers = [np.unique(each, return_inverse=True)[1] for each in (content_hashes(pixels), own)]
    return int(_joined(*numbers).max()) + 1


def _near(copies: np.ndarray, pixels: np.ndarray) -> np.ndarray | None:
    """Numbers of copies and near copies, int (N,); None where those are pictures of one scene."""
    joined = _joined(copies, checks.near_groups(pixels))
    sizes = np.bincount(joined)
    alike = len(sizes) < FEWEST or sizes.max() > LARGEST * len(joined)
    return None if alike and len(sizes) < len(np.unique(copies)) else joined


def _joined(*labels: np.ndarray) -> np.ndarray:
    """Numbers from 0 on, int (N,): pictures that share a label of any kind share one."""
    count = len(labels[0])
    found = [np.unique(each, return_index=True, return_inverse=True) for each in labels]
    firsts = [first[number] for _, first, number in found]
    rows, columns = np.tile(np.arange(count), len(labels)), np.concatenate(firsts)
    edges = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    return connected_components(edges, directed=False)[1]


def _lowest(joined: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The lowest rank in the group of each picture, int (N,)."""
    lowest = np.full(joined.max(initial=-1) + 1, len(joined))
    np.minimum.at(lowest, joined, ranks)
    return lowest[joined]


def remarks(names: Sequence[str], what: str, by_name: bool) -> list[str]:
    """One sentence on the pictures in groups, if there are any.

    Args:
        names: see `Groups`.
        what: the set that the pictures are of.
        by_name: whether a pattern made the groups.
    """
    sizes = [size for name, size in Counter(names).items() if name and size > 1]
    if not sizes:
        return []
    kind = "by name (--group-by)" if by_name else "of copies and near copies"
    count = sum(sizes)
    return [
        f"{count} {what} pictures are in {len(sizes)} group{'s' * (len(sizes) > 1)} {kind}, each "
        "kept in one part" + ", where it counts once for the threshold" * (what == NORMAL)
    ]
