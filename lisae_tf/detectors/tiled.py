"""Any detector with a graph, on the tiles of larger pictures: cut, scored, pooled in one graph."""

from dataclasses import replace

import keras
import numpy as np

from lisae_tf.arrays import Arrays
from lisae_tf.config import Config
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.data.tiling import Tiling, tiling_of
from lisae_tf.detectors.graph import AutoencoderDetector, GraphDetector
from lisae_tf.phase import TrainingOptions
from lisae_tf.scoring import BATCH_SIZE, Scorer
from lisae_tf.tiled_graph import Mend, tiled


class TiledDetector(GraphDetector):
    """Trains a detector on tiles; a picture's score is the highest of its tiles'.

    Stopping looks at held-out pictures' tiles, the threshold at held-out pictures.
    """

    def __init__(self, config: Config, inner: GraphDetector):
        super().__init__(config)
        self._inner = inner
        self.needs_negatives = inner.needs_negatives
        self.meaning = f"highest over tiles: {inner.meaning}"

    @property
    def _tiling(self) -> Tiling:
        return tiling_of(self.config.data, self.shape[2])

    def inference(self) -> keras.Model:
        return tiled(self._inner.inference(), self._tiling)

    def _runner(self, graph: keras.Model) -> Scorer:
        return Scorer(graph, max(1, BATCH_SIZE // self._tiling.count))

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        self.shape = data.shape
        self._inner.fit_data(_tiles_of(data, self._tiling), options)
        self.history, self.notes = self._inner.history, self._inner.notes
        self.restart_seeds = self._inner.restart_seeds
        self._make_graph()

    def phase1_detector(self) -> "TiledDetector | None":
        inner = self._inner.phase1_detector()
        if inner is None:
            return None
        before = type(self)(self.config, inner)
        before.shape = self.shape
        before._make_graph()
        return before

    def weights_to_continue(self) -> Arrays | None:
        return self._inner.weights_to_continue()

    def arrays(self) -> Arrays:
        return self._inner.arrays()

    def restore(self, arrays: Arrays) -> None:
        self._inner.shape = self._tiling.tile_shape
        self._inner.restore(arrays)
        self._make_graph()


class TiledAutoencoderDetector(TiledDetector, AutoencoderDetector):
    """The same for what reconstructs; overlapping reconstructions are averaged."""

    def networks(self):
        """Of a tile."""
        return self._inner.networks()

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        tiles = self._inner.reconstruct(self._tiling.cut(images))
        mend = Mend(self._tiling)
        return np.stack([mend(tiles[..., c]) for c in range(tiles.shape[3])], axis=3)


def _tiles_of(data: TrainingData, tiling: Tiling) -> TrainingData:
    """Tiles of the pictures that train and stop; calibration pictures stay whole."""

    def cut(parts: Parts | None) -> Parts | None:
        return parts and replace(
            parts, fit=tiling.cut(parts.fit), stopping=tiling.cut(parts.stopping)
        )

    return replace(data, normal=cut(data.normal), negative=cut(data.negative))
