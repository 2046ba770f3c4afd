"""Encoder, latent and decoder as Keras functional models (equations 1-3; section 5.1).

Owns the architecture only, and of the latent layers the paper's own one; knows neither data nor
losses. Shapes: N pictures of H x W x C, S encoder features, L latent units.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

LEAK = 0.2
KERNEL = 3


@dataclass(frozen=True)
class Architecture:
    """What is needed to build the three networks again."""

    shape: tuple[int, ...]  # H, W, C of pictures; m of feature rows
    latent: int
    filters: tuple[int, int]  # of the encoder's convolutions; of feature rows, units of its layers
    decoder_filters: tuple[int, int] | None = None  # as the encoder's, unless given
    encoder_bias: bool = True  # of every layer up to z


def input_dtype(shape: tuple[int, ...]) -> str:
    """What a graph takes: "uint8" pictures of (H, W, C), or "float32" feature rows of (m,)."""
    return "uint8" if len(shape) == 3 else "float32"


def scale(shape: tuple[int, ...]) -> layers.Layer:
    """The only preprocessing, and part of every graph: uint8 0-255 to float32 0-1.

    Feature rows, of shape (m,), come standardised and stay as they are.
    """
    factor = 1 / 255 if input_dtype(shape) == "uint8" else 1.0
    return layers.Rescaling(factor, dtype="float32", name="scale")


class Seeds:
    """A distinct seed for each layer, from one seed."""

    def __init__(self, seed: int):
        self._generator = np.random.default_rng(seed)

    def next(self) -> int:
        """The next layer's seed."""
        return int(self._generator.integers(2**31))

    def glorot(self) -> keras.Initializer:
        """The initialiser of the next layer's kernel."""
        return keras.initializers.GlorotUniform(seed=self.next())


# (architecture, S, seed) -> a model s -> z with a layer "preactivation" (N, L). What else it
# minimises, it adds by `add_loss`.
LatentBuilder = Callable[[Architecture, int, int], keras.Model]


def preactivation(
    architecture: Architecture, features: int, seed: int
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """What every latent layer begins with: s (N, S) and a dense layer on it (N, L)."""
    s = keras.Input((features,), name="s")
    init = keras.initializers.GlorotUniform(seed=seed)
    dense = layers.Dense(
        architecture.latent, use_bias=architecture.encoder_bias, kernel_initializer=init,
        name="preactivation",
    )  # fmt: skip
    return s, dense(s)


def tanh_latent(architecture: Architecture, features: int, seed: int) -> keras.Model:
    """The latent layer 𝒵 (equation 2): s (N, S) -> z (N, L) in (-1, 1)."""
    s, z = preactivation(architecture, features, seed)
    return keras.Model(s, layers.Activation("tanh", name="z")(z), name="latent")


def linear_latent(architecture: Architecture, features: int, seed: int) -> keras.Model:
    """The latent layer without the tanh, for distances in it: s (N, S) -> z (N, L)."""
    s, z = preactivation(architecture, features, seed)
    return keras.Model(s, layers.Activation("linear", name="z")(z), name="latent")


def build_networks(
    architecture: Architecture,
    *,
    seed: int = 0,
    mean_pixel: float = 0.5,
    build_latent: LatentBuilder = tanh_latent,
) -> tuple[keras.Model, keras.Model, keras.Model]:
    """The encoder ℰ, the latent layer 𝒵 and the decoder 𝒟.

    Args:
        architecture: sizes.
        seed: of the initial weights.
        mean_pixel: mean of the normal pictures on the 0-1 scale; the last bias starts at its
            logit, which keeps the first steps from saturating the latent layer.
        build_latent: another latent layer; encoder and decoder start from the same weights.

    Returns:
        encoder: float32 (N, H, W, C) in 0-1, or feature rows (N, m) -> s (N, S);
        latent: s (N, S) -> z (N, L);
        decoder: z (N, L) -> x̂ (N, H, W, C) in (0, 1), or (N, m), unbounded.
    """
    if len(architecture.shape) == 1:
        return _dense_networks(architecture, seed, build_latent)
    height, width, channels = architecture.shape
    first, second = architecture.filters
    last, middle = architecture.decoder_filters or architecture.filters
    seeds = Seeds(seed)
    init = seeds.glorot
    small = (math.ceil(math.ceil(height / 2) / 2), math.ceil(math.ceil(width / 2) / 2))

    # Names are given, not counted: stored weights are addressed by them.
    def convolution(name: str, filters: int, strides: int, **options) -> layers.Layer:
        options |= {"padding": "same", "kernel_initializer": init(), "name": name}
        return layers.Conv2D(filters, KERNEL, strides, **options)

    def deconvolution(name: str, filters: int) -> layers.Layer:
        options = {"padding": "same", "kernel_initializer": init(), "name": name}
        return layers.Conv2DTranspose(filters, KERNEL, 2, **options)

    x = keras.Input(architecture.shape, name="x")
    bias = {"use_bias": architecture.encoder_bias}
    s = layers.LeakyReLU(LEAK)(convolution("convolution_1", first, 2, **bias)(x))
    s = layers.LeakyReLU(LEAK)(convolution("convolution_2", second, 2, **bias)(s))
    s = layers.Flatten(name="s")(s)
    encoder = keras.Model(x, s, name="encoder")

    latent = build_latent(architecture, s.shape[1], seeds.next())

    code = keras.Input((architecture.latent,), name="z")
    size = small[0] * small[1] * middle
    y = layers.Dense(size, kernel_initializer=init(), name="expansion")(code)
    y = layers.Reshape((*small, middle))(layers.LeakyReLU(LEAK)(y))
    y = layers.LeakyReLU(LEAK)(deconvolution("deconvolution_1", middle)(y))
    y = layers.LeakyReLU(LEAK)(deconvolution("deconvolution_2", last)(y))
    clipped = float(np.clip(mean_pixel, 0.01, 0.99))
    y = layers.Conv2D(
        channels,
        KERNEL,
        padding="same",
        kernel_initializer=init(),
        dtype="float32",  # of x̂ and the error, whatever the layers before compute in
        name="picture",
        activation="sigmoid",
        bias_initializer=keras.initializers.Constant(math.log(clipped / (1 - clipped))),
    )(y)
    spare = (4 * small[0] - height, 4 * small[1] - width)
    if any(spare):
        y = layers.Cropping2D(((0, spare[0]), (0, spare[1])), name="crop")(y)
    return encoder, latent, keras.Model(code, y, name="decoder")


def _dense_networks(
    architecture: Architecture, seed: int, build_latent: LatentBuilder
) -> tuple[keras.Model, keras.Model, keras.Model]:
    """Of feature rows: dense layers where pictures have convolutions, a linear one at the end."""
    first, second = architecture.filters
    last, middle = architecture.decoder_filters or architecture.filters
    seeds = Seeds(seed)

    def dense(name: str, units: int, **options) -> layers.Layer:
        return layers.Dense(units, kernel_initializer=seeds.glorot(), name=name, **options)

    x = keras.Input(architecture.shape, name="x")
    bias = {"use_bias": architecture.encoder_bias}
    s = layers.LeakyReLU(LEAK)(dense("dense_1", first, **bias)(x))
    s = layers.LeakyReLU(LEAK, name="s")(dense("dense_2", second, **bias)(s))
    latent = build_latent(architecture, second, seeds.next())
    code = keras.Input((architecture.latent,), name="z")
    y = layers.LeakyReLU(LEAK)(dense("expansion", middle)(code))
    y = layers.LeakyReLU(LEAK)(dense("dense_3", last)(y))
    y = dense("row", architecture.shape[0], dtype="float32")(y)
    return keras.Model(x, s, name="encoder"), latent, keras.Model(code, y, name="decoder")


def build_linear_networks(
    shape: tuple[int, ...], latent_size: int, *, use_bias: bool = False
) -> tuple[keras.Model, keras.Model, keras.Model]:
    """The linear case x̂ = U_r Eᵀ x (section 4.1) in the same three parts."""
    size = math.prod(shape)
    x = keras.Input(shape, name="x")
    encoder = keras.Model(x, layers.Flatten(name="s")(x), name="encoder")
    features = keras.Input((size,), name="s")
    z = layers.Dense(latent_size, use_bias=use_bias, name="z")(features)
    latent = keras.Model(features, z, name="latent")
    code = keras.Input((latent_size,), name="z")
    y = layers.Reshape(shape)(layers.Dense(size, use_bias=use_bias, name="picture")(code))
    return encoder, latent, keras.Model(code, y, name="decoder")
