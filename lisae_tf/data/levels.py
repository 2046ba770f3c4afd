"""What the pixels of a file are: depth and transparency become 8 bits; what is stretched.

Runs without TensorFlow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.picture_files import few

FULL_DEPTH = 16
WHITE = 255  # what transparent pixels show
_GREY_MODES = ("1", "L", "I", "F")
_Tag = ExifTags.Base
CLEARLY = 0.05  # of two pictures' proportions: so much apart can be seen


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


def mode_of(picture: Image.Image) -> str:
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


def refuse_misread(picture: Image.Image, name: str) -> None:
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


def sixteen_bits(picture: Image.Image, name: str) -> tuple[np.ndarray, np.ndarray]:
    """16-bit grey: the values, uint16 (H, W), and which are transparent, bool (H, W)."""
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise BadPicture(f"{name} holds values outside 0-65535; save it without a sign")
    values = values.astype(np.uint16)
    return values, values == picture.info.get("transparency", -1)


def eight_bits(values: np.ndarray, depth: int | None) -> np.ndarray:
    """The upper 8 of `depth` bits, uint8; what has more bits is white."""
    return (values >> ((depth or FULL_DEPTH) - 8)).clip(0, 255).astype(np.uint8)


def plain(picture: Image.Image, found: Header, background: int) -> Image.Image:
    """The picture without transparency; 16-bit grey as it is."""
    if found.deep or not found.clear:
        return picture
    return _laid_over(picture, found, background)


def depth_remarks(
    what: str, names: Sequence[str], headers: Sequence[Header], depth: int | None
) -> list[str]:
    """One sentence for each way in which levels of a set are lost; none where none are.

    Args:
        what: the set.
        names: of its pictures.
        headers: theirs, once decoded; none of pictures that do not come from files.
        depth: the bits in use of 16-bit grey; None for all of them.
    """
    said, named = [], list(zip(names, headers, strict=False))
    over = [name for name, header in named if (header.top or 0) >> (depth or FULL_DEPTH)]
    if over:
        hold = "pictures hold" if len(over) > 1 else "picture holds"
        said.append(
            f"{len(over)} {what} {hold} values of more than the {depth} bits that were found in "
            f"normal pictures (data.depth), which become white: {few(over)}"
        )
    cut = [name for name, header in named if header.cut]
    if cut:
        have = "pictures have" if len(cut) > 1 else "picture has"
        said.append(
            f"{len(cut)} {what} {have} 16 bits in colour or with alpha, of which the upper 8 are "
            f"read; if the lower ones matter, save grey without alpha or 8 bits: {few(cut)}"
        )
    return said


def apart(one: tuple[int, int], other: tuple[int, int]) -> float:
    """By which share the proportions of two sizes, (H, W) each, differ."""
    (height, width), (other_height, other_width) = one, other
    return abs(height * other_width / (width * other_height) - 1)


def stretched_remarks(
    what: str, names: Sequence[str], headers: Sequence[Header], mask_size: tuple[int, int] | None
) -> list[str]:
    """One sentence if the mask of what does not count is stretched over some pictures; else none.

    Args:
        what: the set.
        names: of its pictures.
        headers: theirs, once decoded; none of pictures that do not come from files.
        mask_size: (H, W) of the mask as it was drawn; None where there is none.
    """
    if mask_size is None:
        return []
    named = zip(names, headers, strict=False)
    other = [name for name, each in named if apart((each.height, each.width), mask_size) > CLEARLY]
    if not other:
        return []
    have = "pictures have" if len(other) > 1 else "picture has"
    return [
        f"{len(other)} {what} {have} other proportions than the {mask_size[1]}x{mask_size[0]} of "
        f"the mask of what does not count, which is stretched over them; cut them as the normal "
        f"pictures are: {few(other)}"
    ]


def reading_remarks(names: Sequence[str], headers: Sequence[Header], scorer) -> list[str]:
    """What new pictures lost on the way to a detector or exported model, a sentence each.

    Args:
        names: of the pictures.
        headers: theirs, once decoded.
        scorer: has `depth` and `mask_size`.
    """
    return [
        *depth_remarks("new", names, headers, scorer.depth),
        *stretched_remarks("new", names, headers, scorer.mask_size),
    ]
