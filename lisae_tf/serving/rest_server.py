"""TensorFlow Serving's REST paths on aiohttp: requests in, JSON out, every error as JSON."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from lisae_tf.exported.signatures import RequestError
from lisae_tf.serving import inference, json_format, messages, metrics
from lisae_tf.serving.admission import Connections
from lisae_tf.serving.limits import PARSED_BYTES
from lisae_tf.serving.service import Service

HEALTH_PATH = "/healthz"
_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_POST = re.compile(rf"(?i:{_MODEL}:(classify|regress|predict))", re.ASCII)
_GET = re.compile(rf"(?i:{_MODEL}(?:/(metadata))?)", re.ASCII)
_log = logging.getLogger(__name__)


def _target(groups: tuple[str | None, ...]) -> tuple[str, int | None, str | None]:
    """The model's name, version and label in a path."""
    name, version, label = groups
    number = int(version) if version and len(version) < 20 else None
    if version and (number is None or number >= 2**63):
        raise RequestError("INVALID_ARGUMENT", f"Failed to convert version: {version[:40]}")
    return unquote(name or ""), number, unquote(label) if label else None


def _answer_post(service: Service, groups: tuple[str | None, ...], body: bytes) -> dict[str, Any]:
    """Runs a :predict, :classify or :regress."""
    *target, method = groups
    model = service.pick(*_target(tuple(target)))
    predicting = (method or "").lower() == "predict"
    with service.limits.memory.held(PARSED_BYTES * len(body)):
        document = json_format.parse_object(body)
        name = json_format.signature_name(document)
        if predicting:
            inputs, form = json_format.to_arrays(document, model.signature(name))
        else:
            examples = messages.to_examples(document)
        del document  # it may be many times as large as the body
    if predicting:
        outputs = inference.predict(model, service.limits, name, inputs)
        return json_format.from_arrays(outputs, form)
    if (method or "").lower() == "regress":
        return {"results": inference.regress(model, service.limits, name, examples)}
    classes = inference.classify(model, service.limits, name, examples)
    return {
        "results": [[[label.decode("utf-8", "replace"), score] for label, score in each]
                    for each in classes]
    }  # fmt: skip


def _answer_get(service: Service, groups: tuple[str | None, ...]) -> dict[str, Any]:
    """Gives the status or the metadata."""
    *target, resource = groups
    name, version, label = _target(tuple(target))
    service.check_name(name)
    if resource:
        document = messages.to_json(messages.metadata(service.versions.pick(version, label)))
        document["metadata"]["signature_def"].pop("@type", None)
        return document
    if label is not None:
        version = service.versions.pick(None, label).version
    return messages.to_json(messages.status(service.versions, version))


class RestServer:
    """The handlers of one service."""

    def __init__(self, service: Service):
        self._service = service
        self._admission = service.admission()
        self.connections: Connections | None = None  # what they are counted in

    def application(self) -> web.Application:
        """The aiohttp application."""
        # What it logs of bodies that break off is the client's fault, with a traceback each.
        logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
        app = web.Application(middlewares=[self._as_json])
        app.router.add_get(HEALTH_PATH, self._health)
        app.router.add_get(metrics.PATH, self._metrics)
        app.router.add_route("*", "/v1/{path:.*}", self._v1)
        return app

    @web.middleware
    async def _as_json(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> web.Response:
        """Turns every error into TensorFlow Serving's JSON; nothing else of it gets out."""
        counted = self.connections.request(request.protocol) if self.connections else nullcontext()
        try:
            with counted:
                response = await handler(request)
        except RequestError as error:
            response = _error(error.http, str(error))
        except web.HTTPException as error:
            response = _error(error.status, error.reason)
        except Exception:
            _log.exception("a request failed")
            response = _error(500, "internal error; the server's log has more")
        if self._service.leaving:
            response.force_close()
        return response

    async def _health(self, _request: web.Request) -> web.Response:
        ready = bool(self._service.versions.serving) and not self._service.leaving
        document = {"ready": ready, "versions": self._service.versions.serving}
        return web.json_response(document, status=200 if ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        page = self._service.metrics.page()
        return web.Response(body=page, content_type="text/plain", charset="utf-8")

    async def _v1(self, request: web.Request) -> web.Response:
        path = request.rel_url.raw_path
        pattern = {"POST": _POST, "GET": _GET}.get(request.method)
        found = pattern.fullmatch(path) if pattern else None
        kind = (found.groups()[3] or "status").lower() if found else "malformed"
        with self._service.request("REST", kind):
            if found is None:
                raise RequestError(
                    "INVALID_ARGUMENT", f"Malformed request: {request.method} {path[:200]}"
                )
            body = await self._body(request)
            with self._admission.place():
                return await self._answer(request, found.groups(), body)

    async def _answer(
        self, request: web.Request, groups: tuple[str | None, ...], body: bytes
    ) -> web.Response:
        service = self._service

        def work() -> bytes:
            if request.method == "GET":
                document = _answer_get(service, groups)
            else:
                document = _answer_post(service, groups, body)
            return json.dumps(document).encode("ascii")

        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(service.pool, work)
        return web.Response(body=data, content_type="application/json")

    async def _body(self, request: web.Request) -> bytes:
        """The whole body, unpacked, within the limits of size and time."""
        body, most = bytearray(), self._service.limits.body
        too_large = RequestError(
            "RESOURCE_EXHAUSTED", f"the body has more than {most:,} bytes; send smaller batches",
            http=413,
        )  # fmt: skip
        if (request.content_length or 0) > most:
            raise too_large
        try:
            async with self._admission.arriving() as scope:
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > most:
                        raise too_large
                    self._admission.received(scope, len(body))
            return bytes(body)
        except web.RequestPayloadError as error:
            message = "the body is not encoded as its headers say"
            raise RequestError("INVALID_ARGUMENT", message) from error
        except ConnectionError as error:
            raise RequestError("CANCELLED", "the client has gone") from error


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
