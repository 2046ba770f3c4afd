"""Small flaws painted into normal pictures: negatives that differ at a few places alone.

Stateless, as all of `synthetic`: the same seed gives the same pictures.
"""

import math

import tensorflow as tf

from lisae_tf.data.augmentation import split_seed

# Of a flaw: half its length, as a share of the shorter side; its strength; how much darker or
# brighter it is, in levels; and how many a picture gets at most.
FLAW_HALF, FLAW_BLEND, FLAW_TONE, MOST_FLAWS = (0.02, 0.09), (0.5, 1.0), (15.0, 85.0), 3


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
