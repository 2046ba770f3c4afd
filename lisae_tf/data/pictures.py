"""Files become uint8 pictures here and nowhere else, with Pillow and NumPy alone.

Training, calibration, scoring and every exported model see pixels from this one routine:
EXIF orientation applied, alpha dropped, 16-bit grey divided by 256, colour to grey by ITU-R 601,
bilinear resize with Pillow's antialiasing. Scaling to 0-1 is part of the model's graph.
"""

import hashlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.Image import Transpose

from lisae_tf.data import stored
from lisae_tf.data.picture_files import files_of, refuse_missing
from lisae_tf.errors import LisaeError
from lisae_tf.files import refuse_special

MAX_PIXELS = 64_000_000
_FORMATS = ("PNG", "JPEG", "BMP")
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
# By EXIF orientation. Pillow's own exif_transpose fails on odd values in unrelated tags.
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # fmt: skip
# Between its limit and twice that, Pillow only warns.
warnings.simplefilter("error", Image.DecompressionBombWarning)


class BadPicture(LisaeError):
    """One file that is no readable picture; the message names it."""


@dataclass(frozen=True)
class Header:
    """What a file says of its picture."""

    height: int
    width: int
    mode: str  # Pillow's name for it
    turned: bool = False  # upright by EXIF, with the sides as they are then

    @property
    def grey(self) -> bool:
        """Whether it decodes to grey unless RGB is asked for."""
        return self.mode in _GREY_MODES


def _open(source: Path | bytes, name: str) -> Image.Image:
    """Opens the header only, and refuses picture bombs before any pixel is decoded."""
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    too_large = BadPicture(f"{name} has more than {MAX_PIXELS:,} pixels; make it smaller first")
    # Opening a pipe would wait for ever.
    if isinstance(source, Path) and os.path.exists(source) and not os.path.isfile(source):
        raise BadPicture(f"{name} is no regular file; give a picture")
    try:
        picture = Image.open(stream, formats=_FORMATS)
    except FileNotFoundError as error:
        raise BadPicture(f"{name} does not exist; check the path") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large from error
    except Exception as error:
        raise BadPicture(
            f"{name} is not a readable PNG, JPEG or BMP picture; repair or remove it"
        ) from error
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise too_large
    # A JPEG with several frames is a photograph with its preview (MPO); the first one counts.
    if picture.format == "PNG" and getattr(picture, "n_frames", 1) > 1:
        picture.close()
        raise BadPicture(f"{name} is an animation; give single pictures")
    return picture


def _upright(picture: Image.Image) -> tuple[Image.Image, Header]:
    turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    picture.load()
    upright = picture if turn is None else picture.transpose(turn)
    return upright, Header(upright.height, upright.width, picture.mode, turn is not None)


def decode(
    source: Path | bytes,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    name: str | None = None,
) -> np.ndarray:
    """One encoded picture as uint8 (H, W, C).

    Args:
        source: a file, or the encoded bytes.
        size: (height, width) to resize to; None keeps the picture's own.
        channels: 1 for grey, 3 for RGB; None keeps grey grey and makes the rest RGB.
        name: what error messages call the picture.

    Raises:
        BadPicture: unreadable, truncated, animated or too large.
    """
    return _decode(source, size, channels, name or _name(source))[0]


def _name(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else "the picture"


def _decode(
    source: Path | bytes, size: tuple[int, int] | None, channels: int | None, name: str
) -> tuple[np.ndarray, Header]:
    with _open(source, name) as opened:
        try:
            picture, found = _upright(opened)
            if channels is None:
                channels = 1 if picture.mode in _GREY_MODES else 3
            if picture.mode.startswith("I"):
                picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
            picture.info.pop("transparency", None)
            picture = picture.convert("L" if channels == 1 else "RGB")
            if size is not None and picture.size != (size[1], size[0]):
                picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            pixels = np.asarray(picture, dtype=np.uint8)
        except Exception as error:  # decoders raise all kinds on damaged files
            raise BadPicture(
                f"{name} is damaged and cannot be decoded ({error}); repair or remove it"
            ) from error
    return pixels.reshape(*pixels.shape[:2], channels), found


def header(source: Path | bytes, name: str | None = None) -> Header:
    """What is known of an encoded picture before a pixel is decoded; the sides are as stored.

    Raises:
        BadPicture: what `decode` would refuse before it decodes.
    """
    with _open(source, name or _name(source)) as picture:
        return Header(picture.height, picture.width, picture.mode)


@dataclass(frozen=True)
class Decoded:
    """Pictures that could be read, their names, and a reason for each that could not."""

    pixels: stored.Pictures  # uint8 (N, H, W, C)
    names: list[str]
    bad: dict[str, str]
    headers: list[Header] = field(default_factory=list)  # of pictures that come from files


def decode_all(
    sources: Sequence[Path | bytes],
    size: tuple[int, int],
    channels: int,
    *,
    names: Sequence[str] | None = None,
    skip_bad: bool = False,
    in_file: bool = False,
) -> Decoded:
    """Decodes many pictures on all cores.

    Args:
        sources: files, or the encoded bytes.
        size: (height, width) of all.
        channels: 1 or 3.
        names: what messages call them.
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
            pixels[index], headers[index] = _decode(sources[index], size, channels, names[index])
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
    skip_bad: bool = False,
) -> Iterator[Decoded]:
    """Pictures from files, folders and `.npy` arrays in batches, in bounded memory.

    Args:
        paths: files, folders (searched below) and `.npy` arrays, in the order given.
        shape: the (H, W, C) that the model takes.
        batch_size: pictures in a batch; only the last batch of a source is smaller.
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
                yield decode_all(chunk, shape[:2], shape[2], skip_bad=skip_bad)


def content_hashes(pixels: np.ndarray) -> list[bytes]:
    """A digest of each decoded picture; equal pictures have equal digests."""
    return [hashlib.blake2b(picture.tobytes(), digest_size=16).digest() for picture in pixels]
