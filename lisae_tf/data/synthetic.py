"""Negatives made from the normal pictures alone, where no others are at hand (section 3.2).

Every generator is vectorised over a batch and stateless: the same seed gives the same pictures.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from lisae_tf.data.augmentation import random_strokes, split_seed
from lisae_tf.data.parts import Parts
from lisae_tf.data.pipelines import augmented_bank

GRID = 4  # patches along each side that are shuffled
PASTED_SHARE = (0.2, 0.5)  # of each side of the picture
STRETCH_POINTS, STRETCH_SHARE = 4, 0.15  # of a side; knots of the field, and how far it moves
COPIES = 2  # of each normal picture, each changed anew
_LARGE = 64  # pictures that are changed at a time
CHANGED = 4  # levels, beyond which a pixel counts as changed
# Of a flaw: half its length, as a share of the shorter side; its strength; how much darker or
# brighter it is, in levels; and how many a picture gets at most.
FLAW_HALF, FLAW_BLEND, FLAW_TONE, MOST_FLAWS = (0.02, 0.09), (0.5, 1.0), (15.0, 85.0), 3


def _grid(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Row and column number of each pixel, float32 (1, H, W)."""
    height, width = images.shape[1:3]
    rows, columns = tf.meshgrid(
        tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32), indexing="ij"
    )
    return rows[None], columns[None]


def _sample(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Pixels at fractional places, bilinear, the border repeated.

    Args:
        images: float32 (N, H, W, C).
        rows: float32 (N, H, W), where each pixel comes from.
        columns: likewise.
    """
    height, width = images.shape[1:3]
    rows = tf.clip_by_value(rows, 0, height - 1.0)
    columns = tf.clip_by_value(columns, 0, width - 1.0)
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]

    def at(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        row = tf.cast(tf.minimum(row, height - 1.0), tf.int32)
        column = tf.cast(tf.minimum(column, width - 1.0), tf.int32)
        return tf.gather_nd(images, tf.stack([row, column], -1), batch_dims=1)

    above = at(top, left) * (1 - right) + at(top, left + 1) * right
    below = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return above * (1 - down) + below * down


def cutpaste(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A rectangle of another normal picture, from another place, pasted over each picture."""
    count = tf.shape(images)[0]
    height, width = images.shape[1:3]
    size_seed, place_seed, source_seed = split_seed(seed, 3)
    rows, columns = _grid(images)

    def uniform(seed: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        drawn = tf.random.stateless_uniform((count, 2), seed, low, high)
        return drawn * tf.constant([height, width], tf.float32)

    size = uniform(size_seed, *PASTED_SHARE)
    place = uniform(place_seed) * (1 - size / tf.constant([height, width], tf.float32))
    shift = tf.round(uniform(source_seed))

    def part(k: int) -> tf.Tensor:
        return tf.reshape(k, (-1, 1, 1))

    inside = (
        (rows >= part(place[:, 0])) & (rows < part(place[:, 0] + size[:, 0]))
        & (columns >= part(place[:, 1])) & (columns < part(place[:, 1] + size[:, 1]))
    )  # fmt: skip
    other = tf.roll(images, 1, axis=0)
    moved = _sample(
        other,
        tf.math.floormod(rows + part(shift[:, 0]), float(height)),
        tf.math.floormod(columns + part(shift[:, 1]), float(width)),
    )
    return tf.where(inside[..., None], moved, images)


def shuffle(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Each picture cut into `GRID` x `GRID` patches in random order."""
    count = tf.shape(images)[0]
    height, width = images.shape[1:3]
    rows, columns = _grid(images)
    row_of, row_in = tf.floor(rows * GRID / height), tf.math.floormod(rows * GRID / height, 1.0)
    col_of, col_in = tf.floor(columns * GRID / width), tf.math.floormod(columns * GRID / width, 1.0)
    order = tf.argsort(tf.random.stateless_uniform((count, GRID * GRID), seed), axis=1)
    patch = tf.cast(row_of * GRID + col_of, tf.int32)[0]
    source = tf.cast(tf.gather(order, patch, axis=1), tf.float32)  # (N, H, W)
    source_row, source_col = tf.floor(source / GRID), tf.math.floormod(source, float(GRID))
    return _sample(
        images,
        tf.floor((source_row + row_in) * height / GRID + 1e-3),
        tf.floor((source_col + col_in) * width / GRID + 1e-3),
    )


def rotate(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Turned by 90, 180 or 270 degrees; pictures that are not square by 180."""
    if images.shape[1] != images.shape[2]:
        return tf.reverse(images, [1, 2])
    turns = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed, 0, 3, tf.int32)
    quarter, half, three = (tf.image.rot90(images, k) for k in (1, 2, 3))
    return tf.where(turns == 0, quarter, tf.where(turns == 1, half, three))


def flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrored left to right or upside down."""
    heads = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed) < 0.5
    return tf.where(heads, tf.reverse(images, [1]), tf.reverse(images, [2]))


def elastic(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Bent by a smooth random field of displacements."""
    count = tf.shape(images)[0]
    height, width = images.shape[1:3]
    knots = tf.random.stateless_normal((count, STRETCH_POINTS, STRETCH_POINTS, 2), seed)
    field = tf.image.resize(knots, (height, width), "bicubic") * STRETCH_SHARE
    rows, columns = _grid(images)
    return _sample(images, rows + field[..., 0] * height, columns + field[..., 1] * width)


def frequency(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Random phases in Fourier space: the same spectrum, another arrangement."""
    strength_seed, phase_seed = split_seed(seed, 2)
    planes = tf.transpose(images, (0, 3, 1, 2))
    spectrum = tf.signal.rfft2d(planes)
    shape = tf.shape(spectrum)
    strength = tf.random.stateless_uniform((shape[0], 1, 1, 1), strength_seed, 0.25, 1.0)
    phase = tf.random.stateless_uniform((shape[0], 1, shape[2], shape[3]), phase_seed, -1.0, 1.0)
    turned = spectrum * tf.exp(tf.complex(0.0, math.pi * strength * phase))
    # The mean keeps its sign, and with it the picture its brightness.
    turned = tf.concat([spectrum[..., :1], turned[..., 1:]], axis=-1)
    back = tf.signal.irfft2d(turned, images.shape[1:3])
    return tf.transpose(back, (0, 2, 3, 1))


def strokes(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Random strokes over each picture, dark or bright."""
    draw_seed, ink_seed = split_seed(seed, 2)
    count = tf.shape(images)[0]
    drawn = random_strokes(count, (*images.shape[1:3], 1), draw_seed)
    cover = tf.cast(drawn, tf.float32) / 255
    ink = tf.random.stateless_uniform((count, 1, 1, images.shape[3]), ink_seed, 0, 255)
    return images * (1 - cover) + ink * cover


def interpolation(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Between two normal pictures in a latent space, each latent unit at a point of its own.

    The latent space is the linear one: the principal components of the batch. No network is
    trained yet when negatives are made, and LinSep needs them in phase 1 already. Where a picture
    has no other beside it, or a copy of itself, there is nothing between: it is bent instead.
    """
    shape, count = tf.shape(images), tf.shape(images)[0]
    pixels = tf.reshape(images / 255, (count, -1))
    mean = tf.reduce_mean(pixels, axis=0)
    centred = pixels - mean
    # Codes (N, N), a row for each picture, up to the scale of each component.
    codes = tf.linalg.eigh(tf.matmul(centred, centred, transpose_b=True))[1]
    components = tf.matmul(codes, centred, transpose_a=True)
    share = tf.random.stateless_uniform(tf.shape(codes), seed)
    between = share * codes + (1 - share) * tf.roll(codes, 1, axis=0)
    made = tf.reshape(255 * (mean + tf.matmul(between, components)), shape)
    alone = tf.reduce_max(tf.abs(made - images), axis=[1, 2, 3], keepdims=True) < 1
    return tf.where(alone, elastic(images, seed), made)


def _pick(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Pixels (N, h, w, C) at whole places: rows and columns, float32 (N, h, w)."""
    places = tf.cast(tf.stack([rows, columns], -1), tf.int32)
    return tf.gather_nd(images, places, batch_dims=1)


def _flaw(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """One flaw in each picture: a blotch, a bar or a scratch, of some other look, blended in."""
    count, channels = tf.shape(images)[0], images.shape[3]
    height, width = images.shape[1:3]
    short = float(min(height, width))
    seeds = iter(split_seed(seed, 18))  # one for each draw below

    def uniform(low: float, high: float) -> tf.Tensor:
        return tf.random.stateless_uniform((count, 1, 1), next(seeds), low, high)

    # A window around its middle, which holds all of it; the rest stays as it is.
    longest = short * FLAW_HALF[1]
    sides = [min(side, 2 * math.ceil(1.8 * longest + 4)) for side in (height, width)]
    middle = [uniform(0, side) for side in (height, width)]
    places = [
        tf.clip_by_value(tf.floor(m) - side // 2, 0, float(whole - side)) + line
        for m, side, whole, line in zip(
            middle, sides, (height, width),
            (tf.range(float(sides[0]))[None, :, None], tf.range(float(sides[1]))[None, None, :]),
            strict=True,
        )
    ]  # fmt: skip
    rows, columns = (place + tf.zeros((count, *sides)) for place in places)

    # Coordinates along and across it.
    down, right = rows - middle[0], columns - middle[1]
    turn = uniform(0, math.pi)
    along = right * tf.cos(turn) + down * tf.sin(turn)
    across = down * tf.cos(turn) - right * tf.sin(turn)
    half = short * tf.exp(uniform(*map(math.log, FLAW_HALF)))
    slim, bend, edge = uniform(0, 1), uniform(-0.5, 0.5), uniform(1, 3)

    # How far inside each pixel is, in pixels, for each of three shapes.
    radius = tf.sqrt(tf.square(along) + tf.square(across / (0.4 + 0.6 * slim)))
    angle = tf.atan2(across, along)
    waves = [tf.cos(k * angle + uniform(0, 2 * math.pi)) / k for k in (2, 3, 5)]
    blotch = half * (1 + 0.25 * tf.add_n(waves)) - radius
    bar = tf.minimum(half - tf.abs(along), half * (0.05 + 0.3 * slim) + 0.5 - tf.abs(across))
    curve = bend * (tf.square(along) / half - half / 3)
    scratch = tf.minimum(
        1.5 * half - tf.abs(along), 0.75 + 0.008 * short * slim - tf.abs(across - curve)
    )
    shape = uniform(0, 3)
    inside = tf.where(shape < 1, blotch, tf.where(shape < 2, bar, scratch))
    cover = (tf.clip_by_value(inside / edge + 0.5, 0, 1) * uniform(*FLAW_BLEND))[..., None]

    # What it shows: a piece of another picture, such a piece in another tone, or its own ground so.
    own = _pick(images, rows, columns)
    moved = _pick(
        tf.roll(images, 1, axis=0),
        tf.math.floormod(rows + tf.floor(uniform(0, height)), float(height)),
        tf.math.floormod(columns + tf.floor(uniform(0, width)), float(width)),
    )
    darker = tf.where(uniform(-1, 1) < 0, -1.0, 1.0)[..., None]
    tone = darker * uniform(*FLAW_TONE)[..., None]
    tint = 15 * tf.random.stateless_normal((count, 1, 1, channels), next(seeds))
    look = uniform(0, 3)[..., None]
    shown = tf.where(look < 1, moved, tf.where(look < 2, moved, own) + tone + tint)
    number = tf.range(tf.cast(count, tf.float32))[:, None, None] + tf.zeros_like(rows)
    there = tf.cast(tf.stack([number, rows, columns], -1), tf.int32)
    return tf.tensor_scatter_nd_update(images, there, own * (1 - cover) + shown * cover)


def flaws(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """One to three small flaws in each picture: blotches, bars and scratches, dark and bright."""
    *seeds, number_seed = split_seed(seed, MOST_FLAWS + 1)
    shape = (tf.shape(images)[0], 1, 1, 1)
    number = tf.random.stateless_uniform(shape, number_seed, 1, MOST_FLAWS + 1, tf.int32)
    changed = images
    for k, own in enumerate(seeds):
        changed = tf.where(k < number, tf.clip_by_value(_flaw(changed, own), 0, 255), changed)
    return changed


# By the names of `protocols.SYNTHETIC`.
GENERATORS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "cutpaste": cutpaste,
    "shuffle": shuffle,
    "rotate": rotate,
    "flip": flip,
    "elastic": elastic,
    "frequency": frequency,
    "strokes": strokes,
    "interpolation": interpolation,
    "flaws": flaws,
}


def combined(names: Sequence[str]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """One function of several generators, each for an equal share of the pictures.

    Takes and gives uint8 (N, H, W, C), and a seed int32 (2,).
    """
    generators = [GENERATORS[name] for name in names]

    def change(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        seeds = split_seed(seed, len(generators))
        parts = []
        for k, generator in enumerate(generators):
            own = tf.cast(images[k :: len(generators)], tf.float32)
            parts.append(tf.ensure_shape(generator(own, seeds[k]), own.shape))
        changed = tf.concat(parts, axis=0)
        return tf.cast(tf.clip_by_value(tf.round(changed), 0, 255), tf.uint8)

    return change


def made_of(
    names: Sequence[str], normal: np.ndarray, seed: int, copies: int = COPIES
) -> np.ndarray:
    """Some negatives of each normal picture.

    Args:
        names: of generators.
        normal: uint8 (N, H, W, C).
        seed: same seed, same pictures.
        copies: of each.

    Returns:
        uint8 (copies · N, H, W, C).
    """
    return augmented_bank(normal, copies, combined(names), seed=seed)


def changed_pixels(made: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Where a generator changed a picture: uint8 (N, H, W, C) each -> bool (N, H, W)."""
    gap = np.maximum(made, original) - np.minimum(made, original)
    return (gap > CHANGED).any(axis=3)


def made_with_masks(
    names: Sequence[str], normal: Parts, seed: int, most: int
) -> tuple[Parts, Parts]:
    """A few negatives of each part of the normal pictures, and where each was changed.

    Args:
        names: of generators.
        normal: uint8 (N, H, W, C) each.
        seed: of the run.
        most: pictures of the fit part; of the others as many in proportion.

    Returns:
        uint8 (M, H, W, C) and bool (M, H, W) each.
    """
    share = min(1.0, most / len(normal.fit))
    made, masks = [], []
    for part, pixels in enumerate((normal.fit, normal.stopping, normal.calibration)):
        count = max(2, math.ceil(share * len(pixels)))
        generator = np.random.default_rng([seed, part])
        chosen = generator.permutation(np.resize(np.arange(len(pixels)), count))
        source = np.asarray(pixels[chosen])
        made.append(np.empty_like(source))
        before = np.empty_like(source)
        # A few large pictures at a time, eagerly: so many draws take longer to trace than to run.
        for start in range(0, count, _LARGE):
            rows = slice(start, start + _LARGE)
            own = tf.constant([seed + part, start], tf.int32)
            made[-1][rows] = combined(names)(tf.constant(source[rows]), own).numpy()
            # Several generators put their shares one behind the other.
            shares = [source[rows][k :: len(names)] for k in range(len(names))]
            before[rows] = np.concatenate(shares)
        masks.append(changed_pixels(made[-1], before))
    return Parts(*made), Parts(*masks)


def synthetic_negatives(names: Sequence[str], normal: Parts, seed: int) -> Parts:
    """Negatives of each part of the normal pictures; the parts stay disjoint.

    Args:
        names: of generators.
        normal: uint8 (N, H, W, C) each.
        seed: of the run.
    """
    sides = (normal.fit, normal.stopping, normal.calibration)
    return Parts(*(made_of(names, pixels, seed + part) for part, pixels in enumerate(sides)))


def joined(real: Parts, names: Sequence[str], normal: Parts, seed: int) -> Parts:
    """Negatives of their own and as many again made of the normal pictures, part by part.

    Args:
        real: uint8 (M, H, W, C) each.
        names: of generators.
        normal: uint8 (N, H, W, C) each.
        seed: of the run.

    Returns:
        uint8 (2 · M, H, W, C) each.
    """

    def both(part: int, pixels: np.ndarray, source: np.ndarray) -> np.ndarray:
        made = made_of(names, source, seed + part, -(-len(pixels) // len(source)))
        order = np.random.default_rng([seed, part]).permutation(len(made))
        return np.concatenate([pixels, made[order[: len(pixels)]]])

    sides = (real.fit, real.stopping, real.calibration)
    sources = (normal.fit, normal.stopping, normal.calibration)
    return Parts(*map(both, range(3), sides, sources))
