"""Warm-up requests: what TensorFlow Serving runs before it calls a version available.

One record for each signature and each batch size that requests are padded to. The pictures are
noise: how long a graph takes does not depend on them, and a user's own do not leave the house.
"""

import io
from pathlib import Path

import tensorflow as tf
from PIL import Image

from export.artefact import Artefact
from export.samples import noise
from export.serving_files import BATCH_SIZES
from lisae_tf.wire import field

FILE = Path("assets.extra", "tf_serving_warmup_requests")

# Numbers of the fields of tensorflow.serving.PredictionLog and the messages inside it.
_CLASSIFY_LOG, _REGRESS_LOG, _PREDICT_LOG = 2, 3, 6


def write_warmup(folder: Path, artefact: Artefact) -> None:
    """Writes the records into a version folder."""
    path = folder / FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in BATCH_SIZES:
            for record in _records(artefact, noise((batch, *artefact.detector.shape), seed=batch)):
                writer.write(record)


def _records(artefact: Artefact, pictures):
    image = pictures if artefact.dtype == "uint8" else (pictures / 255).astype("float32")
    threshold = tf.fill((len(pictures),), tf.constant(artefact.alpha, tf.float32))
    yield _predict(artefact.name, "serving_default", image=image)
    yield _predict(artefact.name, "with_threshold", image=image, threshold=threshold)
    if artefact.has_maps:
        yield _predict(artefact.name, "error_map", image=image)
    if pictures.shape[-1] in (1, 3):
        encoded = [_png(picture) for picture in pictures]
        yield _predict(artefact.name, "score_bytes", image_bytes=encoded)
        yield field(_CLASSIFY_LOG, _examples(artefact.name, "classify", encoded))
        yield field(_REGRESS_LOG, _examples(artefact.name, "regress", encoded))


def _model(name: str, signature: str) -> bytes:
    """ModelSpec, as the first field of a request."""
    return field(1, field(1, name) + field(3, signature))


def _predict(name: str, signature: str, **inputs) -> bytes:
    """PredictionLog with a PredictRequest."""
    request = _model(name, signature)
    for key, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += field(2, field(1, key) + field(2, tensor))
    return field(_PREDICT_LOG, field(1, request))


def _examples(name: str, signature: str, encoded: list[bytes]) -> bytes:
    """ClassifyLog or RegressLog, which look alike, with one tf.train.Example a picture."""
    examples = b""
    for data in encoded:
        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
        features = tf.train.Features(feature={"image_bytes": value})
        examples += field(1, tf.train.Example(features=features).SerializeToString())
    return field(1, _model(name, signature) + field(2, field(1, examples)))


def _png(picture) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(stream, "PNG")
    return stream.getvalue()
