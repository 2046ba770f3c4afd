"""TensorFlow Serving's gRPC services, PredictionService and ModelService, on the event loop.

Messages come as bytes and are parsed in the pool: a call whose message never comes holds no thread.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError, Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from lisae_tf.core.errors import LisaeError
from lisae_tf.exported.saved_model import ServedModel
from lisae_tf.exported.signatures import RequestError
from lisae_tf.serving import inference, messages
from lisae_tf.serving.limits import PARSED_BYTES
from lisae_tf.serving.service import Service

_CODES = {code.name: code for code in grpc.StatusCode}
_log = logging.getLogger(__name__)


def _target(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return spec.name, version, spec.version_label if choice == "version_label" else None


def _pick(service: Service, spec: model_pb2.ModelSpec) -> ServedModel:
    return service.pick(*_target(spec))


def _parsed(service: Service, kind: type[Message], data: bytes) -> Any:
    try:
        with service.limits.memory.held(PARSED_BYTES * len(data)):
            return kind.FromString(data)
    except DecodeError as error:
        raise RequestError("INVALID_ARGUMENT", f"no {kind.DESCRIPTOR.name}") from error


def _predict(service: Service, data: bytes) -> Message:
    request = _parsed(service, predict_pb2.PredictRequest, data)
    limits, name = service.limits, request.model_spec.signature_name
    model = _pick(service, request.model_spec)
    with limits.memory.held(PARSED_BYTES * len(data)):
        inputs = {key: messages.to_array(key, each, limits) for key, each in request.inputs.items()}
    outputs = inference.predict(model, limits, name, inputs, request.output_filter)
    answer = predict_pb2.PredictResponse()
    for key, array in outputs.items():
        answer.outputs[key].CopyFrom(tf.make_tensor_proto(array))
    messages.fill_spec(answer.model_spec, model, name)
    return answer


def _examples(service: Service, request: Any, answer: Any, run: Callable) -> Any:
    """What `run` finds of a request's examples."""
    name = request.model_spec.signature_name
    model = _pick(service, request.model_spec)
    found = run(model, service.limits, name, messages.examples_of(request.input))
    messages.fill_spec(answer.model_spec, model, name)
    return found


def _classify(service: Service, data: bytes) -> Message:
    request = _parsed(service, classification_pb2.ClassificationRequest, data)
    answer = classification_pb2.ClassificationResponse()
    for pairs in _examples(service, request, answer, inference.classify):
        classes = answer.result.classifications.add().classes
        for label, score in pairs:
            classes.add(label=label.decode("utf-8", "replace"), score=score)
    return answer


def _regress(service: Service, data: bytes) -> Message:
    request = _parsed(service, regression_pb2.RegressionRequest, data)
    answer = regression_pb2.RegressionResponse()
    for value in _examples(service, request, answer, inference.regress):
        answer.result.regressions.add(value=value)
    return answer


def _metadata(service: Service, data: bytes) -> Message:
    request = _parsed(service, get_model_metadata_pb2.GetModelMetadataRequest, data)
    if list(request.metadata_field) != ["signature_def"]:
        raise RequestError(
            "INVALID_ARGUMENT", "the one metadata_field that there is is signature_def"
        )
    return messages.metadata(_pick(service, request.model_spec))


def _status(service: Service, data: bytes) -> Message:
    request = _parsed(service, get_model_status_pb2.GetModelStatusRequest, data)
    name, version, label = _target(request.model_spec)
    service.check_name(name)
    if label is not None:
        version = service.versions.pick(None, label).version
    return messages.status(service.versions, version)


# MultiInference is UNIMPLEMENTED, and so is HandleReloadConfigRequest: the config file is polled.
_METHODS: dict[str, dict[str, tuple[str, Callable[[Service, bytes], Message]]]] = {
    "tensorflow.serving.PredictionService": {
        "Predict": ("predict", _predict),
        "Classify": ("classify", _classify),
        "Regress": ("regress", _regress),
        "GetModelMetadata": ("metadata", _metadata),
    },
    "tensorflow.serving.ModelService": {"GetModelStatus": ("status", _status)},
}


class _Front:
    """The handlers of one service."""

    def __init__(self, service: Service):
        self._service = service
        self._admission = service.admission()

    def handler(
        self, method: str, answer: Callable[[Service, bytes], Message]
    ) -> Callable[[AsyncIterator[bytes], grpc.aio.ServicerContext], Awaitable[bytes]]:
        """Counts each call and sends every error as a status and one sentence."""

        async def handle(received: AsyncIterator[bytes], context: grpc.aio.ServicerContext):
            code, message = "", ""
            try:
                with self._service.request("gRPC", method):
                    return await self._answer(received, answer)
            except RequestError as error:
                code, message = error.code, str(error)
            except Exception:
                _log.exception("a request failed")
                code, message = "INTERNAL", "internal error; the server's log has more"
            await context.abort(_CODES[code], message)

        return handle

    async def _answer(
        self, received: AsyncIterator[bytes], answer: Callable[[Service, bytes], Message]
    ) -> bytes:
        async with self._admission.arriving():
            data = await anext(aiter(received), b"")
        loop = asyncio.get_running_loop()
        with self._admission.place():
            return await loop.run_in_executor(
                self._service.pool, lambda: answer(self._service, data).SerializeToString()
            )


async def start(service: Service, host: str, port: int) -> tuple[grpc.aio.Server, int]:
    """Starts to answer, on the running event loop.

    Returns:
        The server and the port it listens on.

    Raises:
        LisaeError: the port is taken.
    """
    # What it logs of calls that break off is the client's fault, with a traceback each.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    limits = service.limits
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limits.body),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", limits.connections),
            ("grpc.server_handshake_timeout_ms", int(limits.header_seconds * 1000)),
            ("grpc.max_connection_idle_ms", int(limits.idle_seconds * 1000)),
        ],
    )
    front = _Front(service)
    for name, methods in _METHODS.items():
        # On the wire one message is a stream of one, whose coming can be waited for.
        handlers = {
            method: grpc.stream_unary_rpc_method_handler(front.handler(kind, answer))
            for method, (kind, answer) in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    try:
        address = f"[{host}]" if ":" in host else host
        bound = server.add_insecure_port(f"{address}:{port}")
    except RuntimeError as error:
        raise LisaeError(
            f"gRPC cannot listen on {host}:{port}; choose another --grpc-port"
        ) from error
    await server.start()
    return server, bound
