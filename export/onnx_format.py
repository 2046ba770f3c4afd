"""ONNX: one graph, threshold as an input with a default, named batch dimension, metadata."""

from pathlib import Path

import tensorflow as tf

from export.exportable import PAPER, Exportable, Samples
from lisae_tf import __version__
from lisae_tf.exported import onnx_file

OPSET = 18


def write(exportable: Exportable, folder: Path, samples: Samples) -> Path:
    """Writes `model.onnx` into `folder` and returns its path."""
    del samples  # nothing here is fitted to pictures
    import onnx
    import tf2onnx

    inputs = [exportable.image(), tf.TensorSpec((), tf.float32, "threshold")]

    def whole(image, threshold):
        also = exportable.error_map(image) if exportable.has_maps else {}
        return exportable.answer(image, threshold) | also

    function = exportable.function(whole, *inputs)
    model, _ = tf2onnx.convert.from_function(function, input_signature=inputs, opset=OPSET)
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
