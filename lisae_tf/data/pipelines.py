"""tf.data: batches of normal and negative pictures, a function of (seed, phase, epoch) alone.

Batched before mapped; arrays may be memory-mapped. Does not know where pictures come from.
"""

import weakref
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

Arrays = Mapping[str, np.ndarray]
Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_NORMAL_STREAM, _NEGATIVE_STREAM, _AUGMENT_STREAM = 0, 1, 2


def _seed(seed: int, phase: int, stream: int, epoch) -> tf.Tensor:
    base = tf.constant([seed, 16 * phase + stream], tf.int32)
    return tf.random.experimental.stateless_fold_in(base, tf.cast(epoch, tf.int32))


def _order(n: int, wanted: int, seed: tf.Tensor) -> tf.Tensor:
    """`wanted` of n indices in random order; each comes again only when all have come."""

    def one_round(own: tf.Tensor) -> tf.Tensor:
        return tf.random.experimental.stateless_shuffle(tf.range(n), own)

    # A loop in the graph: of few pictures there are many rounds, each of a dozen operations.
    seeds = tf.random.experimental.stateless_split(seed, -(-wanted // n))
    order = tf.map_fn(one_round, seeds, fn_output_signature=tf.TensorSpec((n,), tf.int32))
    return tf.reshape(order, [-1])[:wanted]


def _gather(arrays: Arrays) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    names = list(arrays)
    # TensorFlow keeps every numpy_function for the life of the process, and must not keep the
    # pictures with it: the stream holds them (see `_holding`).
    held = [weakref.ref(arrays[name]) for name in names]

    def take(indices: np.ndarray) -> list[np.ndarray]:
        return [np.ascontiguousarray(array()[indices]) for array in held]

    types = [tf.as_dtype(arrays[name].dtype) for name in names]
    shapes = [(None, *arrays[name].shape[1:]) for name in names]

    def gather(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = tf.numpy_function(take, [indices], types, stateful=False)
        return {
            name: tf.ensure_shape(part, shape)
            for name, part, shape in zip(names, batch, shapes, strict=True)
        }

    return gather


def _holding(stream: tf.data.Dataset, *sides: Arrays | None) -> tf.data.Dataset:
    """The stream, keeping its arrays alive for as long as it lives itself."""
    options = tf.data.Options()
    # Nothing here is left to tune, and the end of an iterator may wait for the tuner's next look,
    # which comes after 10 ms, 20 ms, … 41 s, 82 s.
    options.autotune.enabled = False
    stream = stream.with_options(options)
    stream.arrays = sides
    return stream


# Few pictures are gone through several times in an epoch, or training would end before it begins.
_FEWEST_STEPS = 50

# Steps that run in one call of the training function: Python between steps costs as much as a
# step of a small network.
_AT_ONCE = 8


def steps_per_epoch(normal: Arrays, batch_size: int) -> int:
    """Whole batches of normal pictures in one epoch, at least `_FEWEST_STEPS`.

    A long epoch leaves out the last few, so that its steps can run `_AT_ONCE` at once.
    """
    steps = max(_FEWEST_STEPS, len(next(iter(normal.values()))) // batch_size)
    return steps - steps % _AT_ONCE if steps >= 8 * _AT_ONCE else steps


def steps_at_once(steps: int) -> int:
    """How many steps of an epoch run in one call: a divisor, for epochs must not run together.

    A short epoch would not repay the time that it takes to build the loop.
    """
    if steps < 8 * _AT_ONCE:
        return 1
    return max(k for k in range(1, 2 * _AT_ONCE + 1) if steps % k == 0)


def training_batches(
    normal: Arrays,
    negative: Arrays | None,
    *,
    batch_size: int,
    epochs: tuple[int, int],
    seed: int,
    phase: int,
    augment: Augment | None = None,
) -> tf.data.Dataset:
    """One endless-looking stream over the epochs asked for, for `fit(steps_per_epoch=…)`.

    Order and augmentation of epoch k depend on (seed, phase, k) only, so a resumed run sees
    what an undisturbed one sees.

    Args:
        normal: arrays of equal length, as {"normal": x⁺}.
        negative: likewise for the negatives, drawn in equal number; None where not used.
        batch_size: of each side.
        epochs: first epoch and the one past the last.
        seed: of the run.
        phase: 1 or 2.
        augment: applied to "negative", uint8 in and out.
    """
    n_normal = len(next(iter(normal.values())))
    batch = min(batch_size, n_normal)
    steps = steps_per_epoch(normal, batch_size)
    take_normal = _gather(normal)
    take_negative = _gather(negative) if negative else None
    n_negative = len(next(iter(negative.values()))) if negative else 0

    def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
        parts = [tf.range(steps)]
        order = _order(n_normal, steps * batch, _seed(seed, phase, _NORMAL_STREAM, epoch))
        parts.append(tf.reshape(order, (steps, batch)))
        if negative:
            order = _order(n_negative, steps * batch, _seed(seed, phase, _NEGATIVE_STREAM, epoch))
            parts.append(tf.reshape(order, (steps, batch)))
        augment_seed = _seed(seed, phase, _AUGMENT_STREAM, epoch)
        steps_of_epoch = tf.data.Dataset.from_tensor_slices(tuple(parts))
        return steps_of_epoch.map(lambda *indices: (augment_seed, *indices))

    def load(augment_seed, step, normal_indices, negative_indices=None):
        loaded = take_normal(normal_indices)
        if take_negative:
            loaded |= take_negative(negative_indices)
            if augment:
                own = tf.random.experimental.stateless_fold_in(augment_seed, step)
                loaded["negative"] = augment(loaded["negative"], own)
        return loaded

    stream = tf.data.Dataset.range(*epochs).flat_map(epoch_of)
    loaded = stream.map(load, num_parallel_calls=2, deterministic=True).prefetch(2)
    return _holding(loaded, normal, negative)


def held_out_batches(
    normal: Arrays, negative: Arrays | None, *, batch_size: int = 512
) -> tf.data.Dataset:
    """Every held-out picture once, in order, both sides cut into equally many pieces."""
    counts = [len(next(iter(side.values()))) for side in (normal, negative) if side]
    pieces = max(1, min(-(-max(counts) // batch_size), *counts, max(counts)))
    take = [_gather(side) for side in (normal, negative) if side]
    bounds = [np.linspace(0, count, pieces + 1).astype(np.int64) for count in counts]

    def load(piece: tf.Tensor) -> dict[str, tf.Tensor]:
        loaded = {}
        for gather, edges in zip(take, bounds, strict=True):
            edge = tf.constant(edges)
            loaded |= gather(tf.range(edge[piece], edge[piece + 1]))
        return loaded

    return _holding(tf.data.Dataset.range(pieces).map(load), normal, negative)


def augmented_bank(
    images: np.ndarray, copies: int, augment: Augment, *, seed: int, batch_size: int = 512
) -> np.ndarray:
    """`copies` augmented versions of each picture, uint8 (copies · N, H, W, C)."""
    bank = np.empty((copies * len(images), *images.shape[1:]), np.uint8)
    change = tf.function(augment, reduce_retracing=True)
    for copy in range(copies):
        copy_seed = _seed(seed, 2, _AUGMENT_STREAM, -1 - copy)
        for start in range(0, len(images), batch_size):
            own = tf.random.experimental.stateless_fold_in(copy_seed, start)
            batch = change(tf.constant(images[start : start + batch_size]), own)
            place = copy * len(images) + start
            bank[place : place + len(batch)] = batch.numpy()
    return bank
