"""TensorFlow Serving's protocol buffers and plain values, both ways."""

from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    input_pb2,
    model_pb2,
)

from lisae_tf.exported.codes import CODES, RequestError
from lisae_tf.exported.saved_model import DEFAULT, ServedModel
from lisae_tf.exported.signatures import STRINGS
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
    return json_format.MessageToDict(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )
