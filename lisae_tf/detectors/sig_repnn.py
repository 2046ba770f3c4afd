"""The replicator network with a sigmoid before the staircase (sections 2 and 5.1).

The staircase is that of Hawkins et al. (2002): N levels from 0 to 1, smoothed by a sum of tanh.
"""

import keras
from keras import ops

from lisae_tf.detectors.graph import OnePhaseDetector
from lisae_tf.model.checkpoints import OwnLayer
from lisae_tf.model.networks import preactivation


def staircase(theta, levels: int, steepness: float):
    """1/2 + Σ_j tanh(a (θ − j/N)) / (2 (N − 1)), j = 1 … N−1: θ in (0, 1) -> (0, 1)."""
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
    """`sig-repnn`: codes close to a grid of N levels in each dimension."""

    def build_latent(self, architecture, features, seed):
        s, z = preactivation(architecture, features, seed)
        settings = self.config.sig_repnn
        z = Staircase(settings.levels, settings.steepness, name="z")(z)
        return keras.Model(s, z, name="latent")
