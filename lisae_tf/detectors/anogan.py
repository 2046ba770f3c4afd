"""AnoGAN as the paper's tables have it: f-AnoGAN, scored with and without critic features."""

import keras

from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.graph import AutoencoderDetector
from lisae_tf.model.checkpoints import Arrays, OwnLayer, set_weights, weights_of
from lisae_tf.model.scoring import covered, error_outputs
from lisae_tf.training.adversarial import build_adversarial, feature_distance, train_adversarial
from lisae_tf.training.phase import TrainingOptions


class AnoGANDetector(AutoencoderDetector):
    """Scores by the error of what the generator makes of the encoder's code."""

    def networks(self):
        return self.model.encoder, self.model.latent, self.model.generator

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        data = self._seen(data)
        result = train_adversarial(self.config, data, options)
        self.shape, self.model, self.history = data.shape, result.model, result.history
        self._make_graph()

    def arrays(self) -> Arrays:
        return weights_of(self.model)

    def restore(self, arrays: Arrays) -> None:
        self.model = build_adversarial(self.config, self.shape)[1]
        set_weights(self.model, arrays)
        self._make_graph()


class AddFeatureDistance(OwnLayer):
    """[e, x, x̂] -> e + κ · feature distance, float32 (N,)."""

    def __init__(self, features: keras.Model, kappa: float, **kwargs):
        super().__init__(**kwargs)
        self.features, self._kappa = features, kappa

    def call(self, inputs):
        error, x, x_hat = inputs
        return error + self._kappa * feature_distance(self.features, x, x_hat)

    def get_config(self):
        return super().get_config() | {"features": self.features, "kappa": self._kappa}


class FeatureMatchingDetector(AnoGANDetector):
    """Adds κ times the distance between x and x̂ in the critic's features (AnoGAN-FM)."""

    meaning = "mean squared reconstruction error plus its distance in the critic's features"

    def inference(self) -> keras.Model:
        encoder, latent, generator = self.networks()
        x = keras.Input(self.shape, name="x")
        seen = covered(x, self.counted)
        x_hat = generator(latent(encoder(seen)))
        found = error_outputs(seen, x_hat, self.highest_share, self.counted)
        add = AddFeatureDistance(self.model.features, self.config.anogan.kappa, name="total")
        return keras.Model(x, found | {"score": add([found["score"], seen, x_hat])})
