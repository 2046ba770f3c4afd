"""TFLite (LiteRT): float32, float16 weights, or int8 weights and activations.

In int8 the error itself stays in float: computed in int8 it takes few distinct values. So do the
first layers of a frozen backbone and all that follows it: what is normal of its features is told
from the rest by little, and rounding in the first layers is as large as what many flaws change.
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from export.exportable import Exportable
from export.samples import Samples
from lisae_tf.core.quiet import no_stderr
from lisae_tf.exported import tflite_file
from lisae_tf.exported.model_record import SIGNATURES

# From the last layer's output to the decision and the map.
FLOAT_OPERATIONS = [
    "LOGISTIC", "ADD", "SUB", "NEG", "SQUARED_DIFFERENCE", "SQUARE", "MUL", "MEAN", "RESHAPE",
    "TOPK_V2", "REDUCE_MAX", "DIV", "GREATER", "GATHER",
    "RESIZE_BILINEAR", "STRIDED_SLICE", "PAD", "SQUEEZE", "EXPAND_DIMS",
]  # fmt: skip
FLOAT_SHARE = 0.1  # of a frozen backbone's weights: those of its first layers
_CONVOLUTIONS = [
    getattr(schema.BuiltinOperator, name)
    for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
]


def write(exportable: Exportable, folder: Path, samples: Samples) -> Path:
    """Writes `model.tflite` into `folder` and returns its path."""
    quantization = exportable.record["quantization"]
    with tempfile.TemporaryDirectory(dir=folder) as scratch, no_stderr():
        converter = _converter(exportable, scratch)
        if quantization == "int8":
            data = _repacked(_to_int8(converter, exportable, samples.representative))
        elif quantization == "fp16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
            data = _repacked(converter.convert(), [exportable.alpha, 1 / 255])
        else:
            data = converter.convert()
    path = folder / "model.tflite"
    path.write_bytes(tflite_file.replace(data, exportable.alpha, exportable.metadata))
    return path


def _converter(exportable: Exportable, scratch: str) -> tf.lite.TFLiteConverter:
    """A converter of the graph with its signatures, which share the weights."""
    module = tf.Module()
    # Keras' own variables in the module make a TFLite file without weights that scores NaN.
    module.weights = [variable.value for variable in exportable.graph.variables]
    image, threshold = exportable.image(), tf.TensorSpec((), tf.float32, "threshold")
    signatures = {
        "serving_default": exportable.function(exportable.answer, image),
        "with_threshold": exportable.function(exportable.answer, image, threshold),
    }
    if exportable.has_maps:
        signatures["error_map"] = exportable.function(exportable.error_map, image)
    tf.saved_model.save(module, scratch, signatures)
    return tf.lite.TFLiteConverter.from_saved_model(scratch, signature_keys=list(signatures))


def _to_int8(
    converter: tf.lite.TFLiteConverter, exportable: Exportable, pictures: np.ndarray
) -> bytes:
    """Ranges from normal and negative pictures: normals alone would clip what stands out."""
    keys = SIGNATURES if exportable.has_maps else SIGNATURES[:2]

    def representative():
        for key in keys:
            for picture in pictures:
                image = picture[None]
                if exportable.dtype == "float32":
                    image = image * np.float32(1 / 255)
                given = {"image": image}
                if key == "with_threshold":
                    given["threshold"] = np.float32(exportable.alpha)
                yield key, given

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    lite = tf.lite.experimental
    options = lite.QuantizationDebugOptions(denylisted_ops=FLOAT_OPERATIONS)
    with warnings.catch_warnings():
        # It looks at its own result with an interpreter that is to be replaced.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        debugger = lite.QuantizationDebugger(
            converter=converter, debug_dataset=lambda: iter(()), debug_options=options
        )
    if exportable.detector.config.features:
        options.denylisted_nodes = _kept_in_float(debugger.calibrated_model)
    return bytes(debugger.get_nondebug_quantized_model())


def _kept_in_float(data: bytes) -> list[str]:
    """The outputs of what is not quantised on features: their names.

    That is the first convolutions, up to `FLOAT_SHARE` of the weights, with what lies between them,
    and whatever no convolution reads, directly or through others.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    names = []
    for graph in model.subgraphs:
        weights = [_weights(model, graph, operator) for operator in graph.operators]
        first = np.cumsum(weights) <= FLOAT_SHARE * sum(weights)
        needed: set[int] = set()
        for operator, size, early in reversed(
            list(zip(graph.operators, weights, first, strict=True))
        ):
            read = size > 0 or needed.intersection(operator.outputs)
            if read:
                needed.update(operator.inputs)
            if early or not read:
                names += [graph.tensors[index].name.decode() for index in operator.outputs]
    return names


def _weights(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> int:
    """Bytes of the kernel of a convolution; 0 of anything else."""
    if model.operatorCodes[operator.opcodeIndex].builtinCode not in _CONVOLUTIONS:
        return 0
    return len(model.buffers[graph.tensors[operator.inputs[1]].buffer].data)


def _repacked(data: bytes, scalars: Sequence[float] = ()) -> bytes:
    """The same model, smaller and more exact.

    Args:
        data: a quantised model.
        scalars: threshold and scale of the pixels, which get back the precision that float16 took.
    """
    model = flatbuffer_utils.read_model_from_bytearray(data)
    for graph in model.subgraphs:
        for operator in list(graph.operators):
            code = model.operatorCodes[operator.opcodeIndex].builtinCode
            half = model.buffers[graph.tensors[operator.inputs[0]].buffer].data
            if code != schema.BuiltinOperator.DEQUANTIZE or half is None or len(half) != 2:
                continue
            stored = np.frombuffer(bytes(half), np.float16)[0]
            exact = [np.float32(scalar) for scalar in scalars if np.float16(scalar) == stored]
            if exact:
                buffer = schema.BufferT()
                buffer.data = np.frombuffer(exact[0].tobytes(), np.uint8)
                model.buffers.append(buffer)
                graph.tensors[operator.outputs[0]].buffer = len(model.buffers) - 1
                graph.operators.remove(operator)
    builder = _SharingBuilder()
    builder.Finish(model.Pack(builder), file_identifier=tflite_file.MAGIC)
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors once: three signatures have the same scales and zero points."""

    def __init__(self):
        super().__init__(1024)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x):
        if x.nbytes <= 16:
            return super().CreateNumpyVector(x)  # the threshold must stay alone
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]
