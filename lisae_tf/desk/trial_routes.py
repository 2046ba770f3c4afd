"""Pictures that are tried, over HTTP; and what the page needs to score them itself.

Runs without TensorFlow.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import numpy as np
from aiohttp import web

from lisae_tf.core.errors import LisaeError
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.trial import MOST, Trial

BINARY = "application/octet-stream"
_LONGEST_NAME = 255
# WebAssembly is compiled in the worker alone: the page itself may run scripts and nothing else.
_OF_WORKER = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; "
    "connect-src 'self'; frame-ancestors 'none'"
}


class TrialRoutes:
    """The handlers.

    Args:
        desk: whose model it is.
        pool: reads pictures.
        model: one thread, for scorers are for one at a time.
    """

    def __init__(self, desk: Desk, pool: ThreadPoolExecutor, model: ThreadPoolExecutor):
        self._desk, self._pool, self._model = desk, pool, model
        self._trial = Trial(desk.scorer)

    def told(self) -> dict[str, Any]:
        """What the page has to know."""
        return self._trial.told()

    def add_to(self, router: web.UrlDispatcher, base: str) -> None:
        """Adds the routes; those of the runtime where it is at hand."""
        router.add_post(f"{base}/try/read", self._read)
        router.add_post(f"{base}/try/score", self._score)
        if (runtime := self._trial.runtime) is None:
            return
        worker = files("lisae_tf.desk").joinpath("static", "worker.js").read_bytes()
        for path, body, kind, headers in (
            ("/static/worker.js", worker, "text/javascript", _OF_WORKER),
            ("/runtime/ort.mjs", runtime.script, "text/javascript", None),
            ("/runtime/ort.wasm", runtime.code, "application/wasm", None),
            ("/model", self._trial.model, BINARY, None),
        ):
            router.add_get(base + path, _sends(body, kind, headers))

    async def _decoded(self, request: web.Request) -> tuple[np.ndarray, dict[str, Any]]:
        name = request.query.get("name", "")[:_LONGEST_NAME] or "the picture"
        try:
            data = await request.clone(client_max_size=MOST).read()
        except web.HTTPRequestEntityTooLarge as error:
            raise LisaeError(f"{name} is larger than {MOST >> 20} MB; make it smaller") from error
        return await self._in(self._pool, self._trial.read, data, name)

    async def _read(self, request: web.Request) -> web.Response:
        return web.json_response((await self._decoded(request))[1])

    async def _score(self, request: web.Request) -> web.Response:
        pixels, found = await self._decoded(request)
        size, alpha = (found["height"], found["width"]), self._desk.thresholds.now()
        score, drawn = await self._in(self._model, self._trial.score, pixels, size, alpha)
        return web.json_response(found | {"score": score, "map": drawn})

    @staticmethod
    async def _in(pool: ThreadPoolExecutor, work, *arguments):
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


def _sends(body: bytes, kind: str, headers: dict[str, str] | None):
    async def send(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, headers=headers)

    return send
