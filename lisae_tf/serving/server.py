"""An embedded server: starts both fronts, announces itself, drains when it is told to end."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from aiohttp import web

from lisae_tf.core.errors import LisaeError
from lisae_tf.exported import model_record, saved_model
from lisae_tf.serving import grpc_server, inference
from lisae_tf.serving.admission import Connections, that_fit
from lisae_tf.serving.limits import Limits
from lisae_tf.serving.metrics import Metrics
from lisae_tf.serving.rest_server import RestServer
from lisae_tf.serving.service import Service
from lisae_tf.serving.versions import Versions

_M_MMAP_THRESHOLD, _LARGE = -3, 2**20  # glibc's number for the option, and bytes
_QUIET_SECONDS = 0.5
_PARTING_SECONDS = 3.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        host: the address to listen on; 127.0.0.1 takes requests from this machine alone.
        rest_port: 0 for any free one.
        grpc_port: 0 for any free one.
        limits: bounds of a request.
        fit_body: raise the limit of bytes for a model whose pictures need more.
        fit_memory: raise the limit of memory for larger pictures than the model's own.
        workers: threads that run requests.
        poll_seconds: how often to look for new versions.
        leave_seconds: how long to go on answering after the signal to end.
        grace_seconds: how long to wait for requests that were taken.
    """

    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    limits: Limits = field(default_factory=Limits)
    fit_body: bool = True
    fit_memory: bool = True
    workers: int = os.cpu_count() or 1
    poll_seconds: float = 1.0
    leave_seconds: float = 0.5
    grace_seconds: float = 30.0


def model_folder(path: Path) -> Path:
    """The folder with the version folders: `path`, or the only such folder in it.

    Raises:
        LisaeError: there is none, or more than one.
    """
    _refuse_other_formats(path)
    if not path.is_dir():
        raise LisaeError(f"the folder {path} does not exist; give what 'export' wrote")

    inner = [each for each in sorted(path.iterdir()) if model_record.numbered(each)]
    found = path if model_record.numbered(path) else inner[0] if len(inner) == 1 else None
    if found is not None:
        return found
    if (path / "saved_model.pb").is_file():
        raise LisaeError(f"{path} is one version; give the folder around it")
    what = "several models" if inner else "no folder named by an integer version"
    raise LisaeError(f"{path} holds {what}; give the folder of one model, as in served/NAME")


def _refuse_other_formats(path: Path) -> None:
    """Says what else a file, a version folder or one around it holds than SavedModels."""
    found = [path] if path.is_file() else [
        each for depth in ("*", "*/*", "*/*/*") for each in sorted(path.glob(depth))
    ]  # fmt: skip
    files = [each for each in found if each.suffix in model_record.SUFFIXES]
    if files and not any(each.name == model_record.GRAPH for each in found):
        raise LisaeError(
            f"{files[0]} is no SavedModel, and 'serve' takes nothing else; write one with 'export "
            "--format savedmodel', or score without a server: 'score --model' takes that file"
        )


def load(folder: Path, base: Path, name: str, version: int) -> saved_model.ServedModel:
    """A version, checked, loaded and warm; its own size bounds its warm-up, not a user's limits.

    Args:
        folder: `<base>/<version>`.
        base: the folder that nothing may lead out of.
        name: the model's name.
        version: its version.

    Raises:
        LisaeError: damaged, not one of ours, or its warm-up fails.
    """
    _refuse_other_formats(folder)
    model_record.read_record(folder, model_record.SAVED_MODEL)  # sizes and hashes, before parsing
    loaded = saved_model.load(folder, base, name, version)
    count = inference.warm_up(loaded, folder, _holding(Limits(), loaded))
    _log.info("version %s warmed up with %s requests", version, count)
    return loaded


def _holding(
    limits: Limits, model: saved_model.ServedModel, *, body: bool = True, memory: bool = True
) -> Limits:
    dtype = model.signature("").inputs["image"].dtype.name
    return limits.holding(model.shape, dtype, body=body, memory=memory)


def serve(
    model: Path, name: str | None, settings: Settings, announce: Callable[[str], None]
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        model: the folder of the model.
        name: its name in paths; the folder's by default.
        settings: how to serve.
        announce: is given one line when the server is ready.

    Raises:
        LisaeError: no version can be loaded, or a port is taken.
    """
    base = model_folder(model).resolve()
    name = name or base.name

    versions = Versions(base, name, lambda folder, version: load(folder, base, name, version))
    versions.poll()
    if not versions.serving:
        reasons = [state.error for _, state in sorted(versions.states.items()) if state.error]
        nothing = f"{base} holds no version to serve; write one with 'export --format savedmodel'"
        raise LisaeError(reasons[-1] if reasons else nothing)
    limits = replace(settings.limits, connections=that_fit(settings.limits.connections))
    limits = _holding(limits, versions.pick(), body=settings.fit_body, memory=settings.fit_memory)
    return_freed_memory()
    with ThreadPoolExecutor(settings.workers, thread_name_prefix="request") as pool:
        service = Service(versions, limits, Metrics(versions), pool)
        asyncio.run(_run(service, settings, announce))


def return_freed_memory() -> None:
    """Has the C library give large blocks back when they are freed.

    glibc otherwise keeps ever larger ones, once some have been freed, for each thread.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


async def _run(service: Service, settings: Settings, announce: Callable[[str], None]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ended.set)
    limits, rest_front = service.limits, RestServer(service)
    runner = web.AppRunner(
        rest_front.application(),
        access_log=None,
        shutdown_timeout=settings.grace_seconds,
        keepalive_timeout=limits.idle_seconds,
        lingering_time=1.0,
    )
    await runner.setup()
    connections = Connections(runner.server, limits.connections, limits.header_seconds)
    rest_front.connections = connections
    grpc_front, grpc_port = await grpc_server.start(service, settings.host, settings.grpc_port)
    try:
        try:
            listener = await loop.create_server(connections, settings.host, settings.rest_port)
        except OSError as error:
            raise LisaeError(
                f"REST cannot listen on {settings.host}:{settings.rest_port}; "
                "choose another --rest-port"
            ) from error
        service.versions.start(settings.poll_seconds)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        rest_port = listener.sockets[0].getsockname()[1]
        announce(
            f"serving {service.versions.name} version {max(service.versions.serving)} at "
            f"http://{host}:{rest_port} (REST) and {host}:{grpc_port} (gRPC)"
        )
        await ended.wait()
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl+C ends at once
        await _drain(service, settings, runner)
        listener.close()
    finally:
        await asyncio.gather(grpc_front.stop(settings.grace_seconds), runner.cleanup())
        await asyncio.to_thread(service.versions.stop)


async def _drain(service: Service, settings: Settings, runner: web.AppRunner) -> None:
    """Leaves, refuses, and returns when all is answered and nobody comes any more."""
    _log.info("ending: answering what is there")
    service.leaving = True
    await asyncio.sleep(settings.leave_seconds)
    service.refusing = True
    started = time.monotonic()
    while (waited := time.monotonic() - started) < settings.grace_seconds:
        # A connection that is kept alive may have a request on its way.
        parted = not runner.server.connections or waited > _PARTING_SECONDS
        if parted and service.idle_seconds() > _QUIET_SECONDS:
            return
        await asyncio.sleep(0.05)
