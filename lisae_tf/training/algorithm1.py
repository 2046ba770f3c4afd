"""Algorithm 1: the feature extraction phase, then the latent-shaping phase.

Sees training data only: what stops a phase is its own loss on held-out normal and negative
pictures.
"""

from dataclasses import dataclass, field, replace

from lisae_tf.config.settings import Config
from lisae_tf.config.variants import SHAPED
from lisae_tf.core.arrays import Arrays
from lisae_tf.data.parts import TrainingData
from lisae_tf.model.autoencoder import LatentInsensitiveAutoencoder
from lisae_tf.model.checkpoints import set_weights, weights_of
from lisae_tf.model.networks import LatentBuilder, tanh_latent
from lisae_tf.training.convergence import ResumePoint
from lisae_tf.training.distribution import lost_worker_named
from lisae_tf.training.feature_extraction import feature_extraction
from lisae_tf.training.latent_shaping import latent_shaping
from lisae_tf.training.phase import TrainingOptions, build_autoencoder


@dataclass
class TrainingResult:
    """A trained model and how it came about."""

    model: LatentInsensitiveAutoencoder
    phase1_weights: Arrays
    history: list[dict] = field(default_factory=list)
    restart_seeds: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def train(
    config: Config,
    data: TrainingData,
    options: TrainingOptions,
    build_latent: LatentBuilder = tanh_latent,
) -> TrainingResult:
    """The phases of `config.variant`, from the start or from where the checkpoint stands.

    Raises:
        LisaeError: a collapse that restarts did not cure, or a lost worker.
    """
    if options.strategy is None:
        result = _train(config, data, options, build_latent)
        if config.network.precision == "float32":
            return result
    else:
        with options.strategy.scope(), lost_worker_named():
            result = _train(config, data, options, build_latent)
    # What comes after training is this process's own, and float32.
    model = build_autoencoder(config, data.shape, seed=config.seed, build_latent=build_latent)
    set_weights(model, weights_of(result.model))
    return replace(result, model=model)


def _train(
    config: Config, data: TrainingData, options: TrainingOptions, build_latent: LatentBuilder
) -> TrainingResult:
    point = ResumePoint.load(options.checkpoint)
    if options.shared and point.phase == 1:
        point = options.shared.find(config, options.checkpoint) or point
    if point.phase == 2:
        model = build_autoencoder(
            config, data.shape, seed=config.seed, build_latent=build_latent, training=True
        )
        set_weights(model, point.phase1_weights)
        history, restarts = list(point.earlier_history), list(point.restart_seeds)
    else:
        model, convergence, restarts = feature_extraction(
            config, data, point, options, build_latent
        )
        history = convergence.history
        point = point.next_phase(weights_of(model), history, restarts)
        if options.shared:
            options.shared.keep(config, point)
    result = TrainingResult(model, point.phase1_weights, history, restarts)
    if config.variant in SHAPED:
        convergence, result.notes = latent_shaping(config, data, model, point, options)
        result.history = history + convergence.history
    return result
