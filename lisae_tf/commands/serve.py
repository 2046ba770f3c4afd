"""`serve`: an exported SavedModel behind TensorFlow Serving's REST and gRPC, without Docker."""

import logging
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.quiet import start_tensorflow


@click.command("serve")
@click.option(
    "--model", required=True, type=shared.path,
    help="Folder of a SavedModel export, with integer version folders in it.",
)  # fmt: skip
@click.option("--name", help="The model's name in paths; the folder's name by default.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--rest-port", default=8501, show_default=True, help="0 for any free port.")
@click.option("--grpc-port", default=8500, show_default=True, help="0 for any free port.")
@click.option(
    "--workers", type=click.IntRange(1), help="Requests run at a time; the processors by default."
)
@click.option(
    "--max-requests", type=click.IntRange(1), default=64, show_default=True,
    help="Whole requests held at a time, over REST and over gRPC; more are refused.",
)  # fmt: skip
@click.option(
    "--max-body", type=click.IntRange(1),
    help="MiB of one request; 16 by default, or what one picture of the model needs.",
)  # fmt: skip
@click.option(
    "--max-batch", type=click.IntRange(1), default=1024, show_default=True,
    help="Pictures in one request.",
)  # fmt: skip
@click.option(
    "--max-pixels", type=click.IntRange(1), default=64, show_default=True,
    help="Millions of pixels in the encoded pictures of one request.",
)  # fmt: skip
@click.option(
    "--max-memory", type=click.IntRange(1),
    help="MiB that all requests together may take to be parsed and decoded, at 14 bytes a pixel or "
    "32 with transparency; 512 by default, or what a picture of 16 times the model's pixels needs.",
)  # fmt: skip
@click.option(
    "--max-connections", type=click.IntRange(1), default=1000, show_default=True,
    help="Open at a time, over REST and over gRPC; fewer where file descriptors are few.",
)  # fmt: skip
@click.option(
    "--poll", type=click.FloatRange(0.05), default=1.0, show_default=True,
    help="Seconds between looks for new versions.",
)  # fmt: skip
@click.option(
    "--grace", type=click.FloatRange(0), default=30.0, show_default=True,
    help="Seconds to finish what was taken, after SIGTERM.",
)  # fmt: skip
def command(
    model: Path,
    name: str | None,
    host: str,
    rest_port: int,
    grpc_port: int,
    workers: int | None,
    max_requests: int,
    max_body: int | None,
    max_batch: int,
    max_pixels: int,
    max_memory: int | None,
    max_connections: int,
    poll: float,
    grace: float,
):
    """Serve a SavedModel over REST and gRPC until SIGTERM or Ctrl+C."""
    start_tensorflow()
    from lisae_tf.serving import server
    from lisae_tf.serving.admission import Memory
    from lisae_tf.serving.limits import MEMORY, Limits
    from lisae_tf.serving.metrics import Throttle

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("lisae_tf").setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Throttle())
    limits = Limits(
        body=max_body * 2**20 if max_body else Limits.body,
        batch=max_batch,
        pixels=max_pixels * 1_000_000,
        requests=max_requests,
        memory=Memory(max_memory * 2**20 if max_memory else MEMORY),
        connections=max_connections,
    )
    default = server.Settings()
    settings = server.Settings(
        host=host,
        rest_port=rest_port,
        grpc_port=grpc_port,
        limits=limits,
        fit_body=max_body is None,
        fit_memory=max_memory is None,
        workers=workers or default.workers,
        poll_seconds=poll,
        grace_seconds=grace,
    )
    server.serve(model, name, settings, lambda line: click.echo(line + "; stop with Ctrl+C"))
