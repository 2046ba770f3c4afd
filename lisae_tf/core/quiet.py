"""Imports TensorFlow without its start-up chatter, which no environment variable stops."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def kept_forever() -> Iterator[None]:
    """No garbage is looked for in what is imported here, nor ever after.

    TensorFlow's import leaves a million objects, which each full collection would visit again.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def no_stderr() -> Iterator[None]:
    """Turns native chatter away, which is written to the descriptor itself."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def start_tensorflow() -> None:
    """Imports TensorFlow and makes its kernels repeatable; call before anything that uses it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Off by default on many processors, where it halves the time of a training step.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with contextlib.ExitStack() as during:
        if "tensorflow" not in sys.modules:
            during.enter_context(kept_forever())
        during.enter_context(no_stderr())
        import tensorflow as tf
    # Each model is traced once; TensorFlow would warn of that as "retracing".
    tf.get_logger().setLevel("ERROR")
    tf.config.experimental.enable_op_determinism()
