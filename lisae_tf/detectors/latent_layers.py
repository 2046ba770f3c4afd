"""Rivals that differ from the autoencoder in the latent layer alone, and have no phase 2."""

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
    """`vae` (Kingma & Welling 2014): a Gaussian code with a Gaussian prior.

    The mean is the dense layer without the tanh, and what is scored. Trained on the per-pixel error
    plus w · KL / (H·W·C): with w = 2σ² this is, up to a factor, the evidence lower bound of a
    Gaussian decoder of standard deviation σ.
    """

    def build_latent(self, architecture, features, seed):
        s, mean = preactivation(architecture, features, seed)
        # Zeros: every code starts with the prior's variance.
        log_variance = layers.Dense(
            architecture.latent, kernel_initializer="zeros", name="log_variance"
        )(s)
        weight = self.config.vae.kl_weight / math.prod(architecture.shape)
        z = Sample(weight, seed, name="z")([mean, log_variance])
        return keras.Model(s, z, name="latent")


EPSILON = 1e-12


def _unit(rows):
    return rows * ops.rsqrt(ops.sum(ops.square(rows), axis=1, keepdims=True) + EPSILON)


class Recall(OwnLayer):
    """A query (N, L) -> the mixture of memory items that it addresses (N, L).

    Addressing by cosine similarity and softmax (Gong et al. 2019, equations 3 to 5), hard shrinkage
    and renormalisation (6, 7), and the entropy of the addresses in the loss (9, 10), which stands
    beside the per-pixel error as in their own programs.
    """

    def __init__(self, items: int, shrinkage: float, entropy_weight: float, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.count, self.shrinkage, self.entropy_weight = items, shrinkage, entropy_weight
        self.initializer = keras.initializers.RandomUniform(-1, 1, seed=seed)

    def build(self, shape):
        self.items = self.add_weight(
            shape=(self.count, shape[-1]), initializer=self.initializer, name="items"
        )

    def addresses(self, query):
        """How much of each item a query takes: (N, L) -> (N, items), rows that sum to 1."""
        weights = ops.softmax(ops.matmul(_unit(query), ops.transpose(_unit(self.items))))
        above = weights - self.shrinkage
        kept = ops.relu(above) * weights / (ops.abs(above) + EPSILON)
        return kept / (ops.sum(kept, axis=1, keepdims=True) + EPSILON)

    def call(self, query):
        weights = self.addresses(query)
        entropy = -ops.sum(weights * ops.log(weights + EPSILON), axis=1)
        self.add_loss(self.entropy_weight * ops.mean(entropy))
        return ops.matmul(weights, self.items)


class MemoryDetector(OnePhaseDetector):
    """`mem-ae` (Gong et al. 2019): codes are mixtures of few learned items.

    The memory stands between the plain autoencoder's code and the decoder.
    """

    def build_latent(self, architecture, features, seed):
        s, query = preactivation(architecture, features, seed)
        query = layers.Activation("tanh", name="query")(query)
        z = Recall(**self.config.memory.model_dump(), seed=seed, name="z")(query)
        return keras.Model(s, z, name="latent")


def staircase(theta, levels: int, steepness: float):
    """1/2 + Σ_j tanh(a (θ − j/N)) / (2 (N − 1)), j = 1 … N−1: θ in (0, 1) -> (0, 1).

    That of Hawkins et al. (2002): N levels from 0 to 1, smoothed by a sum of tanh.
    """
    steps = [ops.tanh(steepness * (theta - j / levels)) for j in range(1, levels)]
    return 0.5 + sum(steps) / (2 * (levels - 1))


class Staircase(OwnLayer):
    """`staircase` of the sigmoid, on the latent layer."""

    def __init__(self, levels: int, steepness: float, **kwargs):
        super().__init__(**kwargs)
        self.levels, self.steepness = levels, steepness

    def call(self, inputs):
        return staircase(ops.sigmoid(inputs), self.levels, self.steepness)


class SigmoidReplicatorDetector(OnePhaseDetector):
    """`sig-repnn`, the replicator network with a sigmoid before the staircase (sections 2, 5.1).

    Its codes are close to a grid of N levels in each dimension.
    """

    def build_latent(self, architecture, features, seed):
        s, z = preactivation(architecture, features, seed)
        settings = self.config.sig_repnn
        z = Staircase(settings.levels, settings.steepness, name="z")(z)
        return keras.Model(s, z, name="latent")
