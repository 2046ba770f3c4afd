"""The bodies of `:classify` and `:regress`: JSON objects become tf.train.Examples."""

from collections.abc import Mapping
from typing import Any

from tensorflow.core.example import example_pb2, feature_pb2

from lisae_tf.exported.codes import RequestError
from lisae_tf.serving import json_format


def _invalid(message: str) -> RequestError:
    return RequestError("INVALID_ARGUMENT", message)


def _feature(name: str, content: Any) -> feature_pb2.Feature:
    """One value or a list of one kind: bytes, int64 (with booleans) or float."""
    values = content if isinstance(content, list) else [content]
    if not values:
        return feature_pb2.Feature()
    if all(isinstance(value, str) or json_format.is_base64(value) for value in values):
        data = [json_format.to_bytes(value, name) for value in values]
        return feature_pb2.Feature(bytes_list=feature_pb2.BytesList(value=data))
    if all(isinstance(value, float) for value in values):
        return feature_pb2.Feature(float_list=feature_pb2.FloatList(value=values))
    if all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in values):
        return feature_pb2.Feature(int64_list=feature_pb2.Int64List(value=map(int, values)))
    raise _invalid(f"Feature: {name} has elements of an unexpected or of more than one type")


def _example(value: Any) -> example_pb2.Example:
    if not isinstance(value, dict):
        raise _invalid(f"Example must be JSON object but got {type(value).__name__}")
    example = example_pb2.Example()
    for name, content in value.items():
        json_format.to_bytes(name, "with a strange name")
        example.features.feature[name].CopyFrom(_feature(name, content))
    return example


def to_examples(document: Mapping[str, Any]) -> list[bytes]:
    """The serialised examples of a request, each with the common context.

    Args:
        document: the parsed body, {"examples": [{feature: value or list}, …], "context": {…}}.

    Raises:
        RequestError: no examples, or a feature of mixed types.
    """
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise _invalid("Expecting 'examples' to be a list with at least one element")
    context = _example(document.get("context", {})).SerializeToString()
    return [context + _example(value).SerializeToString() for value in examples]
