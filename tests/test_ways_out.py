"""Messages say what can be done, and not what cannot work."""

import errno
from pathlib import Path

import pytest
from conftest import CHECKOUT

from lisae_tf.core.errors import LisaeError, install
from lisae_tf.core.files import cannot_write
from lisae_tf.data import picture_files


def test_no_message_names_a_package_that_lies_on_no_index():
    assert install("onnx") == (
        "install it with pip install '.[onnx]' in a clone of lisae-tf's repository"
    )
    for folder in ("lisae_tf", "export"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            assert "pip install 'lisae-tf" not in path.read_text(), path


@pytest.mark.parametrize(
    ("number", "words", "never"),
    [
        (errno.ENOSPC, "Free some space", "Make its folder"),
        (errno.ENOENT, "Make its folder", "Free some space"),
        (errno.EACCES, "Make that possible", "Free some space"),
    ],
)
def test_what_to_do_when_a_file_cannot_be_written(number, words, never):
    said = str(cannot_write(Path("x"), OSError(number, "no")))
    assert words in said and never not in said and "untouched" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pictures.zip", "an archive (pictures.zip): unpack it"),
        ("list.csv", "a list or a table (list.csv): name the folder of the pictures"),
        ("a.gif", "other files (.gif): save them as PNG"),
        (None, "put some in or name another"),
    ],
)
def test_what_a_folder_holds_instead_of_pictures_is_said(tmp_path, name, words):
    if name:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(LisaeError) as raised:
        picture_files.find(tmp_path)
    assert f"{tmp_path} holds no PNG, JPEG, BMP, TIFF or WebP picture" in str(raised.value)
    assert words in str(raised.value)
    with pytest.raises(LisaeError, match="holds no PNG"):
        picture_files.refuse_missing([tmp_path])
