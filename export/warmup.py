"""Warm-up requests: what TensorFlow Serving runs before it calls a version available.

One record for each signature and each batch size that requests are padded to, as far as so many
pictures are no burden. They are grey all over: how long a graph takes does not depend on them, a
tensor of one value takes a few bytes, and a user's own pictures do not leave the house.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from export.exportable import Exportable
from export.serving_files import batch_sizes
from lisae_tf.serving.inference import FILE

GREY = 128


def write_warmup(folder: Path, exportable: Exportable) -> None:
    """Writes the records into a version folder."""
    path = folder / FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        height, width, _ = exportable.detector.shape
        for batch in batch_sizes(height, width):
            for record in _records(exportable, batch):
                writer.write(record.SerializeToString(deterministic=True))


def _records(exportable: Exportable, batch: int) -> Iterator[PredictionLog]:
    shape = exportable.detector.shape
    grey = GREY if exportable.dtype == "uint8" else GREY / 255
    image = tf.make_tensor_proto(grey, exportable.dtype, (batch, *shape))
    threshold = tf.make_tensor_proto(exportable.alpha, tf.float32, (batch,))
    yield _predict(exportable.name, "serving_default", image=image)
    yield _predict(exportable.name, "with_threshold", image=image, threshold=threshold)
    if exportable.has_maps:
        yield _predict(exportable.name, "error_map", image=image)
    if shape[2] in (1, 3):
        encoded = [_png(shape)] * batch
        yield _predict(exportable.name, "score_bytes", image_bytes=tf.make_tensor_proto(encoded))
        for kind in ("classify", "regress"):
            log = PredictionLog()
            request = getattr(log, f"{kind}_log").request
            request.model_spec.name, request.model_spec.signature_name = exportable.name, kind
            for data in encoded:
                features = request.input.example_list.examples.add().features
                features.feature["image_bytes"].bytes_list.value.append(data)
            yield log


def _predict(name: str, signature: str, **inputs) -> PredictionLog:
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = name, signature
    for key, tensor in inputs.items():
        request.inputs[key].CopyFrom(tensor)
    return log


def _png(shape: tuple[int, int, int]) -> bytes:
    height, width, channels = shape
    stream = io.BytesIO()
    colour = (GREY,) * channels if channels > 1 else GREY
    Image.new("L" if channels == 1 else "RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()
