"""One version folder: checked, loaded, run.

A SavedModel is a graph, and a graph can read and write files: only folders inside the given one
are loaded, and none whose graph holds an operation that no export writes (`operations`).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from lisae_tf.core.errors import LisaeError
from lisae_tf.exported import model_record, operations
from lisae_tf.exported.runtimes import batch_size
from lisae_tf.exported.signatures import STRINGS, RequestError, Signature, Tensor, from_number

DEFAULT = "serving_default"
MAX_GRAPH_BYTES = 2**31 - 1
_REQUIRED = {"score": types_pb2.DT_FLOAT, "is_anomaly": types_pb2.DT_BOOL}
_NODE = re.compile(r"\{\{[^}]*\}\}\s*")


class ServedModel:
    """A loaded version.

    Attributes:
        name: the model's name.
        version: its version.
        definitions: the SignatureDefs as stored.
        signatures: the same, as NumPy types and shapes.
        shape: (H, W, C) of a picture.
        depth: the bits in use of 16-bit pictures; None for all of them.
    """

    def __init__(self, name: str, version: int, folder: Path):
        """Loads `folder`; use `load`, which checks it first."""
        graph = _read(folder)
        self.name = name
        self.version = version
        self.definitions = {
            key: value for key, value in graph.signature_def.items() if not key.startswith("__")
        }
        self.signatures = {key: _signature(value) for key, value in self.definitions.items()}
        _check_default(self.definitions, folder)
        image = self.signatures[DEFAULT].inputs["image"]
        self.shape = tuple(size or 1 for size in (image.shape or ())[1:])
        self.depth = model_record.depth_of(folder)
        self._loaded = tf.saved_model.load(str(folder), tags=["serve"])

    def signature(self, name: str) -> Signature:
        """The signature of that name; an empty name is the default.

        Raises:
            RequestError: there is none.
        """
        name = name or DEFAULT
        if name not in self.signatures:
            raise RequestError(
                "INVALID_ARGUMENT",
                f'Serving signature name: "{name}" not found in signature def; '
                f"there are {sorted(self.signatures)}",
            )
        return self.signatures[name]

    def run(
        self, name: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            name: the signature; empty for the default.
            inputs: arrays as the signature has them.
            outputs: names of the outputs to give; all by default.

        Raises:
            RequestError: inputs that do not fit, unknown outputs, or what the graph refuses; of
                several pictures the first that it refuses is named by its place.
        """
        signature = self.signature(name)
        signature.check(inputs)
        unknown = [output for output in outputs if output not in signature.outputs]
        if unknown or len(set(outputs)) < len(outputs):
            raise RequestError(
                "INVALID_ARGUMENT",
                f"output filter {list(outputs)}: the outputs are {sorted(signature.outputs)}, "
                "each at most once",
            )
        try:
            found = self._call(name, inputs)
            return {key: found[key] for key in outputs or sorted(found)}
        except tf.errors.OpError as error:
            where, error = self._refused(name, inputs, error)
            raise RequestError(from_number(error.error_code), where + reason(error)) from error

    def _call(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs no more pictures at a time than memory is meant for."""
        count = max((len(array) for array in inputs.values() if array.ndim), default=0)
        size = batch_size(self.shape)
        parts = [
            self._run_batch(name, {
                key: array[first : first + size] if array.ndim and len(array) == count else array
                for key, array in inputs.items()
            })
            for first in range(0, max(count, 1), size)
        ]  # fmt: skip
        if len(parts) == 1:
            return parts[0]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _run_batch(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {
            key: tf.constant(array, tf.string if array.dtype == STRINGS else None, array.shape)
            for key, array in inputs.items()
        }
        try:
            found = self._loaded.signatures[name or DEFAULT](**tensors)
        except UnicodeDecodeError as error:  # a reason that holds bytes of the input
            raise tf.errors.InvalidArgumentError(None, None, "an input is malformed") from error
        return {key: value.numpy() for key, value in found.items()}

    def _refused(
        self, name: str, inputs: Mapping[str, np.ndarray], error: tf.errors.OpError
    ) -> tuple[str, tf.errors.OpError]:
        """The first of several encoded pictures that cannot be scored alone, and why.

        Halves are run again, which together take no longer than the request did.
        """
        [(key, values), *others] = inputs.items()
        several = values.dtype == STRINGS and values.ndim == 1 and len(values) > 1
        if others or not several or not isinstance(error, tf.errors.InvalidArgumentError):
            return "", error
        start, end = 0, len(values)
        while end - start > 1:
            middle = (start + end) // 2
            if self._refusal(name, {key: values[start:middle]}):
                end = middle
            else:
                start = middle
        found = self._refusal(name, {key: values[start:end]})
        return (f"picture {end} of {len(values)}: ", found) if found else ("", error)

    def _refusal(
        self, name: str, inputs: Mapping[str, np.ndarray]
    ) -> tf.errors.InvalidArgumentError | None:
        try:
            self._call(name, inputs)
        except tf.errors.InvalidArgumentError as error:
            return error
        return None


def load(folder: Path, base: Path, name: str, version: int) -> ServedModel:
    """Checks and loads a version folder.

    Args:
        folder: `<base>/<version>`.
        base: the folder that nothing may lead out of.
        name: the model's name.
        version: its version.

    Raises:
        LisaeError: outside `base`, damaged, not one of ours, or an operation that is refused.
    """
    try:
        inside = base.resolve()
        for path in (folder, *folder.rglob("*")):
            if not path.resolve().is_relative_to(inside):
                raise LisaeError(
                    f"{path} leads out of {base}; copy the files instead of linking them"
                )
            path.stat()  # raises on a link to itself, which Python 3.13 resolves
        return ServedModel(name, version, folder)
    except LisaeError:
        raise
    except (
        tf.errors.OpError,
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LisaeError(
            f"{folder} cannot be loaded ({_NODE.sub('', reason)}); export the model again"
        ) from error


def reason(error: tf.errors.OpError) -> str:
    """The line of an error that says what is wrong, without the graph's names and the code."""
    lines = error.message.splitlines() or [type(error).__name__]
    ends = [place for place, line in enumerate(lines) if line.lstrip().startswith("[[")]
    return _NODE.sub("", lines[max(ends[0] - 1, 0) if ends else 0]).strip()


def _read(folder: Path) -> meta_graph_pb2.MetaGraphDef:
    path = folder / "saved_model.pb"
    if not path.is_file():
        raise LisaeError(f"{path} is missing; export the model again")
    if not 0 < path.stat().st_size <= MAX_GRAPH_BYTES:
        raise LisaeError(f"{path} is empty or too large; export the model again")
    stored = saved_model_pb2.SavedModel()
    try:
        stored.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise LisaeError(f"{path} is truncated or altered; export the model again") from error
    return operations.check(stored, path)


def _check_default(definitions: Mapping[str, meta_graph_pb2.SignatureDef], folder: Path) -> None:
    default = definitions.get(DEFAULT)
    images = list(default.inputs) if default else []
    outputs = {key: value.dtype for key, value in default.outputs.items()} if default else {}
    pictures = (
        default and images == ["image"] and len(default.inputs["image"].tensor_shape.dim) == 4
    )
    if not pictures or not _REQUIRED.items() <= outputs.items():
        raise LisaeError(
            f"{folder} has no signature '{DEFAULT}' from 'image' to 'score' and 'is_anomaly'; "
            "serve a model that lisae exported"
        )


def _tensor(info: meta_graph_pb2.TensorInfo) -> Tensor:
    dtype = tf.dtypes.as_dtype(info.dtype)
    numpy_dtype = STRINGS if dtype == tf.string else np.dtype(dtype.as_numpy_dtype)
    if info.tensor_shape.unknown_rank:
        return Tensor(numpy_dtype, None)
    sizes = (dim.size for dim in info.tensor_shape.dim)
    return Tensor(numpy_dtype, tuple(None if size < 0 else size for size in sizes))


def _signature(definition: meta_graph_pb2.SignatureDef) -> Signature:
    return Signature(
        {name: _tensor(info) for name, info in definition.inputs.items()},
        {name: _tensor(info) for name, info in definition.outputs.items()},
        definition.method_name.rpartition("/")[2],
    )
