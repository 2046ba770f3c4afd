"""A mask drawn at the desk: what the server writes, and that training reads it; no browser."""

from pathlib import Path

import numpy as np
import pytest
from desk_fixtures import desk_of, drawn_desk, visit
from PIL import Image

from lisae_tf.commands.desk import desk_of_run
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import sha256
from lisae_tf.data.levels import Header
from lisae_tf.data.masks import read_ignored
from lisae_tf.desk import drawn_mask
from lisae_tf.experiments.settling import settle

SQUARE = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.5], [0.25, 0.5]]
TRIANGLE = [[0, 1], [0, 0.75], [0.25, 1]]
RUN = Path("runs/normal-lis-seed0")


def test_what_was_drawn_is_what_training_leaves_out(tmp_path):
    desk = drawn_desk(tmp_path / "p", 5, 4)

    async def talk(client, post):
        sent = {"index": 3, "polygons": [SQUARE, TRIANGLE]}
        return [await (await post("mask", sent)).json() for _ in range(2)]

    first, second = visit(desk, talk)
    # Never over another file.
    assert first["path"] == str(tmp_path / "p" / "mask.png")
    assert second["path"] == str(tmp_path / "p" / "mask-2.png")
    assert first["command"] == (
        f"python cli.py train --normal-dir GOOD_PICTURES --ignore-mask {first['path']}"
    )
    with Image.open(first["path"]) as mask:
        assert (mask.size, mask.mode, mask.format) == ((72, 48), "L", "PNG")
        drawn = np.asarray(mask)
    assert set(np.unique(drawn)) == {0, 255}
    expected = np.zeros((48, 72), bool)
    expected[12:24, 18:54] = True
    expected[36:] |= np.tri(12, 72, dtype=bool) & (np.arange(72) < 18)
    apart = (drawn > 0) != expected
    assert apart.mean() < 0.04 and not apart[13:23, 19:53].any()  # but for edges
    assert not drawn[26:34].any()
    ignored, notes = read_ignored(Path(first["path"]), [Header(48, 72, "L")], (48, 72))
    np.testing.assert_array_equal(ignored, drawn > 0)
    assert notes == ()


@pytest.mark.parametrize(
    ("polygons", "words"),
    [([], "needs a polygon"), ([SQUARE[:2]], "three corners"), (None, "list of polygons"),
     ("abc", "list of polygons"), ([[[0, 0], [1, 0], [2, 0]]], "between 0 and 1"),
     ([[[0, 0], [1, 0], [True, 1]]], "between 0 and 1"), ([[[0, 0, 0]] * 3], "list of polygons"),
     ([[[0, 0], [1, 0], [float("nan"), 1]]], "between 0 and 1"),
     ([[[0, 0], [1, 0], [1, 1], [0, 1]]], "nothing would be left"),
     ([SQUARE * 501], "more than 2000 corners")],
)  # fmt: skip
def test_what_is_no_mask_is_refused(polygons, words, tmp_path):
    desk = drawn_desk(tmp_path / "p", 5, 4)
    with pytest.raises(LisaeError, match=words):
        desk.save_mask(0, polygons)
    assert not list((tmp_path / "p").glob("mask*"))


def test_what_is_no_request_of_the_page_writes_no_mask(tmp_path):
    desk = drawn_desk(tmp_path / "p", 5, 4)

    async def talk(client, post):
        sent = {"index": 0, "polygons": [SQUARE]}
        assert (await post("mask", sent, Origin="http://evil.example")).status == 403
        assert (await post("mask", sent | {"index": 99})).status == 404
        answer = await post("mask", {"index": 0})
        assert answer.status == 409 and "list of polygons" in (await answer.json())["error"]
        Path(desk.pictures.names[0]).unlink()
        answer = await post("mask", sent)
        assert answer.status == 409 and "put it back" in (await answer.json())["error"]

    visit(desk, talk)
    assert not list((tmp_path / "p").glob("mask*"))


def test_a_mask_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    desk = drawn_desk(tmp_path / "p", 5, 4)

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawn_mask.os, "fsync", full)
    with pytest.raises(LisaeError, match=r"cannot write .*mask\.png: No space left"):
        desk.save_mask(0, [SQUARE])
    assert not list((tmp_path / "p").glob("mask*"))


def test_the_command_of_a_run_trains_on_its_pictures(workplace, tmp_path):
    before = desk_of(RUN, tmp_path / "cache")
    desk = desk_of_run(RUN, before.scorer, before.pictures)
    found = desk.save_mask(0, [SQUARE])
    assert found["path"] == str(RUN / "mask.png")
    options = found["command"].removeprefix("python cli.py train ").split()
    assert options == ["--config", str(RUN / "config.yaml"), "--ignore-mask", str(RUN / "mask.png")]
    config, _ = settle({"ignore_mask": options[3]}, Path(options[1]), ())
    assert config.normal_dirs == before.scorer.config.normal_dirs
    assert config.ignore_mask_sha256 == sha256(RUN / "mask.png")
    assert config.ignore_mask_size == [*before.pictures.pixels(0, before.scorer.shape, None)[1]]
