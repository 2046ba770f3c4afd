"""SavedModel in TensorFlow Serving's layout: signatures, method names, warm-up requests."""

from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export.encoded import decode_pictures
from export.exportable import Exportable
from export.samples import Samples
from export.warmup import write_warmup
from lisae_tf.exported.model_record import GRAPH
from lisae_tf.model.networks import scale

LABELS = ("normal", "anomaly")
# TensorFlow 2 writes every signature as Predict.
METHODS = {name: f"tensorflow/serving/{name}" for name in ("classify", "regress")}


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
