"""The weights of a Keras model as plain arrays, and back."""

import keras

from lisae_tf.core.arrays import Arrays
from lisae_tf.core.errors import LisaeError


def weights_of(model: keras.Model) -> Arrays:
    """The model's weights by place and path."""
    return {f"{i}/{weight.path}": weight.numpy() for i, weight in enumerate(model.weights)}


def set_weights(model: keras.Model, arrays: Arrays) -> None:
    """Puts stored weights into a model of the same architecture.

    Raises:
        LisaeError: another number of weights or another shape.
    """
    values = list(arrays.values())
    if [value.shape for value in values] != [tuple(w.shape) for w in model.weights]:
        raise LisaeError("the stored weights do not fit the model's configuration; train again")
    for weight, value in zip(model.weights, values, strict=True):
        weight.assign(value)
