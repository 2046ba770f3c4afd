"""Pictures that somebody tries at the desk: read as `score` reads them, scored, over HTTP.

The page scores an ONNX model itself where ONNX Runtime Web is at hand. No TensorFlow.
"""

import asyncio
import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from lisae_tf.core.errors import LisaeError
from lisae_tf.data import levels, pictures
from lisae_tf.desk import maps
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.pictures import LARGEST, as_address, encoded
from lisae_tf.exported.runtimes import OnnxModel

PACKAGE = "onnxruntime-web"
SCRIPT, CODE = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # in its dist
_MOST = 2**26  # bytes of a file
MOST = 2**26  # bytes of a picture
BINARY = "application/octet-stream"
_LONGEST_NAME = 255
# WebAssembly is compiled in the worker alone: the page itself may run scripts and nothing else.
_OF_WORKER = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; "
    "connect-src 'self'; frame-ancestors 'none'"
}


@dataclass(frozen=True)
class WebRuntime:
    """What a page needs to run an ONNX model.

    Attributes:
        version: of the npm package.
        script: a JavaScript module.
        code: WebAssembly.
    """

    version: str
    script: bytes
    code: bytes


def places() -> Iterator[Traversable]:
    """Where the npm package is looked for: beside the page, then where people install it."""
    yield files("lisae_tf.desk").joinpath(PACKAGE)
    yield Path("node_modules") / PACKAGE


def find() -> WebRuntime | None:
    """The first whole package of those places; None where there is none."""
    for place in places():
        try:
            version = json.loads(place.joinpath("package.json").read_text("utf-8"))["version"]
            script, code = (_read(place.joinpath("dist", name)) for name in (SCRIPT, CODE))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(version, str):
            return WebRuntime(version, script, code)
    return None


def _read(path: Traversable) -> bytes:
    """A regular file, for a pipe may never end.

    Raises:
        OSError: it is none, or too large.
    """
    if not path.is_file():
        raise OSError(f"{path} is no file")
    with path.open("rb") as stream:
        found = stream.read(_MOST + 1)
    if len(found) > _MOST:
        raise OSError(f"{path} is too large")
    return found


class Trial:
    """What it takes to try pictures on one model.

    Args:
        scorer: a detector or exported model.

    Attributes:
        runtime: for the page to score by; None where the server has to.
    """

    def __init__(self, scorer):
        self._scorer = scorer
        self.runtime, self._why = None, ""
        if not isinstance(scorer, OnnxModel):
            self._why = "a page can run exported ONNX models alone"
            return
        self.runtime = find()
        if self.runtime is None:
            self._why = f"the npm package {PACKAGE} is not at hand"

    @property
    def model(self) -> bytes:
        """The ONNX file that was opened."""
        return self._scorer.data

    def told(self) -> dict[str, Any]:
        """What the page has to know."""
        return {
            "most": MOST,
            "runtime": self.runtime and self.runtime.version,
            "why": self._why,
            "shape": list(self._scorer.shape),
            "float": bool(self.runtime) and self._scorer.record["input"]["dtype"] == "float32",
            "highest_share": self._scorer.highest_share if self._scorer.has_maps else None,
        }

    def read(self, data: bytes, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """An encoded picture as the model takes it, and what the page shows of it.

        Args:
            data: the file's bytes.
            name: what messages call it.

        Returns:
            uint8 (H, W, C); and "picture" and "pixels" as text, "height", "width" and "notes".

        Raises:
            BadPicture: it cannot be decoded.
        """
        scorer = self._scorer
        found = pictures.decode_all(
            [data], scorer.shape[:2], scorer.shape[2], names=[name], depth=scorer.depth
        )
        (pixels,), (header,) = found.pixels, found.headers
        notes = levels.reading_remarks([name], [header], scorer)
        return pixels, {
            "height": header.height,
            "width": header.width,
            "picture": as_address(encoded(data, LARGEST, scorer.depth)),
            "pixels": base64.b64encode(pixels.tobytes()).decode("ascii"),
            "notes": notes,
        }

    def score(
        self, pixels: np.ndarray, size: tuple[int, int], alpha: float
    ) -> tuple[float, str | None]:
        """A picture's score, and its error map as text where there are maps; in the model's thread.

        Args:
            pixels: from `read`.
            size: (H, W) of the picture itself.
            alpha: the threshold, which sets the scale of the map.
        """
        batch = pixels[None]
        score = float(self._scorer.score(batch)[0])
        if not self._scorer.has_maps:
            return score, None
        error = self._scorer.error_maps(batch)[0]
        return score, as_address(maps.encoded(error, size, alpha, self._scorer.highest_share))


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
