"""A client of TensorFlow Serving's gRPC API, on the official stubs (which need TensorFlow)."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    input_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from lisae_tf.exported.signatures import Refused
from lisae_tf.serving.scores import ScoringClient, VersionStatus

_TRY_AGAIN = ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]


class GrpcClient(ScoringClient):
    """Talks to PredictionService and ModelService; use as a context manager, or `close`.

    Args:
        model: the model's name.
        address: "host:port".
        options: as for `ScoringClient`.
    """

    def __init__(self, model: str, address: str = "127.0.0.1:8500", **options: Any):
        super().__init__(model, **options)
        self.address = address
        policy = {
            "maxAttempts": self.retries + 1,
            "initialBackoff": "0.1s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": _TRY_AGAIN,
        }
        method = {"name": [{}]} | ({"retryPolicy": policy} if self.retries > 0 else {})
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.service_config", json.dumps({"methodConfig": [method]})),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def predict(
        self, inputs: Mapping[str, np.ndarray | Sequence[bytes]], signature: str = ""
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            inputs: arrays (N, …) by name; encoded pictures as a list of bytes.
            signature: its name; the default one by default.

        Raises:
            Refused: no answer, or the server's reason.
        """
        request = predict_pb2.PredictRequest(model_spec=self._spec(signature))
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        answer = self._call(self._predictions.Predict, request)
        return {name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()}

    def classify(
        self, examples: Sequence[Mapping[str, Any]], signature: str = "classify"
    ) -> list[list[tuple[str, float]]]:
        """(label, score) pairs for each example, a mapping from feature to value or list."""
        request = classification_pb2.ClassificationRequest(
            model_spec=self._spec(signature), input=_input(examples)
        )
        answer = self._call(self._predictions.Classify, request)
        return [
            [(pair.label, pair.score) for pair in each.classes]
            for each in answer.result.classifications
        ]

    def regress(
        self, examples: Sequence[Mapping[str, Any]], signature: str = "regress"
    ) -> np.ndarray:
        """One value, float32 (N,), for each example, a mapping from feature to value or list."""
        request = regression_pb2.RegressionRequest(
            model_spec=self._spec(signature), input=_input(examples)
        )
        answer = self._call(self._predictions.Regress, request)
        return np.array([each.value for each in answer.result.regressions], np.float32)

    def metadata(self) -> dict[str, Any]:
        """The SignatureDefs by name, as the REST API prints them."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=["signature_def"]
        )
        answer = self._call(self._predictions.GetModelMetadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        return json_format.MessageToDict(
            signatures, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
        )["signature_def"]

    def status(self) -> list[VersionStatus]:
        """The states of the versions, or of the one that this client asks."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec())
        answer = self._call(self._models.GetModelStatus, request)
        names = get_model_status_pb2.ModelVersionStatus.State
        return [
            VersionStatus(each.version, names.Name(each.state), each.status.error_message)
            for each in answer.model_version_status
        ]

    def _spec(self, signature: str = "") -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self.model, signature_name=signature)
        if self.version is not None:
            spec.version.value = self.version
        if self.label is not None:
            spec.version_label = self.label
        return spec

    def _call(self, method: Callable, request: Any) -> Any:
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            code, reason = error.code().name, error.details()
            if code == "DEADLINE_EXCEEDED":
                reason = (
                    f"{self.address} gave no answer in {self.timeout:g} s; send smaller batches "
                    "or give it a longer time-out"
                )
            elif code == "UNAVAILABLE":
                reason = (
                    f"{self.address} cannot be reached ({reason}); start a server with "
                    "'python cli.py serve --model DIR' or check the address"
                )
            else:
                reason = f"{self.address} refused the request ({code}): {reason}"
            raise Refused(code, reason) from error


def _input(examples: Sequence[Mapping[str, Any]]) -> input_pb2.Input:
    """The mappings as tf.train.Examples."""
    given = input_pb2.Input()
    for example in examples:
        features = given.example_list.examples.add().features.feature
        for name, content in example.items():
            values = [content] if isinstance(content, str | bytes | int | float) else list(content)
            if all(isinstance(value, str | bytes) for value in values):
                data = [value.encode() if isinstance(value, str) else value for value in values]
                features[name].bytes_list.value.extend(data)
            elif all(isinstance(value, int) for value in values):
                features[name].int64_list.value.extend(values)
            else:
                features[name].float_list.value.extend(values)
    return given
