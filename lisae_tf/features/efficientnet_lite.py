"""EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation and with ReLU6) in Keras.

Only what is needed of a frozen network: the batch normalisations are folded into the
convolutions before them. Input: RGB, (x − 127) / 128 of 0-255.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

MEAN, SCALE = 127.0, 128.0
EPSILON = 1e-3  # of every batch normalisation
STEM = 32


@dataclass(frozen=True)
class Block:
    """One inverted residual block."""

    name: str
    expansion: int
    kernel: int
    stride: int
    filters: int


# Of each stage: repeats, expansion, kernel, stride of the first, filters.
_STAGES = (
    (1, 1, 3, 1, 16), (2, 6, 3, 2, 24), (2, 6, 5, 2, 40), (3, 6, 3, 2, 80), (3, 6, 5, 1, 112),
    (4, 6, 5, 2, 192), (1, 6, 3, 1, 320),
)  # fmt: skip


def blocks() -> Iterator[Block]:
    """All sixteen, `block_0` to `block_15`."""
    number = 0
    for repeats, expansion, kernel, stride, filters in _STAGES:
        for first in [True] + [False] * (repeats - 1):
            yield Block(f"block_{number}", expansion, kernel, stride if first else 1, filters)
            number += 1


def build(shape: tuple[int, int, int]) -> keras.Model:
    """The network without its head, with random weights.

    Args:
        shape: (H, W, 3).

    Returns:
        RGB on 0-255, float32 (N, H, W, 3) -> float32 (N, h, w, 320). A layer of each block's
        name gives its output.
    """
    image = keras.Input(shape, name="rgb")
    x = layers.Rescaling(1 / SCALE, -MEAN / SCALE, name="centred")(image)
    x = layers.ReLU(6, name="stem_relu")(layers.Conv2D(STEM, 3, 2, "same", name="stem")(x))
    for block in blocks():
        x = _block(x, block)
    return keras.Model(image, x, name="efficientnet_lite0")


def _block(x: keras.KerasTensor, block: Block) -> keras.KerasTensor:
    before, width = x, x.shape[-1]
    residual = block.stride == 1 and width == block.filters
    if block.expansion > 1:
        x = layers.Conv2D(width * block.expansion, 1, name=f"{block.name}_expand")(x)
        x = layers.ReLU(6, name=f"{block.name}_expand_relu")(x)
    x = layers.DepthwiseConv2D(
        block.kernel, block.stride, "same", name=f"{block.name}_depthwise"
    )(x)  # fmt: skip
    x = layers.ReLU(6, name=f"{block.name}_depthwise_relu")(x)
    x = layers.Conv2D(
        block.filters, 1, name=f"{block.name}_project" if residual else block.name
    )(x)  # fmt: skip
    return layers.Add(name=block.name)([x, before]) if residual else x


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The reference implementation's tensors as this network's weights.

    Args:
        tensors: by their names in `efficientnet-lite-pytorch`, kernels (out, in, h, w).

    Returns:
        "<layer>/kernel" and "<layer>/bias", float32; kernels (h, w, in, out), of depthwise
        convolutions (h, w, channels, 1).
    """
    arrays = dict(_folded(tensors, "_conv_stem", "_bn0", "stem"))
    width = STEM
    for number, block in enumerate(blocks()):
        residual = block.stride == 1 and width == block.filters
        own, name, width = f"_blocks.{number}.", block.name, block.filters
        if block.expansion > 1:
            arrays |= _folded(tensors, own + "_expand_conv", own + "_bn0", f"{name}_expand")
        arrays |= _folded(tensors, own + "_depthwise_conv", own + "_bn1", f"{name}_depthwise")
        last = f"{name}_project" if residual else name
        arrays |= _folded(tensors, own + "_project_conv", own + "_bn2", last)
    return arrays


def _folded(
    tensors: Mapping[str, np.ndarray], convolution: str, normalisation: str, layer: str
) -> dict[str, np.ndarray]:
    gain, offset, mean, variance = (
        tensors[f"{normalisation}.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    gain = gain / np.sqrt(variance + EPSILON)
    kernel = tensors[f"{convolution}.weight"] * gain[:, None, None, None]
    # (out, in, h, w); a depthwise kernel has in = 1.
    order = (2, 3, 0, 1) if layer.endswith("_depthwise") else (2, 3, 1, 0)
    return {
        f"{layer}/kernel": np.ascontiguousarray(kernel.transpose(order), np.float32),
        f"{layer}/bias": (offset - mean * gain).astype(np.float32),
    }
