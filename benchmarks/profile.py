"""Where the time of a training step goes, before and after a change: `profile NAME`."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from benchmarks.measure import FLOPS, RESULTS, TRAINING, multiplications, peak_flops, subject
from benchmarks.training import built
from lisae_tf.core.files import read_json, update_json
from lisae_tf.core.markdown import markdown
from lisae_tf.data.pipelines import steps_at_once, steps_per_epoch, training_batches


def _milliseconds(work: Callable[[], object], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return 1000 * statistics.median(seconds)


def phase_1(
    dataset: str, data_dir: Path | None, quick: bool, before: bool = False
) -> list[tuple[str, float]]:
    """Milliseconds a step of phase 1, by part; parts overlap in a real step."""
    item = subject(dataset, data_dir, 256 if quick else 4096)
    size, repeats = item.config.feature_extraction.batch_size, 2 if quick else 200
    model = built(item)
    model.enter_feature_extraction(keras.optimizers.Adam(1e-3))
    normal = {"normal": item.normal}
    steps = steps_per_epoch(normal, size)
    batch = {"normal": tf.constant(item.normal[:size])}

    def stream() -> tf.data.Dataset:
        return training_batches(normal, None, batch_size=size, epochs=(0, 1), seed=0, phase=1)

    networks = {"encoder": model.encoder, "decoder": model.decoder}
    inputs = {
        "encoder": tf.zeros((size, *item.shape)),
        "decoder": tf.zeros((size, item.config.network.latent)),
    }
    forward = {name: tf.function(network) for name, network in networks.items()}

    def gradient(network):
        @tf.function
        def both(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.square(network(x)))
            return tape.gradient(loss, [x, *[w.value for w in network.trainable_weights]])

        return both

    step = tf.function(model.train_step)
    model.steps_per_execution = 1 if before else steps_at_once(steps)
    parts = [
        ("the batches alone", _milliseconds(lambda: list(stream()), 2 if quick else 5) / steps)
    ]
    for name, run in forward.items():
        x = inputs[name]
        parts.append((f"{name}, forward", _milliseconds(lambda run=run, x=x: run(x), repeats)))
        both = gradient(networks[name])
        parts.append(
            (f"{name}, forward and back", _milliseconds(lambda both=both, x=x: both(x), repeats))
        )
    parts.append(("train_step on one batch", _milliseconds(lambda: step(batch), repeats)))
    fit = lambda: model.fit(stream(), steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)  # noqa: E731
    parts.append(("fit, a step", _milliseconds(fit, 2 if quick else 5) / steps))
    macs = multiplications(model.encoder, model.latent, model.decoder)
    least = 1000 * FLOPS * TRAINING * macs * size / peak_flops()
    parts.append(("at the matrix-multiply peak", least))
    return parts


def write(
    dataset: str, data_dir: Path | None, quick: bool, path: Path = RESULTS, *, before: bool = False
) -> str:
    """Measures, stores the milliseconds of each part, and gives them as a table.

    Args:
        dataset: whose network and pictures.
        data_dir: folder of TensorFlow Datasets.
        quick: tiny and once.
        path: file of all figures.
        before: as it was before anything was changed: TensorFlow was started without oneDNN's
            kernels, and each step is a call of its own.
    """
    state = ", without oneDNN and with one step in a call" if before else ""
    profile = {
        "of": f"Phase 1, {dataset}, batch as in `configs/`{state}.",
        "milliseconds": [
            [part, round(value, 2)] for part, value in phase_1(dataset, data_dir, quick, before)
        ],
    }
    profiles = read_json(path).get("profiles", {}) if path.exists() else {}
    profiles[f"phase1-{dataset}{'-before' if before else ''}"] = profile
    update_json(path, "profiles", profiles)
    return table(profile)


def table(profile: dict) -> str:
    """A stored profile as Markdown."""
    rows = [[part, f"{value:.2f}"] for part, value in profile["milliseconds"]]
    return markdown(["part", "ms a step"], rows)
