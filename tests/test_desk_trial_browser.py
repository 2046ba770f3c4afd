"""Trying pictures and drawing masks at the desk, in a real browser."""

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import export_fixtures
import numpy as np
import pytest
from desk_fixtures import CHROMIUM, READY, browser, drawn_desk, served, text
from PIL import Image
from test_desk_trial import desk_of_model, package, png

from lisae_tf.desk import trial
from lisae_tf.desk.desk import Desk

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
run, models, samples = export_fixtures.run, export_fixtures.models, export_fixtures.samples
detector = export_fixtures.detector
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
