"""Where overlapping tiles lie in a large picture. Runs without TensorFlow."""

from dataclasses import dataclass

import numpy as np

from lisae_tf.config.sections import Data
from lisae_tf.core.errors import LisaeError


@dataclass(frozen=True)
class Tiling:
    """Square tiles of `tile` pixels, one every `stride` pixels, over pictures of `shape` (H, W, C).

    Raises:
        LisaeError: the tiles do not fill the picture.
    """

    shape: tuple[int, int, int]
    tile: int
    stride: int

    def __post_init__(self):
        if self.stride > self.tile:
            raise LisaeError(
                f"a stride of {self.stride} leaves gaps between tiles of {self.tile}; give at most "
                f"{self.tile}"
            )
        for name, side in zip(("height", "width"), self.shape[:2], strict=True):
            rest = (side - self.tile) % self.stride
            if side < self.tile or rest:
                nearest = max(self.tile, side - rest)
                raise LisaeError(
                    f"tiles of {self.tile} every {self.stride} pixels do not fill a {name} of "
                    f"{side}; give {nearest} or {nearest + self.stride}"
                )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        height, width = ((side - self.tile) // self.stride + 1 for side in self.shape[:2])
        return height, width

    @property
    def count(self) -> int:
        """Tiles of a picture."""
        return self.grid[0] * self.grid[1]

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a tile."""
        return (self.tile, self.tile, self.shape[2])

    def starts(self, axis: int) -> range:
        """Where tiles begin, down (0) or across (1)."""
        return range(0, self.shape[axis] - self.tile + 1, self.stride)

    def cut(self, images, stack=np.stack, reshape=np.reshape):
        """The tiles of each picture, row by row: (N, H, W, C) -> (N · count, tile, tile, C)."""
        width, channels = self.shape[1:]
        strips = stack([images[:, y : y + self.tile] for y in self.starts(0)], axis=1)
        strips = reshape(strips, (-1, self.tile, width, channels))
        tiles = stack([strips[:, :, x : x + self.tile] for x in self.starts(1)], axis=1)
        return reshape(tiles, (-1, *self.tile_shape))

    def covered(self) -> np.ndarray:
        """How many tiles hold each pixel, float32 (H, W)."""
        down, across = (np.zeros(side, np.float32) for side in self.shape[:2])
        for axis, line in enumerate((down, across)):
            for start in self.starts(axis):
                line[start : start + self.tile] += 1
        return np.outer(down, across)


def tiling_of(data: Data, channels: int) -> Tiling:
    """The tiles that settings with `tile` and `size` ask for."""
    return Tiling((*data.size, channels), data.tile, data.stride or data.tile)
