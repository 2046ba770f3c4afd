"""Inference on large pictures: cut into tiles, each scored by itself, and put together again.

A picture's score is the highest of its tiles' scores; where tiles overlap, its map of errors is the
mean of theirs. All of it is made of slices, sums and resizing, which every exported format has.
"""

from collections.abc import Mapping
from dataclasses import asdict

import keras
from keras import ops

from lisae_tf.config.tiling import Tiling
from lisae_tf.model.checkpoints import OwnLayer


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
    """Inference on pictures from inference on tiles.

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
