"""Distance from the nearest of a memory bank of normal places: PatchCore (Roth et al. 2022).

The bank is a greedy coreset (section 3.2 there): each next place is the one farthest from all
that were chosen, looked for in a random projection.

`lis-knn` measures the distance where normals are steady and negatives stand out: in the directions
of the linear case (section 4.1). LIS-AE measures ‖Bᵀc‖, how far x lies from the origin there; this
is how far it lies from the normal places nearest to it.
"""

import keras
import numpy as np
from keras import ops

from lisae_tf.core.arrays import Arrays
from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.graph import RowDetector
from lisae_tf.detectors.pixels import check_arrays
from lisae_tf.model.checkpoints import OwnLayer
from lisae_tf.model.linear import insensitive_directions
from lisae_tf.training.phase import TrainingOptions

_FARTHEST = 4096  # rows among which centres are chosen before all distances are brought up to date


def greedy_coreset(x: np.ndarray, size: int, dimensions: int, seed: int) -> np.ndarray:
    """The rows of x that cover it: each the farthest from those before.

    Distances only fall while rows are chosen: as long as one of the farthest is farther than all
    others were, it is the next, and the others need not be looked at.

    Args:
        x: float32 (N, m).
        size: how many, at most.
        dimensions: of the random projection in which distances are measured.
        seed: of the projection and the first row.

    Returns:
        int (min(size, N),), in the order of choice.
    """
    generator = np.random.default_rng(seed)
    if x.shape[1] > dimensions:
        x = x @ generator.normal(size=(x.shape[1], dimensions)).astype(np.float32)
    norms = np.einsum("ij,ij->i", x, x)
    size, few = min(size, len(x)), min(_FARTHEST, len(x))
    chosen, known = [int(generator.integers(len(x)))], 0
    nearest = np.full(len(x), np.inf, np.float32)
    while len(chosen) < size:
        new, known = chosen[known:], len(chosen)
        for rows in np.array_split(np.arange(len(x)), -(-len(x) // _FARTHEST)):
            squared = norms[new] - 2 * (x[rows] @ x[new].T) + norms[rows, None]
            nearest[rows] = np.minimum(nearest[rows], squared.min(axis=1))
        nearest[new] = -np.inf  # rounding must not choose a row twice
        farthest = np.argpartition(nearest, -few)[-few:]
        own, own_x, own_norms = nearest[farthest], x[farthest], norms[farthest]
        others = own.min()
        while len(chosen) < size and (own.max() >= others or len(chosen) == known):
            last = int(own.argmax())
            chosen.append(int(farthest[last]))
            squared = own_norms - 2 * (own_x @ own_x[last]) + own_norms[last]
            own = np.minimum(own, squared)
            own[last] = -np.inf
    return np.asarray(chosen)


_AT_ONCE = 512  # rows of the bank: distances from all of them would need six times the memory


class NearestDistance(OwnLayer):
    """The mean distance from the k nearest rows of the bank: (N, m) -> (N,)."""

    def __init__(self, bank: np.ndarray, neighbours: int, **kwargs):
        super().__init__(**({"trainable": False} | kwargs))
        self._bank, self._neighbours = bank, neighbours

    def call(self, x):
        parts = np.array_split(self._bank, -(-len(self._bank) // _AT_ONCE))
        nearest = ops.concatenate([self._nearest(x, part) for part in parts], axis=-1)
        nearest = self._smallest(nearest) + ops.sum(ops.square(x), axis=-1, keepdims=True)
        return ops.mean(ops.sqrt(ops.maximum(nearest, 0.0)), axis=-1)

    def _nearest(self, x, bank: np.ndarray):
        """Of a part of the bank, squared and less ‖x‖²: (N, m) -> (N, k) or fewer."""
        return self._smallest(ops.matmul(x, -2 * bank.T) + np.sum(np.square(bank), axis=1))

    def _smallest(self, values):
        """The k smallest of each row: (N, n) -> (N, k) or fewer."""
        if self._neighbours == 1:  # a minimum takes half the time
            return ops.min(values, axis=-1, keepdims=True)
        return -ops.top_k(-values, min(self._neighbours, values.shape[-1]))[0]

    def get_config(self):
        return super().get_config() | {"bank": self._bank, "neighbours": self._neighbours}


class NearestNeighboursDetector(RowDetector):
    """`knn`."""

    meaning = "mean distance from the nearest normal features in a memory bank"

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        self.require_rows(data)
        self.shape = data.shape
        settings, x = self.config.knn, data.normal.fit
        self._bank = x[greedy_coreset(x, settings.bank, settings.projection, self.config.seed)]
        self._make_graph()

    def inference(self) -> keras.Model:
        x = keras.Input(self.shape, name="x")
        return keras.Model(x, {"score": self._distance(x, self.config.knn.neighbours)})

    def _distance(self, rows: keras.KerasTensor, neighbours: int) -> keras.KerasTensor:
        return NearestDistance(self._bank, min(neighbours, len(self._bank)), name="score")(rows)

    def arrays(self) -> Arrays:
        return {"bank": self._bank}

    def restore(self, arrays: Arrays) -> None:
        check_arrays(arrays, {"bank": (None, self.shape[0])})
        self._bank = arrays["bank"]
        self._make_graph()


class ShapedNeighboursDetector(NearestNeighboursDetector):
    """`lis-knn`: the bank lies in the latent-insensitive directions."""

    meaning = "mean distance from the nearest normal features, in latent-insensitive directions"
    needs_negatives = True

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        self.require_rows(data)
        self.shape = data.shape
        settings, x = self.config.lis_knn, data.normal.fit
        found = insensitive_directions(x, data.negative.fit, settings.directions)
        self._directions = found.astype(np.float32)
        x = x @ self._directions
        self._bank = x[greedy_coreset(x, settings.bank, x.shape[1], self.config.seed)]
        self._make_graph()

    def inference(self) -> keras.Model:
        x = keras.Input(self.shape, name="x")
        project = keras.layers.Dense(self._bank.shape[1], use_bias=False, name="directions")
        y = project(x)
        project.set_weights([self._directions])
        return keras.Model(x, {"score": self._distance(y, self.config.lis_knn.neighbours)})

    def arrays(self) -> Arrays:
        return {"bank": self._bank, "directions": self._directions}

    def restore(self, arrays: Arrays) -> None:
        count = min(self.config.lis_knn.directions, self.shape[0])
        check_arrays(arrays, {"bank": (None, count), "directions": (self.shape[0], count)})
        self._bank, self._directions = arrays["bank"], arrays["directions"]
        self._make_graph()
