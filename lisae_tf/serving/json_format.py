"""TensorFlow Serving's JSON and NumPy arrays: row and columnar, base64, NaN tokens.

Requests of `:predict` become arrays, answers become JSON. Runs without TensorFlow.
"""

import base64
import binascii
import json
import reprlib
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from lisae_tf.exported.signatures import STRINGS, RequestError, Signature, Tensor

ROWS, COLUMNS = "instances", "inputs"
_ANSWER = {ROWS: "predictions", COLUMNS: "outputs"}
_MAX_RANK = 8
_JSON_TYPES = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}


def _invalid(message: str) -> RequestError:
    return RequestError("INVALID_ARGUMENT", message)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that every request body is.

    Raises:
        RequestError: empty, no JSON, nested too deeply, or no object.
    """
    if not body:
        raise _invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise _invalid(f"JSON Value: {reprlib.repr(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """`signature_name`, or the empty string for the default signature."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _invalid("'signature_name' key must be a string value.")
    return name


def is_base64(value: Any) -> bool:
    """Whether `value` is {"b64": "…"}."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(value: Mapping[str, str]) -> bytes:
    """The bytes of {"b64": "…"}; white space and missing padding are allowed.

    Raises:
        RequestError: no base64.
    """
    try:
        text = "".join(value["b64"].split()).rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid("Unable to base64 decode") from error


def encode_base64(data: bytes) -> dict[str, str]:
    """{"b64": "…"}."""
    return {"b64": base64.b64encode(data).decode("ascii")}


def to_bytes(value: Any, name: str) -> bytes:
    """A JSON string in UTF-8, or the bytes of {"b64": "…"}.

    Raises:
        RequestError: neither, or no Unicode text.
    """
    if isinstance(value, str):
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _invalid(f"input {name} holds a string that is no Unicode text") from error
    if is_base64(value):
        return decode_base64(value)
    raise _invalid(f"input {name}: {reprlib.repr(value)} is not of expected type: string")


def _numbers(leaves: list, dtype: np.dtype, name: str) -> np.ndarray:
    if not set(map(type, leaves)) <= _JSON_TYPES[dtype.kind]:
        raise _invalid(f"input {name} holds values that are not of expected type: {dtype}")
    out_of_range = _invalid(f"input {name} holds values out of the range of {dtype}")
    try:
        if dtype.kind in "fb":
            with np.errstate(over="ignore"):
                return np.array(leaves, np.float64).astype(dtype)
        whole = np.array(leaves, np.int64)
    except OverflowError as error:
        raise out_of_range from error
    bounds = np.iinfo(dtype)
    if whole.size and (whole.min() < bounds.min or whole.max() > bounds.max):
        raise out_of_range
    return whole.astype(dtype)


def _array(value: Any, tensor: Tensor, name: str) -> np.ndarray:
    """Nested lists of one shape, or a scalar, as an array."""
    shape, probe = [], value
    while type(probe) is list:
        shape.append(len(probe))
        if len(shape) > _MAX_RANK:
            raise _invalid(f"input {name} is nested too deeply")
        probe = probe[0] if probe else None
    leaves = [value]
    for size in shape:
        if not all(type(item) is list and len(item) == size for item in leaves):
            raise _invalid(f"input {name} is ragged: lists of one level have different lengths")
        leaves = list(chain.from_iterable(leaves))
    if tensor.dtype != STRINGS:
        return _numbers(leaves, tensor.dtype, name).reshape(shape)
    array = np.empty(len(leaves), STRINGS)
    array[:] = [to_bytes(leaf, name) for leaf in leaves]
    return array.reshape(shape)


def _is_object(value: Any) -> bool:
    return type(value) is dict and not is_base64(value)


def _rows(instances: Any, signature: Signature) -> dict[str, np.ndarray]:
    if type(instances) is not list or not instances:
        raise _invalid("Expecting 'instances' to be a list with at least one element")
    inputs = signature.inputs
    if not _is_object(instances[0]):
        if len(inputs) > 1:
            raise _invalid(f"'instances' must be a list of objects with the keys {sorted(inputs)}")
        [(name, tensor)] = inputs.items()
        return {name: _array(instances, tensor, name)}
    for index, item in enumerate(instances):
        if type(item) is not dict or item.keys() != inputs.keys():
            raise _invalid(
                f"Failed to process element: {index} of 'instances' list; "
                f"its keys must be equal to: {sorted(inputs)}"
            )
    return {
        name: _array([item[name] for item in instances], tensor, name)
        for name, tensor in inputs.items()
    }


def _columns(value: Any, signature: Signature) -> dict[str, np.ndarray]:
    inputs = signature.inputs
    if not _is_object(value):
        if len(inputs) > 1:
            raise _invalid(f"'inputs' must be an object with the keys {sorted(inputs)}")
        [(name, tensor)] = inputs.items()
        return {name: _array(value, tensor, name)}
    missing = sorted(inputs.keys() - value.keys())
    if missing:
        raise _invalid(f"Missing named input: {missing[0]} in 'inputs' object.")
    return {name: _array(value[name], tensor, name) for name, tensor in inputs.items()}


def to_arrays(
    document: Mapping[str, Any], signature: Signature
) -> tuple[dict[str, np.ndarray], str]:
    """The inputs of a `:predict` request, and its form.

    Args:
        document: the parsed body.
        signature: types of the inputs; shapes are checked by `Signature.check`.

    Returns:
        Arrays by name, and `ROWS` or `COLUMNS`.

    Raises:
        RequestError: neither or both forms, wrong types, ragged lists, bad base64.
    """
    if (ROWS in document) == (COLUMNS in document):
        raise _invalid(f"Expecting exactly one of the keys '{ROWS}' and '{COLUMNS}'")
    if ROWS in document:
        return _rows(document[ROWS], signature), ROWS
    return _columns(document[COLUMNS], signature), COLUMNS


def _plain(name: str, array: np.ndarray) -> Any:
    if array.dtype != STRINGS:
        return array.tolist()
    if name.endswith("_bytes"):
        flat = [encode_base64(data) for data in array.ravel()]
    else:
        flat = [data.decode("utf-8", "replace") for data in array.ravel()]
    nested = np.empty(len(flat), STRINGS)
    nested[:] = flat
    return nested.reshape(array.shape).tolist()


def from_arrays(outputs: Mapping[str, np.ndarray], form: str) -> dict[str, Any]:
    """An answer of `:predict`; a sole output loses its name, as in TensorFlow Serving.

    Raises:
        RequestError: rows are asked for and an output has no batch dimension.
    """
    batches = {array.shape[:1] for array in outputs.values()}
    if form == ROWS and (len(batches) > 1 or () in batches):
        raise _invalid("the outputs have no common batch dimension; use the columnar form")
    plain = {name: _plain(name, array) for name, array in outputs.items()}
    if len(plain) == 1:
        return {_ANSWER[form]: next(iter(plain.values()))}
    if form == COLUMNS:
        return {_ANSWER[form]: plain}
    rows = zip(*plain.values(), strict=True)
    return {_ANSWER[form]: [dict(zip(plain, row, strict=True)) for row in rows]}
