"""One training over several devices or workers: `train --distribute mirrored|workers`.

Data parallel: every worker makes the same global batches and takes its own rows of each, gradients
are summed over all, and so weights are those of one worker but for the order of float32 sums.
Keras 3's `fit` refuses worker strategies, so a short loop stands in for it.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from lisae_tf.core.errors import LisaeError

KINDS = ("mirrored", "workers")


def make_strategy(kind: str) -> tf.distribute.Strategy:
    """The strategy of a kind; call before anything else is done in TensorFlow.

    Args:
        kind: "mirrored", over all GPUs of this machine (or its one CPU), or "workers", over the
            workers that the environment variable TF_CONFIG names.

    Raises:
        LisaeError: no TF_CONFIG, or one that names no workers.
    """
    if kind == "mirrored":
        devices = [d.name for d in tf.config.list_logical_devices("GPU")]
        return tf.distribute.MirroredStrategy(
            devices or [d.name for d in tf.config.list_logical_devices("CPU")]
        )
    try:
        workers = json.loads(os.environ.get("TF_CONFIG", ""))["cluster"]["worker"]
    except (ValueError, KeyError, TypeError) as error:
        raise LisaeError(
            "--distribute workers needs TF_CONFIG with all workers and this one's index, as "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", '
            '"index": 0}}'
        ) from error
    if not isinstance(workers, list) or not workers:
        raise LisaeError("TF_CONFIG names no worker; list all of them as host:port")
    return tf.distribute.MultiWorkerMirroredStrategy()


def is_chief(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether this process writes files: the first worker does, and whoever is alone."""
    resolver = (strategy or tf.distribute.get_strategy()).cluster_resolver
    return resolver is None or not resolver.task_id


@contextlib.contextmanager
def lost_worker_named() -> Iterator[None]:
    """Says in a sentence that another worker has gone.

    Raises:
        LisaeError: it has.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise LisaeError(
            "another worker was lost; start all of them again with --resume, which goes on from "
            "the last finished epoch"
        ) from error


def is_distributed() -> bool:
    """Whether a strategy is in force here."""
    return tf.distribute.has_strategy()


def fit(
    model: keras.Model,
    stream: tf.data.Dataset,
    held_out: tf.data.Dataset,
    *,
    steps: int,
    epochs: tuple[int, int],
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """What `Model.fit` does, under the strategy in force.

    Args:
        model: built and compiled under the strategy.
        stream: global batches, dictionaries of arrays of equal length.
        held_out: whole held-out batches, gone through after each epoch.
        steps: of an epoch.
        epochs: the first one and the one past the last.
        callbacks: told of epochs, with the logs that `fit` would give.

    Raises:
        LisaeError: batches that cannot be divided evenly.
    """
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    _refuse_uneven(stream, replicas)

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        own = replicas // context.num_input_pipelines
        first = own * context.input_pipeline_id
        return own_rows(stream, range(first, first + own), replicas)

    def everything(context: tf.distribute.InputContext) -> tf.data.Dataset:
        own = replicas // context.num_input_pipelines
        return held_out.flat_map(lambda batch: tf.data.Dataset.from_tensors(batch).repeat(own))

    train_step = tf.function(lambda batch: strategy.run(model.train_step, (batch,)))
    test_step = tf.function(
        lambda batch: strategy.run(model.test_step, (batch,)), reduce_retracing=True
    )
    training = iter(strategy.distribute_datasets_from_function(of_worker))
    told = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=epochs[1], steps=steps)
    model.stop_training = False
    told.on_train_begin()
    for epoch in range(*epochs):
        told.on_epoch_begin(epoch)
        logs = _run(model, train_step, (next(training) for _ in range(steps)))
        testing = strategy.distribute_datasets_from_function(everything)
        logs |= {f"val_{name}": v for name, v in _run(model, test_step, testing).items()}
        told.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    told.on_train_end()


def _run(model: keras.Model, step, batches) -> dict[str, float]:
    """One pass; the means of what the step reports."""
    for metric in model.metrics:
        metric.reset_state()
    names: Sequence[str] = ()
    for batch in batches:
        names = list(step(batch))
    means = {metric.name: metric for metric in model.metrics}
    return {name: float(means[name].result()) for name in names}


def own_rows(stream: tf.data.Dataset, own: range, replicas: int) -> tf.data.Dataset:
    """What each of one worker's replicas gets of every batch, one replica after the other.

    Args:
        stream: global batches, dictionaries of arrays (N, …).
        own: the numbers of the worker's replicas.
        replicas: of all workers; N is a multiple of it.

    Returns:
        Batches of N / replicas rows, taken in turn, so that each is as mixed as the global one.
    """

    def cut(batch):
        return {
            name: tf.stack([part[replica::replicas] for replica in own])
            for name, part in batch.items()
        }

    return stream.map(cut).unbatch()


def _refuse_uneven(stream: tf.data.Dataset, replicas: int) -> None:
    first = next(iter(stream.take(1)))
    for name, part in first.items():
        if len(part) % replicas:
            raise LisaeError(
                f"batches of {len(part)} {name} pictures cannot be divided by {replicas} replicas; "
                "set feature_extraction.batch_size and latent_shaping.batch_size to a multiple"
            )
