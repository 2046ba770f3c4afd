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

from lisae_tf.data import stored
from lisae_tf.data.picture_files import FORMATS, NAMES, files_of, refuse_missing
from lisae_tf.errors import LisaeError
from lisae_tf.files import refuse_special

MAX_PIXELS = 64_000_000
_MANY = ("PNG", "TIFF", "WEBP")  # formats whose files may hold several pictures
FULL_DEPTH = 16
WHITE = 255  # what transparent pixels show
_GREY_MODES = ("1", "L", "I", "F")
# Modes of PNG and JPEG that a graph of TensorFlow reads as Pillow does.
_PORTABLE_MODES = ("1", "L", "P", "RGB", "I;16", "RGB;16")
_Tag = ExifTags.Base
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


class BadPicture(LisaeError):
    """One file that is no readable picture; the message names it."""


@dataclass(frozen=True)
class Header:
    """What a file says of its picture."""

    height: int
    width: int
    mode: str  # Pillow's name for it, with A and ;16 where that leaves them out
    turned: bool = False  # upright by EXIF, with the sides as they are then
    top: int | None = None  # the highest value of 16-bit grey, once decoded

    @property
    def grey(self) -> bool:
        """Whether it decodes to grey unless RGB is asked for."""
        return self.mode.partition(";")[0].removesuffix("A") in _GREY_MODES

    @property
    def deep(self) -> bool:
        """Whether it is 16-bit grey, of which all bits are read."""
        return self.mode.startswith("I")

    @property
    def clear(self) -> bool:
        """Whether some of it may be transparent."""
        return self.mode.partition(";")[0].endswith("A")

    @property
    def cut(self) -> bool:
        """Whether Pillow reads only the upper 8 of 16 bits: all 16-bit kinds but plain grey."""
        return self.mode.endswith(";16") and not self.deep


def _mode(picture: Image.Image) -> str:
    """Pillow's name for the mode, and what it does not say: transparency and 16 bits in colour.

    Known from the header; loading forgets how the bytes lie in the file.
    """
    mode, raw = picture.mode, ""
    if picture.tile:
        arguments = picture.tile[0][3]
        raw = arguments if isinstance(arguments, str) else str((arguments or ("",))[0])
    if mode.startswith("I"):
        base, semicolon, bits = mode.partition(";")
        return base + "A" * ("transparency" in picture.info) + semicolon + bits
    if "transparency" in picture.info and not mode.endswith("A"):
        mode += "A"
    if raw.partition(";")[2].startswith("16"):
        mode = ("LA" if raw.startswith("LA") else mode) + ";16"
    return mode


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
    mode = _mode(picture)  # before the tags of a PNG, which come with its pixels
    turn = _TURNS.get(picture.getexif().get(_Tag.Orientation))
    picture.load()
    # Pillow itself turns a TIFF when it loads it.
    upright = picture
    if turn is not None and picture.format != "TIFF":
        upright = picture.transpose(turn)
    return upright, Header(upright.height, upright.width, mode, turn is not None)


def _refuse_misread(picture: Image.Image, name: str) -> None:
    """Refuses the kinds of TIFF that Pillow reads otherwise than they are meant."""
    if picture.format != "TIFF":
        return
    bits = picture.tag_v2.get(_Tag.BitsPerSample, (1,))[0]
    if picture.mode in ("I", "F") and bits > 16:
        raise BadPicture(f"{name} holds {bits}-bit numbers; save it with 8 or 16 bits")
    if picture.mode.startswith("I") and not picture.tag_v2.get(_Tag.PhotometricInterpretation):
        raise BadPicture(f"{name} has white as 0 in 16 bits; save it with black as 0")
    planes = picture.tag_v2.get(_Tag.PlanarConfiguration, 1)
    if bits > 8 and planes != 1 and not picture.mode.startswith("I"):
        raise BadPicture(f"{name} has its colours in planes of {bits} bits; save it interleaved")


def _laid_over(picture: Image.Image, found: Header, background: int) -> Image.Image:
    """A picture with transparency over one level: mode L or RGB."""
    clear, grey = picture.info.get("transparency"), found.grey
    if found.cut and clear is not None:  # a colour in 16 bits, of which 8 are left
        picture.info["transparency"] = tuple(level >> 8 for level in clear)
    rgba = np.asarray(picture.convert("RGBA"))
    alpha = rgba[..., 3:].astype(np.uint16)
    colour = rgba[..., :1] if grey else rgba[..., :3]
    laid = (colour * alpha + (background * (255 - alpha) + 127)) // 255
    laid = laid.astype(np.uint8)
    return Image.fromarray(laid[..., 0] if grey else laid)


def _sixteen_bits(picture: Image.Image, name: str) -> tuple[np.ndarray, np.ndarray]:
    """16-bit grey: the values, uint16 (H, W), and which are transparent, bool (H, W)."""
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise BadPicture(f"{name} holds values outside 0-65535; save it without a sign")
    values = values.astype(np.uint16)
    return values, values == picture.info.get("transparency", -1)


def _eight_bits(values: np.ndarray, depth: int | None) -> np.ndarray:
    """The upper 8 of `depth` bits, uint8; what has more bits is white."""
    return (values >> ((depth or FULL_DEPTH) - 8)).clip(0, 255).astype(np.uint8)


def _plain(picture: Image.Image, found: Header, background: int) -> Image.Image:
    """The picture without transparency; 16-bit grey as it is."""
    if found.deep or not found.clear:
        return picture
    return _laid_over(picture, found, background)


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
            _refuse_misread(opened, name)
            picture, found = _upright(opened)
            if channels is None:
                channels = 1 if found.grey else 3
            if found.deep:
                values, clear = _sixteen_bits(picture, name)
                found = replace(found, top=int(values.max(where=~clear, initial=0)))
                levels = _eight_bits(values, depth)
                levels[clear] = background
                picture = Image.fromarray(levels)
            else:
                picture = _plain(picture, found, background)
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
        return Header(picture.height, picture.width, _mode(picture))


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
            known = opened.format in ("PNG", "JPEG", "MPO") and _mode(opened) in _PORTABLE_MODES
            if known and opened.getexif().get(_Tag.Orientation) not in _TURNS:
                return data
            _refuse_misread(opened, name)
            picture, found = _upright(opened)
            if found.deep:
                values, clear = _sixteen_bits(picture, name)
                picture = Image.fromarray(np.where(clear, np.uint16(65535), values))
            else:
                picture = _plain(picture, found, WHITE).convert("L" if found.grey else "RGB")
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
