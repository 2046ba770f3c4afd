"""SavedModel in TensorFlow Serving's layout: signatures, method names, warm-up requests.

PNG and JPEG bytes become pixels inside the graph.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from export.exportable import Exportable, Samples
from export.serving_files import batch_sizes
from lisae_tf.data.levels import FULL_DEPTH
from lisae_tf.data.pictures import MAX_PIXELS
from lisae_tf.exported.model_record import GRAPH
from lisae_tf.model.networks import scale
from lisae_tf.serving.inference import FILE

LABELS = ("normal", "anomaly")
# TensorFlow 2 writes every signature as Predict.
METHODS = {name: f"tensorflow/serving/{name}" for name in ("classify", "regress")}
_GREY, _GREY_ALPHA, _RGBA = 0, 4, 6  # kinds of PNG
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# Pillow's fixed-point sums round exact halves up; float sums may fall just short of them.
_HALF = 0.5001
GREY = 128


def write(exportable: Exportable, folder: Path, samples: Samples) -> Path:
    """Writes the version folder and returns it."""
    del samples  # nothing here is fitted to pictures
    module = tf.Module()
    graph = exportable.graph
    # One variable of that name is all that another threshold changes.
    module.threshold = graph.get_layer("is_anomaly").alpha.value
    # Keras' own variables in the module would cost the weights on the way to TFLite.
    module.weights = [v.value for v in graph.variables if v.value is not module.threshold]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), signatures(exportable), options)
    _forget_gradients(folder)
    _name_methods(folder)
    write_warmup(folder, exportable)
    return folder


def _forget_gradients(folder: Path) -> None:
    """Removes the names of gradients that nobody needs for scoring.

    TensorFlow registers loaded gradients for good, and with them every graph of the version: a
    server would grow by 16 MB with each new one.
    """
    path = folder / GRAPH
    stored = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in (meta.graph_def for meta in stored.meta_graphs):
        for part in (graph.node, *(function.node_def for function in graph.library.function)):
            for node in part:
                if "_gradient_op_type" in node.attr:
                    del node.attr["_gradient_op_type"]
    path.write_bytes(stored.SerializeToString(deterministic=True))


def _name_methods(folder: Path) -> None:
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    for name, method in METHODS.items():
        updater.replace_method_name(name, method)
    updater.save()


def signatures(exportable: Exportable) -> dict[str, tf.types.experimental.GenericFunction]:
    """All signatures; every output keeps the batch dimension.

    - `serving_default`: image -> score, is_anomaly;
    - `with_threshold`: image, threshold (one, or one for each picture) -> score, is_anomaly;
    - `error_map`: image -> error_map, where there is one;
    - `score_bytes`: image_bytes, PNG or JPEG of any size -> score, is_anomaly;
    - `classify`, `regress`: tf.train.Examples with the feature image_bytes.
    """
    shape = exportable.detector.shape
    image, threshold = exportable.image(), tf.TensorSpec(None, tf.float32, "threshold")
    strings = tf.TensorSpec((None,), tf.string)

    def with_threshold(image, threshold):
        return exportable.answer(image, tf.broadcast_to(threshold, tf.shape(image)[:1]))

    found = {
        "serving_default": exportable.function(exportable.answer, image),
        "with_threshold": exportable.function(with_threshold, image, threshold),
    }
    if exportable.has_maps:
        found["error_map"] = exportable.function(exportable.error_map, image)
    if shape[2] not in (1, 3):
        return found  # no such pictures are ever encoded

    def score_bytes(image_bytes):
        image = decode_pictures(image_bytes, shape, exportable.detector.depth)
        return exportable.answer(scale(shape)(image) if exportable.dtype == "float32" else image)

    def of_examples(inputs):
        features = {"image_bytes": tf.io.FixedLenFeature((), tf.string)}
        return score_bytes(tf.io.parse_example(inputs, features)["image_bytes"])

    def classify(inputs):
        answer = of_examples(inputs)
        labels = tf.gather(tf.constant(LABELS), tf.cast(answer["is_anomaly"], tf.int32))
        return {"classes": labels[:, None], "scores": answer["score"][:, None]}

    def regress(inputs):
        return {"outputs": of_examples(inputs)["score"]}

    return found | {
        "score_bytes": exportable.function(score_bytes, strings),
        "classify": exportable.function(classify, strings),
        "regress": exportable.function(regress, strings),
    }


def decode_pictures(
    encoded: tf.Tensor, shape: tuple[int, int, int], depth: int | None = None
) -> tf.Tensor:
    """Pictures of any size as pixels of the model's, as `lisae_tf.data.pictures` has them.

    Same decoding (accurate JPEG transform), same grey (ITU-R 601 in integers), same antialiased
    bilinear resize in two passes with rounding between. What remains is the rounding of ties: at
    most one level in each pass. EXIF orientation is not applied, nor is a single transparent
    colour.

    Args:
        encoded: string (N,), PNG or JPEG each.
        shape: (H, W, C), with C 1 or 3.
        depth: of 16-bit grey, the bits that are in use, 8-16; None for all of them.

    Returns:
        uint8 (N, H, W, C). One bad picture fails the whole batch.
    """
    spec = tf.TensorSpec(shape, tf.uint8)
    return tf.map_fn(lambda one: _decode(one, shape, depth), encoded, fn_output_signature=spec)


def _decode(encoded: tf.Tensor, shape: tuple[int, int, int], depth: int | None) -> tf.Tensor:
    is_png = tf.equal(tf.strings.substr(encoded, 0, len(_PNG)), _PNG)
    is_jpeg = tf.equal(tf.strings.substr(encoded, 0, len(_JPEG)), _JPEG)
    known = tf.debugging.Assert(is_png | is_jpeg, ["not a PNG or JPEG picture"])
    with tf.control_dependencies([known]):
        size = tf.cond(is_png, lambda: _png_size(encoded), lambda: _jpeg_size(encoded))
    # A picture bomb is refused by its header.
    small = tf.debugging.Assert(tf.reduce_prod(size) <= MAX_PIXELS, ["picture too large"])
    with tf.control_dependencies([small]):
        rgb = tf.cond(
            is_png,
            lambda: _png(encoded, depth),
            lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        )
    height, width, channels = shape
    pixels = tf.cast(rgb if channels == 3 else _grey(rgb), tf.float32)
    pixels = _round(tf.image.resize(pixels, (tf.shape(pixels)[0], width), antialias=True))
    pixels = _round(tf.image.resize(pixels, (height, width), antialias=True))
    return tf.ensure_shape(tf.cast(pixels, tf.uint8), shape)


def _png(encoded: tf.Tensor, depth: int | None) -> tf.Tensor:
    """RGB, uint8 (H, W, 3), over white where it has alpha."""
    # Of the IHDR chunk: the bits of a sample, and its kind.
    bits, kind = tf.unstack(tf.io.decode_raw(tf.strings.substr(encoded, 24, 2), tf.uint8), 2)

    def plain():
        return tf.io.decode_png(encoded, channels=3)

    def clear():
        return _over_white(tf.io.decode_png(encoded, channels=4))

    def rgb():
        return tf.cond((kind == _GREY_ALPHA) | (kind == _RGBA), clear, plain)

    def deep():
        return _eight_bits(tf.io.decode_png(encoded, channels=1, dtype=tf.uint16), depth)

    if depth in (None, FULL_DEPTH):
        return rgb()
    return tf.cond((bits == FULL_DEPTH) & (kind == _GREY), deep, rgb)


def _over_white(rgba: tf.Tensor) -> tf.Tensor:
    colour, alpha = tf.split(tf.cast(rgba, tf.int32), (3, 1), axis=2)
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _eight_bits(grey: tf.Tensor, depth: int) -> tf.Tensor:
    levels = tf.minimum(tf.cast(grey, tf.int32) // 2 ** (depth - 8), 255)
    return tf.repeat(tf.cast(levels, tf.uint8), 3, axis=2)


def _png_size(encoded: tf.Tensor) -> tf.Tensor:
    """Width and height in the IHDR chunk, int64 (2,)."""
    whole = tf.debugging.Assert(tf.strings.length(encoded) >= 26, ["truncated PNG"])
    with tf.control_dependencies([whole]):
        header = tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.uint8)
    digits = tf.cast(tf.reshape(header, (2, 4)), tf.int64)
    return tf.linalg.matvec(
        tf.cast(digits, tf.int64), tf.constant([2**24, 2**16, 2**8, 1], "int64")
    )


def _jpeg_size(encoded: tf.Tensor) -> tf.Tensor:
    """Height and width in the frame header, int64 (2,)."""
    return tf.image.extract_jpeg_shape(encoded, tf.int64)[:2]


def _grey(rgb: tf.Tensor) -> tf.Tensor:
    """ITU-R 601 luma with Pillow's integers."""
    weighted = tf.cast(rgb, tf.int32) * tf.constant([19595, 38470, 7471])
    return (tf.reduce_sum(weighted, axis=-1, keepdims=True) + 2**15) // 2**16


def _round(pixels: tf.Tensor) -> tf.Tensor:
    return tf.floor(tf.clip_by_value(pixels, 0, 255) + _HALF)


def write_warmup(folder: Path, exportable: Exportable) -> None:
    """Writes the records into a version folder; TensorFlow Serving runs them before it answers.

    One for each signature and each batch size that requests are padded to, as far as so many
    pictures are no burden. They are grey all over: how long a graph takes does not depend on them,
    a tensor of one value takes a few bytes, and a user's own pictures do not leave the house.
    """
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
        encoded = [_grey_png(shape)] * batch
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


def _grey_png(shape: tuple[int, int, int]) -> bytes:
    height, width, channels = shape
    stream = io.BytesIO()
    colour = (GREY,) * channels if channels > 1 else GREY
    Image.new("L" if channels == 1 else "RGB", (width, height), colour).save(stream, "PNG")
    return stream.getvalue()
