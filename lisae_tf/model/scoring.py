"""The scoring graph (section 3.4): uint8 pictures in, score and decision out.

The only definition of a score and of a map of errors: training's report, evaluation, `score` and
every export run it.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from lisae_tf.core.arrays import BATCH_SIZE, batches
from lisae_tf.core.regions import FILL
from lisae_tf.model.checkpoints import OwnLayer
from lisae_tf.model.losses import squared_error
from lisae_tf.model.networks import input_dtype, scale


class SquaredError(OwnLayer):
    """[x, x̂] -> (x̂ − x)², float32 (N, H, W, C), or (N, m) of feature rows."""

    def call(self, inputs):
        return squared_error(*inputs)


class MeanOverChannels(OwnLayer):
    """Errors, float32 (N, H, W, C) -> their map, float32 (N, H, W)."""

    def call(self, errors):
        return ops.mean(errors, axis=3)


class Kept(OwnLayer):
    """What counts as it is, and one value elsewhere: (N, H, W) or (N, H, W, C) -> the same shape.

    Args:
        counted: bool (H, W).
        value: of all else.
    """

    def __init__(self, counted: np.ndarray, value: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self._counted, self._value = np.asarray(counted), value

    def call(self, x):
        counts = self._counted.astype(np.float32)
        if len(x.shape) == 4:
            counts = counts[..., None]
        kept = x * counts
        return kept + np.float32(self._value) * (1 - counts) if self._value else kept

    def get_config(self):
        return super().get_config() | {"counted": self._counted, "value": self._value}


def covered(x: keras.KerasTensor, counted: np.ndarray | None) -> keras.KerasTensor:
    """Pictures, float32 (N, H, W, C) in 0-1, at one grey level where they do not count.

    Args:
        x: the pictures.
        counted: bool (H, W); None where all counts.
    """
    return x if counted is None else Kept(counted, FILL / 255, name="covered")(x)


class Pool(OwnLayer):
    """The score of a map: the mean of the highest share of its places, at least one.

    float32 (N, h, w), or places in any other arrangement (N, ...), -> float32 (N,).

    Args:
        highest_share: above 0 up to 1, which is the plain mean.
        counted: bool (h, w), the places that there are for the score; None where all are.
    """

    def __init__(self, highest_share: float = 1.0, counted: np.ndarray | None = None, **kwargs):
        super().__init__(**kwargs)
        self._share = highest_share
        self._counted = None if counted is None else np.asarray(counted)

    def get_config(self):
        return super().get_config() | {"highest_share": self._share, "counted": self._counted}

    def call(self, error_map):
        if self._counted is not None:
            flat = ops.reshape(error_map, (-1, self._counted.size, *error_map.shape[3:]))
            error_map = tf.gather(flat, np.flatnonzero(self._counted).astype(np.int32), axis=1)
        if self._share == 1:
            return ops.mean(error_map, axis=tuple(range(1, len(error_map.shape))))
        places = math.prod(error_map.shape[1:])
        count = max(1, round(self._share * places))
        highest, _ = ops.top_k(ops.reshape(error_map, (-1, places)), count, sorted=False)
        return ops.mean(highest, axis=1)


class ExceedsThreshold(OwnLayer):
    """x is an anomaly if L(x) > α: float32 (N,) -> bool (N,).

    α is a weight that never trains, unless the call names another.
    """

    def __init__(self, **kwargs):
        super().__init__(**({"trainable": False} | kwargs))
        self.alpha = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(np.inf), trainable=False, name="alpha"
        )

    def call(self, score, alpha=None):
        return ops.greater(score, self.alpha if alpha is None else alpha)


def error_outputs(
    x: keras.KerasTensor,
    x_hat: keras.KerasTensor,
    highest_share: float = 1.0,
    counted: np.ndarray | None = None,
) -> dict[str, keras.KerasTensor]:
    """What a reconstruction says of its picture.

    Args:
        x: float32 (N, H, W, C) in 0-1, or feature rows (N, m).
        x_hat: its reconstruction, same shape.
        highest_share: see `Pool`.
        counted: likewise.

    Returns:
        {"score": L(x), float32 (N,)}, and for pictures "error_map", float32 (N, H, W): the squared
        error of each pixel, mean over channels; 0 where nothing counts. With the whole as share the
        score is its mean.
    """
    errors = SquaredError(name="errors")([x, x_hat])
    pool = Pool(highest_share, counted, name="error")
    if len(errors.shape) == 2:
        return {"score": pool(errors)}
    error_map = MeanOverChannels(name="error_map")(errors)
    if counted is not None:
        error_map = Kept(counted, name="counted")(error_map)
    # All values in one sum, as in training: the mean of channels' means differs in the last bit.
    return {"score": pool(errors if highest_share == 1 else error_map), "error_map": error_map}


def reconstruction_score(
    encoder: keras.Model,
    latent: keras.Model,
    decoder: keras.Model,
    highest_share: float = 1.0,
    counted: np.ndarray | None = None,
) -> keras.Model:
    """The model x -> `error_outputs` of x̂ (equations 1-3, section 3.4)."""
    x = keras.Input(encoder.input_shape[1:], name="x")
    seen = covered(x, counted)
    x_hat = decoder(latent(encoder(seen)))
    return keras.Model(x, error_outputs(seen, x_hat, highest_share, counted))


def of_pictures(model: keras.Model, dtype: str | None = None) -> keras.Model:
    """A model of x in 0-1 as one of pictures as they are read.

    Args:
        model: of x, float32 (N, H, W, C) in 0-1, or feature rows, float32 (N, m).
        dtype: of pictures, uint8 unless given; "float32" ones are on the 0-1 scale already.

    Returns:
        "image", uint8 (N, H, W, C), or feature rows, float32 (N, m) -> what `model` gives.
    """
    shape = model.input_shape[1:]
    dtype = dtype or input_dtype(shape)
    image = keras.Input(shape, dtype=dtype, name="image")
    return keras.Model(image, model(image if dtype == "float32" else scale(shape)(image)))


def scoring_graph(
    inference: keras.Model, *, error_map: bool = False, dtype: str | None = None
) -> keras.Model:
    """The whole of inference after decoding, as one functional model.

    Args:
        inference: x, float32 (N, H, W, C) in 0-1 -> {"score": float32 (N,)}, and "error_map",
            float32 (N, h, w), where there is one.
        error_map: also give "error_map".
        dtype: of pictures; see `of_pictures`.

    Returns:
        "image", uint8 (N, H, W, C), or feature rows, float32 (N, m) ->
        {"score": float32 (N,), "is_anomaly": bool (N,)}.
    """
    inferred = of_pictures(inference, dtype)
    score = inferred.output["score"]
    outputs = {"score": score, "is_anomaly": ExceedsThreshold(name="is_anomaly")(score)}
    if error_map:
        outputs["error_map"] = inferred.output["error_map"]
    return keras.Model(inferred.input, outputs, name="scoring_graph")


def set_threshold(graph: keras.Model, alpha: float) -> None:
    """Gives the graph its α."""
    graph.get_layer("is_anomaly").alpha.assign(alpha)


class Scorer:
    """Runs a graph over arrays of any length."""

    def __init__(self, graph: keras.Model, batch_size: int = BATCH_SIZE):
        self._batch_size = batch_size
        self._shapes = {name: each.shape[1:] for name, each in graph.output.items()}
        signature = [tf.TensorSpec(graph.input.shape, graph.input.dtype)]
        self._run = tf.function(lambda image: graph(image, training=False), signature)

    def __call__(self, images: np.ndarray, output: str = "score") -> np.ndarray:
        """One output of the graph for each picture.

        Args:
            images: uint8 (N, H, W, C), or float32 (N, m).
            output: its name, as in "score", "is_anomaly" or "error_map".
        """
        return self.outputs(images, (output,))[output]

    def outputs(self, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Several outputs of one pass."""
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for part in batches(images, self._batch_size):
            found = self._run(part)
            for name, kept in parts.items():
                kept.append(found[name].numpy())
        return {
            name: np.concatenate(kept) if kept else np.empty((0, *self._shapes[name]), np.float32)
            for name, kept in parts.items()
        }
