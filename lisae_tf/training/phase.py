"""What both phases share: building the model, fitting it until convergence, errors of pictures."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from lisae_tf.config.settings import Config
from lisae_tf.core.arrays import Arrays, in_batches
from lisae_tf.data.pipelines import steps_at_once
from lisae_tf.model.autoencoder import LatentInsensitiveAutoencoder
from lisae_tf.model.networks import Architecture, LatentBuilder, build_networks, tanh_latent
from lisae_tf.training import distribution
from lisae_tf.training.convergence import Convergence
from lisae_tf.training.sharing import SharedPhase1


@dataclass(frozen=True)
class TrainingOptions:
    """How to train, apart from what: where to keep state, whom to tell, what to share."""

    checkpoint: Path | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    say: Callable[[str], None] = lambda line: None
    shared: SharedPhase1 | None = None
    initial: Arrays | None = None  # weights that phase 1 begins with, instead of random ones
    strategy: tf.distribute.Strategy | None = None  # of several devices or workers


def build_autoencoder(
    config: Config,
    shape: tuple[int, int, int],
    *,
    seed: int,
    mean_pixel: float = 0.5,
    build_latent: LatentBuilder = tanh_latent,
    encoder_bias: bool = True,
    training: bool = False,
) -> LatentInsensitiveAutoencoder:
    """An untrained model for pictures of `shape`.

    In float32, unless it is for training and `network.precision` says otherwise.
    """
    network = config.network
    architecture = Architecture(
        shape, network.latent, tuple(network.filters),
        network.decoder_filters and tuple(network.decoder_filters), encoder_bias,
    )  # fmt: skip

    def latent(*parts) -> keras.Model:  # small, and what such layers add is float32
        with _computing_in("float32"):
            return build_latent(*parts)

    with _computing_in(network.precision if training else "float32"):
        networks = build_networks(
            architecture, seed=seed, mean_pixel=mean_pixel, build_latent=latent
        )
    return LatentInsensitiveAutoencoder(*networks)


@contextlib.contextmanager
def _computing_in(precision: str) -> Iterator[None]:
    """What layers compute in that are made here."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def fit_phase(
    model: keras.Model,
    stream: Callable[[int, int], tf.data.Dataset],
    held_out: tf.data.Dataset,
    steps: int,
    convergence: Convergence,
    options: TrainingOptions,
) -> None:
    """`fit` from the epoch where `convergence` stands to its end, then the best weights."""
    first = convergence.attach(model)
    if not convergence.finished:
        callbacks = [convergence, *options.callbacks]
        fit_epochs(model, stream, held_out, steps, (first, convergence.epochs), callbacks)
    convergence.restore_best()


def fit_epochs(
    model: keras.Model,
    stream: Callable[[int, int], tf.data.Dataset],
    held_out: tf.data.Dataset,
    steps: int,
    epochs: tuple[int, int],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """`fit` from one epoch up to another, on one device or under the strategy in force."""
    if distribution.is_distributed():
        distribution.fit(
            model, stream(*epochs), held_out, steps=steps, epochs=epochs, callbacks=callbacks
        )
        return
    model.steps_per_execution = steps_at_once(steps)
    model.fit(
        stream(*epochs),
        steps_per_epoch=steps,
        initial_epoch=epochs[0],
        epochs=epochs[1],
        validation_data=held_out,
        callbacks=list(callbacks),
        shuffle=False,
        verbose=0,
    )


def picture_errors(model: LatentInsensitiveAutoencoder, images: np.ndarray) -> np.ndarray:
    """The error e(x) of each picture: uint8 (N, H, W, C) -> float32 (N,)."""
    return in_batches(model.errors_of, images)
