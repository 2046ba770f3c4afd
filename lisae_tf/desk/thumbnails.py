"""Small pictures, made once and kept in the user's cache folder. Runs without TensorFlow."""

import base64
import contextlib
import hashlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from lisae_tf.data.pictures import decode

SIDE = 128  # pixels of a thumbnail's longer side
LARGEST = 1024  # of an opened picture's
_TINY = 64  # sides up to this are kept as they are, without loss
LIMIT = 2**29  # bytes of all thumbnails together
_KEPT = 0.8  # of the limit, once it was passed
_LOOK = 4096  # thumbnails between looks at the size
_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


def cache_folder() -> Path:
    """Where thumbnails are kept, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return home / "lisae-tf" / "thumbnails"


def encoded(
    picture: bytes | np.ndarray, side: int, depth: int | None = None, quality: int = 80
) -> bytes:
    """A picture at most `side` pixels long: JPEG, or PNG where it is tiny.

    Args:
        picture: the encoded bytes, or uint8 (H, W, C).
        side: of the longer side.
        depth: the bits in use of 16-bit pictures.
        quality: of JPEG.

    Raises:
        BadPicture: it cannot be decoded.
    """
    pixels = picture if isinstance(picture, np.ndarray) else decode(picture, depth=depth)
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    if max(image.size) <= _TINY:
        image.save(stream, "PNG")
    else:
        image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def image_type(data: bytes) -> str:
    """Of a picture that this package encoded."""
    return next(kind for magic, kind in _MAGIC.items() if data.startswith(magic))


def as_address(data: bytes) -> str:
    """A picture that this package encoded as an address that holds all of it."""
    return f"data:{image_type(data)};base64,{base64.b64encode(data).decode('ascii')}"


class Cache:
    """Thumbnails by path, time, size and depth of their pictures.

    A cache that cannot be written to is none: thumbnails are made each time.

    Args:
        folder: where they are kept.
        limit: bytes of all together; the oldest make room.
    """

    def __init__(self, folder: Path, limit: int = LIMIT):
        self.folder, self.limit = folder, limit
        self._written = 0

    def key(self, path: Path, depth: int | None) -> str | None:
        """Names the thumbnail of a file as it is now; None where it is not there."""
        try:
            status = path.stat()
        except OSError:
            return None
        told = f"{SIDE} {depth} {status.st_mtime_ns} {status.st_size} ".encode()
        return hashlib.sha256(told + os.fsencode(path)).hexdigest()

    def read(self, key: str) -> bytes | None:
        """The thumbnail, where it is kept."""
        try:
            return self._place(key).read_bytes() or None
        except OSError:
            return None

    def write(self, key: str, thumbnail: bytes) -> None:
        """Keeps a thumbnail."""
        place = self._place(key)
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=place.parent)
            try:
                with open(handle, "wb") as stream:
                    stream.write(thumbnail)
                os.replace(temporary, place)
            except OSError:
                os.unlink(temporary)
                raise
        self._written += 1
        if self._written % _LOOK == 0:
            self.trim()

    def trim(self) -> None:
        """Removes the oldest where all are larger than the limit."""
        found = []
        for base, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(OSError):
                    status = os.stat(os.path.join(base, name))
                    found.append((status.st_mtime_ns, status.st_size, os.path.join(base, name)))
        total = sum(size for _, size, _ in found)
        if total <= self.limit:
            return
        for _, size, path in sorted(found):
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
            if total <= _KEPT * self.limit:
                return

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]
