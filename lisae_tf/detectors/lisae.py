"""The product: the plain autoencoder (phase 1), LIS-AE and LinSep-LIS-AE, one class for all."""

from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.graph import AutoencoderDetector
from lisae_tf.model.checkpoints import Arrays, set_weights, weights_of
from lisae_tf.training.algorithm1 import train
from lisae_tf.training.phase import TrainingOptions, build_autoencoder


class LatentInsensitiveDetector(AutoencoderDetector):
    """AE, LIS-AE or LinSep-LIS-AE, as `config.variant` says (section 3)."""

    def __init__(self, config=None):
        super().__init__(config)
        self.needs_negatives = self.config.variant != "ae"

    def networks(self):
        return self.model.encoder, self.model.latent, self.model.decoder

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        data = self._seen(data)
        result = train(self.config, data, options)
        self.shape, self.model = data.shape, result.model
        self.history, self.notes = result.history, result.notes
        self.restart_seeds = result.restart_seeds
        self._phase1_weights = result.phase1_weights
        self._make_graph()

    def phase1_detector(self) -> "LatentInsensitiveDetector":
        """The same encoder and decoder with the latent layer as phase 1 left it."""
        before = LatentInsensitiveDetector(self.config)
        before.shape, before.ignored = self.shape, self.ignored
        before.model = build_autoencoder(self.config, self.shape, seed=self.config.seed)
        set_weights(before.model, self._phase1_weights)
        before._phase1_weights = self._phase1_weights
        before._make_graph()
        return before

    def weights_to_continue(self) -> Arrays:
        return self._phase1_weights

    def arrays(self) -> Arrays:
        final = {f"final:{name}": array for name, array in weights_of(self.model).items()}
        return final | {f"phase1:{name}": a for name, a in self._phase1_weights.items()}

    def restore(self, arrays: Arrays) -> None:
        self.model = build_autoencoder(self.config, self.shape, seed=self.config.seed)
        final, self._phase1_weights = (
            {name.removeprefix(prefix): array for name, array in arrays.items()
             if name.startswith(prefix)}
            for prefix in ("final:", "phase1:")
        )  # fmt: skip
        set_weights(self.model, final)
        self._make_graph()
