"""f-AnoGAN (Schlegl et al. 2019): a Wasserstein GAN with gradient penalty, then an encoder.

The generator is the decoder 𝒟 and the critic the encoder ℰ with one linear output, so that the
capacity is that of every other row; codes are uniform in (-1, 1), where the tanh of the latent
layer lies. The encoder is trained afterwards, with generator and critic frozen ("izi_f").
"""

import time
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import TrainingData, full_scale
from lisae_tf.data.pipelines import (
    held_out_batches,
    steps_at_once,
    steps_per_epoch,
    training_batches,
)
from lisae_tf.model.checkpoints import set_weights, weights_of
from lisae_tf.model.losses import reconstruction_error
from lisae_tf.model.networks import scale
from lisae_tf.training.convergence import Convergence, ResumePoint
from lisae_tf.training.feature_extraction import LinearWarmup
from lisae_tf.training.phase import TrainingOptions, build_autoencoder, fit_phase

CRITIC_SEED = 500_009  # apart from that of the encoder, whose architecture it shares


def gradient_penalty(critic, real, fake, share):
    """(‖∇critic(x)‖ − 1)² at points between real and generated pictures (Gulrajani et al. 2017).

    Args:
        critic: pictures (N, H, W, C) -> (N, 1).
        real: float32 (N, H, W, C).
        fake: likewise.
        share: of the real picture in each point, float32 (N, 1, 1, 1) in 0-1.

    Returns:
        The mean over N.
    """
    between = share * real + (1 - share) * fake
    with tf.GradientTape() as tape:
        tape.watch(between)
        value = critic(between)
    squared = tf.reduce_sum(
        tf.square(tape.gradient(value, between)), axis=range(1, len(real.shape))
    )
    return tf.reduce_mean(tf.square(tf.sqrt(squared + 1e-12) - 1))


class GenerativeAdversarialNetwork(keras.Model):
    """Stage 1: one critic step a batch, one generator step after every `critic_steps` of them.

    `fit` takes a dataset of {"normal": uint8 (N, H, W, C)}. Chance depends on seed and step alone.
    """

    phase = "adversarial"

    def __init__(self, generator: keras.Model, features: keras.Model, config: Config):
        super().__init__(name="adversarial")
        self.scale = scale(features.input_shape[1:])
        self.generator, self.features = generator, features
        init = keras.initializers.GlorotUniform(seed=config.seed + CRITIC_SEED)
        self.critic_head = layers.Dense(1, kernel_initializer=init, name="critic")
        self.critic_head.build(features.output_shape)
        self._settings, self._latent = config.anogan, config.network.latent
        self._seed = config.seed
        rate = self._settings.learning_rate
        self.generator_optimizer = keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.9)
        self.built = True
        self.compile(optimizer=keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.9))
        self.optimizer.build(self._critic_weights())
        self.generator_optimizer.build(generator.trainable_weights)
        # The critic's estimate of how far generated pictures are from real ones.
        self._distance = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self._distance]

    def critic(self, x):
        """float32 pictures (N, H, W, C) -> (N, 1), higher for real ones."""
        return self.critic_head(self.features(x))

    def _critic_weights(self):
        return self.features.trainable_weights + self.critic_head.trainable_weights

    def _uniform(self, kind: int, shape, low: float):
        step = tf.cast(self.optimizer.iterations, tf.int32)
        seed = tf.random.experimental.stateless_fold_in(tf.constant([self._seed, kind]), step)
        return tf.random.stateless_uniform(shape, seed, low, 1.0)

    def _generate(self, kind: int, count):
        return self.generator(self._uniform(kind, (count, self._latent), -1.0))

    def _train_generator(self, count) -> None:
        weights = self.generator.trainable_weights
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.critic(self._generate(3, count)))
        self.generator_optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )

    def train_step(self, data):
        real = self.scale(keras.utils.unpack_x_y_sample_weight(data)[0]["normal"])
        count, weights = tf.shape(real)[0], self._critic_weights()
        fake = self._generate(1, count)
        share = self._uniform(2, (count, *[1] * (len(real.shape) - 1)), 0.0)
        with tf.GradientTape() as tape:
            distance = tf.reduce_mean(self.critic(real)) - tf.reduce_mean(self.critic(fake))
            penalty = gradient_penalty(self.critic, real, fake, share)
            loss = self._settings.gradient_penalty * penalty - distance
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        due = tf.equal(self.optimizer.iterations % self._settings.critic_steps, 0)
        tf.cond(due, lambda: self._train_generator(count), lambda: None)
        self._distance.update_state(distance)
        return {"loss": self._distance.result()}


def feature_distance(features: keras.Model, x, x_hat):
    """Mean squared difference of the critic's features of x and x̂: (N, H, W, C) each -> (N,)."""
    return tf.reduce_mean(tf.square(features(x) - features(x_hat)), axis=1)


class CodeEncoder(keras.Model):
    """Stage 2: encoder and latent layer learn the code from which a normal picture is generated.

    Minimises e(x) + κ · feature distance; generator and critic stand still. Same batches as `fit`
    of stage 1.
    """

    phase = "encoder"

    def __init__(self, encoder, latent, generator, features, kappa: float):
        super().__init__(name="code_encoder")
        self.scale = scale(encoder.input_shape[1:])
        self.encoder, self.latent = encoder, latent
        generator.trainable = features.trainable = False
        self.generator, self.features, self._kappa = generator, features, kappa
        self._means = {name: keras.metrics.Mean(name=name) for name in ("loss", "normal_error")}
        self.built = True

    @property
    def metrics(self):
        return list(self._means.values())

    def _report(self, batch):
        x = self.scale(batch["normal"])
        x_hat = self.generator(self.latent(self.encoder(x)))
        error = reconstruction_error(x, x_hat)
        objective = error + self._kappa * feature_distance(self.features, x, x_hat)
        self._means["loss"].update_state(objective)
        self._means["normal_error"].update_state(error)
        return tf.reduce_mean(objective)

    def train_step(self, data):
        batch = keras.utils.unpack_x_y_sample_weight(data)[0]
        weights = self.trainable_weights
        with tf.GradientTape() as tape:
            loss = self._report(batch)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {name: mean.result() for name, mean in self._means.items()}

    def test_step(self, data):
        self._report(keras.utils.unpack_x_y_sample_weight(data)[0])
        return {name: mean.result() for name, mean in self._means.items()}


class EpochRecord(keras.callbacks.Callback):
    """The rows of stage 1 for the history."""

    def __init__(self):
        super().__init__()
        self.rows: list[dict] = []

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self._began
        row = {"phase": 1, "attempt": 0, "epoch": epoch + 1, "loss": float(logs["loss"])}
        self.rows.append(row | {"seconds": seconds})


@dataclass
class AdversarialResult:
    """The trained networks and how they came about."""

    model: CodeEncoder
    history: list[dict]


def build_adversarial(
    config: Config, shape: tuple[int, int, int], mean_pixel: float = 0.5
) -> tuple[GenerativeAdversarialNetwork, CodeEncoder]:
    """Both stages, untrained; they share generator and critic."""
    ours = build_autoencoder(config, shape, seed=config.seed, mean_pixel=mean_pixel)
    features = build_autoencoder(config, shape, seed=config.seed + CRITIC_SEED).encoder
    gan = GenerativeAdversarialNetwork(ours.decoder, features, config)
    kappa = config.anogan.kappa
    return gan, CodeEncoder(ours.encoder, ours.latent, ours.decoder, features, kappa)


def train_adversarial(
    config: Config, data: TrainingData, options: TrainingOptions
) -> AdversarialResult:
    """Stage 1 for a fixed number of epochs, stage 2 until convergence on held-out normals.

    A run that was interrupted in stage 1 begins that stage again (a GAN has no loss to stop by,
    and is written down when it is done); in stage 2 it goes on from the last epoch. Either way it
    ends with the weights of an undisturbed run.

    Raises:
        LisaeError: the GAN diverged.
    """
    point, settings = ResumePoint.load(options.checkpoint), config.anogan
    batch_size = config.feature_extraction.batch_size
    normal = {"normal": data.normal.fit}
    steps = steps_per_epoch(normal, batch_size)

    def stream(phase: int):
        return lambda first, last: training_batches(
            normal, None, batch_size=batch_size, epochs=(first, last), seed=config.seed, phase=phase
        )

    mean_pixel = float(data.normal.fit.mean(dtype=np.float64)) / full_scale(data.normal.fit)
    gan, model = build_adversarial(config, data.shape, mean_pixel)
    if options.shared and point.phase == 1:
        point = options.shared.find(config, options.checkpoint) or point
    if point.phase == 1:
        gan.generator.trainable = gan.features.trainable = True
        record = EpochRecord()
        gan.steps_per_execution = steps_at_once(steps)
        gan.fit(
            stream(1)(0, settings.epochs), steps_per_epoch=steps, epochs=settings.epochs,
            callbacks=[record, *options.callbacks], shuffle=False, verbose=0,
        )  # fmt: skip
        if not all(np.isfinite(weight).all() for weight in gan.get_weights()):
            raise LisaeError("the GAN diverged; lower anogan.learning_rate")
        point = point.next_phase(weights_of(gan), record.rows, [])
        if options.shared:
            options.shared.keep(config, point)
    set_weights(gan, point.phase1_weights)
    gan.generator.trainable = gan.features.trainable = False
    warmup = config.feature_extraction.warmup_steps
    model.compile(optimizer=keras.optimizers.Adam(
        LinearWarmup(settings.encoder_learning_rate, warmup)
    ))  # fmt: skip
    convergence = Convergence(
        point, phase=2, attempt=0, epochs=settings.encoder_epochs, patience=settings.patience,
        section="anogan",
    )  # fmt: skip
    held_out = held_out_batches({"normal": data.normal.stopping}, None)
    fit_phase(model, stream(2), held_out, steps, convergence, options)
    return AdversarialResult(model, list(point.earlier_history) + convergence.history)
