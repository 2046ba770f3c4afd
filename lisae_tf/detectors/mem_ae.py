"""The memory-augmented autoencoder (Gong et al. 2019): codes are mixtures of few learned items.

Addressing by cosine similarity and softmax (their equations 3 to 5), hard shrinkage and
renormalisation (6, 7), and the entropy of the addresses in the loss (9, 10), which stands beside
the per-pixel error as in their own programs.
"""

import keras
from keras import layers, ops

from lisae_tf.detectors.graph import OnePhaseDetector
from lisae_tf.model.checkpoints import OwnLayer
from lisae_tf.model.networks import preactivation

EPSILON = 1e-12


def _unit(rows):
    return rows * ops.rsqrt(ops.sum(ops.square(rows), axis=1, keepdims=True) + EPSILON)


class Recall(OwnLayer):
    """A query (N, L) -> the mixture of memory items that it addresses (N, L)."""

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
    """`mem-ae`: the memory stands between the plain autoencoder's code and the decoder."""

    def build_latent(self, architecture, features, seed):
        s, query = preactivation(architecture, features, seed)
        query = layers.Activation("tanh", name="query")(query)
        z = Recall(**self.config.memory.model_dump(), seed=seed, name="z")(query)
        return keras.Model(s, z, name="latent")
