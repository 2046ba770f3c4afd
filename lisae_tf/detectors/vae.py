"""The variational autoencoder (Kingma & Welling 2014): a Gaussian code with a Gaussian prior.

Trained on the per-pixel error plus w · KL / (H·W·C). With w = 2σ² this is, up to a factor, the
evidence lower bound of a Gaussian decoder of standard deviation σ. Scored at the code's mean.
"""

import math

import keras
import tensorflow as tf
from keras import layers, ops

from lisae_tf.detectors.graph import OnePhaseDetector
from lisae_tf.model.checkpoints import OwnLayer
from lisae_tf.model.networks import preactivation


class Sample(OwnLayer):
    """[mean, log variance], (N, L) each -> z (N, L): a draw in training, the mean at scoring."""

    def __init__(self, weight: float, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.weight, self.seed = weight, seed
        # A weight, so that a resumed run draws what an undisturbed one draws.
        self.draws = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="draws"
        )

    def call(self, inputs, training=False):
        mean, log_variance = inputs
        terms = ops.square(mean) + ops.exp(log_variance) - log_variance - 1
        self.add_loss(self.weight * ops.mean(ops.sum(terms, axis=1)) / 2)
        if not training:
            return mean
        self.draws.assign_add(1)
        seed = tf.stack([self.seed, self.draws.value])
        noise = tf.random.stateless_normal(tf.shape(mean), seed)
        return mean + ops.exp(log_variance / 2) * noise


class VariationalDetector(OnePhaseDetector):
    """`vae`: the mean is the dense layer without the tanh."""

    def build_latent(self, architecture, features, seed):
        s, mean = preactivation(architecture, features, seed)
        # Zeros: every code starts with the prior's variance.
        log_variance = layers.Dense(
            architecture.latent, kernel_initializer="zeros", name="log_variance"
        )(s)
        weight = self.config.vae.kl_weight / math.prod(architecture.shape)
        z = Sample(weight, seed, name="z")([mean, log_variance])
        return keras.Model(s, z, name="latent")
