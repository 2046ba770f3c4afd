"""The detectors without a decoder: an encoder, the latent layer and one of the `heads`."""

from abc import abstractmethod

import keras

from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.graph import GraphDetector
from lisae_tf.model.checkpoints import Arrays, set_weights, weights_of
from lisae_tf.model.heads import (
    DistanceHead,
    Head,
    LabelledDistanceHead,
    LogitHead,
    PseudoHuberHead,
)
from lisae_tf.training.encoder_training import build_encoder, train_encoder
from lisae_tf.training.phase import TrainingOptions


class EncoderDetector(GraphDetector):
    """Scores by a head on the code of a picture; there is no map of errors."""

    needs_negatives = True

    @abstractmethod
    def head(self) -> Head:
        """A new head."""

    def inference(self) -> keras.Model:
        x = keras.Input(self.shape, name="x")
        z = self.model.latent(self.model.encoder(x))
        return keras.Model(x, {"score": self.model.head(z)})

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        result = train_encoder(self.config, data, self.head(), options)
        self.shape, self.model = data.shape, result.model
        self.history, self.restart_seeds = result.history, result.restart_seeds
        self._make_graph()

    def arrays(self) -> Arrays:
        return weights_of(self.model)

    def restore(self, arrays: Arrays) -> None:
        self.model = build_encoder(self.config, self.shape, self.head())
        set_weights(self.model, arrays)
        self._make_graph()


class ClassifierDetector(EncoderDetector):
    """`bce`: a binary classifier, normal against negative."""

    meaning = "logit of a classifier of negative against normal pictures"

    def head(self):
        return LogitHead()


class HypersphereClassifierDetector(EncoderDetector):
    """`hsc`: the hypersphere classifier."""

    meaning = "pseudo-Huber distance of the picture's code from the centre"

    def head(self):
        return PseudoHuberHead()


class DeepSADDetector(EncoderDetector):
    """`deep-sad`: Deep SAD with the negatives as labelled anomalies."""

    meaning = "mean squared distance of the picture's code from the centre"

    def head(self):
        return LabelledDistanceHead(self.config.hypersphere.eta)


class DeepSVDDDetector(EncoderDetector):
    """`oc-dsvdd`: Deep SVDD, one class."""

    meaning = "mean squared distance of the picture's code from the centre"

    needs_negatives = False

    def head(self):
        return DistanceHead()
