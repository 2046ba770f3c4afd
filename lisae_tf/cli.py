"""The command line: one group, one module of `commands` for each verb.

Answers `--help` without importing TensorFlow; prints a user's mistake as one sentence.
"""

import importlib
import io
import os
import signal
import sys
import threading

import click

from lisae_tf import __version__
from lisae_tf.core.errors import LisaeError, install

COMMANDS = (
    "data",
    "tune",
    "train",
    "evaluate",
    "score",
    "desk",
    "watch",
    "calibrate",
    "monitor",
    "report",
    "runs",
    "export",
    "serve",
    "benchmark",
)


class _LazyGroup(click.Group):
    """Imports a command's module when it is asked for."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"lisae_tf.commands.{name}").command

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except LisaeError as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            if (error.name or "").startswith(("lisae_tf", "export")):
                raise
            extras = {"serve": "serving", "tune": "tune", "watch": "watch"}
            extra = extras.get(ctx.invoked_subcommand, "train")
            raise click.ClickException(
                f"this command needs the package '{error.name}'; {install(extra)}"
            ) from error
        except BrokenPipeError:
            # The reader of our output (head, say) has gone; that is no error of ours.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except OSError as error:
            raise click.ClickException(
                f"{error.filename or 'the system'}: {error.strerror or error}"
            ) from error


def _tidy_up_when_terminated(context: click.Context) -> None:
    """SIGTERM becomes an exit that removes half-written files, as Ctrl+C does."""
    if threading.current_thread() is not threading.main_thread():
        return  # only this one may say what signals do

    def leave(number, frame):
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    context.call_on_close(lambda: signal.signal(signal.SIGTERM, before))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Find anomalies in pictures with latent-insensitive autoencoders (LIS-AE)."""
    _tidy_up_when_terminated(click.get_current_context())
    # A file name need not be UTF-8; it is written as it is.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
