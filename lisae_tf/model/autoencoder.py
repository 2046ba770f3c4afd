"""The latent-insensitive autoencoder as a `keras.Model`: one train step for both phases.

Owns which layers train in which phase and what each phase minimises (sections 3.3, 4.2).
"""

from typing import Literal

import keras
import tensorflow as tf
from keras import layers

from lisae_tf.model.losses import (
    mean_over_replicas,
    negative_loss,
    reconstruction_error,
    separation_loss,
)
from lisae_tf.model.networks import input_dtype, scale

Phase = Literal["feature-extraction", "latent-shaping"]


class LatentInsensitiveAutoencoder(keras.Model):
    """Algorithm 1.

    `fit` takes a dataset of dictionaries: "normal" is x⁺, uint8 (N, H, W, C), and where the phase
    uses negatives "negative" is x⁻, uint8 (M, H, W, C).

    Call `enter_decoder_alone`, `enter_feature_extraction` or `enter_latent_shaping` before `fit`;
    each sets what is trainable and compiles, because Keras goes on training frozen layers until
    the next compile.
    """

    def __init__(self, encoder: keras.Model, latent: keras.Model, decoder: keras.Model, **kwargs):
        super().__init__(**({"name": "lisae"} | kwargs))
        shape = encoder.input_shape[1:]
        self.scale = scale(shape)
        self.encoder = encoder
        self.latent = latent
        self.decoder = decoder
        preactivation = latent.get_layer("preactivation").output
        self.preactivation = keras.Model(latent.input, preactivation, name="before_tanh")
        # LinSep's one linear logit; dropped after phase 1.
        self.logit = layers.Dense(1, kernel_initializer="zeros", name="logit")
        self.logit.build(preactivation.shape)
        self._means = {
            name: keras.metrics.Mean(name=name)
            for name in ("loss", "normal_error", "negative_error", "past_gamma", "separation")
        }
        self.phase: Phase | None = None
        self.built = True
        pictures = [tf.TensorSpec((None, *shape), input_dtype(shape))]
        self.errors_of = tf.function(self._errors_of, pictures)

    @property
    def metrics(self):
        return list(self._means.values())

    def call(self, images, training=None):
        """uint8 (N, H, W, C) -> x̂, float32 (N, H, W, C) in 0-1 (equations 1-3)."""
        return self.decoder(self.latent(self.encoder(self.scale(images))))

    def enter_decoder_alone(self, optimizer: keras.Optimizer) -> None:
        """The first steps of phase 1, where wanted: the decoder learns the mean picture.

        The codes stay as they began. A whole network learns the mean picture through its codes as
        well, which drives them all into the same corner where pictures hardly differ.
        """
        self.linsep_weight = 0.0
        self._enter("feature-extraction", optimizer, self.decoder)

    def enter_feature_extraction(
        self, optimizer: keras.Optimizer, *, linsep_weight: float = 0.0
    ) -> None:
        """Phase 1: everything trains.

        Args:
            optimizer: a fresh one.
            linsep_weight: weight of LinSep's cross-entropy; 0 for the plain autoencoder.
        """
        self.linsep_weight = linsep_weight
        logit = [self.logit] if linsep_weight > 0 else []
        self._enter(
            "feature-extraction", optimizer, self.encoder, self.latent, self.decoder, *logit
        )

    def enter_latent_shaping(
        self, optimizer: keras.Optimizer, *, gamma: float, beta: float, hinge: str = "hinge"
    ) -> None:
        """Phase 2: encoder and decoder are frozen, only the latent layer trains (equation 4)."""
        self.gamma, self.beta, self.hinge = gamma, beta, hinge
        self._enter("latent-shaping", optimizer, self.latent)

    def _enter(
        self, phase: Phase, optimizer: keras.Optimizer, *trained: keras.layers.Layer
    ) -> None:
        self.phase = phase
        for part in (self.encoder, self.latent, self.decoder, self.logit):
            part.trainable = any(part is each for each in trained)
        self.compile(optimizer=optimizer)

    def _features_of(self, images):
        """The encoder's output s = ℰ(x): uint8 (N, H, W, C) -> float32 (N, S)."""
        return tf.cast(self.encoder(self.scale(images)), tf.float32)

    def _errors_of(self, images):
        """e(x): uint8 (N, H, W, C) -> float32 (N,)."""
        return reconstruction_error(self.scale(images), self(images))

    def _error(self, batch, side: str, training: bool = False):
        x_hat = self.decoder(self.latent(self._features_of(batch[side]), training=training))
        return reconstruction_error(self.scale(batch[side]), x_hat)

    def _phase_loss(self, batch, training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        if self.phase == "latent-shaping":
            normal_error = self._error(batch, "normal")
            negative_error = self._error(batch, "negative")
            pushed = negative_loss(negative_error, self.gamma, self.hinge)
            loss = tf.reduce_mean(normal_error) + self.beta * tf.reduce_mean(pushed)
            past_gamma = tf.cast(negative_error > self.gamma, tf.float32)
            return loss, {
                "normal_error": normal_error,
                "negative_error": negative_error,
                "past_gamma": past_gamma,
            }
        if not self.linsep_weight:
            normal_error = self._error(batch, "normal", training)
            # Some latent layers add a term of their own.
            loss = tf.reduce_mean(normal_error) + sum(self.latent.losses)
            return loss, {"normal_error": normal_error}
        s_normal = self._features_of(batch["normal"])
        x_hat = self.decoder(self.latent(s_normal))
        normal_error = reconstruction_error(self.scale(batch["normal"]), x_hat)
        separation = separation_loss(
            self.logit(self.preactivation(s_normal)),
            self.logit(self.preactivation(self._features_of(batch["negative"]))),
        )
        loss = tf.reduce_mean(normal_error) + self.linsep_weight * separation
        return loss, {"normal_error": normal_error, "separation": separation}

    def _report(self, batch, loss, parts) -> dict[str, tf.Tensor]:
        self._means["loss"].update_state(loss, sample_weight=tf.shape(batch["normal"])[0])
        for name, value in parts.items():
            self._means[name].update_state(value)
        return {name: self._means[name].result() for name in ("loss", *parts)}

    def train_step(self, data):
        batch = keras.utils.unpack_x_y_sample_weight(data)[0]
        with tf.GradientTape() as tape:
            loss, parts = self._phase_loss(batch, training=True)
            share = mean_over_replicas(loss)
        # Only the phase's own weights are asked for, so frozen layers cost no gradient.
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(share, weights), weights, strict=True))
        return self._report(batch, loss, parts)

    def test_step(self, data):
        batch = keras.utils.unpack_x_y_sample_weight(data)[0]
        return self._report(batch, *self._phase_loss(batch, training=False))
