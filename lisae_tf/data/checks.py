"""What may be wrong with decoded pictures before training: copies, leaks, constant ones.

Knows no folders and no settings; pictures are compared as training will see them.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import NearestNeighbors

from lisae_tf.core.arrays import batches
from lisae_tf.data.levels import Header
from lisae_tf.data.picture_files import few
from lisae_tf.data.pictures import Decoded, content_hashes
from lisae_tf.data.stored import Pictures

# Two pictures are near copies if their grey thumbnails, brought to one brightness, differ by less
# than this, in levels of 255 (root mean square): another JPEG quality, size or exposure does not
# reach it, another part under the same camera hardly ever does. (Hashes of differences cannot tell
# parts under one camera apart.)
NEAR_LEVELS = 1.5
BRIGHTER = 1.2  # how many times a near copy may be brighter, where nothing else differs
THUMBNAIL = 16
BLOCK = 500  # pictures that are compared with all others at a time
SHRUNK = 4  # pictures that get smaller than this many times, in each direction, are named
STRETCHED = 1.5  # likewise, scaled more unequally than this
CONSTANT_LEVELS = 2  # a picture whose values span no more is constant


@dataclass(frozen=True)
class Pair:
    """Two pictures that are copies of each other, by name."""

    one: str
    other: str
    exact: bool  # the same pixels; else near copies


@dataclass(frozen=True)
class SetChecks:
    """What was found inside one set."""

    constant: list[str]
    copies: list[Pair]  # each later copy with the picture it repeats


def thumbnails(pixels: Pictures) -> np.ndarray:
    """uint8 (N, H, W, C) -> grey float32 (N, 256), in levels of 255."""
    side = (THUMBNAIL, THUMBNAIL)
    small = np.empty((len(pixels), THUMBNAIL * THUMBNAIL), np.float32)
    for row, picture in zip(small, pixels, strict=True):
        grey = Image.fromarray(picture.mean(axis=2, dtype=np.float32))
        row[:] = np.asarray(grey.resize(side, Image.Resampling.BOX)).ravel()
    return small


def _is_constant(pictures: Pictures) -> np.ndarray:
    return np.concatenate([np.empty(0, bool), *map(_constant_ones, batches(pictures))])


def _constant_ones(pixels: np.ndarray) -> np.ndarray:
    def within(some: np.ndarray) -> np.ndarray:
        span = some.max(axis=(1, 2)).astype(int) - some.min(axis=(1, 2))
        return (span <= CONSTANT_LEVELS).all(axis=1)

    found = within(pixels[:, ::8, ::8])  # a few pixels clear nearly all
    found[found] = within(pixels[found])
    return found


def _evened(small: np.ndarray, level: float) -> list[np.ndarray]:
    """Thumbnails without their brightness, taken away and divided out; it is a value of its own.

    Near copies are less than `NEAR_LEVELS * THUMBNAIL` apart in one of the two: a sum over 16 x 16
    pixels, not a mean.
    """
    mean = np.maximum(small.mean(axis=1, keepdims=True), 1)
    brightness = np.log(mean) * (NEAR_LEVELS * THUMBNAIL / np.log(BRIGHTER))
    return [np.hstack([shape, brightness]) for shape in (small - mean, small * (level / mean))]


def _near(queries: np.ndarray, known: np.ndarray, *, same_set: bool) -> list[tuple[int, int]]:
    """(index of a query, index of its nearest known picture) where they are near copies."""
    wanted = 2 if same_set else 1
    if len(queries) == 0 or len(known) < wanted:
        return []
    level, best = float(known.mean()), {}
    views = zip(_evened(queries, level), _evened(known, level), strict=True)
    for sought, given in views:
        search = NearestNeighbors(n_neighbors=wanted, algorithm="brute").fit(given)
        distances, nearest = search.kneighbors(sought)
        for index, row in enumerate(zip(nearest, distances, strict=True)):
            others = [pair for pair in zip(*row, strict=True) if not same_set or pair[0] != index]
            if others and others[0][1] < best.get(index, (0, NEAR_LEVELS * THUMBNAIL))[1]:
                best[index] = int(others[0][0]), others[0][1]
    return [(index, other) for index, (other, _) in sorted(best.items())]


def near_groups(pixels: Pictures) -> np.ndarray:
    """A number for each picture, int (N,): the same for those that near copies join.

    A constant picture stands alone.
    """
    numbers = np.arange(len(pixels))
    kept = np.flatnonzero(~_is_constant(pixels))
    if len(kept) < 2:
        return numbers
    small = thumbnails(pixels[kept])
    views, group = _evened(small, float(small.mean())), np.arange(len(kept))
    for start in range(0, len(kept), BLOCK):  # pictures that are all alike have very many pairs
        rows = slice(start, start + BLOCK)
        near = [euclidean_distances(view[rows], view) < NEAR_LEVELS * THUMBNAIL for view in views]
        ones, others = np.nonzero(np.logical_or(*near))
        firsts = np.unique(group, return_index=True)[1][group]
        ends = np.hstack([ones + start, np.arange(len(kept))]), np.hstack([others, firsts])
        edges = coo_matrix((np.ones(len(ends[0]), bool), ends), shape=(len(kept), len(kept)))
        count, group = connected_components(edges, directed=False)
        if count == 1:
            break
    first = {}
    for row, number in zip(kept, group, strict=True):
        numbers[row] = first.setdefault(number, row)
    return numbers


def check_set(pictures: Decoded) -> SetChecks:
    """Constant pictures, exact copies and near copies inside one set."""
    constant = _is_constant(pictures.pixels)
    by_digest = defaultdict(list)
    for index, digest in enumerate(content_hashes(pictures.pixels)):
        by_digest[digest].append(index)
    names = pictures.names
    copies = [
        Pair(names[first], names[later], exact=True)
        for first, *rest in by_digest.values()
        for later in rest
    ]
    # Exact copies are named once; all constant pictures are near each other.
    kept = np.array([group[0] for group in by_digest.values() if not constant[group[0]]], int)
    small = thumbnails(pictures.pixels[kept])
    pairs = {tuple(sorted(pair)) for pair in _near(small, small, same_set=True)}
    copies += [Pair(names[kept[a]], names[kept[b]], exact=False) for a, b in sorted(pairs)]
    return SetChecks([names[index] for index in np.flatnonzero(constant)], copies)


def leaks(one: Decoded, other: Decoded) -> list[Pair]:
    """Pictures of `other` that are also in `one`, exactly or nearly; exact ones first."""
    known = dict(zip(content_hashes(one.pixels), one.names, strict=True))
    digests = content_hashes(other.pixels)
    exact = [
        Pair(known[digest], name, exact=True)
        for digest, name in zip(digests, other.names, strict=True)
        if digest in known
    ]
    sought = np.array([digest not in known for digest in digests], bool)
    sought &= ~_is_constant(other.pixels)
    left, right = np.flatnonzero(~_is_constant(one.pixels)), np.flatnonzero(sought)
    near = _near(thumbnails(other.pixels[right]), thumbnails(one.pixels[left]), same_set=False)
    return exact + [Pair(one.names[left[b]], other.names[right[a]], exact=False) for a, b in near]


def set_remarks(what: str, found: SetChecks) -> list[str]:
    """One sentence for each kind of finding inside a set; none where all is well."""
    said = []
    if found.constant:
        count = len(found.constant)
        said.append(
            f"{count} {what} picture{'s are' if count > 1 else ' is'} of one colour: "
            f"{few(found.constant)}"
        )
    for exact, kind in ((True, "exact"), (False, "near")):
        pairs = [f"{pair.other} = {pair.one}" for pair in found.copies if pair.exact == exact]
        if pairs:
            copies = "copies" if len(pairs) > 1 else "copy"
            said.append(f"{len(pairs)} {kind} {copies} among the {what} pictures: {few(pairs)}")
    return said


def size_remarks(
    what: str, found: Decoded, size: tuple[int, int], stretched: float = STRETCHED
) -> list[str]:
    """One sentence on each way in which the size that pictures get changes them much.

    Args:
        what: the set.
        found: its pictures.
        size: (height, width) that they get.
        stretched: how unequally scaled sides are named.
    """
    said, (height, width) = [], size
    shapes = Counter((header.height, header.width) for header in found.headers)
    for (own_height, own_width), _ in shapes.most_common(1):
        shrunk = math.sqrt(own_height / height * own_width / width)
        if shrunk > SHRUNK:
            said.append(
                f"{what} pictures of {own_width}x{own_height} become {width}x{height} (width x "
                f"height): flaws of less than about {shrunk:.0f} pixels vanish; if yours are that "
                "small, cut pictures into tiles (--tile, --input-size)"
            )
    stretches = [stretch(header, size) for header in found.headers]
    much = [each for each in stretches if each > stretched]
    if much:
        change = "pictures change their" if len(much) > 1 else "picture changes its"
        said.append(
            f"{len(much)} {what} {change} proportions, up to {max(much):.1f} times; a data.size "
            "like theirs keeps them"
        )
    return said


def stretch(header: Header, size: tuple[int, int]) -> float:
    """How many times more a picture is scaled in one direction than in the other: 1 and more."""
    ratio = (size[0] / header.height) / (size[1] / header.width)
    return max(ratio, 1 / ratio)


def known_remarks(pairs: list[Pair]) -> list[str]:
    """One sentence on normal test pictures that training has as well, if there are any."""
    exact = [f"{pair.other} = {pair.one}" for pair in pairs if pair.exact]
    if not exact:
        return []
    lie = "pictures lie" if len(exact) > 1 else "picture lies"
    are = "are" if len(exact) > 1 else "is"
    return [
        f"{len(exact)} normal test {lie} among the normal ones and {are} left out of the test: "
        f"{few(exact)}"
    ]


def leak_remarks(pairs: list[Pair], is_one: str, is_other: str) -> list[str]:
    """One sentence on near copies across two sets, if there are any."""
    near = [f"{pair.other} = {pair.one}" for pair in pairs if not pair.exact]
    if not near:
        return []
    are = "pictures are near copies" if len(near) > 1 else "picture is a near copy"
    return [f"{len(near)} {is_other} {are} of {is_one} ones: {few(near)}"]
