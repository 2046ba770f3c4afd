"""What a server and its clients agree on: status codes, errors, and what inputs must look like.

Codes have the HTTP status that TensorFlow Serving gives them. Runs without TensorFlow.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lisae_tf.core.errors import LisaeError

# name -> (number in gRPC and protocol buffers, HTTP status)
CODES = {
    "CANCELLED": (1, 499),
    "UNKNOWN": (2, 500),
    "INVALID_ARGUMENT": (3, 400),
    "DEADLINE_EXCEEDED": (4, 504),
    "NOT_FOUND": (5, 404),
    "ALREADY_EXISTS": (6, 409),
    "PERMISSION_DENIED": (7, 403),
    "RESOURCE_EXHAUSTED": (8, 429),
    "FAILED_PRECONDITION": (9, 400),
    "ABORTED": (10, 409),
    "OUT_OF_RANGE": (11, 400),
    "UNIMPLEMENTED": (12, 501),
    "INTERNAL": (13, 500),
    "UNAVAILABLE": (14, 503),
    "DATA_LOSS": (15, 500),
    "UNAUTHENTICATED": (16, 401),
}
_FROM_NUMBER = {number: name for name, (number, _) in CODES.items()}
# The commonest code of each HTTP status; a body that is too large is 413.
_FROM_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
STRINGS = np.dtype(object)


def from_number(number: int) -> str:
    """The name of a canonical code's number."""
    return _FROM_NUMBER.get(number, "UNKNOWN")


def from_http(status: int) -> str:
    """The likeliest canonical code behind an HTTP status."""
    return _FROM_HTTP.get(status, "UNKNOWN")


class RequestError(Exception):
    """A server's refusal of one request, on its way to the client as `code` and message."""

    def __init__(self, code: str, message: str, http: int | None = None):
        super().__init__(message)
        self.code = code
        self.http = http or CODES[code][1]


class Refused(LisaeError):
    """What a client raises when no answer came or the server refused; `code` as in gRPC."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Tensor:
    """One input or output: NumPy's dtype (object for strings) and shape.

    Attributes:
        dtype: the element type.
        shape: None where a size is free; None for the whole where the rank is, which means a
            scalar or one value for each picture.
    """

    dtype: np.dtype
    shape: tuple[int | None, ...] | None

    def described(self) -> str:
        """The shape in words, as in [-1, 28, 28, 1]."""
        if self.shape is None:
            return "[] or [-1]"
        return str([-1 if size is None else size for size in self.shape])

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape can be fed."""
        if self.shape is None:
            return len(shape) <= 1
        pairs = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(want in (None, got) for want, got in pairs)


@dataclass(frozen=True)
class Signature:
    """One signature of a SavedModel."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    method: str  # "predict", "classify" or "regress"

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Refuses inputs that are missing, unknown, or of another type or shape.

        Raises:
            RequestError: INVALID_ARGUMENT, as TensorFlow Serving has it.
        """
        if arrays.keys() != self.inputs.keys():
            wanted, given = sorted(self.inputs), sorted(arrays)
            raise RequestError(
                "INVALID_ARGUMENT",
                f"input size does not match signature: the inputs are {wanted}, given {given}",
            )
        for name, array in arrays.items():
            want = self.inputs[name]
            if array.dtype != want.dtype:
                raise RequestError(
                    "INVALID_ARGUMENT", f"input {name} is {want.dtype}, given {array.dtype}"
                )
            if not want.fits(array.shape):
                raise RequestError(
                    "INVALID_ARGUMENT",
                    f"input {name} has the shape {want.described()}, given {list(array.shape)}",
                )
