"""`desk` as a command: an exported model, its versions, no TensorFlow, and mistakes."""

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
from desk_fixtures import visit
from export_fixtures import path_of
from PIL import Image

from lisae_tf.commands.desk import _OfModel
from lisae_tf.core.errors import LisaeError
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.pictures import Cache
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
