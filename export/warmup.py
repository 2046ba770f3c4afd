"""Warm-up requests: what TensorFlow Serving runs before it calls a version available.

One record for each signature and each batch size that requests are padded to, as far as so many
pictures are no burden. They are grey all over: how long a graph takes does not depend on them, a
tensor of one value takes a few bytes, and a user's own pictures do not leave the house.
"""

import io
from pathlib import Path

import tensorflow as tf
from PIL import Image

from export.artefact import Artefact
from export.serving_files import batch_sizes
from lisae_tf.core.wire import field

FILE = Path("assets.extra", "tf_serving_warmup_requests")
GREY = 128

# Numbers of the fields of tensorflow.serving.PredictionLog and the messages inside it.
_CLASSIFY_LOG, _REGRESS_LOG, _PREDICT_LOG = 2, 3, 6


def write_warmup(folder: Path, artefact: Artefact) -> None:
    """Writes the records into a version folder."""
    path = folder / FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        height, width, _ = artefact.detector.shape
        for batch in batch_sizes(height, width):
            for record in _records(artefact, batch):
                writer.write(record)


def _records(artefact: Artefact, batch: int):
    shape = artefact.detector.shape
    grey = GREY if artefact.dtype == "uint8" else GREY / 255
    image = tf.make_tensor_proto(grey, artefact.dtype, (batch, *shape))
    threshold = tf.make_tensor_proto(artefact.alpha, tf.float32, (batch,))
    yield _predict(artefact.name, "serving_default", image=image)
    yield _predict(artefact.name, "with_threshold", image=image, threshold=threshold)
    if artefact.has_maps:
        yield _predict(artefact.name, "error_map", image=image)
    if shape[2] in (1, 3):
        encoded = [_png(shape)] * batch
        yield _predict(artefact.name, "score_bytes", image_bytes=tf.make_tensor_proto(encoded))
        yield field(_CLASSIFY_LOG, _examples(artefact.name, "classify", encoded))
        yield field(_REGRESS_LOG, _examples(artefact.name, "regress", encoded))


def _model(name: str, signature: str) -> bytes:
    """ModelSpec, as the first field of a request."""
    return field(1, field(1, name) + field(3, signature))


def _predict(name: str, signature: str, **inputs) -> bytes:
    """PredictionLog with a PredictRequest."""
    request = _model(name, signature)
    for key, tensor in inputs.items():
        request += field(2, field(1, key) + field(2, tensor.SerializeToString()))
    return field(_PREDICT_LOG, field(1, request))


def _examples(name: str, signature: str, encoded: list[bytes]) -> bytes:
    """ClassifyLog or RegressLog, which look alike, with one tf.train.Example a picture."""
    examples = b""
    for data in encoded:
        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
        features = tf.train.Features(feature={"image_bytes": value})
        examples += field(1, tf.train.Example(features=features).SerializeToString())
    return field(1, _model(name, signature) + field(2, field(1, examples)))


def _png(shape: tuple[int, int, int]) -> bytes:
    height, width, channels = shape
    stream = io.BytesIO()
    colour = (GREY,) * channels if channels > 1 else GREY
    Image.new("L" if channels == 1 else "RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()
