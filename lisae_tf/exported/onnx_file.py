"""Where an exported ONNX file keeps its threshold and its metadata: read them, replace them.

Needs no ONNX package: the threshold is the scalar initializer of that name, so another value is
four other bytes and nothing else in the graph moves.
"""

import struct

from lisae_tf.core.wire import LENGTH, Field, field, fields

MAGIC = b"\x08"  # every ONNX file of ours begins with ir_version
_GRAPH, _METADATA = 7, 14  # of ModelProto
_INITIALIZER = 5  # of GraphProto
_DATA_TYPE, _NAME, _RAW_DATA = 2, 8, 9  # of TensorProto
_THRESHOLD = b"threshold"


def read(data: bytes) -> tuple[float, dict[str, str]]:
    """The stored default threshold and the metadata.

    Raises:
        ValueError: no ONNX file, or none with a threshold.
    """
    place = _threshold_at(data)
    metadata = {}
    for prop in _inside(data, None, _METADATA):
        parts = {part.number: data[part.value : part.end] for part in _inside(data, prop)}
        metadata[parts.get(1, b"").decode()] = parts.get(2, b"").decode()
    return struct.unpack_from("<f", data, place)[0], metadata


def replace(data: bytes, alpha: float, metadata: dict[str, str]) -> bytes:
    """The same model with another threshold and other metadata, the latter at the end.

    Args:
        data: the file's bytes.
        alpha: a value that float32 can hold.
        metadata: takes the place of the old.

    Raises:
        ValueError: no ONNX file, or none with a threshold.
    """
    changed = bytearray(data)
    struct.pack_into("<f", changed, _threshold_at(data), alpha)
    kept = [changed[part.start : part.end] for part in fields(data) if part.number != _METADATA]
    props = [
        field(_METADATA, field(1, key) + field(2, value)) for key, value in sorted(metadata.items())
    ]
    return b"".join([*kept, *props])


def _inside(data: bytes, outer: Field | None, number: int | None = None) -> list[Field]:
    """The fields in `outer` (or in the whole file), all or those of one number."""
    start, end = (outer.value, outer.end) if outer else (0, len(data))
    found = fields(data, start, end)
    return [f for f in found if number is None or (f.number == number and f.kind == LENGTH)]


def _threshold_at(data: bytes) -> int:
    """The place of the threshold's four bytes."""
    for graph in _inside(data, None, _GRAPH):
        for tensor in _inside(data, graph, _INITIALIZER):
            parts = {part.number: part for part in _inside(data, tensor)}
            name, raw = parts.get(_NAME), parts.get(_RAW_DATA)
            if name and data[name.value : name.end] == _THRESHOLD:
                if raw and raw.end - raw.value == 4:
                    return raw.value
                raise ValueError("the threshold is no plain float32")
    raise ValueError("it holds no threshold")
