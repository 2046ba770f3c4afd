"""The scoring graph (section 3.4): uint8 pictures in, score and decision out.

The only definition of a score: training's report, evaluation, `score` and every export run it.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from lisae_tf.losses import reconstruction_error
from lisae_tf.networks import input_dtype, scale

BATCH_SIZE = 500


class Score(layers.Layer):
    """L(x) as the per-pixel mean of ‖x̂ − x‖²: [x, x̂] -> float32 (N,)."""

    def call(self, inputs):
        return reconstruction_error(*inputs)


class ExceedsThreshold(layers.Layer):
    """x is an anomaly if L(x) > α: float32 (N,) -> bool (N,).

    α is a weight that never trains, unless the call names another.
    """

    def __init__(self, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.alpha = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(np.inf), trainable=False, name="alpha"
        )

    def call(self, score, alpha=None):
        return ops.greater(score, self.alpha if alpha is None else alpha)


def reconstruction_score(
    encoder: keras.Model, latent: keras.Model, decoder: keras.Model
) -> keras.Model:
    """The model x -> {"score": L(x), "reconstruction": x̂} (equations 1-3, section 3.4)."""
    x = keras.Input(encoder.input_shape[1:], name="x")
    x_hat = decoder(latent(encoder(x)))
    return keras.Model(x, {"score": Score(name="score")([x, x_hat]), "reconstruction": x_hat})


def scoring_graph(
    inference: keras.Model, *, reconstruction: bool = False, dtype: str | None = None
) -> keras.Model:
    """The whole of inference after decoding, as one functional model.

    Args:
        inference: x, float32 (N, H, W, C) in 0-1 -> {"score": float32 (N,)}, and
            "reconstruction" where there is one.
        reconstruction: also give "reconstruction", float32 (N, H, W, C) in 0-1.
        dtype: of pictures, uint8 unless given; "float32" ones are on the 0-1 scale already.

    Returns:
        "image", uint8 (N, H, W, C), or feature rows, float32 (N, m) ->
        {"score": float32 (N,), "is_anomaly": bool (N,)}.
    """
    shape = inference.input_shape[1:]
    dtype = dtype or input_dtype(shape)
    image = keras.Input(shape, dtype=dtype, name="image")
    inferred = inference(image if dtype == "float32" else scale(shape)(image))
    score = inferred["score"]
    outputs = {"score": score, "is_anomaly": ExceedsThreshold(name="is_anomaly")(score)}
    if reconstruction:
        outputs["reconstruction"] = inferred["reconstruction"]
    return keras.Model(image, outputs, name="scoring_graph")


def set_threshold(graph: keras.Model, alpha: float) -> None:
    """Gives the graph its α."""
    graph.get_layer("is_anomaly").alpha.assign(alpha)


class Scorer:
    """Runs a scoring graph over arrays of any length."""

    def __init__(self, graph: keras.Model, batch_size: int = BATCH_SIZE):
        self._batch_size = batch_size
        signature = [tf.TensorSpec(graph.input.shape, graph.input.dtype)]
        self._run = tf.function(lambda image: graph(image, training=False), signature)

    def __call__(self, images: np.ndarray, output: str = "score") -> np.ndarray:
        """One output of the graph for each picture.

        Args:
            images: uint8 (N, H, W, C), or float32 (N, m).
            output: "score", "is_anomaly" or "reconstruction".
        """
        size = self._batch_size
        starts = range(0, len(images), size)
        parts = [self._run(images[i : i + size])[output].numpy() for i in starts]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)
