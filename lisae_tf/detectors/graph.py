"""Detectors that own a Keras scoring graph, and so can be exported and served.

An autoencoder's, one trained by phase 1 alone, and those on rows of features, without pictures.
"""

from abc import abstractmethod

import keras
import numpy as np

from lisae_tf.config.settings import Config
from lisae_tf.core.arrays import BATCH_SIZE
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.thresholds import Threshold
from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.base import Detector
from lisae_tf.model.autoencoder import LatentInsensitiveAutoencoder
from lisae_tf.model.checkpoints import Arrays, set_weights, weights_of
from lisae_tf.model.networks import Architecture
from lisae_tf.model.scoring import (
    Scorer,
    covered,
    of_pictures,
    reconstruction_score,
    scoring_graph,
    set_threshold,
)
from lisae_tf.training.algorithm1 import train
from lisae_tf.training.phase import TrainingOptions, build_autoencoder


class GraphDetector(Detector):
    """Scores by one functional model; `_make_graph` is called once the networks are there.

    Attributes:
        meaning: what a score is, in words for whoever gets the exported model.
        batch_size: pictures in one call of the graph.
    """

    graph: keras.Model
    meaning: str
    batch_size: int = BATCH_SIZE

    @abstractmethod
    def inference(self) -> keras.Model:
        """The detector as it stands.

        Returns:
            x, float32 (N, H, W, C) in 0-1 -> {"score": float32 (N,)}, and where there are maps
            "error_map", float32 (N, h, w), which may be smaller than the picture.
        """

    def _make_graph(self) -> None:
        inference = self.inference()
        self.graph = scoring_graph(inference)
        self._scorer = Scorer(self.graph, self.batch_size)
        self.has_maps = "error_map" in inference.output
        if self.has_maps:
            self._mapper = Scorer(scoring_graph(inference, error_map=True), self.batch_size)

    def _score(self, images: np.ndarray) -> np.ndarray:
        return self._scorer(images)

    @property
    def counted(self) -> np.ndarray | None:
        """Which pixels of pictures count, bool (H, W); None where all do."""
        return None if self.ignored is None else ~self.ignored

    @property
    def highest_share(self) -> float:
        """Of a map's places, whose mean is the score."""
        return self.config.scoring.highest_share

    def error_maps(self, images: np.ndarray) -> np.ndarray:
        """Where in each picture its error lies.

        Args:
            images: uint8 (N, H, W, C) of the shape it was fitted on.

        Returns:
            float32 (N, h, w), higher where the anomaly is thought to be; h and w may be smaller
            than H and W (`lisae_tf.report.error_maps.resized`).

        Raises:
            LisaeError: there are no maps, not fitted, or pictures of another shape or type.
        """
        images = self._ready(images)
        self.require_maps()
        return self._mapper(images, "error_map")

    def set_threshold(self, threshold: Threshold) -> None:
        super().set_threshold(threshold)
        set_threshold(self.graph, threshold.alpha)


class AutoencoderDetector(GraphDetector):
    """Scores by the reconstruction error of an encoder, a latent layer and a decoder."""

    meaning = "mean squared reconstruction error on the 0-1 scale"

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        if self.highest_share < 1:
            self.meaning += f"; the error over the highest {100 * self.highest_share:g} % of places"

    @abstractmethod
    def networks(self) -> tuple[keras.Model, keras.Model, keras.Model]:
        """Encoder, latent and decoder as they stand."""

    def inference(self) -> keras.Model:
        return reconstruction_score(*self.networks(), self.highest_share, self.counted)

    def _seen(self, data: TrainingData) -> TrainingData:
        """Training pictures as the networks see them; takes over what of them does not count."""
        self.ignored = data.ignored
        return data.covered()

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """x̂ of each picture, for figures: uint8 (N, H, W, C) -> float32 (N, H, W, C)."""
        encoder, latent, decoder = self.networks()
        x = keras.Input(encoder.input_shape[1:], name="x")
        x_hat = decoder(latent(encoder(covered(x, self.counted))))
        graph = of_pictures(keras.Model(x, {"reconstruction": x_hat}))
        return Scorer(graph)(images, "reconstruction")


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


class RowDetector(GraphDetector):
    """A detector on rows, float32 (N, m): places of pictures, or a user's own features."""

    def require_rows(self, data: TrainingData) -> None:
        """Refuses pictures.

        Raises:
            LisaeError: the data is pictures.
        """
        if len(data.shape) != 1:
            raise LisaeError(
                f"--variant {self.config.variant} works on features, not on pixels; leave "
                "--features none out, or use another variant such as ae"
            )
