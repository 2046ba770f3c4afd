"""EfficientNet-Lite0 in Keras, and its weights out of the file that PyTorch has written.

The file is read without PyTorch and without running what is pickled in it.
"""

import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np
from keras import layers
from numpy.lib.stride_tricks import as_strided

from lisae_tf.core.errors import LisaeError

_PROTO = b"\x80"  # the opcode that such a file begins with
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DICTIONARY, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_NUMBERS = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}
_KNOWN = (_DICTIONARY, _TENSOR, *_NUMBERS)
_LITERALS = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()
# What a broken file makes this reader stumble over; the last two where it names huge counts.
_BROKEN = (
    OSError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, MemoryError,
)  # fmt: skip
MEAN, SCALE = 127.0, 128.0
EPSILON = 1e-3  # of every batch normalisation
STEM = 32


def _refuse(what: str) -> ValueError:
    return ValueError(f"{what} does not belong into a file of tensors")


def _made(function: str, arguments: tuple) -> Any:
    """What the file would have PyTorch make: a dictionary, or a tensor as its own record."""
    if function == _DICTIONARY and not arguments:
        return {}
    if function == _TENSOR:
        (kind, numbers, key, _, count, _), offset, shape, strides = arguments[:4]
        reach = sum((side - 1) * step for side, step in zip(shape, strides, strict=True)) + 1
        if kind != "storage" or offset != 0 or reach != count or min(strides, default=1) < 1:
            raise _refuse("a tensor that is not the whole of its numbers")
        return key, _NUMBERS[numbers], count, shape, strides
    raise _refuse(f"{function}")


def _literal(stream: IO[bytes]) -> Any:
    """The value that one pickle of the stream describes; whole numbers, text, tuples, records."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = max(k for k, value in enumerate(stack) if value is _MARK)
        values = stack[at + 1 :]
        del stack[at:]
        return values

    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "GLOBAL" and argument in _KNOWN:
            stack.append(argument)
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_LIST"):
            stack.append({"T": tuple, "D": dict, "L": list}[name[6]]())
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "APPENDS":
            values = since_mark()
            stack[-1].extend(values)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            values = since_mark()
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_made(function, arguments))
        elif name == "BUILD":
            stack.pop()  # attributes of the dictionary, which nobody needs
        elif name not in ("PROTO", "BINPERSID", "STOP"):
            raise _refuse(f"the opcode {name} {argument or ''}".rstrip())
    return stack.pop()


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The named arrays in a file that `torch.save` wrote before PyTorch 1.6.

    The format is a stream of pickles and then the numbers. Here their opcodes are only looked at:
    a small machine knows the few that lay out named tensors, and refuses all others. Nothing is
    imported and nothing is called.

    Args:
        path: the file, whose hash the caller has checked.

    Returns:
        float32 or int64, of any shape.

    Raises:
        LisaeError: the file is of another kind.
    """
    try:
        with open(path, "rb") as stream:
            # Text in another kind of file could be taken for opcodes, with warnings on the way.
            if stream.peek(1)[:1] != _PROTO:
                raise _refuse("its beginning")
            if (_literal(stream), _literal(stream)) != (_MAGIC, _PROTOCOL):
                raise _refuse("its beginning")
            if _literal(stream).get("little_endian") is not True:
                raise _refuse("its order of bytes")
            records, keys = _literal(stream), _literal(stream)
            layouts: dict[str, tuple[str, int]] = {}
            for key, dtype, count, *_ in records.values():
                if layouts.setdefault(key, (dtype, count)) != (dtype, count):
                    raise _refuse("a tensor that reaches beyond its numbers")
            numbers = {key: _numbers(stream, *layouts[key]) for key in keys}
        return {
            name: as_strided(
                numbers[key], shape, [step * numbers[key].itemsize for step in strides]
            )
            for name, (key, _, _, shape, strides) in records.items()
        }
    except _BROKEN as error:
        raise LisaeError(
            f"{path} is not the file of weights that is expected ({error}); install it again"
        ) from error


def _numbers(stream: IO[bytes], dtype: str, count: int) -> np.ndarray:
    if int.from_bytes(stream.read(8), "little") != count:
        raise _refuse("another count of numbers")
    return np.frombuffer(stream.read(count * np.dtype(dtype).itemsize), dtype, count)


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
    """The network without its head, with random weights (Tan & Le 2019, Lite: with ReLU6).

    Only what is needed of a frozen network: the batch normalisations are folded into the
    convolutions before them. Pictures become (x − 127) / 128 first.

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
