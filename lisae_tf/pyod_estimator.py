"""The estimator in PyOD's interface, for comparisons and ensembles there (extra `pyod`)."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from pyod.models.base import BaseDetector

from lisae_tf.estimator import LISAEDetector
from lisae_tf.protocols import DEFAULT_SYNTHETIC


class LISAEPyOD(BaseDetector):
    """Scores as in the rest of the package, large for anomalies; the threshold is PyOD's.

    Args:
        contamination: share of the training samples that PyOD labels as outliers; it sets
            `threshold_` and `labels_`, and nothing that is trained.
        variant, latent, gamma, beta, epochs, shaping_epochs, synthetic, random_state, settings: as
            of `LISAEDetector`.

    Attributes:
        estimator_: the fitted `LISAEDetector`, with a threshold from held-out normals.
        decision_scores_: of the training samples, float64 (N,).
        labels_: 0 or 1 for each of them; threshold_: what a score must exceed for a 1.
    """

    def __init__(
        self,
        variant: str = "lis",
        *,
        contamination: float = 0.1,
        latent: int | None = None,
        gamma: float | None = None,
        beta: float = 1.0,
        epochs: int = 15,
        shaping_epochs: int = 10,
        synthetic: str = DEFAULT_SYNTHETIC,
        random_state: Any = 0,
        settings: Mapping[str, Any] | None = None,
    ):
        super().__init__(contamination=contamination)
        self.variant = variant
        self.latent = latent
        self.gamma = gamma
        self.beta = beta
        self.epochs = epochs
        self.shaping_epochs = shaping_epochs
        self.synthetic = synthetic
        self.random_state = random_state
        self.settings = settings

    def fit(self, X, y=None, *, negative=None) -> Self:
        """Trains on X, all of it taken as normal.

        Args:
            X: as of `LISAEDetector.fit`.
            y: not used, as everywhere in PyOD.
            negative: negatives of X's kind.

        Raises:
            ValueError: arrays or settings that cannot be used.
        """
        self._set_n_classes(y)
        settings = self.get_params()
        del settings["contamination"]
        self.estimator_ = LISAEDetector(**settings).fit(X, negative=negative)
        self.decision_scores_ = self.decision_function(X)
        self._process_decision_scores()
        return self

    def decision_function(self, X) -> np.ndarray:
        """The anomaly score of each sample: (N, ...) -> float64 (N,)."""
        return self.estimator_.anomaly_scores(X)
