"""Each row of the table in docs/pictures.md, in a file and in bytes on their way to a model."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lisae_tf.data import picture_files, pictures
from lisae_tf.data.pictures import BadPicture, decode, portable

TABLE = Path(__file__).resolve().parents[1] / "docs" / "pictures.md"
GREY = np.array([[0, 50, 100], [150, 200, 250]], np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY // 2], axis=2)
ALPHA = np.array([[0, 255, 128], [255, 0, 255]], np.uint8)
DEEP = GREY.astype(np.uint16) * 256 + 77
CLEAR_GREY = np.array([[255, 50, 177], [150, 255, 250]], np.uint8)  # GREY with ALPHA over white


def over_white(colour, alpha):
    """By the definition, in exact integers."""
    wide = alpha[..., None].astype(int)
    return ((colour * wide + 255 * (255 - wide)) / 255 + 0.5).astype(np.uint8)


def save(picture, kind, **options):
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(samples, colour_type, *, clear=b""):
    """16-bit, which Pillow writes in grey alone: (H, W) or (H, W, C)."""

    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
        + (chunk(b"tRNS", clear) if clear else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(samples, *, photometric=1, planes=1, kind=1):
    """Uncompressed, little-endian; (H, W), or (H, W, C) as the bytes lie."""
    height, width = GREY.shape
    channels = samples.size // (height * width)
    bits = samples.dtype.itemsize * 8
    body = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    data = b"II*\0" + struct.pack("<I", 8 + len(body) + 8) + body
    data += struct.pack("<4H", *[bits] * 4)
    where = 8 + len(body)
    size = where if channels > 2 else bits
    each = len(body) // (channels if planes == 2 else 1)
    strips = [8 + each * k for k in range(channels if planes == 2 else 1)]
    behind = 8 + len(body) + 8 + 2 + 12 * 11 + 4
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, size), (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, len(strips), strips[0] if len(strips) == 1 else behind),
        (277, 3, 1, channels), (278, 3, 1, height),
        (279, 4, len(strips), each if len(strips) == 1 else behind + 4 * len(strips)),
        (284, 3, 1, planes), (339, 3, 1, kind),
    ]  # fmt: skip
    data += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data += bytes(4)
    if len(strips) > 1:
        data += struct.pack(f"<{2 * len(strips)}I", *strips, *[each] * len(strips))
    return data


def turned(kind, orientation=6):
    tags = Image.Exif()
    tags[274] = orientation
    return save(np.ascontiguousarray(np.rot90(GREY)), kind, exif=tags, **LOSSLESS.get(kind, {}))


def webp_header(width, height):
    """A lossless picture without pixels."""
    body = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(60)
    chunk = b"WEBPVP8L" + struct.pack("<I", len(body)) + body + b"\0"
    return b"RIFF" + struct.pack("<I", len(chunk)) + chunk


def palette():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putdata([0, 1])
    return image


LOSSLESS = {"WEBP": {"lossless": True, "exact": True}}
RGBA = np.dstack([COLOUR, ALPHA])
FRAMES = {"save_all": True, "append_images": [Image.fromarray(GREY.T.copy()).resize((3, 2))]}
SEVERAL = "several pictures .* save each as a file of its own"
PALE = Image.new("L", (16, 16), 90)
JPEG_PIXELS = np.full((16, 16, 1), 90)

# What a file becomes (levels may be 3 off in JPEG), or the words that refuse it.
READ = {
    "PNG, BMP or TIFF, 8-bit grey": [
        (save(GREY, kind), GREY[..., None]) for kind in ("PNG", "BMP", "TIFF")
    ] + [(save(GREY, "TIFF", compression="tiff_lzw"), GREY[..., None])],
    "PNG, BMP or TIFF, 8-bit colour": [
        (save(COLOUR, kind), COLOUR) for kind in ("PNG", "BMP", "TIFF")
    ],
    "JPEG": [(save(PALE, "JPEG"), JPEG_PIXELS)],
    "WebP": [(save(COLOUR, "WEBP", lossless=True), COLOUR),
             (save(GREY, "WEBP", lossless=True), GREY[..., None].repeat(3, axis=2))],
    "PNG or TIFF, black and white": [
        (save(Image.fromarray(GREY > 120), kind), np.where(GREY > 120, 255, 0)[..., None])
        for kind in ("PNG", "TIFF")
    ],
    "PNG or BMP with a palette": [
        (save(palette(), kind), [[(10, 20, 30), (200, 100, 0)]]) for kind in ("PNG", "BMP")
    ],
    "JPEG or TIFF in CMYK": [
        (save(PALE.convert("CMYK"), kind), JPEG_PIXELS.repeat(3, axis=2))
        for kind in ("JPEG", "TIFF")
    ],
    "JPEG with a preview inside (MPO)": [
        (save(PALE, "MPO", save_all=True, append_images=[PALE.resize((4, 4))]), JPEG_PIXELS)
    ],
    "PNG or TIFF, 16-bit grey": [
        (data, GREY[..., None]) for data in (save(DEEP, "PNG"), save(DEEP, "TIFF"), tiff(DEEP))
    ],
    "PNG or TIFF, 16-bit colour": [
        (png(COLOUR.astype(np.uint16) * 256 + 9, 2), COLOUR),
        (tiff(COLOUR.astype(np.uint16) * 256 + 9, photometric=2), COLOUR),
    ],
    "PNG, grey with alpha, 8 bits": [
        (save(np.dstack([GREY, ALPHA]), "PNG"), CLEAR_GREY[..., None])
    ],
    "PNG, grey with alpha, 16 bits": [
        (png(np.dstack([GREY, ALPHA]).astype(np.uint16) * 257, 4), CLEAR_GREY[..., None])
    ],
    "PNG, TIFF or WebP, colour with alpha": [
        (save(RGBA, kind, **LOSSLESS.get(kind, {})), over_white(COLOUR, ALPHA))
        for kind in ("PNG", "TIFF", "WEBP")
    ] + [(png(RGBA.astype(np.uint16) * 257, 6), over_white(COLOUR, ALPHA))],
    "PNG with a palette and transparency": [
        (save(palette(), "PNG", transparency=b"\x00\x80"), [[(255, 255, 255), (227, 177, 127)]])
    ],
    "PNG with one transparent level or colour": [
        (save(GREY, "PNG", transparency=50), np.where(GREY == 50, 255, GREY)[..., None]),
        (png(DEEP, 0, clear=struct.pack(">H", 50 * 256 + 77)),
         np.where(GREY == 50, 255, GREY)[..., None]),
        (png(COLOUR[:, :1].astype(np.uint16), 2, clear=struct.pack(">3H", *COLOUR[0, 0])),
         [[(255, 255, 255)]] * 2),
    ],
    "any of these with an EXIF orientation": [
        (turned("PNG"), GREY[..., None]), (turned("TIFF"), GREY[..., None]),
        (turned("WEBP"), GREY[..., None].repeat(3, axis=2)),
    ],
}  # fmt: skip
REFUSED = {
    "TIFF of several pages": [(save(GREY, "TIFF", **FRAMES), SEVERAL)],
    "animated PNG or WebP": [
        (save(GREY, "PNG", **FRAMES), SEVERAL), (save(GREY, "WEBP", **FRAMES), SEVERAL),
    ],
    "TIFF of 32-bit numbers or of floats": [
        (tiff(GREY.astype(np.uint32)), "32-bit numbers; save it with 8 or 16 bits"),
        (tiff(GREY.astype(np.float32), kind=3), "32-bit numbers; save it with 8 or 16 bits"),
    ],
    "TIFF of signed numbers below 0": [
        (tiff(GREY.astype(np.int16) - 99, kind=2), "save it without a sign")
    ],
    "TIFF, 16-bit grey with white as 0": [(tiff(DEEP, photometric=0), "save it with black as 0")],
    "TIFF, 16-bit grey with alpha, or of five channels and more": [
        (tiff(np.dstack([DEEP] * count)), "not a readable") for count in (2, 5)
    ],
    "TIFF, 16-bit colour in planes": [
        (tiff(np.stack([DEEP] * 3), photometric=2, planes=2), "save it interleaved")
    ],
    "more than 64,000,000 pixels": [
        (save(Image.new("1", (8001, 8001)), "PNG"), "more than 64,000,000 pixels"),
        (save(Image.new("1", (8001, 8001)), "TIFF", compression="group4"), "more than 64"),
        (webp_header(9000, 9000), "more than 64,000,000 pixels|not a readable"),
    ],
    "GIF, PSD, SVG and other formats": [
        (save(GREY, "GIF"), "not a readable PNG, JPEG, BMP, TIFF or WebP picture"),
        (b"<svg></svg>", "not a readable"),
    ],
    "damaged or truncated": [
        (save(COLOUR, kind)[:-30], "damaged|not a readable") for kind in ("PNG", "TIFF", "WEBP")
    ],
}  # fmt: skip


def cases(rows):
    return [
        pytest.param(data, outcome, id=f"{row} ({k})")
        for row, files in rows.items()
        for k, (data, outcome) in enumerate(files, 1)
    ]


def test_the_table_has_these_rows():
    rows = re.findall(r"^\| ([^|]+) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows[1:] == [*READ, *REFUSED]


@pytest.mark.parametrize("data, pixels", cases(READ))
def test_what_is_read(data, pixels, tmp_path):
    (tmp_path / "a").write_bytes(data)
    found = decode(tmp_path / "a")
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, pixels, atol=3 * (data[:2] == b"\xff\xd8"))
    np.testing.assert_array_equal(decode(data), found)
    assert pictures.header(data).grey == (found.shape[2] == 1)


@pytest.mark.parametrize("data, pixels", cases(READ))
def test_what_is_sent_to_a_model_has_the_same_pixels(data, pixels):
    sent = portable(data)
    np.testing.assert_array_equal(decode(sent), decode(data))
    with Image.open(io.BytesIO(sent)) as picture:
        assert picture.format in ("PNG", "JPEG", "MPO")
        assert "A" not in picture.mode and "transparency" not in picture.info
        assert 274 not in picture.getexif()
    assert portable(sent) == sent


@pytest.mark.parametrize("data, reason", cases(REFUSED))
@pytest.mark.parametrize("read", [decode, portable])
def test_what_is_refused(read, data, reason):
    with pytest.raises(BadPicture, match=reason):
        read(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_plain_files_are_sent_as_they_are(kind):
    for picture in (GREY, COLOUR):
        data = save(picture, kind)
        assert portable(data) is data


@pytest.mark.parametrize("suffix", ["tif", "TIFF", "webp"])
def test_folders_hold_these_files_too(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(save(GREY, "WEBP" if suffix == "webp" else "TIFF"))
    (tmp_path / "b.gif").touch()
    assert picture_files.find(tmp_path) == [path]
    assert list(picture_files.others(tmp_path)) == [tmp_path / "b.gif"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG"])
def test_orientation_is_the_same_in_every_kind(kind, orientation):
    stored = {
        1: GREY, 2: np.fliplr(GREY), 3: np.rot90(GREY, 2), 4: np.flipud(GREY), 5: GREY.T,
        6: np.rot90(GREY), 7: np.rot90(GREY, 2).T, 8: np.rot90(GREY, -1),
    }[orientation]  # fmt: skip
    tags = Image.Exif()
    tags[274] = orientation
    data = save(np.ascontiguousarray(stored), kind, exif=tags, **LOSSLESS.get(kind, {}))
    for each in (data, portable(data)):
        np.testing.assert_array_equal(decode(each, channels=1)[..., 0], GREY)


def test_masks_are_laid_over_black():
    """A mask painted on a transparent layer marks what is painted."""
    mask = np.dstack([np.full_like(GREY, 255), ALPHA])
    found = decode(save(mask, "PNG"), channels=1, background=0)
    np.testing.assert_array_equal(found[..., 0], ALPHA)
