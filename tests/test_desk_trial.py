"""Pictures that are tried at the desk: read, scored and refused by its server; no browser."""

import base64
import io
import os
from pathlib import Path

import export_fixtures
import numpy as np
import pytest
from desk_fixtures import Thresholds, drawn_desk, visit
from export_fixtures import path_of
from PIL import Image

from lisae_tf.desk import trial
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.pictures import Cache, scored
from lisae_tf.exported.runtimes import open_model

run, models, samples = export_fixtures.run, export_fixtures.models, export_fixtures.samples
detector = export_fixtures.detector
PAGE_OF_RUNTIME = ("/static/worker.js", "/runtime/ort.mjs", "/runtime/ort.wasm", "/model")


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, "PNG")
    return stream.getvalue()


def trying(client, data: bytes, how: str = "score", name: str = "new.png", **headers):
    """Sends a picture as the page does."""
    origin = f"http://{client.host}:{client.port}"
    given = {"Origin": origin, "Content-Type": trial.BINARY} | headers
    return client.post(f"{client.base}try/{how}?name={name}", data=io.BytesIO(data), headers=given)


def desk_of_model(models: Path, samples: dict, folder: Path) -> Desk:
    """The desk on one picture, with an ONNX model."""
    model = open_model(path_of(models, "onnx"))
    (folder / "a.png").write_bytes(png(samples["real"][0]))
    found = scored([str(folder / "a.png")], model.score(samples["real"][:1]))
    thresholds = Thresholds(model.threshold)
    return Desk("x", found, model, thresholds, folder / "marks.jsonl", Cache(folder / "cache"))


def package(folder: Path, script: str = "// runs") -> Path:
    """Something laid out as the npm package."""
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text('{"version": "1.2.3"}')
    (folder / "dist" / trial.SCRIPT).write_text(script)
    (folder / "dist" / trial.CODE).write_bytes(b"\0asm")
    return folder


def test_the_server_scores_a_picture_as_it_scored_the_others(tmp_path):
    desk = drawn_desk(tmp_path / "p", 5, 4)

    async def talk(client, _):
        told = (await (await client.get("/data")).json())["trial"]
        assert told["runtime"] is None and "exported ONNX models alone" in told["why"]
        for path in PAGE_OF_RUNTIME:
            assert (await client.get(path)).status == 404
        data = Path(desk.pictures.names[7]).read_bytes()
        read = await (await trying(client, data, "read")).json()
        return read, await (await trying(client, data)).json()

    read, found = visit(desk, talk)
    assert found["score"] == pytest.approx(desk.pictures.scores[7], rel=1e-6)
    pixels = np.frombuffer(base64.b64decode(read["pixels"]), np.uint8).reshape(24, 24, 1)
    expected, size = desk.pictures.pixels(7, desk.scorer.shape, None)
    np.testing.assert_array_equal(pixels, expected)
    assert (found["height"], found["width"]) == size == (48, 72)
    assert found["map"].startswith("data:image/webp;base64,")
    assert read["picture"].startswith("data:image/") and "score" not in read
    assert read["notes"] == []


def test_a_bad_picture_is_one_sentence_and_changes_nothing(tmp_path, monkeypatch):
    desk = drawn_desk(tmp_path / "p", 5, 4)
    monkeypatch.setattr(trial, "MOST", 2**20)
    whole = Path(desk.pictures.names[0]).read_bytes()

    async def talk(client, _):
        for data, words in (
            (b"no picture", "new.png is not a readable"), (b"", "new.png is not a readable"),
            (whole[:-40], "new.png is damaged"), (bytes(2**20 + 1), "new.png is larger than 1 MB"),
        ):  # fmt: skip
            for how in ("read", "score"):
                answer = await trying(client, data, how)
                assert answer.status == 409, words
                assert words in (await answer.json())["error"]
        assert (await trying(client, whole)).status == 200
        # Other bodies are as small as ever.
        origin = {"Origin": f"http://{client.host}:{client.port}"}
        headers = origin | {"Content-Type": "application/json"}
        assert (await client.post("/mark", data=b" " * 70_000, headers=headers)).status == 413

    visit(desk, talk)


def test_other_sites_try_nothing_and_the_token_counts(tmp_path):
    desk = drawn_desk(tmp_path / "p", 5, 4)
    data = Path(desk.pictures.names[0]).read_bytes()

    async def talk(client, _):
        assert (await trying(client, data, Origin="http://evil.example")).status == 403
        assert (await trying(client, data, **{"Content-Type": "image/png"})).status == 415
        assert (await client.get(client.base + "try/score")).status == 405

    async def behind_a_token(client, _):
        assert (await trying(client, data)).status == 200
        client.base = "/"
        assert (await trying(client, data)).status == 404

    visit(desk, talk)
    visit(desk, behind_a_token, "0.0.0.0")


def test_the_runtime_is_served_beside_an_onnx_model_alone(models, samples, tmp_path, monkeypatch):
    desk = desk_of_model(models, samples, tmp_path)
    places = [tmp_path / "none", package(tmp_path / "npm")]
    monkeypatch.setattr(trial, "places", lambda: places)

    async def talk(client, _):
        page = await client.get(client.base)
        assert "unsafe" not in page.headers["Content-Security-Policy"]
        told = (await (await client.get(client.base + "data")).json())["trial"]
        found = {path: await client.get(client.base + path[1:]) for path in PAGE_OF_RUNTIME}
        assert {each.status for each in found.values()} == {200}
        evil = {"Host": "evil.example"}
        assert (await client.get(client.base + "model", headers=evil)).status == 403
        if client.base != "/":
            assert (await client.get("/model")).status == 404
        return told, {path: (each.headers, await each.read()) for path, each in found.items()}

    for host in ("127.0.0.1", "0.0.0.0"):
        told, found = visit(desk, talk, host)
        assert told["runtime"] == "1.2.3" and told["shape"] == [32, 32, 1] and not told["float"]
        assert found["/model"][1] == path_of(models, "onnx").read_bytes()
        assert found["/runtime/ort.wasm"][0]["Content-Type"] == "application/wasm"
        with_code = [path for path, (headers, _) in found.items()
                     if "wasm-unsafe-eval" in headers["Content-Security-Policy"]]  # fmt: skip
        assert with_code == ["/static/worker.js"]
        assert all(headers["X-Content-Type-Options"] == "nosniff" for headers, _ in found.values())
    # Without the package the server scores, as Python does.
    places.pop()

    async def alone(client, _):
        told = (await (await client.get("/data")).json())["trial"]
        assert told["runtime"] is None and "onnxruntime-web is not at hand" in told["why"]
        for path in PAGE_OF_RUNTIME:
            assert (await client.get(path)).status == 404
        return await (await trying(client, png(samples["real"][1]))).json()

    expected = desk.scorer.score(samples["real"][1:2])[0]
    assert visit(desk, alone)["score"] == pytest.approx(expected, rel=1e-6)


def test_a_package_that_is_not_whole_is_passed_over(tmp_path, monkeypatch):
    first, second = package(tmp_path / "a"), package(tmp_path / "b")
    monkeypatch.setattr(trial, "places", lambda: [first, second])
    (second / "package.json").write_text('{"version": "4.5.6"}')
    assert trial.find().version == "1.2.3"
    (first / "dist" / trial.CODE).unlink()
    os.mkfifo(first / "dist" / trial.CODE)  # which nobody ever writes to
    assert trial.find().version == "4.5.6"
    for text in ("no JSON", "[]", "{}", '{"version": 5}'):
        (second / "package.json").write_text(text)
        assert trial.find() is None


def test_the_package_is_looked_for_where_npm_installs_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package(tmp_path / "node_modules" / trial.PACKAGE)
    beside, installed = trial.places()
    assert installed.joinpath("package.json").is_file()
    # The license of what may lie beside the page is there in any case.
    assert "MIT License" in beside.joinpath("LICENSE").read_text()


def test_a_picture_that_the_mask_is_stretched_over_is_noted(tmp_path):
    desk = drawn_desk(tmp_path / "p", 5, 4)
    desk.scorer.mask_size = (24, 24)

    async def talk(client, _):
        data = Path(desk.pictures.names[0]).read_bytes()
        return (await (await trying(client, data)).json())["notes"]

    (note,) = visit(desk, talk)
    assert note.startswith("1 new picture has other proportions than the 24x24 of the mask")
