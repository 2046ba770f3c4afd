"""The rivals that differ from the plain autoencoder in the latent layer alone (section 5.1).

Same encoder, same decoder, same feature extraction phase; a subclass gives the latent layer.
"""

from abc import abstractmethod

import keras

from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.graph import AutoencoderDetector
from lisae_tf.model.autoencoder import LatentInsensitiveAutoencoder
from lisae_tf.model.checkpoints import Arrays, set_weights, weights_of
from lisae_tf.model.networks import Architecture
from lisae_tf.training.algorithm1 import train
from lisae_tf.training.phase import TrainingOptions, build_autoencoder


class OnePhaseDetector(AutoencoderDetector):
    """An autoencoder that phase 1 trains and that is scored as it then is."""

    model: LatentInsensitiveAutoencoder

    @abstractmethod
    def build_latent(self, architecture: Architecture, features: int, seed: int) -> keras.Model:
        """The latent layer; see `networks.LatentBuilder`."""

    def networks(self):
        return self.model.encoder, self.model.latent, self.model.decoder

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        data = self._seen(data)
        result = train(self.config, data, options, self.build_latent)
        self.shape, self.model = data.shape, result.model
        self.history, self.notes = result.history, result.notes
        self.restart_seeds = result.restart_seeds
        self._make_graph()

    def weights_to_continue(self) -> Arrays:
        return self.arrays()

    def arrays(self) -> Arrays:
        return weights_of(self.model)

    def restore(self, arrays: Arrays) -> None:
        self.model = build_autoencoder(
            self.config, self.shape, seed=self.config.seed, build_latent=self.build_latent
        )
        set_weights(self.model, arrays)
        self._make_graph()
