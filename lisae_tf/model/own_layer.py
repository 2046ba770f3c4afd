"""What every layer of ours is, so that a graph that holds it can be stored and loaded by Keras."""

import keras
from keras import layers


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
