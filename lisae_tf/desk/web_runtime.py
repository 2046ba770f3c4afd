"""ONNX Runtime Web, where it is at hand: two files of the npm package, which a page can run.

Runs without TensorFlow.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

PACKAGE = "onnxruntime-web"
SCRIPT, CODE = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"  # in its dist
_MOST = 2**26  # bytes of a file


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
