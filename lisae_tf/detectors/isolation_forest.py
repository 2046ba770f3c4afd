"""Isolation forest (Liu et al. 2008): anomalies are cut off from the rest by few random cuts.

scikit-learn grows the trees; they are kept and read as arrays, which give its `score_samples`.
"""

import math

import numpy as np
from sklearn.ensemble import IsolationForest

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.pixels import PixelDetector, check_arrays, rows
from lisae_tf.model.checkpoints import Arrays
from lisae_tf.training.phase import TrainingOptions

NAMES = ("left", "right", "feature", "threshold", "samples")  # (trees, nodes) each
LEAF = -1


def average_path(samples: np.ndarray) -> np.ndarray:
    """c(n), the mean depth at which n pictures are isolated (their equation 1)."""
    n = np.maximum(samples, 2).astype(np.float64)
    c = 2 * (np.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n
    return np.where(samples > 2, c, np.where(samples == 2, 1.0, 0.0))


def _tables(forest: IsolationForest) -> Arrays:
    """The trees, padded to one number of nodes."""
    trees = [estimator.tree_ for estimator in forest.estimators_]
    nodes = max(tree.node_count for tree in trees)

    def padded(name: str, dtype: type, empty: int) -> np.ndarray:
        table = np.full((len(trees), nodes), empty, dtype)
        for row, tree in zip(table, trees, strict=True):
            row[: tree.node_count] = getattr(tree, name)
        return table

    return {
        "left": padded("children_left", np.int32, LEAF),
        "right": padded("children_right", np.int32, LEAF),
        "feature": padded("feature", np.int32, LEAF),
        "threshold": padded("threshold", np.float64, 0),
        "samples": padded("n_node_samples", np.int32, 0),
    }


class IsolationForestDetector(PixelDetector):
    """`if`: a score is 2^(−E[h(x)] / c(ψ)), in (0, 1)."""

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        settings = self.config.isolation_forest
        forest = IsolationForest(
            n_estimators=settings.trees,
            max_samples=min(settings.max_samples, len(data.normal.fit)),
            random_state=self.config.seed,
        ).fit(rows(data.normal.fit))
        self.shape = data.shape
        self._read(_tables(forest))

    def _read(self, tables: Arrays) -> None:
        """Prepares the walk: leaves lead to themselves and know their path length."""
        self._tables = tables
        left, right = tables["left"], tables["right"]
        inner, nodes = left != LEAF, np.arange(left.shape[1])
        depth = np.zeros(left.shape, np.int64)
        # A node's children come after it, so one pass from the root finds every depth.
        for node in nodes:
            for child in (left, right):
                trees = np.flatnonzero(inner[:, node])
                depth[trees, child[trees, node]] = depth[trees, node] + 1
        self._deepest = int(depth.max())
        self._children = np.where(inner[..., None], np.stack([left, right], -1), nodes[:, None])
        self._feature = np.where(inner, tables["feature"], 0)
        self._path = depth + average_path(tables["samples"])

    def _score_rows(self, x: np.ndarray) -> np.ndarray:
        trees = np.arange(len(self._feature))
        node = np.zeros((len(x), len(trees)), np.int64)
        for _ in range(self._deepest):
            values = np.take_along_axis(x, self._feature[trees, node], axis=1)
            beyond = (values > self._tables["threshold"][trees, node]).astype(np.int64)
            node = self._children[trees, node, beyond]
        whole = average_path(self._tables["samples"][:, 0])
        return 2.0 ** -(self._path[trees, node].sum(axis=1) / max(whole.sum(), 1.0))

    def arrays(self) -> Arrays:
        return self._tables

    def restore(self, arrays: Arrays) -> None:
        trees = self.config.isolation_forest.trees
        nodes = np.arange(np.atleast_2d(arrays.get("left", 0)).shape[1])
        check_arrays(arrays, dict.fromkeys(NAMES, (trees, len(nodes))))
        left = arrays["left"]
        size = math.prod(self.shape)
        later = [
            np.all(np.where(left != LEAF, (child > nodes) & (child < len(nodes)), True))
            for child in (left, arrays["right"])
        ]
        if not all(later) or not np.all((arrays["feature"] < size)[left != LEAF]):
            raise LisaeError("the stored trees do not fit the configuration; train again")
        self._read(arrays)
