"""TensorFlow Serving's gRPC services, PredictionService and ModelService, from the stubs."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from lisae_tf.errors import LisaeError
from lisae_tf.serving import inference, messages
from lisae_tf.serving.codes import RequestError
from lisae_tf.serving.saved_model import ServedModel
from lisae_tf.serving.service import Service

_CODES = {code.name: code for code in grpc.StatusCode}
_log = logging.getLogger(__name__)


class _Servicer:
    """What the services share."""

    def __init__(self, service: Service):
        self._service = service

    @contextlib.contextmanager
    def _answering(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Counts the request and sends every error as a status and one sentence."""
        code, message = "", ""
        try:
            with self._service.request("gRPC", method):
                yield
        except RequestError as error:
            code, message = error.code, str(error)
        except Exception:
            _log.exception("a request failed")
            code, message = "INTERNAL", "internal error; the server's log has more"
        if code:
            context.abort(_CODES[code], message)

    def _target(self, spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
        choice = spec.WhichOneof("version_choice")
        version = spec.version.value if choice == "version" else None
        return spec.name, version, spec.version_label if choice == "version_label" else None

    def _pick(self, spec: model_pb2.ModelSpec) -> ServedModel:
        return self._service.pick(*self._target(spec))


class _Prediction(_Servicer, prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress and GetModelMetadata; MultiInference is UNIMPLEMENTED."""

    def Predict(self, request, context):
        answer = predict_pb2.PredictResponse()
        with self._answering("predict", context):
            limits, name = self._service.limits, request.model_spec.signature_name
            model = self._pick(request.model_spec)
            inputs = {
                key: messages.to_array(key, each, limits) for key, each in request.inputs.items()
            }
            outputs = inference.predict(model, limits, name, inputs, request.output_filter)
            for key, array in outputs.items():
                answer.outputs[key].CopyFrom(tf.make_tensor_proto(array))
            messages.fill_spec(answer.model_spec, model, name)
        return answer

    def Classify(self, request, context):
        answer = classification_pb2.ClassificationResponse()

        def fill(found: list[list[tuple[bytes, float]]]) -> None:
            for pairs in found:
                classes = answer.result.classifications.add().classes
                for label, score in pairs:
                    classes.add(label=label.decode("utf-8", "replace"), score=score)

        self._examples("classify", inference.classify, request, answer, fill, context)
        return answer

    def Regress(self, request, context):
        answer = regression_pb2.RegressionResponse()

        def fill(found: list[float]) -> None:
            for value in found:
                answer.result.regressions.add(value=value)

        self._examples("regress", inference.regress, request, answer, fill, context)
        return answer

    def _examples(
        self, method: str, run: Callable, request: Any, answer: Any, fill: Callable, context
    ) -> None:
        with self._answering(method, context):
            name = request.model_spec.signature_name
            model = self._pick(request.model_spec)
            examples = messages.examples_of(request.input)
            fill(run(model, self._service.limits, name, examples))
            messages.fill_spec(answer.model_spec, model, name)

    def GetModelMetadata(self, request, context):
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._answering("metadata", context):
            if list(request.metadata_field) != ["signature_def"]:
                raise RequestError(
                    "INVALID_ARGUMENT", "the one metadata_field that there is is signature_def"
                )
            answer = messages.metadata(self._pick(request.model_spec))
        return answer


class _Model(_Servicer, model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; HandleReloadConfigRequest is UNIMPLEMENTED, the config file is polled."""

    def GetModelStatus(self, request, context):
        answer = get_model_status_pb2.GetModelStatusResponse()
        with self._answering("status", context):
            name, version, label = self._target(request.model_spec)
            self._service.check_name(name)
            if label is not None:
                version = self._service.versions.pick(None, label).version
            answer = messages.status(self._service.versions, version)
        return answer


def start(service: Service, host: str, port: int) -> tuple[grpc.Server, int]:
    """Starts to answer.

    Returns:
        The server and the port it listens on.

    Raises:
        LisaeError: the port is taken.
    """
    # What it logs of messages that cannot be parsed is the client's fault, with a traceback each.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    server = grpc.server(
        service.pool,
        maximum_concurrent_rpcs=service.limits.requests,
        options=[
            ("grpc.max_receive_message_length", service.limits.body),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _Prediction(service), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Model(service), server)
    try:
        address = f"[{host}]" if ":" in host else host
        bound = server.add_insecure_port(f"{address}:{port}")
    except RuntimeError as error:
        raise LisaeError(
            f"gRPC cannot listen on {host}:{port}; choose another --grpc-port"
        ) from error
    server.start()
    return server, bound
