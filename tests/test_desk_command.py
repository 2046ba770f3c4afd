"""`desk` as a command: exported models, their versions, mistakes; masks drawn at it; no browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import export_fixtures
import numpy as np
import pytest
from conftest import assert_one_sentence
from desk_fixtures import desk_of, drawn_desk, visit
from export_fixtures import path_of
from PIL import Image

from lisae_tf.commands.desk import _OfModel, desk_of_run
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import sha256
from lisae_tf.data.levels import Header
from lisae_tf.data.masks import read_ignored
from lisae_tf.desk import drawn_mask
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.pictures import Cache
from lisae_tf.experiments.settling import settle
from lisae_tf.runs.marks import read_marks

run, models = export_fixtures.run, export_fixtures.models
detector, samples = export_fixtures.detector, export_fixtures.samples
RUN = Path("runs/normal-lis-seed0")


@pytest.fixture
def exported(models, tmp_path, samples):
    """A copy of an ONNX model, and a folder of five pictures."""
    shutil.copytree(path_of(models, "onnx").parents[1], tmp_path / "tiny")
    for kind in ("good", "scratch"):
        (tmp_path / "new" / kind).mkdir(parents=True)
    for k, picture in enumerate(samples["real"][:5]):
        kind = "scratch" if k % 2 else "good"
        Image.fromarray(picture[..., 0]).save(tmp_path / "new" / kind / f"{k}.png")
    np.save(tmp_path / "rows.npy", samples["real"][5:8])
    return tmp_path / "tiny" / "1" / "model.onnx"


def test_an_exported_model_gets_a_new_version_and_keeps_its_marks(exported, tmp_path):
    from lisae_tf.commands.desk import _scored
    from lisae_tf.exported.runtimes import open_model
    from lisae_tf.runs.marks import place_of

    model = open_model(exported)
    paths = [tmp_path / "new", tmp_path / "rows.npy"]
    found = _scored(model, model.threshold, paths, skip_bad=False)
    assert [len(found), sorted(set(found.kinds))] == [8, ["", "good", "scratch"]]
    assert (found.truth == -1).all()
    assert found.names[5:] == [f"{tmp_path}/rows.npy#{k}" for k in range(3)]
    thresholds = _OfModel(model)
    place = place_of(None, model.path)
    desk = Desk("x", found, model, thresholds, place, Cache(tmp_path / "cache"))
    old = model.threshold

    async def talk(client, post):
        for path in ("thumb/6", "map/6", "picture/6"):
            assert (await client.get("/" + path)).status == 200
        assert (await post("mark", {"index": 6, "mark": "normal", "threshold": 1.0})).status == 200
        answer = await (await post("threshold", {"threshold": 0.125})).json()
        assert (answer["threshold"], answer["earlier"]) == (0.125, np.float32(old))
        answer = await (await post("undo", {})).json()
        assert answer["threshold"] == np.float32(old)

    visit(desk, talk)
    versions = [open_model(tmp_path / "tiny" / str(k) / "model.onnx").threshold for k in (1, 2, 3)]
    assert versions == [old, 0.125, old]
    assert read_marks(place_of(None, tmp_path / "tiny" / "3" / "model.onnx"))[0].mark == "normal"
    # Where there is no next version, the page says so.
    shutil.copytree(exported.parent, tmp_path / "alone")
    refusal = _OfModel(open_model(tmp_path / "alone" / "model.onnx")).refusal()
    assert "lies in no numbered folder" in refusal
    desk.read_only = refusal
    with pytest.raises(LisaeError, match="no numbered folder"):
        desk.write(1.0)


def test_the_command_serves_an_exported_model_without_tensorflow_until_it_is_told_to_end(
    exported, tmp_path
):
    script = (
        "import sys, atexit\n"
        "from lisae_tf.cli import main\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'scipy', 'pydantic', 'matplotlib'}\n"
        "atexit.register(lambda: print('heavy:', sorted(heavy & set(sys.modules)), flush=True))\n"
        "main()"
    )
    command = [sys.executable, "-c", script, "desk", "--model", exported, tmp_path / "new"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        line = process.stdout.readline()
        assert line.startswith("5 pictures at http://127.0.0.1:")
        port = int(line.split("127.0.0.1:")[1].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"GET /data HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert client.recv(12).endswith(b"200")
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "heavy: []\n"
    assert process.returncode == 0


def test_the_command_writes_the_page_into_one_file(exported, tmp_path, cli):
    place = tmp_path / "page.html"
    (tmp_path / "new" / "bad.png").write_bytes(b"no picture")
    given = ("desk", "--model", exported, tmp_path / "new", tmp_path / "rows.npy", "--save", place)
    assert_one_sentence(cli(*given), "bad.png")
    assert not place.exists()
    result = cli(*given, "--skip-bad")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"wrote {place}\n"
    assert place.read_text(encoding="utf-8").count("data:image/") >= 16


def test_mistakes_are_one_sentence(workplace, exported, cli):
    assert_one_sentence(cli("desk", "--run", RUN, "--model", "m.onnx"), "exclude each other")
    assert_one_sentence(cli("desk", "--run", "none"), "none does not exist")
    assert_one_sentence(cli("desk", "--model", exported), "knows no pictures")
    assert_one_sentence(cli("desk", "--model", "m.onnx", "normal"), "m.onnx")
    (workplace / "empty").mkdir()
    assert_one_sentence(cli("desk", "--model", exported, "empty"), "holds no PNG")
    assert_one_sentence(cli("desk", "--model", exported, "gone"), "gone does not exist")
    assert_one_sentence(cli("desk", "--host", "no.such.host.invalid"), "there is no host")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_sentence(cli("desk", "--port", port), f"port {port}", "is taken")
    Path("marks.jsonl").write_text("nonsense\n")
    assert_one_sentence(cli("desk", "--marks", "marks.jsonl"), "line 1 of marks.jsonl is no mark")
    assert_one_sentence(cli("desk", "--marks", "empty"), "empty is a folder")
    (workplace / "new" / "bad.png").write_bytes(b"no picture")
    assert_one_sentence(cli("desk", "--model", exported, "new"), "bad.png")


SQUARE = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.5], [0.25, 0.5]]
TRIANGLE = [[0, 1], [0, 0.75], [0.25, 1]]


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
