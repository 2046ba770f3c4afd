"""The feature extraction phase (section 3.3): reconstruct normal pictures until convergence.

Owns warm-up, LinSep's weight, and what happens when the network collapses to the mean picture.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from lisae_tf.autoencoder import LatentInsensitiveAutoencoder
from lisae_tf.checkpoints import set_weights
from lisae_tf.config import Config
from lisae_tf.convergence import Convergence, ResumePoint
from lisae_tf.data.augmentation import augment
from lisae_tf.data.parts import TrainingData, full_scale
from lisae_tf.data.pipelines import held_out_batches, steps_per_epoch, training_batches
from lisae_tf.errors import LisaeError
from lisae_tf.networks import LatentBuilder, tanh_latent
from lisae_tf.phase import TrainingOptions, build_autoencoder, fit_phase
from lisae_tf.sharing import LINSEP, LOSSES

RESTART_STRIDE = 1_000_003  # between the seeds of a run and of its restarts


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


def constant_picture_error(fit: np.ndarray, held_out: np.ndarray) -> float:
    """E of the mean training picture on held-out ones: what a collapsed network reaches."""
    unit = full_scale(fit)
    mean = fit.mean(axis=0, dtype=np.float64) / unit
    return float(np.mean([np.mean(np.square(image / unit - mean)) for image in held_out]))


def feature_extraction(
    config: Config,
    data: TrainingData,
    point: ResumePoint,
    options: TrainingOptions,
    build_latent: LatentBuilder = tanh_latent,
    encoder_bias: bool = True,
) -> tuple[LatentInsensitiveAutoencoder, Convergence, list[int]]:
    """Phase 1: minimise ‖x̂⁺ − x⁺‖² until convergence (section 3.3); LinSep adds its term.

    A run that stays at the mean picture is started again with a derived seed.

    Returns:
        The model with its best weights, its convergence record, the seeds of restarts.

    Raises:
        LisaeError: it collapsed in every attempt.
    """
    settings = config.feature_extraction
    linsep = LOSSES.get(config.variant) == LINSEP
    plateau = constant_picture_error(data.normal.fit, data.normal.stopping)
    fraction = settings.collapse_fraction  # 0 switches the check off
    ceiling = (1 - fraction) * plateau if fraction else math.inf
    mean_pixel = float(data.normal.fit.mean(dtype=np.float64)) / full_scale(data.normal.fit)
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
        model = build_autoencoder(
            config, data.shape, seed=seed, mean_pixel=mean_pixel, build_latent=build_latent,
            encoder_bias=encoder_bias, training=True,
        )  # fmt: skip
        if options.initial and attempt == 0:
            set_weights(model, options.initial)
        rate = LinearWarmup(settings.learning_rate, settings.warmup_steps)
        # Relative to the mean picture's error, so that one weight suits bland and busy pictures.
        weight = settings.linsep_weight * plateau if linsep else 0.0
        model.enter_feature_extraction(keras.optimizers.Adam(rate), linsep_weight=weight)
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
        fit_phase(model, stream, held_out, steps, convergence, options)
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
