"""Detectors that own a Keras scoring graph, and so can be exported and served."""

from abc import abstractmethod

import keras
import numpy as np

from lisae_tf.detectors.base import Detector
from lisae_tf.scoring import Scorer, reconstruction_score, scoring_graph, set_threshold
from lisae_tf.thresholds import Threshold


class GraphDetector(Detector):
    """Scores by one functional model; `_make_graph` is called once the networks are there.

    Attributes:
        meaning: what a score is, in words for whoever gets the exported model.
    """

    graph: keras.Model
    meaning: str

    @abstractmethod
    def inference(self) -> keras.Model:
        """x, float32 (N, H, W, C) in 0-1 -> {"score": float32 (N,), …} as the detector stands."""

    def _make_graph(self) -> None:
        self.graph = scoring_graph(self.inference())
        self._scorer = self._runner(self.graph)

    def _runner(self, graph: keras.Model) -> Scorer:
        return Scorer(graph)

    def _score(self, images: np.ndarray) -> np.ndarray:
        return self._scorer(images)

    def set_threshold(self, threshold: Threshold) -> None:
        super().set_threshold(threshold)
        set_threshold(self.graph, threshold.alpha)


class AutoencoderDetector(GraphDetector):
    """Scores by the reconstruction error of an encoder, a latent layer and a decoder."""

    meaning = "mean squared reconstruction error on the 0-1 scale"

    @abstractmethod
    def networks(self) -> tuple[keras.Model, keras.Model, keras.Model]:
        """Encoder, latent and decoder as they stand."""

    def inference(self) -> keras.Model:
        return reconstruction_score(*self.networks())

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """x̂ of each picture: uint8 (N, H, W, C) -> float32 (N, H, W, C)."""
        graph = scoring_graph(self.inference(), reconstruction=True)
        return self._runner(graph)(images, "reconstruction")
