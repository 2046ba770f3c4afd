"""Pictures that are tried at the desk: by its server alone, and in a real browser."""

import asyncio
import base64
import contextlib
import io
import os
from dataclasses import replace
from pathlib import Path

import export_fixtures
import numpy as np
import pytest
from desk_fixtures import CHROMIUM, READY, Thresholds, browser, drawn_desk, served, text, visit
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
    for content in ("no JSON", "[]", "{}", '{"version": 5}'):
        (second / "package.json").write_text(content)
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


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
needs_runtime = pytest.mark.skipif(
    trial.find() is None, reason="needs ONNX Runtime Web; make web-runtime"
)
OPEN = "document.getElementById('trial').open"
FOUND = "(({ score, by }) => [score, by])(desk.page.trial.found)"
TRIAL = "document.querySelector('#trial [data-is=%s]')"
ERRORS = """(async () => {
  const { worker } = desk.page.trial, file = new File([new Uint8Array(%s)], "x");
  const found = await desk.page.source.tried(file, "read");
  const pixels = desk.unpacked(found.pixels, Uint8Array);
  return new Promise((done) => {
    worker.onmessage = ({ data }) => done([...data.map.errors]);
    worker.postMessage({ number: 0, shape: [32, 32, 1], pixels, float: false, mapped: true });
  });
})()"""
DROP = """(async () => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(%s)], %r));
  const given = { dataTransfer: data, bubbles: true, cancelable: true };
  document.getElementById("tiles").dispatchEvent(new DragEvent("dragover", given));
  const seen = document.body.classList.contains("dropping");
  document.getElementById("tiles").dispatchEvent(new DragEvent("drop", given));
  return seen && !document.body.classList.contains("dropping");
})()"""


@contextlib.asynccontextmanager
async def looking(desk: Desk, tmp_path: Path, width: int = 1300):
    async with served(desk) as address, browser(tmp_path / "profile") as page:
        await page.open(address, width, 900)
        await page.until(READY)
        yield page
        assert page.wrong == []


async def choose(page, path: Path) -> None:
    """Chooses a file, and waits until it is scored."""
    await page("desk.page.trial.found = null")
    root = (await page.send("DOM.getDocument"))["root"]["nodeId"]
    found = await page.send("DOM.querySelector", nodeId=root, selector="#try-file")
    await page.send("DOM.setFileInputFiles", files=[str(path)], nodeId=found["nodeId"])
    await page.until("desk.page.trial.found", 60)
    assert await page(OPEN)


@needs_browser
@needs_runtime
def test_the_page_scores_as_python_does(models, samples, tmp_path):
    desk, pictures = desk_of_model(models, samples, tmp_path), samples["real"][1:6]
    paths = [tmp_path / f"{k}.png" for k in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        path.write_bytes(png(picture))
    desk.scorer.score = None  # so that nobody else can score
    expected, maps = desk.scorer.run(pictures)["score"], desk.scorer.error_maps(pictures)

    async def scenario():
        async with looking(desk, tmp_path) as page:
            # Of two that follow each other at once the last one is shown, with its own score.
            files = ", ".join(
                f"new File([new Uint8Array({[*path.read_bytes()]})], '{path.name}')"
                for path in paths[1:3]
            )
            await page(f"Promise.all([{files}].map((file) => desk.page.trial.take([file])))")
            assert (await page(FOUND))[0] == pytest.approx(expected[2], rel=1e-4)
            assert await page(f"{TRIAL % 'name'}.textContent") == "2.png"
            found = []
            for path in paths:
                await choose(page, path)
                found.append(await page(FOUND))
                assert await page(f"{TRIAL % 'map'}.src.startsWith('data:image/png')")
            said = await page(f"{TRIAL % 'who'}.textContent")
            assert said == f"Scored in this page by ONNX Runtime Web {trial.find().version}."
            # The decision is that of the threshold on the page.
            for alpha, word in (
                (expected[-1] * 0.99, "anomalous"),
                (expected[-1] * 1.01, "normal"),
            ):
                await page(f"{TRIAL % 'close'}.click(); desk.page.setThreshold({alpha})")
                await choose(page, paths[-1])
                assert f"called {word} at" in await page(f"{TRIAL % 'said'}.textContent")
            assert await page.violations() == []
            # Errors: the map itself, before it is drawn.
            errors = await page(ERRORS % [*png(pictures[0])])
            np.testing.assert_allclose(errors, maps[0].ravel(), rtol=1e-4, atol=1e-6)
            return found

    found = asyncio.run(scenario())
    np.testing.assert_allclose([score for score, _ in found], expected, rtol=1e-4)
    assert {by for _, by in found} == {"page"}


@needs_browser
@needs_runtime
def test_a_graph_that_takes_floats_gets_them(run, samples, tmp_path, cli):
    given = ("export", "--run", run, "--out", tmp_path, "--name", "tiny", "--input", "float32")
    assert cli(*given).exit_code == 0
    desk = replace(desk_of_model(tmp_path, samples, tmp_path))
    assert desk.scorer.record["input"]["dtype"] == "float32"

    async def scenario():
        async with looking(desk, tmp_path, 400) as page:
            await choose(page, tmp_path / "a.png")
            assert await page("document.documentElement.scrollWidth") <= 400
            return await page(FOUND)

    score, by = asyncio.run(scenario())
    assert by == "page" and score == pytest.approx(desk.pictures.scores[0], rel=1e-4)


@needs_browser
def test_where_the_runtime_cannot_run_the_model_the_server_scores(
    models, samples, tmp_path, monkeypatch
):
    script = "export const env = { wasm: {} }; export const InferenceSession = { create: () => " \
        "{ throw new Error('Could not find an implementation for Foo(1)'); } };"  # fmt: skip
    monkeypatch.setattr(trial, "places", lambda: [package(tmp_path / "npm", script)])
    desk = desk_of_model(models, samples, tmp_path)

    async def scenario():
        async with looking(desk, tmp_path) as page:
            for _ in range(2):
                await choose(page, tmp_path / "a.png")
                assert await page(f"{TRIAL % 'who'}.textContent") == (
                    "Scored by the server: ONNX Runtime Web cannot run this model (Could not find "
                    "an implementation for Foo(1))."
                )
            return await page(FOUND)

    score, by = asyncio.run(scenario())
    assert by == "server" and score == pytest.approx(desk.pictures.scores[0], rel=1e-6)


@needs_browser
def test_a_picture_is_dropped_and_a_bad_one_is_one_sentence(tmp_path):
    desk = drawn_desk(tmp_path / "p", 5, 4)
    good = [*Path(desk.pictures.names[7]).read_bytes()]

    async def scenario():
        async with looking(desk, tmp_path) as page:
            assert await page(DROP % ([1, 2, 3], "bad.png"))
            said = "document.getElementById('said')"
            await page.until(f"{said}.classList.contains('wrong')")
            assert "bad.png is not a readable" in await text(page, "said")
            page.wrong.clear()  # the log names the answer's status
            assert not await page(OPEN)
            assert await page(DROP % (good, "good.png"))
            await page.until(OPEN)
            assert await text(page, "said") == ""
            assert (await page(FOUND))[0] == pytest.approx(desk.pictures.scores[7], rel=1e-6)
            assert "Scored by the server: a page can run exported ONNX models alone." in (
                await page(f"{TRIAL % 'who'}.textContent")
            )

    asyncio.run(scenario())


@needs_browser
def test_a_mask_is_drawn_with_the_mouse_and_with_keys(tmp_path):
    desk = drawn_desk(tmp_path / "p", 5, 4)  # 72x48
    polygons = "JSON.parse(JSON.stringify(desk.page.mask.polygons))"

    async def scenario():
        async with looking(desk, tmp_path) as page:
            await page("document.getElementById('tiles').focus({ preventScroll: true })")
            await page.key("Enter")
            await page.until("document.querySelector('#viewer img.picture.there') !== null")
            assert not await page("document.getElementById('mask-bar').checkVisibility()")
            await page.click("#mask-draw")
            assert await page("document.getElementById('mask-save').disabled")
            x, y, width, height = await page.box("#mask-drawing")
            high = width * 48 / 72  # within the square that pictures are shown in
            top = y + (height - high) / 2

            async def click(across: float, down: float) -> None:
                for kind in ("mousePressed", "mouseReleased"):
                    await page.mouse(kind, x + across * width, top + down * high)

            for corner in ((0.25, 0.25), (0.75, 0.25), (0.75, 0.5), (0.25, 0.5), (0.251, 0.251)):
                await click(*corner)
            (square,) = await page(polygons)
            np.testing.assert_allclose(square, [[0.25, 0.25], [0.75, 0.25], [0.75, 0.5],
                                                [0.25, 0.5]], atol=0.01)  # fmt: skip
            # By keys: the cross is where the mouse was.
            for key in ("ArrowDown",) * 20 + (" ",) + ("ArrowLeft",) * 5 + (" ", " "):
                await page.key(key)
            assert await page("desk.page.mask.corners.length") == 2  # the same place counts once
            for key in ("ArrowDown", " ", "ArrowLeft", " ", "Backspace", "Enter"):
                await page.key(key)
            assert len((await page(polygons))[1]) == 3
            assert await page("document.getElementById('viewer').open")
            assert await page.violations() == []
            # It lies over every picture.
            first = await page("document.querySelector('#viewer .path').textContent")
            await page.click("#viewer [data-is=next]")
            await page.until(f"document.querySelector('#viewer .path').textContent !== {first!r}")
            assert await page("document.querySelectorAll('#mask-drawing polygon').length") == 2
            assert await page("getComputedStyle(document.querySelector('.tile .view'), '::before')"
                              ".backgroundImage.startsWith('url(\"data:image/svg')")  # fmt: skip
            for name in ("mask.png", "mask-2.png"):
                await page.click("#mask-save")
                await page.until(
                    f"document.getElementById('mask-told').textContent.includes({name!r})"
                )
            said = await text(page, "mask-told")
            assert f"train --normal-dir GOOD_PICTURES --ignore-mask {tmp_path}/p/mask-2.png" in said
            # Escape ends drawing, and then closes the picture.
            await page("document.getElementById('mask-drawing').focus()")
            await page.key("Escape")
            assert await page("[desk.page.mask.drawing, document.getElementById('viewer').open]") \
                == [False, True]  # fmt: skip
            await page.key("Escape")
            await page.until("!document.getElementById('viewer').open")

    asyncio.run(scenario())
    drawn = np.asarray(Image.open(tmp_path / "p" / "mask.png")) > 0
    assert drawn.shape == (48, 72)
    assert drawn[13:23, 19:53].all() and not drawn[:11].any()
    assert drawn[24:].any()  # the triangle
