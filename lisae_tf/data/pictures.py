"""Files become uint8 pictures here and nowhere else, with Pillow and NumPy alone.

Training, calibration, scoring and every exported model see pixels from this one routine:
EXIF orientation applied, transparency laid over white, 16-bit grey brought to 8 bits by the depth
of the normal pictures, colour to grey by ITU-R 601, bilinear resize with Pillow's antialiasing.
Scaling to 0-1 is part of the model's graph. docs/pictures.md has each kind of file.
"""

import contextlib
import hashlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.Image import Transpose

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import refuse_special
from lisae_tf.data import stored
from lisae_tf.data.levels import (
    WHITE,
    BadPicture,
    Header,
    eight_bits,
    mode_of,
    plain,
    refuse_misread,
    sixteen_bits,
)
from lisae_tf.data.picture_files import FORMATS, NAMES, files_of, refuse_missing

MAX_PIXELS = 64_000_000
_MANY = ("PNG", "TIFF", "WEBP")  # formats whose files may hold several pictures
# Modes of PNG and JPEG that a graph of TensorFlow reads as Pillow does.
_PORTABLE_MODES = ("1", "L", "P", "RGB", "I;16", "RGB;16")
_ORIENTATION = ExifTags.Base.Orientation
# By EXIF orientation. Pillow's own exif_transpose fails on odd values in unrelated tags.
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # fmt: skip
# Between its limit and twice that, Pillow only warns.
warnings.simplefilter("error", Image.DecompressionBombWarning)
# What is wrong with a file is said once, by the error that follows.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


@contextlib.contextmanager
def _open(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """Opens the header only, and refuses picture bombs before any pixel is decoded."""
    too_large = BadPicture(f"{name} has more than {MAX_PIXELS:,} pixels; make it smaller first")
    # Opening a pipe would wait for ever.
    if isinstance(source, Path) and os.path.exists(source) and not os.path.isfile(source):
        raise BadPicture(f"{name} is no regular file; give a picture")
    with contextlib.ExitStack() as held:
        try:
            # Given a name, Pillow maps the file, and then misreads a turned uncompressed TIFF.
            stream = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
            picture = held.enter_context(Image.open(held.enter_context(stream), formats=FORMATS))
        except FileNotFoundError as error:
            raise BadPicture(f"{name} does not exist; check the path") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise too_large from error
        except Exception as error:
            raise BadPicture(
                f"{name} is not a readable {NAMES} picture; repair or remove it"
            ) from error
        if picture.width * picture.height > MAX_PIXELS:
            raise too_large
        # A JPEG with several frames is a photograph with its preview (MPO); the first one counts.
        if picture.format in _MANY and getattr(picture, "is_animated", False):
            raise BadPicture(
                f"{name} holds several pictures (an animation or pages); save each as a file of "
                "its own"
            )
        yield picture


def _upright(picture: Image.Image) -> tuple[Image.Image, Header]:
    mode = mode_of(picture)  # before the tags of a PNG, which come with its pixels
    turn = _TURNS.get(picture.getexif().get(_ORIENTATION))
    picture.load()
    # Pillow itself turns a TIFF when it loads it.
    upright = picture
    if turn is not None and picture.format != "TIFF":
        upright = picture.transpose(turn)
    return upright, Header(upright.height, upright.width, mode, turn is not None)


def decode(
    source: Path | bytes,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    name: str | None = None,
    *,
    background: int = WHITE,
    depth: int | None = None,
) -> np.ndarray:
    """One encoded picture as uint8 (H, W, C).

    Args:
        source: a file, or the encoded bytes.
        size: (height, width) to resize to; None keeps the picture's own.
        channels: 1 for grey, 3 for RGB; None keeps grey grey and makes the rest RGB.
        name: what error messages call the picture.
        background: the level, 0-255, that shows where the picture is transparent.
        depth: of 16-bit grey, the bits that are in use, 8-16; None for all of them.

    Raises:
        BadPicture: unreadable, truncated, of several frames or pages, or too large.
    """
    return _decode(source, size, channels, name or _name(source), depth, background)[0]


def _name(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else "the picture"


def _decode(
    source: Path | bytes,
    size: tuple[int, int] | None,
    channels: int | None,
    name: str,
    depth: int | None = None,
    background: int = WHITE,
) -> tuple[np.ndarray, Header]:
    with _open(source, name) as opened:
        try:
            refuse_misread(opened, name)
            picture, found = _upright(opened)
            if channels is None:
                channels = 1 if found.grey else 3
            if found.deep:
                values, clear = sixteen_bits(picture, name)
                found = replace(found, top=int(values.max(where=~clear, initial=0)))
                levels = eight_bits(values, depth)
                levels[clear] = background
                picture = Image.fromarray(levels)
            else:
                picture = plain(picture, found, background)
            picture = picture.convert("L" if channels == 1 else "RGB")
            if size is not None and picture.size != (size[1], size[0]):
                picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            pixels = np.asarray(picture, dtype=np.uint8)
        except BadPicture:
            raise
        except Exception as error:  # decoders raise all kinds on damaged files
            raise _damaged(name, error) from error
    return pixels.reshape(*pixels.shape[:2], channels), found


def header(source: Path | bytes, name: str | None = None) -> Header:
    """What is known of an encoded picture before a pixel is decoded; the sides are as stored.

    Raises:
        BadPicture: what `decode` would refuse before it decodes.
    """
    with _open(source, name or _name(source)) as picture:
        return Header(picture.height, picture.width, mode_of(picture))


def portable(data: bytes, name: str | None = None) -> bytes:
    """An encoded picture as a graph of TensorFlow reads it: upright PNG or JPEG, nothing clear.

    Such a file stays as it is; of any other a PNG with the same pixels is made, 16-bit grey with
    its 16 bits. Client and server send pictures through this before a model decodes them.

    Raises:
        BadPicture: what `decode` refuses.
    """
    name = name or _name(data)
    with _open(data, name) as opened:
        try:
            known = opened.format in ("PNG", "JPEG", "MPO") and mode_of(opened) in _PORTABLE_MODES
            if known and opened.getexif().get(_ORIENTATION) not in _TURNS:
                return data
            refuse_misread(opened, name)
            picture, found = _upright(opened)
            if found.deep:
                values, clear = sixteen_bits(picture, name)
                picture = Image.fromarray(np.where(clear, np.uint16(65535), values))
            else:
                picture = plain(picture, found, WHITE).convert("L" if found.grey else "RGB")
            stream = io.BytesIO()
            # Nobody keeps it, so speed counts.
            Image.fromarray(np.asarray(picture)).save(stream, "PNG", compress_level=1)
        except BadPicture:
            raise
        except Exception as error:  # decoders raise all kinds on damaged files
            raise _damaged(name, error) from error
    return stream.getvalue()


def _damaged(name: str, error: Exception) -> BadPicture:
    return BadPicture(f"{name} is damaged and cannot be decoded ({error}); repair or remove it")


def depth_in_use(paths: Sequence[Path]) -> int | None:
    """The fewest bits, 8-16, that hold all 16-bit grey among the files; None without any.

    Reads their pixels; files that cannot be read are passed over.
    """

    def top(path: Path) -> int | None:
        try:
            return _decode(path, (1, 1), 1, str(path))[1].top
        except BadPicture:
            return None

    with ThreadPoolExecutor() as pool:
        tops = [each for each in pool.map(top, paths) if each is not None]
    return max(8, max(tops).bit_length()) if tops else None


@dataclass(frozen=True)
class Decoded:
    """Pictures that could be read, their names, and a reason for each that could not."""

    pixels: stored.Pictures  # uint8 (N, H, W, C)
    names: list[str]
    bad: dict[str, str]
    headers: list[Header] = field(default_factory=list)  # of pictures that come from files

    def only(self, rows: Sequence[int]) -> "Decoded":
        """Some of the pictures, in this order."""
        names, headers = ([each[row] for row in rows] for each in (self.names, self.headers))
        return Decoded(self.pixels[np.asarray(rows, int)], names, self.bad, headers)


def decode_all(
    sources: Sequence[Path | bytes],
    size: tuple[int, int],
    channels: int,
    *,
    names: Sequence[str] | None = None,
    depth: int | None = None,
    skip_bad: bool = False,
    in_file: bool = False,
) -> Decoded:
    """Decodes many pictures on all cores.

    Args:
        sources: files, or the encoded bytes.
        size: (height, width) of all.
        channels: 1 or 3.
        names: what messages call them.
        depth: see `decode`.
        skip_bad: leave unreadable ones out.
        in_file: keep the pixels of large sets in a temporary file (`stored.StoredPictures`).

    Raises:
        BadPicture: the first unreadable picture, unless `skip_bad` leaves such pictures out.
    """
    names = list(names) if names is not None else [str(source) for source in sources]
    shape = (*size, channels)
    if in_file and len(sources) * math.prod(shape) > stored.LIMIT:
        pixels: stored.Pictures = stored.StoredPictures.empty(len(sources), shape)
    else:
        pixels = np.empty((len(sources), *shape), np.uint8)
    headers: dict[int, Header] = {}
    bad: dict[int, str] = {}

    def fill(index: int) -> None:
        try:
            pixels[index], headers[index] = _decode(
                sources[index], size, channels, names[index], depth
            )
        except BadPicture as error:
            if not skip_bad:
                raise
            bad[index] = str(error)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(len(sources))):
            pass
    kept = [index for index in range(len(sources)) if index not in bad]
    return Decoded(
        pixels if not bad else pixels[kept],
        [names[index] for index in kept],
        {names[index]: bad[index] for index in sorted(bad)},
        [headers[index] for index in kept],
    )


def load_array(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """A `.npy` of pictures, memory-mapped: (N, H, W, C), or (N, H, W) for grey.

    Args:
        path: the file; integers 0-255, or floats 0-1.
        shape: the (H, W, C) that the model takes; arrays are never resized.

    Raises:
        LisaeError: no such array, or another shape or type.
    """
    refuse_special(path)
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise LisaeError(f"{path} does not exist; check the path") from error
    except Exception as error:  # a damaged header raises all kinds
        raise LisaeError(f"{path} is not a plain NumPy array file (.npy)") from error
    if array.ndim == 3 and shape[2] == 1:
        array = array[..., None]
    if not array.size:
        raise LisaeError(f"{path} holds an array without any picture; give at least one")
    if array.ndim != 4 or array.shape[1:] != shape:
        raise LisaeError(
            f"{path} holds an array of shape {tuple(array.shape)}, but the model takes "
            f"(N, {shape[0]}, {shape[1]}, {shape[2]}); arrays are not resized"
        )
    if array.dtype.kind not in "uif":
        raise LisaeError(f"{path} holds {array.dtype}; give integers 0-255 or floats 0-1")
    return array


def array_to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    """Integers 0-255 or floats 0-1 (rounded to the nearest of 256 levels) as uint8.

    Raises:
        LisaeError: NaN, infinity or a value out of range.
    """
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    floats = array.dtype.kind == "f"
    if floats and not np.isfinite(array).all():
        raise LisaeError(f"{name} holds NaN or infinite values; clean the array first")
    top = 1 if floats else 255
    if len(array) and (array.min() < 0 or array.max() > top):
        raise LisaeError(f"{name} holds values outside 0-{top}; give integers 0-255 or floats 0-1")
    return np.rint(array * 255).astype(np.uint8) if floats else array.astype(np.uint8)


def stream(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    *,
    batch_size: int = 256,
    depth: int | None = None,
    skip_bad: bool = False,
) -> Iterator[Decoded]:
    """Pictures from files, folders and `.npy` arrays in batches, in bounded memory.

    Args:
        paths: files, folders (searched below) and `.npy` arrays, in the order given.
        shape: the (H, W, C) that the model takes.
        batch_size: pictures in a batch; only the last batch of a source is smaller.
        depth: see `decode`.
        skip_bad: leave unreadable pictures out and report them in the batch's `bad`.

    Raises:
        LisaeError: a path is missing, empty, unreadable or of another shape.
    """
    refuse_missing(paths)
    for is_array, sources in groupby(paths, key=lambda path: path.suffix.lower() == ".npy"):
        if is_array:
            for path in sources:
                array = load_array(path, shape)
                for start in range(0, len(array), batch_size):
                    pixels = array_to_uint8(array[start : start + batch_size], str(path))
                    names = [f"{path}#{index}" for index in range(start, start + len(pixels))]
                    yield Decoded(pixels, names, {})
        else:
            files = files_of(sources)
            while chunk := list(islice(files, batch_size)):
                yield decode_all(chunk, shape[:2], shape[2], depth=depth, skip_bad=skip_bad)


def content_hashes(pixels: np.ndarray) -> list[bytes]:
    """A digest of each decoded picture; equal pictures have equal digests."""
    return [hashlib.blake2b(picture.tobytes(), digest_size=16).digest() for picture in pixels]


def one_of_each(numbers: np.ndarray, pixels: stored.Pictures) -> np.ndarray:
    """The rows of one picture of each group, sorted.

    Content decides and not the order, for names may tell one view of a part from another, and a
    new picture may be any view.

    Args:
        numbers: of the group of each picture, int (N,).
        pixels: (N, H, W, C).
    """
    order = np.argsort(content_hashes(pixels), kind="stable")
    return np.sort(order[np.unique(numbers[order], return_index=True)[1]])
