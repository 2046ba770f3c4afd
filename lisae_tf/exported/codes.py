"""The canonical status codes, their HTTP status as TensorFlow Serving maps them, two errors.

Runs without TensorFlow.
"""

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
