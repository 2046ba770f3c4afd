"""The pictures on the desk: names, scores, what is known of each; their thumbnails.

These are made once and kept in the user's cache folder. Runs without TensorFlow.
"""

import base64
import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import refuse_special
from lisae_tf.data import pictures
from lisae_tf.data.layout import kind_of
from lisae_tf.data.pictures import decode

NORMAL, ANOMALY, UNKNOWN = 0, 1, -1
_ARRAY = ".npy"
SIDE = 128  # pixels of a thumbnail's longer side
LARGEST = 1024  # of an opened picture's
_TINY = 64  # sides up to this are kept as they are, without loss
LIMIT = 2**29  # bytes of all thumbnails together
_KEPT = 0.8  # of the limit, once it was passed
_LOOK = 4096  # thumbnails between looks at the size
_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Pictures:
    """Scored pictures.

    Attributes:
        names: absolute paths; of a row of an array or a named dataset with "#" and its number.
        scores: float32 (N,).
        truth: int8 (N,): `NORMAL`, `ANOMALY` or `UNKNOWN`.
        kinds: of each, "" where there is none.
        digests: SHA-256 that the bytes of each must have; None where any will do.
        rows: uint8 (N, H, W, C), of pictures that have no files.
        independent: groups of copies for each normal picture and each anomaly, by which intervals
            go; 1 where none is a copy.
    """

    names: Sequence[str]
    scores: np.ndarray
    truth: np.ndarray
    kinds: Sequence[str]
    digests: Sequence[str] | None = None
    rows: np.ndarray | None = None
    independent: tuple[float, float] = (1.0, 1.0)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def folders(self) -> list[str]:
        """Those that the pictures lie in, sorted."""
        return sorted({os.path.dirname(name) for name in self.names})

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Where a picture stands, by name."""
        return {name: index for index, name in enumerate(self.names)}

    def source(self, index: int, shape: tuple[int, int, int]) -> Path | np.ndarray:
        """The file of a picture, or its uint8 (H, W, C) where it is a row.

        Args:
            index: of the picture.
            shape: (H, W, C) that the model takes.

        Raises:
            LisaeError: an array that is gone or is another.
        """
        if self.rows is not None:
            return np.asarray(self.rows[index])
        name = self.names[index]
        array, _, row = name.rpartition("#")
        if not (array.lower().endswith(_ARRAY) and row.isdigit()):
            return Path(name)
        found = pictures.load_array(Path(array), shape)[int(row) : int(row) + 1]
        if not len(found):
            raise LisaeError(f"{name} is gone; restore {array}")
        return pictures.array_to_uint8(found, array)[0]

    def content(self, index: int, shape: tuple[int, int, int]) -> bytes | np.ndarray:
        """The encoded bytes of a picture, or its pixels where it is a row.

        Raises:
            LisaeError: it is gone, cannot be read, or is another than was scored.
        """
        source = self.source(index, shape)
        if isinstance(source, np.ndarray):
            return source
        refuse_special(source)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise LisaeError(f"{source} cannot be read ({error.strerror}); put it back") from error
        if self.digests is not None and sha256(data) != self.digests[index]:
            raise LisaeError(f"{source} holds another picture than was tested; restore it")
        return data

    def pixels(
        self, index: int, shape: tuple[int, int, int], depth: int | None
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """A picture as the model takes it.

        Args:
            index: of the picture.
            shape: (H, W, C) that the model takes.
            depth: the bits in use of 16-bit pictures.

        Returns:
            uint8 (H, W, C), and the height and width of the picture itself.

        Raises:
            LisaeError: see `content`; or it cannot be decoded.
        """
        content = self.content(index, shape)
        if isinstance(content, np.ndarray):
            return content, content.shape[:2]
        found = pictures.decode_all(
            [content], shape[:2], shape[2], names=[self.names[index]], depth=depth
        )
        return found.pixels[0], (found.headers[0].height, found.headers[0].width)


def sha256(content: bytes | np.ndarray) -> str:
    """Hex SHA-256 of a picture's bytes, or of a row's."""
    data = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(data).hexdigest()


def scored(names: Sequence[str], scores: Sequence[float], given: Sequence[Path] = ()) -> Pictures:
    """Pictures that were just scored, of which nothing else is known; each once.

    Args:
        names: paths, as `score` names them.
        scores: of each.
        given: the folders among them give each its kind: the first folder below.
    """
    roots = [Path(os.path.abspath(path)) for path in given if path.is_dir()]
    score_of = dict(zip(map(os.path.abspath, names), scores, strict=True))
    kinds = [_kind(Path(name), roots) for name in score_of]
    truth = np.full(len(score_of), UNKNOWN, np.int8)
    return Pictures(list(score_of), np.array([*score_of.values()], np.float32), truth, kinds)


def _kind(path: Path, roots: Sequence[Path]) -> str:
    return next((kind_of(path, root) for root in roots if path.is_relative_to(root)), "")


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
