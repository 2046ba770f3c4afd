"""The feature extraction phase (section 3.3): reconstruct normal pictures until convergence.

Owns warm-up, the decoder's first steps, LinSep's weight, and what happens when the network
collapses: its latent layer saturates, and every picture comes out as the mean picture.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from lisae_tf.config.settings import Config
from lisae_tf.config.variants import LINSEP, LOSSES
from lisae_tf.core.arrays import in_batches
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.augmentation import augment
from lisae_tf.data.parts import Parts, TrainingData, full_scale
from lisae_tf.data.pipelines import held_out_batches, steps_per_epoch, training_batches
from lisae_tf.model.autoencoder import LatentInsensitiveAutoencoder
from lisae_tf.model.checkpoints import set_weights
from lisae_tf.model.networks import LatentBuilder, tanh_latent
from lisae_tf.training.convergence import Convergence, ResumePoint
from lisae_tf.training.phase import TrainingOptions, build_autoencoder, fit_epochs, fit_phase

RESTART_STRIDE = 1_000_003  # between the seeds of a run and of its restarts
# `spread_kept` of a collapsed network lies below. One that is 5 % below the mean picture's error
# keeps at least (0.05 / 2)², one whose latent layer is saturated about 1e-11.
COLLAPSED = 1e-4
SAMPLE = 64  # pictures, at most, of either part that a collapse is looked for in


class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate rises linearly over the first steps, which keeps tanh from saturating."""

    def __init__(self, peak: float, steps: int):
        self.peak, self.steps = peak, steps

    def __call__(self, step):
        share = (tf.cast(step, tf.float32) + 1) / max(1, self.steps)
        return self.peak * tf.minimum(share, 1.0)


def constant_picture_error(fit: np.ndarray, held_out: np.ndarray) -> float:
    """The error of painting the mean training picture: what a collapsed network reaches."""
    unit = full_scale(fit)
    mean = fit.mean(axis=0, dtype=np.float64) / unit
    return float(np.mean([np.mean(np.square(image / unit - mean)) for image in held_out]))


def spread_kept(model: LatentInsensitiveAutoencoder, images: np.ndarray) -> float:
    """The variance of x̂ over pictures, as a share of that of x; of a collapsed network about 0.

    Args:
        model: in any phase.
        images: uint8 (N, H, W, C), or float32 (N, m), not all the same.
    """
    x_hat = in_batches(model, images, 32)
    own = np.var(images / full_scale(images), axis=0).mean()
    return float(np.var(x_hat, axis=0, dtype=np.float64).mean() / own)


def _sample(parts: Parts) -> np.ndarray:
    """Some held-out pictures and some of the others; a few may be held out, or one."""
    return np.concatenate([p[:: -(-len(p) // SAMPLE)] for p in (parts.stopping, parts.fit)])


def _refuse_one_picture(fit: np.ndarray) -> None:
    if all(np.array_equal(picture, fit[0]) for picture in fit):
        raise LisaeError(
            "all normal pictures that are trained on are the same picture, of which nothing can be "
            "learned; give pictures that differ"
        )


def feature_extraction(
    config: Config,
    data: TrainingData,
    point: ResumePoint,
    options: TrainingOptions,
    build_latent: LatentBuilder = tanh_latent,
    encoder_bias: bool = True,
) -> tuple[LatentInsensitiveAutoencoder, Convergence, list[int]]:
    """Phase 1: minimise ‖x̂⁺ − x⁺‖² until convergence (section 3.3); LinSep adds its term.

    A run that collapsed, so that all pictures come out alike, is started again with a derived seed.
    A small error is no sign of health: parts under a fixed camera are all near the mean picture.

    Returns:
        The model with its best weights, its convergence record, the seeds of restarts.

    Raises:
        LisaeError: it collapsed in every attempt, or all pictures are the same.
    """
    settings = config.feature_extraction
    linsep = LOSSES.get(config.variant) == LINSEP
    plateau = constant_picture_error(data.normal.fit, data.normal.stopping)
    fraction = settings.collapse_fraction
    if fraction:
        _refuse_one_picture(data.normal.fit)
    ceiling = (1 - fraction) * plateau if fraction else math.inf
    sample = _sample(data.normal)
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
        # Relative to the mean picture's error, so that one weight suits bland and busy pictures.
        weight = settings.linsep_weight * plateau if linsep else 0.0
        convergence = Convergence(
            point, phase=1, attempt=attempt, epochs=settings.epochs, patience=settings.patience,
            plateau=("val_normal_error", ceiling),
        )  # fmt: skip

        def stream(first: int, last: int, seed: int = seed) -> tf.data.Dataset:
            return training_batches(
                fit_normal, fit_negative, batch_size=settings.batch_size, epochs=(first, last),
                seed=seed, phase=1, augment=augment if data.augment else None,
            )  # fmt: skip

        def adam() -> keras.Optimizer:
            return keras.optimizers.Adam(
                LinearWarmup(settings.learning_rate, settings.warmup_steps)
            )

        steps = steps_per_epoch(fit_normal, settings.batch_size)
        fresh = not convergence.history and not (options.initial and attempt == 0)
        if settings.decoder_steps and fresh:
            model.enter_decoder_alone(adam())
            model.optimizer.build(model.trainable_variables)  # a strategy cannot do it in a step
            fit_epochs(model, stream, held_out, steps, (0, -(-settings.decoder_steps // steps)))
        model.enter_feature_extraction(adam(), linsep_weight=weight)
        fit_phase(model, stream, held_out, steps, convergence, options)
        if not fraction or spread_kept(model, sample) > COLLAPSED:
            return model, convergence, restarts
        if attempt < settings.restarts:
            restarts.append(config.seed + (attempt + 1) * RESTART_STRIDE)
            options.say(
                "phase 1 collapsed: every picture comes out as the mean picture (held-out error "
                f"{convergence.best_of('val_normal_error'):.4f}, mean picture {plateau:.4f}); "
                f"starting again with seed {restarts[-1]}"
            )
    more = max(2 * settings.decoder_steps, 300)
    raise LisaeError(
        f"phase 1 collapsed {settings.restarts + 1} times: every picture comes out as the mean "
        f"picture (held-out error {convergence.best_of('val_normal_error'):.4f}, mean picture "
        f"{plateau:.4f}); set feature_extraction.decoder_steps={more}, raise "
        "feature_extraction.warmup_steps or epochs, lower feature_extraction.learning_rate, or set "
        "feature_extraction.collapse_fraction=0 if the pictures are pure noise"
    )
