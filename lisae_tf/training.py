"""Algorithm 1: the feature extraction phase, then the latent-shaping phase.

Owns optimiser, stopping, the collapse check and resuming. Sees training data only: what stops a
phase is the phase's own loss on held-out normal and negative pictures.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from lisae_tf.augmentation import augment
from lisae_tf.autoencoder import LatentInsensitiveAutoencoder
from lisae_tf.checkpoints import Arrays, set_weights, weights_of
from lisae_tf.config import Config
from lisae_tf.convergence import Convergence, ResumePoint
from lisae_tf.errors import LisaeError
from lisae_tf.features import encode
from lisae_tf.networks import Architecture, build_networks
from lisae_tf.pipelines import (
    augmented_bank,
    held_out_batches,
    steps_per_epoch,
    training_batches,
)
from lisae_tf.tasks import TrainingData

RESTART_STRIDE = 1_000_003  # between the seeds of a run and of its restarts


@dataclass
class TrainingResult:
    """A trained model and how it came about."""

    model: LatentInsensitiveAutoencoder
    phase1_weights: Arrays
    history: list[dict] = field(default_factory=list)
    restart_seeds: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingOptions:
    """How to train, apart from what: where to keep state and whom to tell."""

    checkpoint: Path | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    say: Callable[[str], None] = lambda line: None


@keras.saving.register_keras_serializable("lisae_tf")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate rises linearly over the first steps, which keeps tanh from saturating."""

    def __init__(self, peak: float, steps: int):
        self.peak, self.steps = peak, steps

    def __call__(self, step):
        share = (tf.cast(step, tf.float32) + 1) / max(1, self.steps)
        return self.peak * tf.minimum(share, 1.0)

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}


def build_autoencoder(
    config: Config, shape: tuple[int, int, int], *, seed: int, mean_pixel: float = 0.5
) -> LatentInsensitiveAutoencoder:
    """An untrained model for pictures of `shape`."""
    architecture = Architecture(shape, config.network.latent, tuple(config.network.filters))
    networks = build_networks(architecture, seed=seed, mean_pixel=mean_pixel)
    return LatentInsensitiveAutoencoder(*networks)


def constant_picture_error(fit: np.ndarray, held_out: np.ndarray) -> float:
    """E of the mean training picture on held-out ones: what a collapsed network reaches."""
    mean = fit.mean(axis=0, dtype=np.float64) / 255
    return float(np.mean([np.mean(np.square(image / 255 - mean)) for image in held_out]))


def _fit(
    model: LatentInsensitiveAutoencoder,
    stream: Callable[[int, int], tf.data.Dataset],
    held_out: tf.data.Dataset,
    steps: int,
    convergence: Convergence,
    options: TrainingOptions,
) -> None:
    """`fit` from the epoch where `convergence` stands to its end, then the best weights."""
    first = convergence.attach(model)
    if not convergence.finished:
        model.fit(
            stream(first, convergence.epochs),
            steps_per_epoch=steps,
            initial_epoch=first,
            epochs=convergence.epochs,
            validation_data=held_out,
            callbacks=[convergence, *options.callbacks],
            shuffle=False,
            verbose=0,
        )
    convergence.restore_best()


def feature_extraction(
    config: Config,
    data: TrainingData,
    point: ResumePoint,
    options: TrainingOptions,
) -> tuple[LatentInsensitiveAutoencoder, Convergence, list[int]]:
    """Phase 1: minimise ‖x̂⁺ − x⁺‖² until convergence (section 3.3); LinSep adds its term.

    A run that stays at the mean picture is started again with a derived seed.

    Returns:
        The model with its best weights, its convergence record, the seeds of restarts.

    Raises:
        LisaeError: it collapsed in every attempt.
    """
    settings = config.feature_extraction
    linsep = config.variant == "linsep"
    plateau = constant_picture_error(data.normal.fit, data.normal.stopping)
    fraction = settings.collapse_fraction  # 0 switches the check off
    ceiling = (1 - fraction) * plateau if fraction else math.inf
    mean_pixel = float(data.normal.fit.mean(dtype=np.float64)) / 255
    fit_normal = {"normal": data.normal.fit}
    fit_negative = {"negative": data.negative.fit} if linsep else None
    held_out = held_out_batches(
        {"normal": data.normal.stopping},
        {"negative": data.negative.stopping} if linsep else None,
    )
    first_attempt = point.attempt if point.phase == 1 else 0
    restarts = [config.seed + k * RESTART_STRIDE for k in range(1, first_attempt + 1)]
    for attempt in range(first_attempt, settings.restarts + 1):
        seed = config.seed + attempt * RESTART_STRIDE
        model = build_autoencoder(config, data.shape, seed=seed, mean_pixel=mean_pixel)
        rate = LinearWarmup(settings.learning_rate, settings.warmup_steps)
        model.enter_feature_extraction(
            keras.optimizers.Adam(rate), linsep_weight=settings.linsep_weight if linsep else 0.0
        )
        convergence = Convergence(
            point, phase=1, attempt=attempt, epochs=settings.epochs, patience=settings.patience,
            plateau=("val_normal_error", ceiling),
        )  # fmt: skip

        def stream(first: int, last: int, seed: int = seed) -> tf.data.Dataset:
            return training_batches(
                fit_normal, fit_negative, batch_size=settings.batch_size, epochs=(first, last),
                seed=seed, phase=1, augment=augment if data.augment else None,
            )  # fmt: skip

        steps = steps_per_epoch(fit_normal, settings.batch_size)
        _fit(model, stream, held_out, steps, convergence, options)
        if convergence.best_of("val_normal_error") < ceiling:
            return model, convergence, restarts
        if attempt < settings.restarts:
            restarts.append(config.seed + (attempt + 1) * RESTART_STRIDE)
            options.say(
                f"phase 1 collapsed to the mean picture (held-out error "
                f"{convergence.best_of('val_normal_error'):.4f}, mean picture {plateau:.4f}); "
                f"starting again with seed {restarts[-1]}"
            )
    raise LisaeError(
        f"phase 1 collapsed {settings.restarts + 1} times: the network paints the mean picture "
        f"(held-out error {convergence.best_of('val_normal_error'):.4f}, mean picture "
        f"{plateau:.4f}); raise feature_extraction.warmup_steps or epochs, lower "
        "feature_extraction.learning_rate, or set feature_extraction.collapse_fraction=0 if the "
        "pictures are pure noise"
    )


def _negatives_past_gamma(errors: np.ndarray, gamma: float) -> str | None:
    """A warning where most negatives satisfy the hinge before phase 2 has begun."""
    share = float(np.mean(errors > gamma))
    if share < 0.5:
        return None
    acting = float(f"{2 * np.quantile(errors, 0.9):.2g}")
    return (
        f"{100 * share:.0f} % of the negatives lie past gamma={gamma:g} before phase 2, so the "
        f"hinge does little; latent_shaping.gamma={acting:g} would act on most of them"
    )


def _side(
    name: str, images: np.ndarray, model: LatentInsensitiveAutoencoder, config: Config, folder: Path
) -> dict[str, np.ndarray]:
    """The arrays of one side of phase 2: pictures, and s = ℰ(x) where the pipeline allows."""
    if not config.latent_shaping.cache_features:
        return {name: images}
    budget = config.latent_shaping.memory_budget_mb * 2**20
    return {name: images, f"{name}_features": encode(model, images, budget, folder)}


def latent_shaping(
    config: Config,
    data: TrainingData,
    model: LatentInsensitiveAutoencoder,
    point: ResumePoint,
    options: TrainingOptions,
) -> tuple[Convergence, list[str]]:
    """Phase 2: freeze encoder and decoder, train the latent layer on equation 4.

    Raises:
        LisaeError: the hinge acted and yet no latent weight moved.
    """
    settings = config.latent_shaping
    model.enter_latent_shaping(
        keras.optimizers.Adam(settings.learning_rate),
        gamma=settings.gamma, beta=settings.beta, hinge=settings.hinge,
    )  # fmt: skip
    fresh_augmentation = data.augment and not settings.cache_features
    negative_fit = data.negative.fit
    if data.augment and settings.cache_features:
        negative_fit = augmented_bank(negative_fit, settings.bank_copies, augment, seed=config.seed)
    with tempfile.TemporaryDirectory(prefix="lisae-features-") as folder:
        arrays = [
            _side(name, images, model, config, Path(folder))
            for name, images in (
                ("normal", data.normal.fit),
                ("negative", negative_fit),
                ("normal", data.normal.stopping),
                ("negative", data.negative.stopping),
            )
        ]
        normal, negative, normal_held_out, negative_held_out = arrays
        convergence = Convergence(
            point, phase=2, attempt=0, epochs=settings.epochs, patience=settings.patience
        )
        held_out = held_out_batches(normal_held_out, negative_held_out)
        before = [w.numpy() for w in model.latent.weights]
        errors = picture_errors(model, data.negative.stopping)
        notes = [note for note in [_negatives_past_gamma(errors, settings.gamma)] if note]

        def stream(first: int, last: int) -> tf.data.Dataset:
            return training_batches(
                normal, negative, batch_size=settings.batch_size, epochs=(first, last),
                seed=config.seed, phase=2, augment=augment if fresh_augmentation else None,
            )  # fmt: skip

        steps = steps_per_epoch(normal, settings.batch_size)
        _fit(model, stream, held_out, steps, convergence, options)
    acted = settings.hinge == "literal" or bool(np.any(errors < settings.gamma))
    moved = any(
        np.any(old != new.numpy()) for old, new in zip(before, model.latent.weights, strict=True)
    )
    if acted and not moved:
        raise LisaeError(
            "phase 2 changed no latent weight although negatives lay below gamma; raise "
            "latent_shaping.learning_rate or latent_shaping.epochs"
        )
    return convergence, notes


def picture_errors(
    model: LatentInsensitiveAutoencoder, images: np.ndarray, batch_size: int = 512
) -> np.ndarray:
    """E of each picture: uint8 (N, H, W, C) -> float32 (N,)."""
    starts = range(0, len(images), batch_size)
    return np.concatenate([model.errors_of(images[i : i + batch_size]).numpy() for i in starts])


def require_negatives(config: Config, data: TrainingData) -> None:
    """Refuses phase 2 without negatives.

    Raises:
        LisaeError: the variant needs negatives and there are none.
    """
    if config.variant != "ae" and data.negative is None:
        raise LisaeError(
            f"--variant {config.variant} needs negative pictures; name some with --negatives or "
            "--negative-dir, or use --variant ae"
        )


def train(config: Config, data: TrainingData, options: TrainingOptions) -> TrainingResult:
    """Both phases, from the start or from where the checkpoint stands.

    Raises:
        LisaeError: phase 2 without negatives, or a collapse that restarts did not cure.
    """
    require_negatives(config, data)
    point = ResumePoint.load(options.checkpoint)
    if point.phase == 2:
        model = build_autoencoder(config, data.shape, seed=config.seed)
        set_weights(model, point.phase1_weights)
        history, restarts = list(point.earlier_history), list(point.restart_seeds)
    else:
        model, convergence, restarts = feature_extraction(config, data, point, options)
        history = convergence.history
        point = point.next_phase(weights_of(model), history, restarts)
    result = TrainingResult(model, point.phase1_weights, history, restarts)
    if config.variant != "ae":
        convergence, result.notes = latent_shaping(config, data, model, point, options)
        result.history = history + convergence.history
    return result
