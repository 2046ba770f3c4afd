"""Both phases and a whole task, beside PyTorch and plain Keras."""

import time
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from benchmarks.measure import (
    FLOPS,
    TRAINING,
    Row,
    Subject,
    compare,
    figures_row,
    multiplications,
    peak_flops,
    subject,
)
from lisae_tf.config.settings import merge, resolve
from lisae_tf.data.pipelines import steps_at_once, steps_per_epoch, training_batches
from lisae_tf.experiments import experiment
from lisae_tf.model.autoencoder import LatentInsensitiveAutoencoder
from lisae_tf.training.phase import build_autoencoder


def built(item: Subject, precision: str = "float32") -> LatentInsensitiveAutoencoder:
    """The dataset's network, untrained."""
    config = resolve(merge(item.config.model_dump(), {"network": {"precision": precision}}))
    return build_autoencoder(config, item.shape, seed=0, training=True)


def plain_keras(encoder: keras.Model, latent: keras.Model, decoder: keras.Model) -> keras.Model:
    """uint8 (N, H, W, C) -> x̂, (N, H, W, C): what a user of Keras alone would `fit`."""
    image = keras.Input(encoder.input_shape[1:], dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    return keras.Model(image, decoder(latent(encoder(x))))


def plain_scorer(encoder: keras.Model, latent: keras.Model, decoder: keras.Model) -> keras.Model:
    """uint8 (N, H, W, C) -> the error of each picture, for `predict`."""
    image = keras.Input(encoder.input_shape[1:], dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    difference = decoder(latent(encoder(x))) - x
    return keras.Model(image, keras.ops.mean(keras.ops.square(difference), axis=(1, 2, 3)))


def _fit(model: keras.Model, normal: dict, negative: dict | None, size: int, epochs: int) -> None:
    """As `fit_phase` does, without held-out pictures, which the other side does not look at."""
    steps = steps_per_epoch(normal, size)
    model.steps_per_execution = steps_at_once(steps)
    phase = 2 if negative else 1
    stream = training_batches(
        normal, negative, batch_size=size, epochs=(0, epochs), seed=0, phase=phase
    )
    model.fit(stream, steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0)


def phase_1(item: Subject, repeats: int) -> list[Row]:
    """Pictures a second, one epoch a turn."""
    from benchmarks.peers import TorchAutoencoder, torch_phase_1

    settings = item.config.feature_extraction
    model, other = built(item), built(item)
    model.enter_feature_extraction(keras.optimizers.Adam(settings.learning_rate))
    normal = {"normal": item.normal}
    steps = steps_per_epoch(normal, settings.batch_size)
    trained = item.normal[: steps * settings.batch_size]
    peer = TorchAutoencoder(other.encoder, other.latent, other.decoder)
    row = compare(
        f"phase 1, {item.label}: PyTorch",
        lambda: _fit(model, normal, None, settings.batch_size, 1),
        torch_phase_1(peer, trained, settings.batch_size, settings.learning_rate),
        target=1.0, repeats=repeats, work=len(trained), unit="pictures/s",
        note=f"batch {settings.batch_size}, same network, channels-last",
    )  # fmt: skip
    macs = multiplications(model.encoder, model.latent, model.decoder)
    return [_of_peak(row, FLOPS * TRAINING * macs)]


def _of_peak(row: Row, flops: float) -> Row:
    return Row(**(vars(row) | {"peak": round(row.ours * flops / peak_flops(), 3)}))


def phase_2(item: Subject, repeats: int, epochs: int) -> list[Row]:
    """Normal and negative pictures a second, a whole phase a turn."""
    from benchmarks.peers import TorchAutoencoder, torch_phase_2

    settings = item.config.latent_shaping.model_copy(update={"hinge": "hinge"})
    model, other = built(item), built(item)
    model.enter_latent_shaping(
        keras.optimizers.Adam(settings.learning_rate), gamma=settings.gamma, beta=settings.beta
    )
    sides = {"normal": item.normal}, {"negative": item.negative}
    peer = TorchAutoencoder(other.encoder, other.latent, other.decoder)
    steps = steps_per_epoch({"normal": item.normal}, settings.batch_size)
    cut = steps * settings.batch_size
    plain = torch_phase_2(peer, item.normal[:cut], item.negative[:cut], settings, epochs)
    row = compare(
        f"phase 2, {item.label}: PyTorch",
        lambda: _fit(model, *sides, settings.batch_size, epochs), plain,
        target=2.0, repeats=repeats, work=2 * epochs * cut, unit="pictures/s",
        note=f"batch {settings.batch_size} of each side, {epochs} epochs",
    )  # fmt: skip
    # Forward through all, and back through the decoder to the latent weights.
    macs = multiplications(model.encoder) + multiplications(model.latent, model.decoder) * 2
    return [_of_peak(row, FLOPS * (macs + multiplications(model.latent)))]


def lower_precision(item: Subject, repeats: int) -> list[Row]:
    """An epoch of each phase in bfloat16 beside our own float32."""
    first, second = item.config.feature_extraction, item.config.latent_shaping
    normal, negative = {"normal": item.normal}, {"negative": item.negative}
    rows = []
    for phase, size, other in ((1, first.batch_size, None), (2, second.batch_size, negative)):
        models = [built(item, precision) for precision in ("mixed_bfloat16", "float32")]
        for model in models:
            if phase == 1:
                model.enter_feature_extraction(keras.optimizers.Adam(first.learning_rate))
            else:
                optimizer = keras.optimizers.Adam(second.learning_rate)
                model.enter_latent_shaping(optimizer, gamma=second.gamma, beta=second.beta)
        rows.append(compare(
            f"phase {phase} in bfloat16, {item.label}: in float32",
            *(partial(_fit, model, normal, other, size, 1) for model in models),
            target=1.0, repeats=repeats, unit="pictures/s",
            work=phase * steps_per_epoch(normal, size) * size,
            note=f"network.precision=mixed_bfloat16, batch {size}; needs a processor that has it",
        ))  # fmt: skip
    return rows


class PlainLatentShaping(keras.Model):
    """Equation 4 as one would write it in Keras: two passes through the whole network a step."""

    def __init__(self, model: LatentInsensitiveAutoencoder, gamma: float, beta: float):
        super().__init__()
        self.whole = model
        self.gamma, self.beta = gamma, beta
        model.encoder.trainable = model.decoder.trainable = False

    def train_step(self, data):
        errors = []
        with tf.GradientTape() as tape:
            for images in data[0] if isinstance(data[0], tuple) else data:
                x = tf.cast(images, tf.float32) / 255
                x_hat = self.whole.decoder(self.whole.latent(self.whole.encoder(x)))
                errors.append(tf.reduce_mean(tf.square(x_hat - x), axis=(1, 2, 3)))
            pushed = tf.nn.relu(self.gamma - errors[1])
            loss = tf.reduce_mean(errors[0]) + self.beta * tf.reduce_mean(pushed)
        weights = self.whole.latent.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


def _plain_augmentation() -> keras.Model:
    """What Keras has of our augmentations, as its guides use it."""
    from lisae_tf.data.augmentation import BLUR_SIGMA, CROP_SHARE

    return keras.Sequential([
        keras.layers.RandomFlip(),
        keras.layers.RandomZoom((-2 * CROP_SHARE, 0.0)),
        keras.layers.RandomGaussianBlur(kernel_size=5, sigma=BLUR_SIGMA, value_range=(0, 255)),
    ])  # fmt: skip


def _plain_task(config, loaded: experiment.Loaded) -> float:
    """The same data, network, batches and epochs in plain Keras; gives the AUROC."""
    keras.utils.set_random_seed(config.seed)
    first, second = config.feature_extraction, config.latent_shaping
    normal, negative = loaded.data.normal.fit, loaded.data.negative.fit
    mean = float(normal.mean() / 255)
    model = build_autoencoder(config, loaded.data.shape, seed=config.seed, mean_pixel=mean)
    networks = (model.encoder, model.latent, model.decoder)
    autoencoder = plain_keras(*networks)
    autoencoder.compile(keras.optimizers.Adam(first.learning_rate), "mse")
    pixels = normal.astype(np.float32) / 255
    held_out = loaded.data.normal.stopping
    autoencoder.fit(
        normal, pixels, first.batch_size, first.epochs, verbose=0,
        validation_data=(held_out, held_out.astype(np.float32) / 255),
    )  # fmt: skip
    shaping = PlainLatentShaping(model, second.gamma, second.beta)
    shaping.compile(keras.optimizers.Adam(second.learning_rate))
    change, generator = _plain_augmentation(), np.random.default_rng(config.seed)
    for _ in range(second.epochs):
        drawn = negative[generator.integers(0, len(negative), len(normal))]
        pairs = (
            tf.data.Dataset.from_tensor_slices((normal, drawn)).shuffle(len(normal))
            .batch(second.batch_size)
            .map(lambda kept, pushed: ((kept, change(tf.cast(pushed, tf.float32))),),
                 num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
        )  # fmt: skip
        shaping.fit(pairs, epochs=1, shuffle=False, verbose=0)
    scores = plain_scorer(*networks).predict(loaded.test.pixels, verbose=0)
    return roc_auc_score(loaded.test.is_anomaly, scores)


def whole_task(item: Subject, data_dir: Path | None, repeats: int, over: dict) -> list[Row]:
    """Start to AUROC, imports and decoding apart; a task is too long for a turn that is lost."""
    config = resolve(merge(item.config.model_dump(), over))
    loaded = experiment.load(config, data_dir)
    seconds: tuple[list[float], list[float]] = ([], [])
    figures: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, work in enumerate((
            lambda: experiment.run(config, loaded).metrics["auroc"],
            lambda: _plain_task(config, loaded),
        )):  # fmt: skip
            begin = time.perf_counter()
            figures[side].append(work())
            seconds[side].append(time.perf_counter() - begin)
    note = (
        f"AUROC {np.median(figures[0]):.4f} against {np.median(figures[1]):.4f}; same epochs and "
        "batches; plain Keras augments by its own layers, and has no warm-up, check or figures"
    )
    name = f"a whole task, {item.label}: plain Keras fit"
    return [figures_row(name, *seconds, target=3.0, unit="s", note=note)]


def run(data_dir: Path | None, quick: bool) -> list[Row]:
    """Every comparison of this file."""
    rows = []
    for dataset in ("mnist", "cifar10"):
        item = subject(dataset, data_dir, 256 if quick else 4096)
        rows += phase_1(item, 1 if quick else 7)
        rows += lower_precision(item, 1 if quick else 5)
        item = subject(dataset, data_dir, 256 if quick else 1600)
        epochs = 2 if quick else item.config.latent_shaping.epochs
        rows += phase_2(item, 1 if quick else 3, epochs)
    return rows


def run_task(data_dir: Path | None, quick: bool) -> list[Row]:
    """A whole MNIST task."""
    over = {}
    if quick:
        one = {"epochs": 1}
        over = {"feature_extraction": one | {"collapse_fraction": 0.0}, "latent_shaping": one}
    return whole_task(subject("mnist", data_dir, 10), data_dir, 1 if quick else 2, over)
