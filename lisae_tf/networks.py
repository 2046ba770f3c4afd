"""Encoder, latent and decoder as Keras functional models (equations 1-3; section 5.1).

Owns the architecture only; knows neither data nor losses. Shapes: N pictures of H x W x C,
S encoder features, L latent units.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

LEAK = 0.2
KERNEL = 3


@dataclass(frozen=True)
class Architecture:
    """What is needed to build the three networks again."""

    shape: tuple[int, int, int]  # H, W, C
    latent: int
    filters: tuple[int, int]


def scale() -> layers.Layer:
    """uint8 0-255 to float32 0-1; the only preprocessing, and part of every graph."""
    return layers.Rescaling(1 / 255, dtype="float32", name="scale")


class _Seeds:
    """A distinct initialiser seed for each layer, from one seed."""

    def __init__(self, seed: int):
        self._generator = np.random.default_rng(seed)

    def glorot(self) -> keras.Initializer:
        return keras.initializers.GlorotUniform(seed=int(self._generator.integers(2**31)))


def build_networks(
    architecture: Architecture, *, seed: int = 0, mean_pixel: float = 0.5
) -> tuple[keras.Model, keras.Model, keras.Model]:
    """The encoder ℰ, the latent layer 𝒵 and the decoder 𝒟.

    Args:
        architecture: sizes.
        seed: of the initial weights.
        mean_pixel: mean of the normal pictures on the 0-1 scale; the last bias starts at its
            logit, which keeps the first steps from saturating the latent layer.

    Returns:
        encoder: float32 (N, H, W, C) in 0-1 -> s (N, S);
        latent: s (N, S) -> z (N, L) in (-1, 1), with the layer "preactivation" before the tanh;
        decoder: z (N, L) -> x̂ (N, H, W, C) in (0, 1).
    """
    height, width, channels = architecture.shape
    first, second = architecture.filters
    init = _Seeds(seed).glorot
    small = (math.ceil(math.ceil(height / 2) / 2), math.ceil(math.ceil(width / 2) / 2))

    # Names are given, not counted: stored weights are addressed by them.
    def convolution(name: str, filters: int, strides: int, **options) -> layers.Layer:
        options |= {"padding": "same", "kernel_initializer": init(), "name": name}
        return layers.Conv2D(filters, KERNEL, strides, **options)

    def deconvolution(name: str, filters: int) -> layers.Layer:
        options = {"padding": "same", "kernel_initializer": init(), "name": name}
        return layers.Conv2DTranspose(filters, KERNEL, 2, **options)

    x = keras.Input(architecture.shape, name="x")
    s = layers.LeakyReLU(LEAK)(convolution("convolution_1", first, 2)(x))
    s = layers.LeakyReLU(LEAK)(convolution("convolution_2", second, 2)(s))
    s = layers.Flatten(name="s")(s)
    encoder = keras.Model(x, s, name="encoder")

    features = keras.Input((s.shape[1],), name="s")
    z = layers.Dense(architecture.latent, kernel_initializer=init(), name="preactivation")(features)
    latent = keras.Model(features, layers.Activation("tanh", name="z")(z), name="latent")

    code = keras.Input((architecture.latent,), name="z")
    size = small[0] * small[1] * second
    y = layers.Dense(size, kernel_initializer=init(), name="expansion")(code)
    y = layers.Reshape((*small, second))(layers.LeakyReLU(LEAK)(y))
    y = layers.LeakyReLU(LEAK)(deconvolution("deconvolution_1", second)(y))
    y = layers.LeakyReLU(LEAK)(deconvolution("deconvolution_2", first)(y))
    clipped = float(np.clip(mean_pixel, 0.01, 0.99))
    y = convolution(
        "picture",
        channels,
        1,
        activation="sigmoid",
        bias_initializer=keras.initializers.Constant(math.log(clipped / (1 - clipped))),
    )(y)
    spare = (4 * small[0] - height, 4 * small[1] - width)
    if any(spare):
        y = layers.Cropping2D(((0, spare[0]), (0, spare[1])), name="crop")(y)
    return encoder, latent, keras.Model(code, y, name="decoder")


def build_linear_networks(
    shape: tuple[int, int, int], latent_size: int
) -> tuple[keras.Model, keras.Model, keras.Model]:
    """The linear case x̂ = U_r Eᵀ x (section 4.1) in the same three parts, without biases."""
    size = math.prod(shape)
    x = keras.Input(shape, name="x")
    encoder = keras.Model(x, layers.Flatten(name="s")(x), name="encoder")
    features = keras.Input((size,), name="s")
    z = layers.Dense(latent_size, use_bias=False, name="z")(features)
    latent = keras.Model(features, z, name="latent")
    code = keras.Input((latent_size,), name="z")
    y = layers.Reshape(shape)(layers.Dense(size, use_bias=False, name="picture")(code))
    return encoder, latent, keras.Model(code, y, name="decoder")
