"""The latent-shaping phase (section 3.3, equation 4): only the latent layer trains."""

import keras
import numpy as np
import tensorflow as tf

from lisae_tf.config.sections import LatentShaping
from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.augmentation import augment
from lisae_tf.data.parts import TrainingData
from lisae_tf.data.pipelines import held_out_batches, steps_per_epoch, training_batches
from lisae_tf.model.autoencoder import LatentInsensitiveAutoencoder
from lisae_tf.training.convergence import Convergence, ResumePoint
from lisae_tf.training.phase import TrainingOptions, fit_phase, picture_errors


def resolve_gamma(settings: LatentShaping, normal_error: float) -> tuple[float, str | None]:
    """γ on the scale of errors, and a note on it where it is relative.

    Args:
        settings: `gamma_times`, where set, is what counts, else `gamma`.
        normal_error: mean error of held-out normal pictures after phase 1.

    Raises:
        LisaeError: a multiple of no error at all.
    """
    if settings.gamma_times is None:
        return settings.gamma, None
    gamma = settings.gamma_times * normal_error
    if not gamma > 0:
        raise LisaeError(
            "held-out normal pictures are reconstructed without any error, of which "
            "latent_shaping.gamma_times can be no multiple; set latent_shaping.gamma instead"
        )
    return gamma, f"gamma {gamma:.3g}, {settings.gamma_times:g} times the held-out normal error"


def _negatives_past_gamma(
    errors: np.ndarray, gamma: float, settings: LatentShaping, normal_error: float
) -> str | None:
    """A warning where nearly all negatives satisfy the hinge before phase 2 has begun."""
    share = float(np.mean(errors > gamma))
    if share < 0.95:
        return None
    relative = settings.gamma_times is not None
    name, given = ("gamma_times", settings.gamma_times) if relative else ("gamma", gamma)
    acting = float(f"{2 * np.quantile(errors, 0.9) / (normal_error if relative else 1):.2g}")
    return (
        f"{100 * share:.0f} % of the negatives lie past {name}={given:g} before phase 2, so the "
        f"hinge does little; latent_shaping.{name}={acting:g} would act on most of them"
    )


def latent_shaping(
    config: Config,
    data: TrainingData,
    model: LatentInsensitiveAutoencoder,
    point: ResumePoint,
    options: TrainingOptions,
) -> tuple[Convergence, list[str]]:
    """Phase 2: freeze encoder and decoder, train the latent layer on equation 4.

    Raises:
        LisaeError: the hinge acted and yet no latent weight moved, or γ is a multiple of 0.
    """
    settings = config.latent_shaping
    # Resuming builds the model from phase 1's weights, so this γ is the same again.
    normal_error = float(np.mean(picture_errors(model, data.normal.stopping), dtype=np.float64))
    gamma, relative = resolve_gamma(settings, normal_error)
    if relative:
        options.say(relative)
    model.enter_latent_shaping(
        keras.optimizers.Adam(settings.learning_rate),
        gamma=gamma, beta=settings.beta, hinge=settings.hinge,
    )  # fmt: skip
    normal, negative = {"normal": data.normal.fit}, {"negative": data.negative.fit}
    convergence = Convergence(
        point, phase=2, attempt=0, epochs=settings.epochs, patience=settings.patience
    )
    held_out = held_out_batches(
        {"normal": data.normal.stopping}, {"negative": data.negative.stopping}
    )
    before = [w.numpy() for w in model.latent.weights]
    errors = picture_errors(model, data.negative.stopping)
    past = _negatives_past_gamma(errors, gamma, settings, normal_error)
    notes = [note for note in (relative, past) if note]

    def stream(first: int, last: int) -> tf.data.Dataset:
        return training_batches(
            normal, negative, batch_size=settings.batch_size, epochs=(first, last),
            seed=config.seed, phase=2, augment=augment if data.augment else None,
        )  # fmt: skip

    fit_phase(
        model, stream, held_out, steps_per_epoch(normal, settings.batch_size), convergence, options
    )
    acted = settings.hinge == "literal" or bool(np.any(errors < gamma))
    moved = any(
        np.any(old != new.numpy()) for old, new in zip(before, model.latent.weights, strict=True)
    )
    if acted and not moved:
        raise LisaeError(
            "phase 2 changed no latent weight although negatives lay below gamma; raise "
            "latent_shaping.learning_rate or latent_shaping.epochs"
        )
    return convergence, notes
