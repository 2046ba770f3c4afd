"""The desk over HTTP: one page, its pictures, and what is decided; for one machine's user.

Nothing that a client sends names a path. Requests must name this server as their host, against DNS
rebinding; those that change anything must come from the page itself. Runs without TensorFlow.
"""

import asyncio
import errno
import ipaddress
import json
import logging
import math
import os
import re
import secrets
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

from aiohttp import web

from lisae_tf.core.errors import LisaeError
from lisae_tf.desk.desk import PAGE, Desk
from lisae_tf.desk.frozen import LIVE_SCRIPTS
from lisae_tf.desk.maps import Maps
from lisae_tf.desk.pictures import image_type
from lisae_tf.desk.trial import BINARY, TrialRoutes

SCRIPTS = (
    "counts.js", "source.js", "histogram.js", "tiles.js", "viewer.js", *LIVE_SCRIPTS, "desk.js",
)  # fmt: skip
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
_LARGEST = 2**16  # bytes of a request
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Addresses of pictures name the session, so that they mean the same for as long as it lasts.
_KEPT = {"Cache-Control": "private, max-age=86400, immutable"}
_log = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """The host of "host:port", without brackets."""
    found = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::\d+)?|([^:\[\]]+)(?::\d+)?", host)
    return (found[1] or found[2]).lower() if found else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _written(host: str) -> str:
    """A host as an address has it; of a server that listens everywhere the machine's name."""
    if _is_address(host) and ipaddress.ip_address(host).is_unspecified:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


class DeskServer:
    """The handlers of one desk.

    Args:
        desk: what is looked at.
        host: that it listens on.
    """

    def __init__(self, desk: Desk, host: str = "127.0.0.1"):
        self.desk, self.host = desk, host
        self.token = None if is_loopback(host) else secrets.token_urlsafe(24)
        self._base = f"/{self.token}" if self.token else ""
        self._model = ThreadPoolExecutor(1)
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._maps = Maps(desk.pictures, desk.scorer, self._model)
        self._trial = TrialRoutes(desk, self._pool, self._model)
        folder = files("lisae_tf.desk").joinpath("static")
        self._static = {
            name: folder.joinpath(name).read_bytes() for name in ("desk.html", "desk.css", *SCRIPTS)
        }

    @property
    def path(self) -> str:
        """Of the page."""
        return f"{self._base}/"

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=_LARGEST)
        for path, handler in (
            ("/", self._page), (r"/static/{name:[a-z.]+}", self._file), ("/data", self._data),
            (r"/names/{index:\d{1,9}}", self._names), (r"/thumb/{index:\d{1,9}}", self._thumbnail),
            (r"/picture/{index:\d{1,9}}", self._picture), (r"/map/{index:\d{1,9}}", self._map),
        ):  # fmt: skip
            app.router.add_get(self._base + path, handler)
        for path, handler in (
            ("/mark", self._mark), ("/mask", self._mask),
            ("/threshold", self._threshold), ("/undo", self._undo),
        ):  # fmt: skip
            app.router.add_post(self._base + path, handler)
        self._trial.add_to(app.router, self._base)
        app.on_cleanup.append(self._close)
        return app

    async def _close(self, _app: web.Application) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._model.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        """Lets in what comes from the page; errors become JSON with one sentence."""
        try:
            self._check(request)
            response = await handler(request)
        except LisaeError as error:
            response = web.json_response({"error": str(error)}, status=409)
        except web.HTTPException as error:
            response = web.json_response({"error": error.text or error.reason}, status=error.status)
        except Exception:
            _log.exception("a request failed")
            response = web.json_response(
                {"error": "internal error; the terminal has more"}, status=500
            )
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _check(self, request: web.Request) -> None:
        host = _name_of(request.headers.get("Host", ""))
        if self.token is None:
            known = is_loopback(host)
        else:  # a page that rebinds its own name cannot call itself an address
            own = {self.host.lower(), "localhost", socket.gethostname().lower()}
            known = _is_address(host) or host in own
        if not known:
            raise web.HTTPForbidden(text="this is not the host that the request names")
        if request.method in ("GET", "HEAD"):
            return
        if request.headers.get("Origin") != f"http://{request.headers['Host']}":
            raise web.HTTPForbidden(text="only the page itself may change anything")
        # Neither can be sent from another page without asking first.
        if request.content_type not in ("application/json", BINARY):
            raise web.HTTPUnsupportedMediaType(text="send JSON")

    async def _page(self, _request: web.Request) -> web.Response:
        return self._static_file("desk.html")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._static:
            raise web.HTTPNotFound
        return self._static_file(name)

    def _static_file(self, name: str) -> web.Response:
        kind = _TYPES[os.path.splitext(name)[1]]
        return web.Response(body=self._static[name], content_type=kind, charset="utf-8")

    async def _data(self, _request: web.Request) -> web.Response:
        found = await self._in_pool(self.desk.document)
        return _json(found | {"trial": self._trial.told()})

    async def _names(self, request: web.Request) -> web.Response:
        page = int(request.match_info["index"])
        if page * PAGE >= len(self.desk.pictures):
            raise web.HTTPNotFound
        return _json(self.desk.names(page * PAGE, (page + 1) * PAGE), _KEPT)

    def _index(self, index: Any) -> int:
        if type(index) is not int or not 0 <= index < len(self.desk.pictures):
            raise web.HTTPNotFound(text="there is no such picture")
        return index

    async def _thumbnail(self, request: web.Request) -> web.Response:
        index = self._index(int(request.match_info["index"]))
        return _image(await self._in_pool(self.desk.thumbnail, index))

    async def _picture(self, request: web.Request) -> web.Response:
        index = self._index(int(request.match_info["index"]))
        return _image(await self._in_pool(self.desk.picture, index))

    async def _map(self, request: web.Request) -> web.Response:
        index = self._index(int(request.match_info["index"]))
        if not self.desk.scorer.has_maps:
            raise web.HTTPNotFound(text="this model has no maps of errors")
        return _image(await self._maps.get(index, self.desk.thresholds.now()))

    async def _mark(self, request: web.Request) -> web.Response:
        sent = await _object(request)
        index, alpha = self._index(sent.get("index")), _number(sent.get("threshold"))
        await self._done(self._pool, self.desk.mark, index, sent.get("mark"), alpha)
        return _json({"index": index, "mark": self.desk.marks.get(index)})

    async def _mask(self, request: web.Request) -> web.Response:
        sent = await _object(request)
        index, polygons = self._index(sent.get("index")), sent.get("polygons")
        return _json(await self._done(self._pool, self.desk.save_mask, index, polygons))

    async def _threshold(self, request: web.Request) -> web.Response:
        return await self._write(_number((await _object(request)).get("threshold")))

    async def _undo(self, request: web.Request) -> web.Response:
        await _object(request)
        return await self._write(None)

    async def _write(self, alpha: float | None) -> web.Response:
        # In the model's thread, for a run's detector may be TensorFlow's.
        said = await self._done(self._model, self.desk.write, alpha)
        return _json(self.desk.state() | {"said": said})

    async def _in_pool(self, work: Callable, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def _done(self, pool: ThreadPoolExecutor, work: Callable, *arguments):
        """What changes something is done even if the client goes away."""
        return await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
        )


def _json(document: Any, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(document, headers=headers)


def _image(data: bytes) -> web.Response:
    return web.Response(body=data, content_type=image_type(data), headers=_KEPT)


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        sent = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text="send JSON") from error
    if not isinstance(sent, dict):
        raise web.HTTPBadRequest(text="send a JSON object")
    return sent


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise web.HTTPBadRequest(text="a threshold is a number")
    return float(value)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        LisaeError: the port is taken, or there is no such host.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise LisaeError(f"there is no host {host}; give another with --host") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise LisaeError(
                f"port {port} of {host} is taken; give another with --port, or leave it out"
            ) from error
        raise LisaeError(
            f"cannot listen on {host}, port {port} ({error.strerror}); give others with --host and "
            "--port"
        ) from error
    return found


def serve(desk: Desk, host: str, listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        desk: what is looked at.
        host: that it listens on.
        listening: from `listen`.
        ready: takes the page's address.
    """
    asyncio.run(_serve(DeskServer(desk, host), listening, ready))


async def _serve(server: DeskServer, listening: socket.socket, ready: Callable[[str], None]):
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # A picture that was scrolled out of sight need not be made any more.
    runner = web.AppRunner(
        server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        ready(f"http://{_written(server.host)}:{listening.getsockname()[1]}{server.path}")
        await stop.wait()
    finally:
        await runner.cleanup()
