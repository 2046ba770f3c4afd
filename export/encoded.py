"""PNG and JPEG bytes become pixels inside the graph, as `lisae_tf.data.pictures` has them outside.

Same decoding (accurate JPEG transform), same grey (ITU-R 601 in integers), same antialiased
bilinear resize in two passes with rounding between. What remains is the rounding of ties: at most
one level in each pass. EXIF orientation is not applied, nor is a single transparent colour.
"""

import tensorflow as tf

from lisae_tf.data.levels import FULL_DEPTH
from lisae_tf.data.pictures import MAX_PIXELS

_GREY, _GREY_ALPHA, _RGBA = 0, 4, 6  # kinds of PNG
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# Pillow's fixed-point sums round exact halves up; float sums may fall just short of them.
_HALF = 0.5001


def decode_pictures(
    encoded: tf.Tensor, shape: tuple[int, int, int], depth: int | None = None
) -> tf.Tensor:
    """Pictures of any size as pixels of the model's.

    Args:
        encoded: string (N,), PNG or JPEG each.
        shape: (H, W, C), with C 1 or 3.
        depth: of 16-bit grey, the bits that are in use, 8-16; None for all of them.

    Returns:
        uint8 (N, H, W, C). One bad picture fails the whole batch.
    """
    spec = tf.TensorSpec(shape, tf.uint8)
    return tf.map_fn(lambda one: _decode(one, shape, depth), encoded, fn_output_signature=spec)


def _decode(encoded: tf.Tensor, shape: tuple[int, int, int], depth: int | None) -> tf.Tensor:
    is_png = tf.equal(tf.strings.substr(encoded, 0, len(_PNG)), _PNG)
    is_jpeg = tf.equal(tf.strings.substr(encoded, 0, len(_JPEG)), _JPEG)
    known = tf.debugging.Assert(is_png | is_jpeg, ["not a PNG or JPEG picture"])
    with tf.control_dependencies([known]):
        size = tf.cond(is_png, lambda: _png_size(encoded), lambda: _jpeg_size(encoded))
    # A picture bomb is refused by its header.
    small = tf.debugging.Assert(tf.reduce_prod(size) <= MAX_PIXELS, ["picture too large"])
    with tf.control_dependencies([small]):
        rgb = tf.cond(
            is_png,
            lambda: _png(encoded, depth),
            lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        )
    height, width, channels = shape
    pixels = tf.cast(rgb if channels == 3 else _grey(rgb), tf.float32)
    pixels = _round(tf.image.resize(pixels, (tf.shape(pixels)[0], width), antialias=True))
    pixels = _round(tf.image.resize(pixels, (height, width), antialias=True))
    return tf.ensure_shape(tf.cast(pixels, tf.uint8), shape)


def _png(encoded: tf.Tensor, depth: int | None) -> tf.Tensor:
    """RGB, uint8 (H, W, 3), over white where it has alpha."""
    # Of the IHDR chunk: the bits of a sample, and its kind.
    bits, kind = tf.unstack(tf.io.decode_raw(tf.strings.substr(encoded, 24, 2), tf.uint8), 2)

    def plain():
        return tf.io.decode_png(encoded, channels=3)

    def clear():
        return _over_white(tf.io.decode_png(encoded, channels=4))

    def rgb():
        return tf.cond((kind == _GREY_ALPHA) | (kind == _RGBA), clear, plain)

    def deep():
        return _eight_bits(tf.io.decode_png(encoded, channels=1, dtype=tf.uint16), depth)

    if depth in (None, FULL_DEPTH):
        return rgb()
    return tf.cond((bits == FULL_DEPTH) & (kind == _GREY), deep, rgb)


def _over_white(rgba: tf.Tensor) -> tf.Tensor:
    colour, alpha = tf.split(tf.cast(rgba, tf.int32), (3, 1), axis=2)
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _eight_bits(grey: tf.Tensor, depth: int) -> tf.Tensor:
    levels = tf.minimum(tf.cast(grey, tf.int32) // 2 ** (depth - 8), 255)
    return tf.repeat(tf.cast(levels, tf.uint8), 3, axis=2)


def _png_size(encoded: tf.Tensor) -> tf.Tensor:
    """Width and height in the IHDR chunk, int64 (2,)."""
    whole = tf.debugging.Assert(tf.strings.length(encoded) >= 26, ["truncated PNG"])
    with tf.control_dependencies([whole]):
        header = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.uint8)
    digits = tf.cast(tf.reshape(header, (2, 4)), tf.int64)
    return tf.linalg.matvec(
        tf.cast(digits, tf.int64), tf.constant([2**24, 2**16, 2**8, 1], "int64")
    )


def _jpeg_size(encoded: tf.Tensor) -> tf.Tensor:
    """Height and width in the frame header, int64 (2,)."""
    return tf.image.extract_jpeg_shape(encoded, tf.int64)[:2]


def _grey(rgb: tf.Tensor) -> tf.Tensor:
    """ITU-R 601 luma with Pillow's integers."""
    weighted = tf.cast(rgb, tf.int32) * tf.constant([19595, 38470, 7471])
    return (tf.reduce_sum(weighted, axis=-1, keepdims=True) + 2**15) // 2**16


def _round(pixels: tf.Tensor) -> tf.Tensor:
    return tf.floor(tf.clip_by_value(pixels, 0, 255) + _HALF)
