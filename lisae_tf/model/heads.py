"""What turns the code z of an encoder into a score, and the loss that trains both.

Four detectors without a decoder: Deep SVDD, which sees normal pictures alone, and three that are
given the negatives of LIS-AE: a binary classifier, Deep SAD and the hypersphere classifier. Each
loss is one of scores alone. N normal and M negative pictures, L latent units.
"""

from abc import abstractmethod

import numpy as np
from keras import layers, ops

from lisae_tf.model.checkpoints import OwnLayer
from lisae_tf.model.losses import separation_loss
from lisae_tf.model.networks import LEAK

# Deep SVDD, section 3.3: a centre coordinate of 0 could be met by weights of 0.
NEAR_ZERO = 0.1
_TINY = 1e-6  # keeps inverse and logarithm of a distance finite


class Head(OwnLayer):
    """z, float32 (N, L), unbounded -> score, float32 (N,); higher is more anomalous.

    Attributes:
        uses_negatives: whether `loss` takes their scores; None otherwise.
        encoder_bias: whether the layers below have biases.
        pretrained: whether encoder and latent layer are first trained as an autoencoder.
    """

    uses_negatives = True
    encoder_bias = True
    pretrained = False

    def __init__(self, name: str = "score", **kwargs):  # not counted: weights go by it
        super().__init__(name=name, **kwargs)

    @abstractmethod
    def loss(self, normal, negative):
        """A scalar of the scores of normals (N,) and negatives (M,); both sides weigh the same."""


class LogitHead(Head):
    """Binary classifier, normal against negative: outlier exposure (Hendrycks et al. 2019).

    A logit on the latent pre-activation, through a LeakyReLU: a tanh saturates in a classifier, and
    pictures then share a score. The score is −logit.
    """

    def build(self, input_shape):
        self.logit = layers.Dense(1, kernel_initializer="zeros", name="logit")
        self.logit.build(input_shape)

    def call(self, z):
        return -self.logit(ops.leaky_relu(z, LEAK))[:, 0]

    def loss(self, normal, negative):
        return separation_loss(-normal, -negative)


class PseudoHuberHead(Head):
    """Hypersphere classifier (Ruff et al. 2020, Rethinking assumptions, equation 4).

    The score is h = √(‖z‖² + 1) − 1, the pseudo-Huber distance to a centre at 0; the loss is h for
    normals and −log(1 − exp(−h)) for negatives.
    """

    def call(self, z):
        squared = ops.sum(ops.square(z), axis=1)
        return squared / (ops.sqrt(squared + 1) + 1)  # the same, exact where it is small

    def loss(self, normal, negative):
        missed = -ops.log(-ops.expm1(-ops.maximum(negative, _TINY)))
        return (ops.mean(normal) + ops.mean(missed)) / 2


class DistanceHead(Head):
    """Deep SVDD (Ruff et al. 2018, section 3): ‖z − c‖² / L, of normals as small as can be.

    Without biases and bounded activations (propositions 2 and 3) and with c away from 0
    (proposition 1), no weights send every picture to c. The paper's table lists it as OC-DSVDD.
    """

    uses_negatives = False
    encoder_bias = False
    pretrained = True

    def build(self, input_shape):
        self.centre = self.add_weight(
            shape=(input_shape[-1],), initializer="zeros", trainable=False, name="centre"
        )

    def call(self, z):
        return ops.mean(ops.square(z - self.centre), axis=1)

    def place(self, codes: np.ndarray) -> None:
        """Fixes c at the mean code of normals, (N, L), with coordinates near 0 moved away."""
        centre = codes.mean(axis=0)
        away = np.where(centre < 0, -NEAR_ZERO, NEAR_ZERO)
        self.centre.assign(np.where(np.abs(centre) < NEAR_ZERO, away, centre))

    def loss(self, normal, negative):
        return ops.mean(normal)


class LabelledDistanceHead(DistanceHead):
    """Deep SAD (Ruff et al. 2020, equation 7) with all negatives as labelled anomalies.

    Their term is η / distance; the score is the distance as in Deep SVDD. It is a mean over the L
    units so that η means the same at every width.
    """

    uses_negatives = True

    def __init__(self, eta: float, **kwargs):
        super().__init__(**kwargs)
        self._eta = eta

    def loss(self, normal, negative):
        return (ops.mean(normal) + self._eta * ops.mean(1 / (negative + _TINY))) / 2
