"""`desk`: what its server says and writes, and to whom; without a browser."""

import base64
import json
import os
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import export_fixtures
import numpy as np
import pytest
from conftest import contents
from desk_fixtures import desk_of, drawn_desk, visit
from PIL import Image

from lisae_tf.commands.desk import _OfRun
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json
from lisae_tf.desk import frozen
from lisae_tf.desk import server as desk_server
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.pictures import Cache, Pictures, scored
from lisae_tf.desk.reported import pictures_of
from lisae_tf.runs import files as run_files
from lisae_tf.runs import folders as runs
from lisae_tf.runs.marks import read_marks

run, detector = export_fixtures.run, export_fixtures.detector
RUN = Path("runs/normal-lis-seed0")


@pytest.fixture
def desk(workplace, tmp_path):
    return desk_of(RUN, tmp_path / "cache")


def unpacked(document: dict, name: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(document[name]), dtype)


def test_the_page_is_told_what_the_run_stored(desk):
    async def talk(client, _):
        return await (await client.get("/data")).json(), await (await client.get("/names/0")).json()

    document, names = visit(desk, talk)
    stored = runs.read_scores(RUN)
    np.testing.assert_array_equal(unpacked(document, "scores", "<f4"), stored["test"])
    np.testing.assert_array_equal(unpacked(document, "truth", "i1"), stored["is_anomaly"])
    assert document["threshold"] == np.float32(read_json(RUN / "metrics.json")["threshold"])
    assert document["count"] == len(stored["test"]) == len(names)
    folders = [document["folders"][k] for k in unpacked(document, "folder", "<i4")]
    paths = [Path(folder) / name for folder, name in zip(folders, names, strict=True)]
    assert all(path.is_file() for path in paths)
    assert [path.parent.name == "anomaly" for path in paths] == stored["is_anomaly"].tolist()
    assert document["earlier"] is None and document["marks"] == []


def test_scores_belong_to_their_pictures(desk):
    scorer, found = desk.scorer, desk.pictures
    pixels = [found.pixels(k, scorer.shape, scorer.depth)[0] for k in range(len(found))]
    np.testing.assert_allclose(scorer.score(np.stack(pixels)), found.scores, rtol=1e-4)


def test_a_renamed_picture_is_found_and_another_one_is_not_shown(desk, tmp_path):
    names = desk.pictures.names
    os.rename(names[0], Path(names[0]).with_name("renamed.png"))
    Path(names[1]).write_bytes(Path(names[2]).read_bytes())
    again = desk_of(RUN, tmp_path / "cache")
    assert again.pictures.names[0].endswith("renamed.png")
    assert again.pictures.names[2:] == names[2:]
    assert again.thumbnail(0)
    with pytest.raises(LisaeError, match="another picture than was tested"):
        again.thumbnail(1)


def test_pictures_of_folders_that_have_moved(desk, workplace):
    (workplace / "normal").rename(workplace / "elsewhere")
    with pytest.raises(LisaeError, match="put it back"):
        desk.thumbnail(0)
    root = f"{workplace}/normal={workplace}/elsewhere"
    found = pictures_of(RUN, desk.scorer.config, data_roots=[root])
    assert replace(desk, pictures=found).thumbnail(0)


def test_a_run_on_a_named_set_has_rows_for_pictures(run, detector, tmp_path):
    found = pictures_of(run, detector.config)
    desk = Desk("x", found, detector, _OfRun(run), tmp_path / "marks.jsonl", Cache(tmp_path / "c"))
    stored = runs.read_scores(run)
    np.testing.assert_array_equal(found.truth, stored["is_anomaly"])
    np.testing.assert_allclose(detector.score(found.rows[:5]), stored["test"][:5], rtol=1e-4)
    assert desk.thumbnail(0) and set(found.kinds) - {""}
    desk.mark(2, "normal", 1.0)
    again = Desk("x", found, detector, None, tmp_path / "marks.jsonl", Cache(tmp_path / "c"))
    assert again.marks == {2: "normal"}
    (mark,) = read_marks(tmp_path / "marks.jsonl")
    assert mark.picture == f"{detector.config.dataset}#2"


def test_pictures_and_maps(desk):
    async def talk(client, _):
        found = {}
        for path in ("thumb/0", "picture/0", "map/0", "map/3"):
            answer = await client.get("/" + path)
            assert answer.status == 200, await answer.text()
            found[path] = answer.content_type, await answer.read()
        for path in ("thumb/99999", "map/99999", "names/9", "thumb/-1", "thumb/x", "static/a.js"):
            assert (await client.get("/" + path)).status == 404
        return found

    found = visit(desk, talk)
    (tmp := Path("shown")).write_bytes(found["map/0"][1])
    with Image.open(tmp) as drawn, Image.open(desk.pictures.names[0]) as picture:
        assert drawn.mode == "RGBA" and drawn.format == "WEBP"
        assert drawn.size == picture.size
    assert found["map/0"][1] != found["map/3"][1]
    assert {kind for kind, _ in found.values()} <= {"image/png", "image/jpeg", "image/webp"}
    # Kept, and made anew where the file has changed.
    kept = [path for path in desk.cache.folder.rglob("*") if path.is_file()]
    assert len(kept) == 1 and kept[0].read_bytes() == found["thumb/0"][1]
    os.utime(desk.pictures.names[0], (1, 1))
    desk.thumbnail(0)
    assert len([path for path in desk.cache.folder.rglob("*") if path.is_file()]) == 2


def test_the_cache_stays_within_its_limit(tmp_path):
    cache = Cache(tmp_path, limit=1000)
    keys = [f"{k:064x}" for k in range(20)]
    for k, key in enumerate(keys):
        cache.write(key, bytes(100))
        os.utime(cache._place(key), (k, k))
    cache.trim()
    assert [cache.read(key) is not None for key in keys] == [False] * 12 + [True] * 8
    cache.folder = tmp_path / "no" / "file"
    (tmp_path / "no").write_bytes(b"")  # nowhere to write: no cache, and no error
    cache.write(keys[0], b"x")
    assert cache.read(keys[0]) is None


class Scripts(HTMLParser):
    """Scripts and styles of a page that are not in files of their own."""

    def __init__(self, text: str):
        super().__init__()
        self.inline: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.inline += [key for key in given if key.startswith("on") or key == "style"]
        self.links += [given[key] for key in ("src", "href") if key in given]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


def test_the_page_is_whole_and_has_no_script_of_its_own(desk):
    async def talk(client, _):
        page = await client.get("/")
        text = await page.text()
        links = [link for link in Scripts(text).links if not link.startswith("data:")]
        files = [await client.get("/" + link) for link in links]
        assert [each.status for each in files] == [200] * len(links)
        return page.headers, Scripts(text).inline, links, [await each.text() for each in files]

    headers, inline, links, files = visit(desk, talk)
    assert inline == []
    assert {link.removeprefix("static/") for link in links} == {"desk.css", *desk_server.SCRIPTS}
    assert not any("http://" in text.replace("http://www.w3.org", "") for text in files)
    assert not any("https://" in text or "innerHTML" in text for text in files)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_other_sites_get_nothing_and_change_nothing(desk):
    async def talk(client, post):
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.7", ""):
            for path in ("/", "/data", "/thumb/0"):
                assert (await client.get(path, headers={"Host": host})).status == 403, host
        for host in ("localhost", "LOCALHOST:99", "127.0.0.1:5", "[::1]:80"):
            assert (await client.get("/data", headers={"Host": host})).status == 200, host
        mark = {"index": 0, "mark": "normal", "threshold": 1.0}
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", ""):
            assert (await post("mark", mark, Origin=origin)).status == 403
        assert (await client.post("/mark", json=mark)).status == 403
        own = {"Origin": f"http://{client.host}:{client.port}", "Content-Type": "text/plain"}
        assert (await client.post("/mark", data=json.dumps(mark), headers=own)).status == 415
        for path in ("threshold", "undo"):
            assert (await post(path, {}, Origin="http://evil.example")).status == 403
        assert (await client.get("/mark")).status == 405

    before = contents(RUN)
    visit(desk, talk)
    assert contents(RUN) == before


def test_what_is_no_request_of_the_page_is_refused(desk):
    async def talk(client, post):
        for sent, status in (
            ([], 400), ("x", 400), ({}, 404), ({"index": "0"}, 404), ({"index": True}, 404),
            ({"index": -1, "threshold": 1}, 404), ({"index": 10**6, "threshold": 1}, 404),
            ({"index": 0, "mark": "x", "threshold": 1}, 409), ({"index": 0, "mark": "normal"}, 400),
            ({"index": 0, "mark": "normal", "threshold": "1"}, 400),
        ):  # fmt: skip
            answer = await post("mark", sent)
            assert answer.status == status, sent
            assert (await answer.json())["error"]
        assert (await post("threshold", {"threshold": None})).status == 400
        answer = await post("threshold", {"threshold": -1})
        assert answer.status == 409
        assert "must be a number like the scores" in (await answer.json())["error"]
        answer = await post("undo", {})
        assert answer.status == 409
        assert "there is nothing to undo" in (await answer.json())["error"]
        own = {"Origin": f"http://{client.host}:{client.port}", "Content-Type": "application/json"}
        assert (await client.post("/mark", data="{", headers=own)).status == 400
        assert (await client.post("/mark", data="[" * 60_000, headers=own)).status == 400
        assert (await client.post("/mark", data=b" " * 70_000, headers=own)).status == 413

    before = contents(RUN)
    visit(desk, talk)
    assert contents(RUN) == before


def test_with_another_host_a_token_is_part_of_every_address(desk):
    async def talk(client, post):
        assert len(client.base) > 20
        for path in ("/", "/data", "/static/desk.js", "/thumb/0", "/wrong/data"):
            assert (await client.get(path)).status == 404
        assert (await client.post("/undo", json={})).status in (403, 404)
        for path in ("", "data", "static/desk.js", "thumb/0"):
            assert (await client.get(client.base + path)).status == 200
        named = {"Host": "evil.example"}
        assert (await client.get(client.base + "data", headers=named)).status == 403
        assert (await post("mark", {"index": 0, "mark": "anomaly", "threshold": 1.0})).status == 200

    visit(desk, talk, "0.0.0.0")
    assert len(read_marks(RUN / run_files.MARKS)) == 1


# Marks


def test_marks_are_kept_beside_the_run_and_found_again(desk, tmp_path):
    async def talk(client, post):
        for index, mark in ((3, "normal"), (0, "anomaly"), (3, "anomaly"), (0, None)):
            answer = await post("mark", {"index": index, "mark": mark, "threshold": 0.5})
            assert await answer.json() == {"index": index, "mark": mark}
        return await (await client.get("/data")).json()

    assert visit(desk, talk)["marks"] == [[3, "anomaly"]]
    lines = (RUN / "marks.jsonl").read_text().splitlines()
    assert len(lines) == 4
    (mark,) = read_marks(RUN / "marks.jsonl")
    assert json.loads(lines[2]) == vars(mark)
    assert mark.picture == desk.pictures.names[3] and os.path.isabs(mark.picture)
    assert mark.sha256 == desk.pictures.digests[3]
    assert (mark.mark, mark.score) == ("anomaly", desk.pictures.scores[3])
    assert mark.threshold == 0.5 and mark.time.endswith("+00:00")
    # A run that has marks is whole, and what was altered in it is noticed as before.
    assert run_files.check(RUN)
    assert desk_of(RUN, tmp_path / "cache").marks == {3: "anomaly"}
    (RUN / "history.json").write_text("[]")
    with pytest.raises(LisaeError, match=r"history\.json is damaged"):
        run_files.check(RUN)


def test_a_picture_that_has_gone_is_not_marked(desk):
    os.unlink(desk.pictures.names[0])
    with pytest.raises(LisaeError, match="cannot be read"):
        desk.mark(0, "normal", 1.0)
    assert not (RUN / "marks.jsonl").exists()


def test_marks_of_pictures_that_have_changed_do_not_count(tmp_path, picture_folder):
    found = scored([str(p) for p in sorted(picture_folder(tmp_path / "p", 3).iterdir())], [1, 2, 3])

    class Scorer:
        shape, depth, has_maps = (12, 12, 1), None, False

    place = tmp_path / "marks.jsonl"
    desk = Desk("x", found, Scorer(), None, place, Cache(tmp_path / "cache"))
    desk.mark(0, "normal", 1.0)
    desk.mark(1, "anomaly", 1.0)
    Path(found.names[1]).write_bytes(Path(found.names[2]).read_bytes())
    again = Desk("x", found, Scorer(), None, place, Cache(tmp_path / "cache"))
    assert again.marks == {0: "normal"} and again.stale == [found.names[1]]


# The threshold


def test_writing_is_calibrating_and_is_undone(desk, cli, tmp_path):
    shutil.copytree(RUN, other := tmp_path / "other")
    before = read_json(RUN / "detector.json")
    alpha = float(np.float32(np.median(desk.pictures.scores)))

    async def talk(client, post):
        first = await (await post("threshold", {"threshold": alpha})).json()
        assert first["threshold"] == alpha
        assert first["earlier"] == np.float32(before["threshold"]["alpha"])
        assert any("set by hand, which guarantees nothing" in line for line in first["said"])
        assert result.exit_code == 0
        assert contents(RUN) == contents(other)
        again = await (await post("undo", {})).json()
        assert (again["threshold"], again["earlier"]) == (first["earlier"], alpha)

    result = cli("calibrate", "--run", other, "--threshold", alpha)
    visit(desk, talk)
    assert read_json(RUN / "detector.json") == before
    assert run_files.check(RUN)


# One file


def test_the_page_becomes_one_file(tmp_path):
    desk = drawn_desk(tmp_path / "pictures")
    bad = f"{tmp_path}/a</script><img src=x onerror=alert(1)>.png"
    desk.pictures.names[0] = bad  # gone, too
    desk.mark(1, "anomaly", 1.0)
    text, lost = frozen.page(desk)
    assert lost.startswith("1 picture is gone or changed, and not shown;") and lost in text
    assert "<img src=x" not in text
    kept = set(desk_server.SCRIPTS) - set(frozen.LIVE_SCRIPTS)
    assert text.count("<script") == 1 + len(kept)
    page = Scripts(text)
    assert page.links == ["data:,"]
    data = json.loads(text.split('id="frozen">')[1].split("</script>")[0])
    folder = np.frombuffer(base64.b64decode(data["folder"]), "<i4")[0]
    assert f"{data['folders'][folder]}/{data['names'][0]}" == bad
    assert data["thumbs"][0] is None and data["maps"][0] is None
    assert all(each.startswith("data:image/") for each in data["thumbs"][1:] + data["maps"][1:])
    assert data["marks"] == [[1, "anomaly"]] and "session" not in data
    # Below 10 MB for 2,000 pictures.
    per_picture = len(json.dumps([data["thumbs"], data["maps"]])) / len(desk.pictures)
    assert per_picture < 4800
    many = replace(desk.pictures, names=["x"] * (frozen.MOST + 1))
    with pytest.raises(LisaeError, match="5,001 pictures are too many for one file"):
        frozen.page(replace(desk, pictures=replace(many, scores=np.zeros(frozen.MOST + 1))))


def test_the_command_says_which_pictures_are_gone(workplace, desk, cli):
    result = cli("desk", "--run", RUN, "--save", "page.html")
    assert (result.exit_code, result.stderr) == (0, "")
    assert '"lost": ""' in Path("page.html").read_text()
    os.unlink(desk.pictures.names[0])
    Path(desk.pictures.names[1]).write_bytes(b"another")
    result = cli("desk", "--run", RUN, "--save", "page.html")
    assert result.exit_code == 0
    assert result.stderr == (
        "note: 2 pictures are gone or changed, and not shown; put such pictures back, or name "
        "folders that have moved with --data-root\n"
    )
    assert "2 pictures are gone or changed" in Path("page.html").read_text()


# Bad input


def test_without_pictures_there_is_nothing_to_look_at(tmp_path):
    nothing = Pictures([], np.empty(0, np.float32), np.empty(0, np.int8), [])
    odd = scored(["/a.png", "/b.png"], [1.0, float("nan")])
    for found, reason in ((nothing, "no pictures"), (odd, "1 pictures have scores that are no")):
        with pytest.raises(LisaeError, match=reason):
            Desk("x", found, None, None, tmp_path / "marks.jsonl", Cache(tmp_path))


def test_a_picture_that_is_named_twice_lies_there_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    found = scored(["a/1.png", str(tmp_path / "a/1.png"), "a/b/2.png"], [1, 1, 2], [Path("a")])
    assert found.names == [f"{tmp_path}/a/1.png", f"{tmp_path}/a/b/2.png"]
    assert (found.kinds, found.scores.tolist()) == (["", "b"], [1, 2])
