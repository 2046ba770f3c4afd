"""Training of the detectors that are an encoder, a latent layer and a head (see `heads`).

Same encoder, latent width, batches, negatives and augmentation as the autoencoders; heads that ask
for it are pretrained by the feature extraction phase. Sees training data only.
"""

from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from lisae_tf.config.settings import Config
from lisae_tf.core.arrays import in_batches
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.augmentation import augment
from lisae_tf.data.parts import TrainingData
from lisae_tf.data.pipelines import held_out_batches, steps_per_epoch, training_batches
from lisae_tf.model.autoencoder import LatentInsensitiveAutoencoder
from lisae_tf.model.checkpoints import set_weights, weights_of
from lisae_tf.model.heads import DistanceHead, Head
from lisae_tf.model.networks import input_dtype, linear_latent, scale
from lisae_tf.training.convergence import Convergence, ResumePoint
from lisae_tf.training.feature_extraction import LinearWarmup, feature_extraction
from lisae_tf.training.phase import TrainingOptions, build_autoencoder, fit_phase

# Spread of the codes over ‖c‖²: below it float32 hardly tells one picture from another.
COLLAPSED = 1e-8


class EncoderModel(keras.Model):
    """Encoder, latent layer and head as one trainable model.

    `fit` takes a dataset of dictionaries: "normal", uint8 (N, H, W, C), and "negative" where the
    head uses negatives.
    """

    phase = "encoder"

    def __init__(
        self, encoder: keras.Model, latent: keras.Model, head: Head, weight_decay: float = 0.0
    ):
        super().__init__(name="encoder_with_head")
        shape = encoder.input_shape[1:]
        self.scale = scale(shape)
        self.encoder, self.latent, self.head = encoder, latent, head
        head.build(latent.output_shape)
        self._decay = weight_decay
        names = ("loss", "normal_score", "negative_score")
        self._means = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True
        pictures = [tf.TensorSpec((None, *shape), input_dtype(shape))]
        self._codes = tf.function(self._code, pictures)

    @property
    def metrics(self):
        return list(self._means.values())

    def _code(self, images):
        return self.latent(self.encoder(self.scale(images)))

    def call(self, images, training=None):
        """uint8 (N, H, W, C) -> scores, float32 (N,)."""
        return self.head(self._code(images))

    def codes(self, images: np.ndarray) -> np.ndarray:
        """The code z of each picture: uint8 (N, H, W, C) -> float32 (N, L)."""
        return in_batches(self._codes, images)

    def _loss(self, batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        scores = {f"{side}_score": self(batch[side]) for side in batch}
        return self.head.loss(scores["normal_score"], scores.get("negative_score")), scores

    def _report(self, batch, loss, scores) -> dict[str, tf.Tensor]:
        self._means["loss"].update_state(loss, sample_weight=tf.shape(batch["normal"])[0])
        for name, value in scores.items():
            self._means[name].update_state(value)
        return {name: self._means[name].result() for name in ("loss", *scores)}

    def train_step(self, data):
        batch = keras.utils.unpack_x_y_sample_weight(data)[0]
        weights = self.trainable_weights
        with tf.GradientTape() as tape:
            loss, scores = self._loss(batch)
            objective = loss
            if self._decay:
                objective += self._decay * tf.add_n([tf.nn.l2_loss(w.value) for w in weights])
        self.optimizer.apply_gradients(zip(tape.gradient(objective, weights), weights, strict=True))
        return self._report(batch, loss, scores)

    def test_step(self, data):
        batch = keras.utils.unpack_x_y_sample_weight(data)[0]
        return self._report(batch, *self._loss(batch))


@dataclass
class EncoderResult:
    """A trained model and how it came about."""

    model: EncoderModel
    history: list[dict] = field(default_factory=list)
    restart_seeds: list[int] = field(default_factory=list)


def build_encoder(config: Config, shape: tuple[int, int, int], head: Head) -> EncoderModel:
    """An untrained model for pictures of `shape`."""
    return _with_head(_autoencoder(config, shape, head), head, config)


def _autoencoder(config: Config, shape: tuple[int, int, int], head: Head):
    """The networks of all detectors, of which a head takes encoder and latent layer."""
    return build_autoencoder(
        config, shape, seed=config.seed, build_latent=linear_latent,
        encoder_bias=head.encoder_bias,
    )  # fmt: skip


def _with_head(
    autoencoder: LatentInsensitiveAutoencoder, head: Head, config: Config
) -> EncoderModel:
    decay = config.hypersphere.weight_decay if isinstance(head, DistanceHead) else 0.0
    return EncoderModel(autoencoder.encoder, autoencoder.latent, head, decay)


def refuse_collapse(codes: np.ndarray, centre: np.ndarray) -> None:
    """Checks that pictures still have codes of their own.

    Args:
        codes: z of held-out normals, (N, L).
        centre: c, (L,).

    Raises:
        LisaeError: one point for all of them.
    """
    spread = float(np.mean(np.sum(np.square(codes - codes.mean(axis=0)), axis=1)))
    if not spread > COLLAPSED * float(np.sum(np.square(centre))):
        raise LisaeError(
            f"the hypersphere collapsed: all pictures have one code (they spread by {spread:.1e} "
            "around it); lower hypersphere.learning_rate or hypersphere.epochs"
        )


def train_encoder(
    config: Config, data: TrainingData, head: Head, options: TrainingOptions
) -> EncoderResult:
    """From the start, or from where the checkpoint stands.

    Phase 1 is the pretraining where there is one. Early stopping looks at held-out pictures.

    Raises:
        LisaeError: a collapse, of the pretraining or of the sphere.
    """
    point = ResumePoint.load(options.checkpoint)
    settings, section = config.feature_extraction, "feature_extraction"
    batch_size, history, restarts = settings.batch_size, [], []
    autoencoder = _autoencoder(config, data.shape, head)
    if head.pretrained:
        if point.phase == 1:
            pretrained, convergence, restarts = feature_extraction(
                config, data, point, options, linear_latent, head.encoder_bias
            )
            point = point.next_phase(weights_of(pretrained), convergence.history, restarts)
        set_weights(autoencoder, point.phase1_weights)
        history, restarts = list(point.earlier_history), list(point.restart_seeds)
        settings, section = config.hypersphere, "hypersphere"
    model = _with_head(autoencoder, head, config)
    if isinstance(head, DistanceHead):
        head.place(model.codes(data.normal.fit))
    rate = LinearWarmup(settings.learning_rate, config.feature_extraction.warmup_steps)
    model.compile(optimizer=keras.optimizers.Adam(rate))
    phase = 2 if head.pretrained else 1
    convergence = Convergence(
        point, phase=phase, attempt=0, epochs=settings.epochs, patience=settings.patience,
        section=section,
    )  # fmt: skip
    normal, negative = {"normal": data.normal.fit}, None
    held_out = [{"normal": data.normal.stopping}, None]
    if head.uses_negatives:
        negative = {"negative": data.negative.fit}
        held_out[1] = {"negative": data.negative.stopping}

    def stream(first: int, last: int) -> tf.data.Dataset:
        return training_batches(
            normal, negative, batch_size=batch_size, epochs=(first, last), seed=config.seed,
            phase=phase, augment=augment if data.augment else None,
        )  # fmt: skip

    steps = steps_per_epoch(normal, batch_size)
    fit_phase(model, stream, held_out_batches(*held_out), steps, convergence, options)
    if isinstance(head, DistanceHead):
        refuse_collapse(model.codes(data.normal.stopping), head.centre.numpy())
    return EncoderResult(model, history + convergence.history, restarts)
