"""How Keras stores what is ours: layers by their class's name, weights as plain arrays."""

import keras
from keras import layers

from lisae_tf.core.arrays import Arrays
from lisae_tf.core.errors import LisaeError


def weights_of(model: keras.Model) -> Arrays:
    """The model's weights by place and path."""
    return {name: weight.numpy() for name, weight in _named(model).items()}


def set_weights(model: keras.Model, arrays: Arrays) -> None:
    """Puts stored weights into a model of the same architecture, each where its name says.

    Raises:
        LisaeError: other weights or other shapes.
    """
    weights = _named(model)
    if {name: value.shape for name, value in arrays.items()} != {
        name: tuple(weight.shape) for name, weight in weights.items()
    }:
        raise LisaeError("the stored weights do not fit the model's configuration; train again")
    for name, weight in weights.items():
        weight.assign(arrays[name])


def _named(model: keras.Model) -> dict[str, keras.Variable]:
    """By place and path; parts of one model may have layers of one name."""
    return {f"{i}/{weight.path}": weight for i, weight in enumerate(model.weights)}


class OwnLayer(layers.Layer):
    """A layer that Keras finds by its class's name and makes again from its arguments.

    Keras itself records arguments that are numbers, texts or tuples of them; a layer of others adds
    them in `get_config`, arrays and models as they are.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable("lisae_tf")(cls)

    @classmethod
    def from_config(cls, config):
        return cls(**keras.saving.deserialize_keras_object(config))
