"""The threshold and the metadata of an exported ONNX file: read them, replace them.

Without the package `onnx`, which would make the start of `score` half as long again: the threshold
is the scalar initializer of that name.
"""

import struct
from functools import cache
from typing import Any

from lisae_tf.core import messages

MAGIC = b"\x08"  # every ONNX file of ours begins with ir_version
_THRESHOLD = b"threshold"
_FLOAT = 1  # of TensorProto.DataType


@cache
def _classes() -> dict[str, type]:
    """A model down to its initializers, as in onnx.proto; inner messages stay as they are stored.

    All fields of model and graph are declared: others would move behind them when written.
    """
    text, inner = "bytes", "repeated bytes"
    return messages.declare(
        {
            "Model": {
                "ir_version": (1, "int64"), "producer_name": (2, text),
                "producer_version": (3, text), "domain": (4, text), "model_version": (5, "int64"),
                "doc_string": (6, text), "graph": (7, "Graph"), "opset_import": (8, inner),
                "metadata_props": (14, "repeated Property"),
            },
            "Graph": {
                "node": (1, inner), "name": (2, text), "initializer": (5, inner),
                "doc_string": (10, text), "input": (11, inner), "output": (12, inner),
                "value_info": (13, inner),
            },
            "Tensor": {"data_type": (2, "int64"), "name": (8, text), "raw_data": (9, "bytes")},
            "Property": {"key": (1, text), "value": (2, text)},
        }
    )  # fmt: skip


def read(data: bytes) -> tuple[float, dict[str, str]]:
    """The stored default threshold and the metadata.

    Raises:
        ValueError: no ONNX file, or none with a threshold.
    """
    model = messages.parse(_classes()["Model"], data)
    _, tensor = _threshold_of(model)
    metadata = {prop.key.decode(): prop.value.decode() for prop in model.metadata_props}
    return struct.unpack("<f", tensor.raw_data)[0], metadata


def replace(data: bytes, alpha: float, metadata: dict[str, str]) -> bytes:
    """The same model with another threshold and other metadata.

    Args:
        data: the file's bytes.
        alpha: a value that float32 can hold.
        metadata: takes the place of the old.

    Raises:
        ValueError: no ONNX file, or none with a threshold.
    """
    model = messages.parse(_classes()["Model"], data)
    place, tensor = _threshold_of(model)
    tensor.raw_data = struct.pack("<f", alpha)
    model.graph.initializer[place] = tensor.SerializeToString()
    del model.metadata_props[:]
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key.encode(), value=value.encode())
    return model.SerializeToString()


def _threshold_of(model: Any) -> tuple[int, Any]:
    """The initializer of that name and which one it is."""
    for place, stored in enumerate(model.graph.initializer):
        tensor = messages.parse(_classes()["Tensor"], stored)
        if tensor.name == _THRESHOLD:
            if tensor.data_type != _FLOAT or len(tensor.raw_data) != 4:
                raise ValueError("the threshold is no plain float32")
            return place, tensor
    raise ValueError("it holds no threshold")
