"""ONNX: one graph, threshold as an input with a default, named batch dimension, metadata."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from export.exportable import PAPER, Exportable, Samples
from lisae_tf import __version__
from lisae_tf.exported import onnx_file

if TYPE_CHECKING:
    import onnx

OPSET = 18


def converted(
    function: tf.types.experimental.PolymorphicFunction, inputs: Sequence[tf.TensorSpec]
) -> "onnx.ModelProto":
    """The function as a model of the same inputs.

    Constants that it has captured, such as the mean of Keras' `Normalization`, are inputs to
    tf2onnx; they are stored in the model.
    """
    import onnx
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(function, input_signature=inputs, opset=OPSET)
    captures = function.get_concrete_function(*inputs).graph.captures
    captured = {inner.name: outer for outer, inner in captures}
    for value in [each for each in model.graph.input if each.name in captured]:
        data = onnx.numpy_helper.from_array(captured[value.name].numpy(), value.name)
        model.graph.initializer.append(data)
        model.graph.input.remove(value)
    return model


def write(exportable: Exportable, folder: Path, samples: Samples) -> Path:
    """Writes `model.onnx` into `folder` and returns its path."""
    del samples  # nothing here is fitted to pictures
    import onnx

    inputs = [exportable.image(), tf.TensorSpec((), tf.float32, "threshold")]

    def whole(image, threshold):
        also = exportable.error_map(image) if exportable.has_maps else {}
        return exportable.answer(image, threshold) | also

    function = exportable.function(whole, *inputs)
    model = converted(function, inputs)
    graph = model.graph
    # An initializer of an input's name is its default.
    alpha = tf.constant(exportable.alpha, tf.float32).numpy()
    graph.initializer.append(onnx.numpy_helper.from_array(alpha, "threshold"))
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = "batch"
    graph.name = "scoring_graph"
    model.producer_name, model.producer_version = "lisae_tf", __version__
    model.doc_string = f"Anomaly score of a picture. {PAPER}"
    onnx.checker.check_model(model, full_check=True)
    model = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )
    data = model.SerializeToString(deterministic=True)
    exportable.record["metadata"]["opset"] = str(OPSET)
    path = folder / "model.onnx"
    path.write_bytes(onnx_file.replace(data, exportable.alpha, exportable.metadata))
    return path
