"""Decoded pictures kept between the runs of one process, in bounded memory.

Does not know how pictures are decoded or what they are for.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np


class DecodedPictures:
    """The parts of datasets that were read last, each decoded as far as it was asked for.

    `limit` is in bytes, counted for whole parts; 0 keeps nothing.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._parts: OrderedDict[Hashable, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def pixels(
        self,
        key: Hashable,
        shape: tuple[int, ...],
        indices: np.ndarray,
        decode: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Some pictures of a part, a copy that the caller may change.

        Args:
            key: names the part and the size it is decoded to.
            shape: uint8 (N, H, W, C) of the whole part.
            indices: int (M,), which pictures.
            decode: gives uint8 (K, H, W, C) of some indices.

        Returns:
            uint8 (M, H, W, C).
        """
        if math.prod(shape) > self.limit:
            return decode(indices)
        if key not in self._parts:
            # Memory is taken as pictures are filled in.
            self._parts[key] = np.empty(shape, np.uint8), np.zeros(shape[0], bool)
        self._parts.move_to_end(key)
        while sum(pixels.nbytes for pixels, _ in self._parts.values()) > self.limit:
            self._parts.popitem(last=False)
        pixels, known = self._parts[key]
        missing = indices[~known[indices]]
        if len(missing):
            pixels[missing] = decode(missing)
            known[missing] = True
        return pixels[indices]
