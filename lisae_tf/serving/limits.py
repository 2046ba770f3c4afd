"""What one request may ask for: bytes, pictures, pixels, and the memory that decoding them takes.

All is checked, by headers, before anything is decoded.

Runs without TensorFlow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

from lisae_tf.data import pictures
from lisae_tf.exported.signatures import RequestError
from lisae_tf.serving.admission import Memory

# Of a pixel's value in a JSON body at most, with its brackets and spaces.
_JSON_BYTES = {"uint8": 10, "float32": 32}
# Of memory for a byte of a request while it is parsed: a JSON body of empty lists takes the most.
PARSED_BYTES = 24
# Of memory for a pixel while Pillow decodes it: as measured, and an eighth more.
_PLAIN_BYTES, _CLEAR_BYTES, _WEBP_BYTES = 14, 32, 9
MEMORY = 512 * 2**20
# How many times the model's own pixels a picture may always have.
ENLARGED = 16


def _mib(size: int) -> int:
    return -(-size // 2**20)


def decoding_bytes(data: bytes, header: pictures.Header) -> int:
    """Memory that decoding an encoded picture takes at most, known from its header."""
    pixel = _CLEAR_BYTES if header.clear else _PLAIN_BYTES
    if data[8:12] == b"WEBP":
        pixel += _WEBP_BYTES
    return pixel * header.height * header.width


def named(place: int, count: int, error: Exception | str) -> str:
    """What is wrong with one of several pictures, and with which."""
    return f"picture {place} of {count}: {error}" if count > 1 else str(error)


@dataclass(frozen=True)
class Limits:
    """Bounds of one request and of how many are held at a time.

    Attributes:
        body: bytes of a request, after any decompression.
        batch: pictures in a request.
        pixels: pixels of all encoded pictures in a request, after decoding.
        requests: requests held at a time over REST, and as many over gRPC; as many again may be
            on their way.
        read_seconds: time for a body to arrive.
        stalled_seconds: time for it to arrive at less than `read_rate` bytes a second.
        memory: what parsing and decoding may take of all requests together.
        connections: open at a time over REST, and as many over gRPC.
        header_seconds: time for the first header of a connection to arrive.
        idle_seconds: how long a connection may wait for its next request.
    """

    body: int = 16 * 2**20
    batch: int = 1024
    pixels: int = pictures.MAX_PIXELS
    requests: int = 64
    read_seconds: float = 30.0
    stalled_seconds: float = 10.0
    read_rate: int = 128 * 2**10
    memory: Memory = field(default_factory=lambda: Memory(MEMORY), compare=False)
    connections: int = 1000
    header_seconds: float = 10.0
    idle_seconds: float = 75.0

    def holding(
        self, shape: Sequence[int], dtype: str, *, body: bool = True, memory: bool = True
    ) -> "Limits":
        """The same with room for one picture of a model, as numbers in a JSON body or encoded.

        Args:
            shape: (H, W, C) of the picture.
            dtype: of its values, "uint8" or "float32".
            body: raise the bytes of a request, if they are too few.
            memory: raise the memory, so that a larger picture can be decoded too.
        """
        bytes_ = max(self.body, _JSON_BYTES[dtype] * prod(shape)) if body else self.body
        times = ENLARGED if memory else 1
        needed = (times * shape[0] * shape[1] * _CLEAR_BYTES, PARSED_BYTES * bytes_)
        size = max(self.memory.size, *needed)
        return replace(self, body=bytes_, memory=Memory(size))

    def check_shape(self, name: str, shape: Sequence[int]) -> None:
        """Refuses a tensor whose declared shape is more than a request may hold.

        Raises:
            RequestError: too many pictures, too many elements or a negative size.
        """
        if any(size < 0 for size in shape) or len(shape) > 8:
            raise RequestError("INVALID_ARGUMENT", f"{name} has the impossible shape {list(shape)}")
        if shape and shape[0] > self.batch:
            raise RequestError(
                "INVALID_ARGUMENT",
                f"{name} holds {shape[0]} pictures, more than the {self.batch} of one request; "
                "send smaller batches",
            )
        if prod(shape) > self.body:
            raise RequestError("INVALID_ARGUMENT", f"{name} is too large; send smaller batches")

    def check_pictures(self, encoded: Sequence[bytes]) -> None:
        """Refuses by their headers pictures that TensorFlow had better not decode.

        Raises:
            RequestError: no picture, one of several frames, or too many pixels together.
        """
        total = 0
        for place, data in enumerate(encoded, start=1):
            try:
                header = pictures.header(data)
            except pictures.BadPicture as error:
                raise RequestError("INVALID_ARGUMENT", named(place, len(encoded), error)) from error
            total += header.height * header.width
            needed = decoding_bytes(data, header)
            if needed > self.memory.size:
                message = (
                    f"{header.width} x {header.height} pixels take {_mib(needed)} MiB to decode, "
                    f"more than the {_mib(self.memory.size)} MiB of this server; send the picture "
                    f"smaller, or start 'serve' with --max-memory {_mib(needed)}"
                )
                raise RequestError("INVALID_ARGUMENT", named(place, len(encoded), message))
        if total > self.pixels:
            raise RequestError(
                "INVALID_ARGUMENT",
                f"the pictures of this request have {total:,} pixels, more than the "
                f"{self.pixels:,} of one request; send fewer or smaller ones",
            )
