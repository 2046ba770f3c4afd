"""TFLite (LiteRT): float32, float16 weights, or int8 weights and activations.

Rounding moves scores, so a quantised file's threshold is chosen anew, from its own.
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from export.exportable import Exportable, Samples
from export.parity import usual_score
from lisae_tf.core.arrays import in_batches
from lisae_tf.core.quiet import no_stderr
from lisae_tf.core.thresholds import Threshold, choose_threshold
from lisae_tf.detectors.base import Detector
from lisae_tf.exported import packed, tflite_file
from lisae_tf.exported.model_record import SIGNATURES, write_record
from lisae_tf.exported.runtimes import open_model

# From the last layer's output to the decision and the map: computed in int8 the error takes few
# distinct values. The first layers of a frozen backbone and all that follows it stay in
# float: what is normal of its features is told from the rest by little, and rounding in the first
# layers is as large as what many flaws change.
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
SAME = 1e-3  # relative: scores of one picture on other devices


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


def with_own_threshold(
    path: Path,
    exportable: Exportable,
    pictures: np.ndarray,
    stored: np.ndarray,
    say: Callable[[str], None],
) -> Exportable:
    """The exportable with the threshold of its quantised file, which the file gets as well.

    Args:
        path: a TFLite file with the threshold of the float scores.
        exportable: what it was written from.
        pictures: the run's calibration pictures, as far as they are there, uint8 (N, H, W, C).
        stored: the scores that the run keeps with its threshold, (M,).
        say: takes a line on what has become of the threshold.
    """
    given, own_scores = exportable.detector.threshold_, None
    if rests_on_these(exportable.detector, pictures, stored):
        write_record(path, exportable.record)
        model = open_model(path)
        scores = in_batches(model.score, pictures, model.batch_size)
        threshold = choose_threshold(scores, given.requested_fpr, nearest=True)
        own_scores = packed.pack_scores(scores)
        say(
            f"threshold {given.alpha:.5g} -> {threshold.alpha:.5g}, from this file's own scores of "
            f"{threshold.n_calibration} calibration pictures: a new normal picture scores above it "
            f"with probability at most {threshold.guaranteed_fpr:.4g}"
        )
    else:
        threshold = Threshold(given.alpha, None, None, 0)
        say(
            "the threshold does not rest on calibration pictures in the run's folders: this file "
            "keeps that of the trained model, whose scores are others, and promises no false-alarm "
            "rate; set it with calibrate --model FILE --normal-dir DIR --fpr RATE"
        )
    changed = {"threshold": threshold.to_json(), "calibration_scores": own_scores}
    own = replace(exportable, record=exportable.record | changed)
    path.write_bytes(tflite_file.replace(path.read_bytes(), threshold.alpha, own.metadata))
    return own


def rests_on_these(detector: Detector, pictures: np.ndarray, stored: np.ndarray) -> bool:
    """Whether the threshold rests on these pictures, and on no others but some that are gone.

    Args:
        detector: with its threshold.
        pictures: the run's calibration pictures, as far as they are there, uint8 (N, H, W, C).
        stored: the scores that the run keeps with its threshold, (M,).
    """
    stored, given = np.sort(stored), detector.threshold_
    if given.by_hand or not 0 < len(pictures) <= len(stored):
        return False
    rests = choose_threshold(stored, given.requested_fpr, nearest=True)
    if not np.isclose(rests.alpha, given.alpha, rtol=1e-6, atol=0):
        return False  # it was set by other means
    found = detector.score(pictures)
    above = np.minimum(np.searchsorted(stored, found), len(stored) - 1)
    gap = np.minimum(*(np.abs(found - stored[at]) for at in (above, np.maximum(above - 1, 0))))
    return bool(np.all(gap <= SAME * np.maximum(np.abs(found), usual_score(found))))
