"""Where an exported TFLite file keeps its threshold and its metadata: read them, replace them.

The threshold is the constant that the graph compares the score with; the metadata is a JSON file
in the ZIP archive behind the model, where TFLite keeps associated files and runtimes look past.
"""

import io
import json
import struct
import zipfile

import numpy as np

MAGIC = b"TFL3"  # at byte 4
_ENTRY = "lisae.json"
_MAX_METADATA = 2**20


def read(data: bytes) -> tuple[float, dict[str, str]]:
    """The stored default threshold and the metadata.

    Raises:
        ValueError: no TFLite file, or none with a threshold and metadata.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo(_ENTRY).file_size > _MAX_METADATA:
                raise ValueError("its metadata is too large")
            metadata = json.loads(archive.read(_ENTRY))
    except (KeyError, zipfile.BadZipFile, NotImplementedError, RecursionError) as error:
        raise ValueError(f"it holds no metadata ({error})") from error
    return float(_threshold(data)[0]), metadata


def replace(data: bytes, alpha: float, metadata: dict[str, str]) -> bytes:
    """The same model with another threshold and other metadata.

    Args:
        data: the file's bytes, with or without an archive behind the model.
        alpha: a value that float32 can hold.
        metadata: takes the place of the old.

    Raises:
        ValueError: no TFLite file, or none with a threshold.
    """
    model = bytearray(_model_alone(data))
    _threshold(model)[:] = alpha
    changed = io.BytesIO(model)
    with zipfile.ZipFile(changed, "a") as archive:
        # A fixed date, so that equal models are equal files.
        entry = zipfile.ZipInfo(_ENTRY, date_time=(1980, 1, 1, 0, 0, 0))
        archive.writestr(entry, json.dumps(metadata, indent=2, sort_keys=True))
    return changed.getvalue()


def _model_alone(data: bytes) -> bytes:
    """The file without the archive behind the model."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return data[: min(entry.header_offset for entry in archive.infolist())]


def _threshold(data: bytes | bytearray) -> np.ndarray:
    """The threshold where it lies in `data`, float32 (1,).

    Follows `is_anomaly` of the signature `serving_default` back to the constant it is made with.
    """
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != MAGIC:
        raise ValueError("it is no TFLite file")
    try:
        model = schema.Model.GetRootAs(data, 0)
        signatures = [model.SignatureDefs(i) for i in range(model.SignatureDefsLength())]
        [signature] = [s for s in signatures if s.SignatureKey() == b"serving_default"]
        outputs = [signature.Outputs(i) for i in range(signature.OutputsLength())]
        [decision] = [output.TensorIndex() for output in outputs if output.Name() == b"is_anomaly"]
        graph = model.Subgraphs(signature.SubgraphIndex())
        operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
        [greater] = [operator for operator in operators if operator.Outputs(0) == decision]
        tensor = graph.Tensors(greater.Inputs(1))
        code = model.OperatorCodes(greater.OpcodeIndex()).BuiltinCode()
        stored = model.Buffers(tensor.Buffer()).DataAsNumpy()  # shares memory with `data`
        plain = (
            code == schema.BuiltinOperator.GREATER
            and tensor.Type() == schema.TensorType.FLOAT32
            and _uses(model, tensor.Buffer()) == 1
            and stored.nbytes == 4
        )
    except (ValueError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise ValueError("it holds no threshold") from error
    if not plain:
        raise ValueError("its threshold is no plain float32")
    return stored.view("<f4")


def _uses(model, buffer: int) -> int:
    """How many tensors share a buffer."""
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    tensors = (graph.Tensors(i) for graph in graphs for i in range(graph.TensorsLength()))
    return sum(tensor.Buffer() == buffer for tensor in tensors)
