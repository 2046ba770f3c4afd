"""What one request may ask for: bytes, pictures, pixels; checked before anything is decoded.

Runs without TensorFlow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from lisae_tf.data import pictures
from lisae_tf.serving.codes import RequestError

# Of a pixel's value in a JSON body at most, with its brackets and spaces.
_JSON_BYTES = {"uint8": 10, "float32": 32}


def named(place: int, count: int, error: Exception) -> str:
    """What is wrong with one of several pictures, and with which."""
    return f"picture {place} of {count}: {error}" if count > 1 else str(error)


@dataclass(frozen=True)
class Limits:
    """Bounds of one request and of how many are held at a time.

    Attributes:
        body: bytes of a request, after any decompression.
        batch: pictures in a request.
        pixels: pixels of all encoded pictures in a request, after decoding.
        requests: requests held at a time over REST, and as many over gRPC.
        read_seconds: time for a body to arrive.
    """

    body: int = 16 * 2**20
    batch: int = 1024
    pixels: int = pictures.MAX_PIXELS
    requests: int = 64
    read_seconds: float = 30.0

    def holding(self, shape: Sequence[int], dtype: str) -> "Limits":
        """The same with room for one picture of a model, as numbers in a JSON body.

        Args:
            shape: (H, W, C) of the picture.
            dtype: of its values, "uint8" or "float32".
        """
        size = _JSON_BYTES[dtype] * prod(shape)
        return replace(self, body=max(self.body, size))

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
        if total > self.pixels:
            raise RequestError(
                "INVALID_ARGUMENT",
                f"the pictures of this request have {total:,} pixels, more than the "
                f"{self.pixels:,} of one request; send fewer or smaller ones",
            )
