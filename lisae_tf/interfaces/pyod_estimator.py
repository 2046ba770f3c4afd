"""The estimator in PyOD's interface, for comparisons and ensembles there (extra `pyod`)."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from pyod.models.base import BaseDetector
from sklearn.base import clone

from lisae_tf.interfaces.estimator import LISAEDetector


class LISAEPyOD(BaseDetector):
    """Scores as in the rest of the package, large for anomalies; the threshold is PyOD's.

    Args:
        estimator: what is to be fitted, with its settings; `LISAEDetector()` unless given.
        contamination: share of the training samples that PyOD labels as outliers; it sets
            `threshold_` and `labels_`, and nothing that is trained.

    Attributes:
        estimator_: the fitted copy, with a threshold from held-out normals.
        decision_scores_: of the training samples, float64 (N,).
        labels_: 0 or 1 for each of them; threshold_: what a score must exceed for a 1.
    """

    def __init__(self, estimator: LISAEDetector | None = None, *, contamination: float = 0.1):
        super().__init__(contamination=contamination)
        self.estimator = estimator

    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, *, negative: ArrayLike | None = None
    ) -> Self:
        """Trains on X, all of it taken as normal.

        Args:
            X: as of `LISAEDetector.fit`.
            y: not used, as everywhere in PyOD.
            negative: negatives of X's kind.

        Raises:
            ValueError: arrays or settings that cannot be used.
        """
        self._set_n_classes(y)
        chosen = LISAEDetector() if self.estimator is None else clone(self.estimator)
        self.estimator_ = chosen.fit(X, negative=negative)
        self.decision_scores_ = self.decision_function(X)
        self._process_decision_scores()
        return self

    def decision_function(self, X) -> np.ndarray:
        """The anomaly score of each sample: (N, ...) -> float64 (N,)."""
        return self.estimator_.anomaly_scores(X)
