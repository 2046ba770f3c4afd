import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from lisae_tf.data import picture_files, pictures
from lisae_tf.data.picture_files import find
from lisae_tf.data.pictures import BadPicture, decode, decode_all

# No two of its eight orientations are equal, and it has no square side.
UPRIGHT = np.array([[0, 50, 100], [150, 200, 250]], np.uint8)


def encode(picture, path, **options):
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, **options)
    return path


def exif(*entries):
    """TIFF-encoded tags (tag, type, four bytes)."""
    rows = [struct.pack("<HHI4s", tag, kind, 1, value) for tag, kind, value in entries]
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + bytes(4)


def png_header(width, height):
    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def bmp_header(width, height):
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def jpeg_header(width, height):
    frame = struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    return b"\xff\xd8\xff\xc0" + frame + b"\xff\xda" + struct.pack(">H", 8) + bytes(6)


# What a camera stores so that orientation n shows UPRIGHT.
STORED = {
    1: UPRIGHT,
    2: np.fliplr(UPRIGHT),
    3: np.rot90(UPRIGHT, 2),
    4: np.flipud(UPRIGHT),
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT),
    7: np.rot90(UPRIGHT, 2).T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(orientation, tmp_path):
    tags = exif((274, 3, struct.pack("<H", orientation)))
    path = encode(STORED[orientation], tmp_path / "a.png", exif=tags)
    np.testing.assert_array_equal(decode(path)[..., 0], UPRIGHT)


@pytest.mark.parametrize("tag, kind", [(256, 2), (270, 11), (282, 2)])
def test_nonsense_in_other_exif_tags_does_no_harm(tag, kind, tmp_path):
    tags = exif((tag, kind, b"ab"), (274, 3, struct.pack("<H", 6)))
    path = encode(STORED[6], tmp_path / "a.png", exif=tags)
    np.testing.assert_array_equal(decode(path)[..., 0], UPRIGHT)


def palette():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putdata([0, 1])
    return image


RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
GREY_RED, GREY_BLUE = 76, 29  # ITU-R 601


@pytest.mark.parametrize(
    "image, options, expected",
    [
        (Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), {}, [[0], [255]]),
        (np.array([[[9, 0], [200, 255]]], np.uint8), {}, [[255], [200]]),
        (np.array([[[*RED, 0], [*BLUE, 255]]], np.uint8), {}, [WHITE, BLUE]),
        (palette(), {}, [(10, 20, 30), (200, 100, 0)]),
        (palette(), {"transparency": 0}, [WHITE, (200, 100, 0)]),
        (palette(), {"transparency": b"\x00\x80"}, [WHITE, (227, 177, 127)]),
        (np.array([[255, 256]], np.uint16), {}, [[0], [1]]),
        (np.array([[32768, 65535]], np.uint16), {}, [[128], [255]]),
    ],
    ids=["1-bit", "LA", "RGBA", "palette", "tRNS-one", "tRNS-many", "16-bit-low", "16-bit-high"],
)
def test_every_mode_becomes_grey_or_rgb_without_alpha(image, options, expected, tmp_path):
    path = encode(image, tmp_path / "a.png", **options)
    decoded = decode(path)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded[0], np.array(expected))
    assert pictures.header(path).grey == (decoded.shape[2] == 1)
    for channels in (1, 3):
        assert decode(path, channels=channels).shape == (1, 2, channels)


def test_grey_to_rgb_repeats_and_back_is_the_same(tmp_path):
    grey = encode(UPRIGHT, tmp_path / "grey.png")
    coloured = decode(grey, channels=3)
    np.testing.assert_array_equal(coloured, UPRIGHT[..., None].repeat(3, axis=2))
    back = encode(coloured, tmp_path / "rgb.png")
    np.testing.assert_array_equal(decode(back, channels=1)[..., 0], UPRIGHT)


def test_colour_to_grey_weighs_by_itu_r_601(tmp_path):
    path = encode(np.array([[RED, BLUE]], np.uint8), tmp_path / "a.png")
    np.testing.assert_array_equal(decode(path, channels=1)[0, :, 0], [GREY_RED, GREY_BLUE])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_modes_decode_near_what_was_stored(mode, tmp_path):
    path = encode(Image.new("L", (16, 16), 90).convert(mode), tmp_path / "a.jpg")
    np.testing.assert_allclose(decode(path, channels=1), 90, atol=3)


def test_resizing_averages_instead_of_picking_pixels(tmp_path):
    board = (np.indices((64, 48)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = decode(encode(board, tmp_path / "a.bmp"), size=(8, 6))
    assert small.shape == (8, 6, 1)
    np.testing.assert_allclose(small, 127.5, atol=2)


def test_a_photograph_with_a_preview_inside_is_its_first_picture(tmp_path):
    preview = Image.new("L", (4, 4), 200)
    first = Image.new("L", (8, 8), 40)
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    np.testing.assert_allclose(decode(tmp_path / "a.jpg"), np.full((8, 8, 1), 40), atol=2)


@pytest.mark.parametrize("header", [png_header, bmp_header, jpeg_header])
@pytest.mark.parametrize("side", [8001, 10_000, 20_000])
def test_bombs_are_refused_by_their_header(header, side, monkeypatch, tmp_path):
    """Between Pillow's own limit and twice that it warns only."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # decoding would fail on this
    with pytest.raises(BadPicture, match=r"^big has more than 64,000,000 pixels; make it smaller"):
        decode(header(side, side), name="big")
    (tmp_path / "big").write_bytes(header(side, side))
    with pytest.raises(BadPicture, match="pixels"):
        pictures.header(tmp_path / "big")


def test_a_bomb_is_refused_without_a_warning_beside_it(tmp_path):
    """In a process of its own, for pytest makes every warning an error."""
    (tmp_path / "big.png").write_bytes(png_header(10_000, 10_000))
    script = (
        "import pathlib, sys; from lisae_tf.data import pictures\n"
        "try: pictures.decode(pathlib.Path(sys.argv[1]))\n"
        "except pictures.BadPicture as error: print('refused')"
    )
    arguments = [sys.executable, "-c", script, tmp_path / "big.png"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("refused\n", "")


def test_the_largest_picture_passes_the_header():
    header = pictures.header(png_header(8000, 8000))
    assert (header.height, header.width) == (8000, 8000)


def test_animations_are_refused(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (0, 100)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(BadPicture, match=r"a\.png holds several pictures .*; save each as a file"):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize("kept", [0, 3, 60, 0.5, 0.95])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_truncated_files_are_named(kept, suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    path = encode(noise, tmp_path / f"half{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(BadPicture, match=rf"half\{suffix} is (damaged|not a readable)"):
        decode(path)


def test_a_png_whose_chunks_do_not_join_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    content = bytearray(encode(noise, tmp_path / "a.png").read_bytes())
    content[content.index(b"IDAT") - 2] -= 1
    with pytest.raises(BadPicture, match=r"^it is damaged"):
        decode(bytes(content), name="it")


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    noise = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    tags = exif((270, 2, b"ab"), (274, 3, struct.pack("<H", 6)))
    modes = {
        "a.png": "P",
        "b.png": "RGBA",
        "c.jpg": "RGB",
        "d.jpg": "CMYK",
        "e.bmp": "P",
        "f.tif": "RGB",
        "g.webp": "RGBA",
    }
    return [
        encode(
            Image.fromarray(noise).convert(mode), folder / name,
            **({"exif": tags} if name[-3:] in ("png", "jpg", "ebp") else {}),
        ).read_bytes()
        for name, mode in modes.items()
    ]  # fmt: skip


@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_one_sentence(valid, data):
    content = bytearray(data.draw(st.sampled_from(valid)))
    places = st.integers(0, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=5)):
        content[place] = value
    cut = data.draw(st.integers(1, len(content)))
    try:
        assert decode(bytes(content[:cut]), (8, 6), 1, "it").shape == (8, 6, 1)
    except BadPicture as error:
        assert str(error).startswith("it ")


def test_find_is_nested_sorted_and_leaves_hidden_and_other_files_out(tmp_path):
    shown = ["a/z.PNG", "a/b/c.jpeg", "b.bmp", "d.jpg"]
    for name in [*shown, ".hidden.png", ".git/e.png", "a/.cache/f.png", "notes.txt", "g.gif"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert find(tmp_path) == sorted(tmp_path / name for name in shown)


def test_find_sorts_files_and_folders_of_like_names_by_path(tmp_path):
    shown = ["a.png", "a/b.png", "a/b/c.png", "a-b/c.png", "a.png.d/e.png", "B.png", "a0.png"]
    for name in shown:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find(tmp_path) == sorted(tmp_path / name for name in shown)


def test_links_to_pictures_are_pictures_and_broken_ones_are_left_out(tmp_path):
    (tmp_path / "a.png").touch()
    for name, target in (("b.png", "a.png"), ("loop.png", "loop.png"), ("lost.png", "gone.png")):
        (tmp_path / name).symlink_to(target)
    assert find(tmp_path) == [tmp_path / "a.png", tmp_path / "b.png"]
    left_out = [tmp_path / "loop.png", tmp_path / "lost.png"]
    assert list(picture_files.others(tmp_path)) == left_out


def test_find_looks_into_a_folder_that_lies_in_a_hidden_one(tmp_path):
    (tmp_path / ".data").mkdir()
    path = encode(UPRIGHT, tmp_path / ".data" / "a.png")
    assert find(tmp_path / ".data") == [path]


def test_one_bad_picture_stops_everything_and_is_named(with_one_bad):
    with pytest.raises(BadPicture, match=with_one_bad[7].name):
        decode_all(with_one_bad, (8, 8), 1)


def test_skip_bad_leaves_out_that_picture_alone(with_one_bad):
    decoded = decode_all(with_one_bad, (8, 8), 3, skip_bad=True)
    good = [path for index, path in enumerate(with_one_bad) if index != 7]
    assert decoded.names == [str(path) for path in good]
    assert list(decoded.bad) == [str(with_one_bad[7])]
    np.testing.assert_array_equal(decoded.pixels, [decode(path, (8, 8), 3) for path in good])
