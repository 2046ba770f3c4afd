"""Random changes to negative pictures (section 5.1): blur, crop, flips, strokes; drawn negatives.

Vectorised over a batch and stateless: the same seed gives the same pictures, in `tf.data` too.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

CROP_SHARE = 0.15  # of the side, at most, on each edge
BLUR_SIGMA = 1.0  # pixels, at most
_BLUR_REACH = 2  # pixels on each side
GENERATED_COUNT = 10_000


def split_seed(seed: tf.Tensor, count: int) -> list[tf.Tensor]:
    """So many seeds of one: int32 (2,) each."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, count), num=count)


def _choose(seed: tf.Tensor, changed: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Each picture changed with probability one half."""
    count = tf.shape(images)[0]
    heads = tf.random.stateless_uniform((count, 1, 1, 1), seed) < 0.5
    return tf.where(heads, changed, images)


def random_flip_left_right(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors about half of the pictures; float32 (N, H, W, C) to the same."""
    return _choose(seed, tf.reverse(images, [2]), images)


def random_flip_up_down(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Turns about half of the pictures upside down."""
    return _choose(seed, tf.reverse(images, [1]), images)


def random_crop(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Cuts up to `CROP_SHARE` of the side off each edge and resizes back, bilinearly."""
    count, size = tf.shape(images)[0], tf.shape(images)[1:3]
    edges = tf.random.stateless_uniform((count, 4), seed, maxval=CROP_SHARE)
    boxes = tf.concat([edges[:, :2], 1 - edges[:, 2:]], axis=1)
    return tf.image.crop_and_resize(images, boxes, tf.range(count), size)


def random_gaussian_blur(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Blurs each picture with its own σ between 0 and `BLUR_SIGMA` pixels.

    The brightest pixel keeps its level, so that thin ink becomes broad and not faint.
    """
    count = tf.shape(images)[0]
    sigma = tf.random.stateless_uniform((count, 1), seed, minval=1e-3, maxval=BLUR_SIGMA)
    offsets = tf.range(-_BLUR_REACH, _BLUR_REACH + 1, dtype=tf.float32)
    kernel = tf.nn.softmax(-tf.square(offsets / sigma) / 2, axis=1)[:, :, None, None, None]
    reach, width = _BLUR_REACH, 2 * _BLUR_REACH + 1
    height, breadth = tf.shape(images)[1], tf.shape(images)[2]
    padded = tf.pad(images, [[0, 0], [reach, reach], [reach, reach], [0, 0]], "REFLECT")
    rows = tf.add_n([kernel[:, k] * padded[:, k : k + height] for k in range(width)])
    blurred = tf.add_n([kernel[:, k] * rows[:, :, k : k + breadth] for k in range(width)])
    peak = tf.reduce_max(images, [1, 2, 3], keepdims=True)
    return blurred * peak / tf.maximum(tf.reduce_max(blurred, [1, 2, 3], keepdims=True), 1.0)


AUGMENTATIONS: tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], ...] = (
    random_flip_left_right,
    random_flip_up_down,
    random_crop,
    random_gaussian_blur,
)


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """All of `AUGMENTATIONS`, one after the other.

    Args:
        images: uint8 (N, H, W, C).
        seed: int32 (2,).

    Returns:
        uint8 (N, H, W, C).
    """
    changed = tf.cast(images, tf.float32)
    for change, own_seed in zip(AUGMENTATIONS, split_seed(seed, len(AUGMENTATIONS)), strict=True):
        changed = change(changed, own_seed)
    changed = tf.ensure_shape(changed, images.shape)
    return tf.cast(tf.clip_by_value(tf.round(changed), 0, 255), tf.uint8)


def random_strokes(
    count: int, shape: tuple[int, int, int], seed: tf.Tensor, strokes: int = 3
) -> tf.Tensor:
    """Pictures of random quadratic Bézier strokes ("random strokes", section 3.2).

    Args:
        count: N.
        shape: (H, W, C).
        seed: int32 (2,).
        strokes: in each picture.

    Returns:
        uint8 (N, H, W, C), bright on black, each picture with its own ink and stroke width.
    """
    height, width, channels = shape
    point_seed, width_seed, ink_seed = split_seed(seed, 3)
    scale = tf.constant([height, width], tf.float32)
    control = tf.random.stateless_uniform((count, strokes, 3, 2), point_seed, 0.1, 0.9) * scale
    t = tf.linspace(0.0, 1.0, 2 * max(height, width) // 3)[None, None, :, None]
    a, b, c = (control[:, :, k : k + 1] for k in range(3))
    curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
    curve = tf.reshape(curve, (count, -1, 2))
    thickness = tf.random.stateless_uniform((count, 1, 1), width_seed, 0.02, 0.05) * min(
        height, width
    )
    rows = tf.range(height, dtype=tf.float32) + 0.5
    breadth = tf.range(width, dtype=tf.float32) + 0.5
    # A Gaussian pen factorises into rows and columns, so the picture is one matrix product.
    down = tf.exp(-tf.square(rows - curve[:, :, :1]) / (2 * tf.square(thickness)))
    across = tf.exp(-tf.square(breadth - curve[:, :, 1:]) / (2 * tf.square(thickness)))
    density = tf.einsum("nph,npw->nhw", down, across)
    ink = tf.random.stateless_uniform((count, 1, 1, channels), ink_seed, 0.6, 1.0)
    drawn = tf.tanh(density)[..., None] * ink
    return tf.cast(tf.round(255 * drawn), tf.uint8)


def background_is_bright(pixels: np.ndarray) -> bool:
    """Whether the median pixel of the pictures' borders is nearer to white than to black."""
    border = np.concatenate(
        [pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1
    )
    return float(np.median(border)) > 127.5


def match_polarity(pixels: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Inverts drawings whose paper is bright where that of `like` is dark, or the reverse."""
    return 255 - pixels if background_is_bright(pixels) != background_is_bright(like) else pixels


def draw(name: str, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Generated negatives, uint8 (`GENERATED_COUNT`, H, W, C).

    Args:
        name: of the generator, in `protocols.GENERATED`.
        shape: (H, W, C).
        seed: of the run.
    """
    import tensorflow as tf

    generators = {"strokes": random_strokes}
    batches = [
        generators[name](1000, shape, tf.constant([seed, batch], tf.int32)).numpy()
        for batch in range(GENERATED_COUNT // 1000)
    ]
    return np.concatenate(batches)
