"""TensorFlow Serving's protocol buffers and plain values, both ways.

JSON objects of :classify and :regress become tf.train.Examples here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    input_pb2,
    model_pb2,
)

from lisae_tf.exported.saved_model import DEFAULT, ServedModel
from lisae_tf.exported.signatures import CODES, STRINGS, RequestError
from lisae_tf.serving import json_format
from lisae_tf.serving.limits import Limits
from lisae_tf.serving.versions import Versions


def to_array(name: str, tensor: tensor_pb2.TensorProto, limits: Limits) -> np.ndarray:
    """A TensorProto as an array; its declared shape is checked before memory is taken for it.

    Raises:
        RequestError: a shape beyond the limits, or a message that contradicts itself.
    """
    limits.check_shape(name, [dim.size for dim in tensor.tensor_shape.dim])
    if tensor.tensor_shape.unknown_rank:
        raise RequestError("INVALID_ARGUMENT", f"input {name} has no shape")
    try:
        array = tf.make_ndarray(tensor)
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise RequestError("INVALID_ARGUMENT", f"input {name} is malformed") from error
    return array.astype(STRINGS) if array.dtype.kind in "SO" else array


def examples_of(given: input_pb2.Input) -> list[bytes]:
    """The serialised examples of a Classify or Regress request, each with the common context."""
    if given.WhichOneof("kind") == "example_list_with_context":
        listed = given.example_list_with_context
        context = listed.context.SerializeToString()  # concatenated messages merge
        return [context + example.SerializeToString() for example in listed.examples]
    return [example.SerializeToString() for example in given.example_list.examples]


def fill_spec(spec: model_pb2.ModelSpec, model: ServedModel, signature: str = "") -> None:
    """Says in an answer which version and signature gave it."""
    spec.name = model.name
    spec.version.value = model.version
    spec.signature_name = signature or DEFAULT


def status(versions: Versions, version: int | None) -> get_model_status_pb2.GetModelStatusResponse:
    """The state of one version or of all.

    Raises:
        RequestError: there is no such version.
    """
    states = dict(versions.states)
    chosen = states if version is None else {version: states.get(version)}
    if not chosen or None in chosen.values():
        what = "any versions" if version is None else f"version {version}"
        raise RequestError("NOT_FOUND", f"Could not find {what} of model {versions.name}")
    answer = get_model_status_pb2.GetModelStatusResponse()
    for number, state in sorted(chosen.items(), reverse=True):
        added = answer.model_version_status.add(version=number, state=state.state)
        added.status.error_code = CODES["UNKNOWN"][0] if state.error else 0
        added.status.error_message = state.error
    return answer


def metadata(model: ServedModel) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a version."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in model.definitions.items():
        signatures.signature_def[name].CopyFrom(definition)
    answer = get_model_metadata_pb2.GetModelMetadataResponse()
    answer.model_spec.name = model.name
    answer.model_spec.version.value = model.version
    answer.metadata["signature_def"].Pack(signatures)
    return answer


def to_json(message: Message) -> dict[str, Any]:
    """A status or metadata answer as TensorFlow Serving prints it over REST."""
    return MessageToDict(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )


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
