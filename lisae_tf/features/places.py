"""Features at each place of a picture, as one frozen network: uint8-scaled pixels to rows.

A backbone's taps, each averaged over its neighbourhood, brought to the grid of the first tap,
put together and standardised by normal pictures.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from lisae_tf.config.sections import Features
from lisae_tf.core.arrays import Arrays, batches
from lisae_tf.core.regions import counted_places
from lisae_tf.data.pictures import content_hashes
from lisae_tf.features import backbones
from lisae_tf.model.checkpoints import OwnLayer
from lisae_tf.model.scoring import covered

PICTURES = 16  # in one call of a backbone


def _local_mean(side: int, name: str) -> keras.Sequential:
    """The mean over side x side neighbours; beyond the border it counts zeros.

    Zeros, because places at the border have odd features, which count less so.
    """
    padded = layers.ZeroPadding2D(side // 2, name=f"{name}_pad")
    mean = layers.AveragePooling2D(side, 1, "valid", name=f"{name}_mean")
    return keras.Sequential([padded, mean], name=f"{name}_local")


class Memo:
    """Raw features of the pictures seen last, by what is in the pictures, in bounded memory.

    Attributes:
        spared: seconds of the backbone that `get` has made unnecessary so far.
    """

    def __init__(self, limit: int):
        self._limit, self._size = limit, 0  # bytes
        self._found: OrderedDict[bytes, tuple[np.ndarray, float]] = OrderedDict()
        self.spared = 0.0

    def get(self, key: bytes) -> np.ndarray | None:
        """What is kept under a key."""
        if key not in self._found:
            return None
        self._found.move_to_end(key)
        features, seconds = self._found[key]
        self.spared += seconds
        return features

    def keep(self, key: bytes, features: np.ndarray, seconds: float) -> None:
        """Keeps features that took so long, and forgets the oldest where there are too many."""
        if key in self._found:  # a copy of it in the same batch
            return
        self._found[key] = features.copy(), seconds
        self._size += features.nbytes
        while self._size > self._limit:
            self._size -= self._found.popitem(last=False)[1][0].nbytes


_memo: ContextVar[Memo | None] = ContextVar("memo", default=None)


@contextmanager
def remembering(memo: Memo | int) -> Iterator[None]:
    """In the block a picture goes through the backbone once, as far as memory reaches.

    Args:
        memo: where features are kept, over several blocks maybe, or the bytes of a new one; of
            nested blocks the outermost decides.
    """
    if _memo.get() is not None:
        yield
        return
    token = _memo.set(Memo(memo) if isinstance(memo, int) else memo)
    try:
        yield
    finally:
        _memo.reset(token)


_told: ContextVar[Callable[[int, int], None] | None] = ContextVar("told", default=None)


@contextmanager
def telling(told: Callable[[int, int], None]) -> Iterator[None]:
    """Tells of each batch of a set of pictures how many are done, and of how many."""
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


class PlaceFeatures:
    """What a place looks like, in pictures of one size.

    Attributes:
        network: x on 0-1, float32 (N, H, W, C) -> raw features, float32 (N, h, w, m).
        mean, scale: float32 (m,), of normal places; (raw − mean) · scale is standardised.
        counted: bool (h, w), the places that count; None where all do.
    """

    def __init__(
        self,
        settings: Features,
        shape: tuple[int, int, int],
        ignored: np.ndarray | None = None,
    ):
        height, width, channels = shape
        self._name = f"{settings.backbone} {settings.taps} {settings.local_mean} {shape}".encode()
        if ignored is not None:
            self._name += np.packbits(ignored).tobytes()
        self._backbone = backbones.build(settings.backbone, (height, width, 3), settings.taps)
        x = keras.Input(shape, name="x")
        seen = covered(x, None if ignored is None else ~ignored)
        rgb = layers.Concatenate(name="grey_to_rgb")([seen] * 3) if channels == 1 else seen
        maps = self._backbone(layers.Rescaling(255.0, name="levels")(rgb))
        maps = maps if isinstance(maps, list) else [maps]
        if settings.local_mean > 1:
            maps = [_local_mean(settings.local_mean, f"tap_{k}")(m) for k, m in enumerate(maps)]
        self.grid: tuple[int, int] = maps[0].shape[1:3]
        self.counted = None if ignored is None else counted_places(ignored, self.grid)
        maps = [
            m if m.shape[1:3] == self.grid else layers.Resizing(*self.grid, name=f"tap_{k}_grid")(m)
            for k, m in enumerate(maps)
        ]
        y = layers.Concatenate(name="places")(maps) if len(maps) > 1 else maps[0]
        self.network = keras.Model(x, y, name="place_features")
        self.size: int = y.shape[-1]
        self.mean = np.zeros(self.size, np.float32)
        self.scale = np.ones(self.size, np.float32)
        unit = tf.constant(1 / 255)

        def run(images: tf.Tensor) -> tf.Tensor:
            return self.network(tf.cast(images, tf.float32) * unit, training=False)

        signature = [tf.TensorSpec((None, *shape), tf.uint8)]
        self._run = tf.function(run, signature)

    def pretrain(self, settings: Features) -> None:
        """Gives the backbone its pretrained weights.

        Raises:
            LisaeError: they are not there, altered, or cannot be downloaded.
        """
        found = backbones.BACKBONES[settings.backbone].pretrained(self._backbone.input_shape[1:])
        backbones.set_weights(self._backbone, found)

    def batches(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Raw features of uint8 (N, H, W, C), a few pictures at a time, float32 (n, h, w, m)."""
        told, done = _told.get(), 0
        for part in batches(images, PICTURES):
            found = self._of_batch(part)
            if told:
                told(done := done + len(part), len(images))
            yield found

    def _of_batch(self, part: np.ndarray) -> np.ndarray:
        """Raw features of a few pictures, from memory as far as they are remembered."""
        memo = _memo.get()
        if memo is None:
            return self._run(part).numpy()
        keys = [self._name + digest for digest in content_hashes(part)]
        known = [memo.get(key) for key in keys]
        new = [k for k, features in enumerate(known) if features is None]
        if new:
            began = time.perf_counter()
            found = self._run(part[new]).numpy()
            each = (time.perf_counter() - began) / len(new)
            for k, features in zip(new, found, strict=True):
                memo.keep(keys[k], features, each)
                known[k] = features
        return np.stack(known)

    def of(self, images: np.ndarray) -> np.ndarray:
        """Standardised features of the places that count.

        Args:
            images: uint8 (N, H, W, C).

        Returns:
            float32 (N, h, w, m) where all do, else (N, places, m).
        """
        places = self.grid if self.counted is None else (int(self.counted.sum()),)
        found = np.empty((len(images), *places, self.size), np.float32)
        for own, batch in zip(batches(found, PICTURES), self.batches(images), strict=True):
            own[:] = self.standardised(self.those_counted(batch))
        return found

    def those_counted(self, maps: np.ndarray) -> np.ndarray:
        """The places that count: (N, h, w, ...), or (N, places, ...) where not all do."""
        return maps if self.counted is None else maps[:, self.counted]

    def standardised(self, raw: np.ndarray) -> np.ndarray:
        """(raw − mean) · scale, of any shape (..., m)."""
        return (raw - self.mean) * self.scale

    def sample(self, images: np.ndarray, rows: int, seed: int) -> np.ndarray:
        """Raw features of at most `rows` places that count, as many random ones of each picture.

        Args:
            images: uint8 (N, H, W, C).
            rows: an upper bound.
            seed: decides which.

        Returns:
            float32 (M, m).
        """
        places = self.grid[0] * self.grid[1] if self.counted is None else int(self.counted.sum())
        each = max(1, min(places, rows // max(1, len(images))))
        generator = np.random.default_rng(seed)
        found = np.empty((len(images) * each, self.size), np.float32)
        filled = 0
        for batch in self.batches(images):
            for picture in self.those_counted(batch).reshape(len(batch), places, self.size):
                chosen = np.sort(generator.choice(places, each, replace=False))
                found[filled : filled + each] = picture[chosen]
                filled += each
        return found

    def standardise_by(self, raw: np.ndarray) -> np.ndarray:
        """Takes mean and scale from normal places, raw (M, m); returns them standardised."""
        self.mean = raw.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = raw.std(axis=0, dtype=np.float64)
        # A channel that never changes says nothing; it must not divide by zero.
        self.scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0).astype(np.float32)
        return self.standardised(raw)

    def standardise(self, raw: keras.KerasTensor) -> keras.KerasTensor:
        """In a graph: raw features (N, h, w, m) -> standardised places (N · h · w, m)."""
        return AsRows(name="rows")(Standardise(self.mean, self.scale, name="standardise")(raw))

    def arrays(self) -> Arrays:
        """Everything that `restore` needs."""
        weights = backbones.weights_by_path(self._backbone)
        named = {f"backbone:{path}": array for path, array in weights.items()}
        return named | {"mean": self.mean, "scale": self.scale}

    def restore(self, arrays: Arrays) -> None:
        """Takes back what `arrays` gave.

        Raises:
            LisaeError: they do not fit.
        """
        prefix = "backbone:"
        backbones.set_weights(
            self._backbone,
            {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)},
        )
        self.mean, self.scale = arrays["mean"], arrays["scale"]


class Standardise(OwnLayer):
    """(x − mean) · scale in the last axis, which a frozen layer of numbers holds."""

    def __init__(self, mean: np.ndarray, scale: np.ndarray, **kwargs):
        super().__init__(**({"trainable": False} | kwargs))
        self._mean, self._scale = mean, scale

    def call(self, x):
        return (x - ops.convert_to_tensor(self._mean)) * ops.convert_to_tensor(self._scale)

    def get_config(self):
        return super().get_config() | {"mean": self._mean, "scale": self._scale}


class AsRows(OwnLayer):
    """(N, h, w, m) -> (N · h · w, m)."""

    def call(self, x):
        return ops.reshape(x, (-1, x.shape[-1]))


class AsMap(OwnLayer):
    """(N · h · w,) or (N · h · w, 1) -> (N, h, w)."""

    def __init__(self, grid: tuple[int, int], **kwargs):
        super().__init__(**kwargs)
        self._grid = grid

    def call(self, x):
        return ops.reshape(x, (-1, *self._grid))
