"""A detector on tiles of large pictures, and the graph that cuts, scores and mends them.

A picture's score is the highest of its tiles'.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import keras
import numpy as np
from keras import ops

from lisae_tf.config.settings import Config
from lisae_tf.config.tiling import Tiling, tiling_of
from lisae_tf.core.arrays import Arrays
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.detectors.graph import AutoencoderDetector, GraphDetector
from lisae_tf.model.checkpoints import OwnLayer
from lisae_tf.training.phase import TrainingOptions


class OfTiles(OwnLayer):
    """A layer that knows how pictures are cut."""

    def __init__(self, tiling: Tiling | Mapping, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(tiling, Tiling):  # from `get_config`, whose tuples come back as lists
            tiling = Tiling(**(dict(tiling) | {"shape": tuple(tiling["shape"])}))
        self._tiling = tiling

    def get_config(self):
        return super().get_config() | {"tiling": asdict(self._tiling)}


class Cut(OfTiles):
    """Pictures (N, H, W, C) -> tiles (N · count, tile, tile, C)."""

    def call(self, images):
        return self._tiling.cut(images, ops.stack, ops.reshape)


class Highest(OfTiles):
    """Scores of tiles (N · count,) -> of pictures (N,)."""

    def call(self, scores):
        return ops.max(ops.reshape(scores, (-1, self._tiling.count)), axis=1)


class Mend(OfTiles):
    """Maps of tiles (N · count, h, w) -> of pictures (N, H, W), the mean where tiles overlap.

    Maps smaller than their tiles are resized to them first, bilinearly: tiles begin at pixels.
    """

    def call(self, maps):
        tiling = self._tiling
        height, width = tiling.shape[:2]
        rows, columns = tiling.grid
        side = (tiling.tile, tiling.tile)
        if tuple(maps.shape[1:]) != side:
            pictures = ops.expand_dims(maps, 3)
            maps = ops.squeeze(ops.image.resize(pictures, side, data_format="channels_last"), 3)
        maps = ops.reshape(maps, (-1, columns, *side))
        strips = _spread([maps[:, k] for k in range(columns)], tiling.starts(1), width, axis=2)
        strips = ops.reshape(strips, (-1, rows, tiling.tile, width))
        whole = _spread([strips[:, k] for k in range(rows)], tiling.starts(0), height, axis=1)
        return whole / tiling.covered()


def _spread(parts, starts: range, side: int, axis: int):
    """The sum of parts (N, h, w), each at its own place along `axis`, which gets `side` long."""
    total = 0
    for part, start in zip(parts, starts, strict=True):
        pads = [(0, 0)] * 3
        pads[axis] = (start, side - start - part.shape[axis])
        total = total + ops.pad(part, pads)
    return total


def tiled(inference: keras.Model, tiling: Tiling) -> keras.Model:
    """Inference on pictures from inference on tiles: cut, each scored by itself, put together.

    A picture's score is the highest of its tiles' scores; where tiles overlap, its map of errors is
    the mean of theirs. All of it is made of slices, sums and resizing, which every exported format
    has.

    Args:
        inference: x, float32 (N, tile, tile, C) -> {"score": (N,)}, maybe "error_map" (N, h, w).
        tiling: of the pictures.

    Returns:
        The same for x, float32 (N, H, W, C), with maps (N, H, W).
    """
    x = keras.Input(tiling.shape, name="x")
    found = inference(Cut(tiling, name="tiles")(x))
    outputs = {"score": Highest(tiling, name="highest")(found["score"])}
    if "error_map" in found:
        outputs["error_map"] = Mend(tiling, name="mended")(found["error_map"])
    return keras.Model(x, outputs)


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

    @property
    def batch_size(self) -> int:
        """As many pictures as have the tiles of one call of what is inside."""
        return max(1, self._inner.batch_size // self._tiling.count)

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        self.shape = data.shape
        self._inner.fit_data(_tiles_of(data, self._tiling), options)
        self.history, self.notes = self._inner.history, self._inner.notes
        self.restart_seeds, self.record = self._inner.restart_seeds, self._inner.record
        self._make_graph()

    def phase1_detector(self) -> "TiledDetector | None":
        inner = self._inner.phase1_detector()
        if inner is None:
            return None
        before = type(self)(self.config, inner)
        before.shape = self.shape
        before._make_graph()
        return before

    @property
    def solved(self) -> bool:
        return self._inner.solved

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

    def of_tiles(change: Callable[[np.ndarray], np.ndarray], parts: Parts | None) -> Parts | None:
        return parts and replace(
            parts, fit=change(np.asarray(parts.fit)), stopping=change(np.asarray(parts.stopping))
        )

    def of_masks(masks: np.ndarray) -> np.ndarray:
        plane = replace(tiling, shape=(*tiling.shape[:2], 1))
        return plane.cut(masks[..., None])[..., 0]

    def repeated(rows: np.ndarray) -> np.ndarray:
        return np.repeat(rows, tiling.count)

    cut = replace(
        data,
        normal=of_tiles(tiling.cut, data.normal),
        negative=of_tiles(tiling.cut, data.negative),
        negative_kinds=of_tiles(repeated, data.negative_kinds),
        negative_masks=of_tiles(of_masks, data.negative_masks),
        made=of_tiles(tiling.cut, data.made),
        made_masks=of_tiles(of_masks, data.made_masks),
    )
    if cut.negative_masks is None:
        return cut
    # Where a picture is marked, its tiles without a mark are not negative.
    marked = [
        masks.any(axis=(1, 2)) for masks in (cut.negative_masks.fit, cut.negative_masks.stopping)
    ]
    whole = [
        repeated(masks.any(axis=(1, 2)))
        for masks in (data.negative_masks.fit, data.negative_masks.stopping)
    ]
    kept = [own | ~picture for own, picture in zip(marked, whole, strict=True)]
    return cut.with_negatives([*kept, np.arange(len(cut.negative.calibration))])
