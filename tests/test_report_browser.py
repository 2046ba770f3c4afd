"""`report` in a real browser: at a desk and on a phone, on paper, and without JavaScript."""

import asyncio
import contextlib
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from desk_fixtures import CHROMIUM, LINES, READY, browser, counted, desk_of, told

from lisae_tf.core.files import read_json, write_json
from lisae_tf.desk import reported
from lisae_tf.runs import folders as runs

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium"),
    pytest.mark.usefixtures("drawn_figures"),
]
RUN = Path("runs/normal-lis-seed0")
BAD = "<img src=x onerror=alert(1)>.png"
# What ends beyond the window and cannot be scrolled to in a box of its own, and broken pictures.
STICKS_OUT = """[...document.querySelectorAll('body *')].filter((each) => each.checkVisibility()
  && !each.closest('.scroll, .tile, svg') && each.getBoundingClientRect().right
    > document.documentElement.clientWidth + 0.5)
  .map((each) => each.outerHTML.slice(0, 200))"""
SCROLLS = "(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.documentElement)"
BROKEN = "[...document.images].filter((i) => i.currentSrc && !i.naturalWidth).length"
SEEN = "[...document.querySelectorAll('%s')].filter((each) => each.checkVisibility()).length"


@pytest.fixture
def report(workplace) -> Path:
    """The report of the tiny run, with long names, and an evil one for its first test picture."""
    first = desk_of(RUN, workplace / "cache").pictures.names[0]
    os.rename(first, Path(first).with_name(BAD))
    found = {"n": 1234, "auroc": 0.5, "detection_rate": 1.0}
    kinds = {name: found for name in ("contamination", "a_kind_with_a_name_that_goes_on", BAD)}
    long = {"normal": ["/a/long/path" * 30], "notes": ["pictures" * 50], "by_kind": kinds}
    write_json(RUN / "metrics.json", read_json(RUN / "metrics.json") | long)
    place = workplace / "report.html"
    place.write_text(reported.page(RUN, desk_of(RUN, workplace / "cache")), encoding="utf-8")
    return place


@contextlib.asynccontextmanager
async def looking(report: Path, tmp_path: Path, width: int, script: bool = True, **features):
    async with browser(tmp_path / "profile") as page:
        await page.send("Emulation.setScriptExecutionDisabled", value=not script)
        await page.open(report.as_uri(), width, 900, **features)
        if script:
            await page.until("globalThis.desk?.page?.tiles?.columns > 0")
        else:
            await page.until("document.readyState === 'complete'")
        yield page
        assert page.wrong == []  # nor did its policy stop anything


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (400, "dark"),
        pytest.param(
            1300,
            "light",
            marks=pytest.mark.slow("the same page; the mouse drags in the desk's test"),
        ),
    ],
)
def test_it_is_read_filtered_and_its_threshold_is_dragged(report, tmp_path, width, scheme):
    stored = runs.read_scores(RUN)
    scores, truth = np.asarray(stored["test"], np.float32), stored["is_anomaly"]

    async def scenario():
        async with looking(report, tmp_path, width, prefers_color_scheme=scheme) as page:
            assert await page(SCROLLS) == 0
            assert await page(STICKS_OUT) == []
            assert await page.violations() == []
            kinds = "[...document.querySelectorAll('#report .kinds [scope=row]')].slice(0, 2)"
            assert await page(f"{kinds}.map({LINES})") == [1, 1]  # no name is broken
            # Keys belong to the text until the pictures have the focus.
            await page.key("ArrowRight")
            assert await page("desk.page.tiles.current") == 0
            await page("location.hash = 'pictures-title'")
            await page.until(READY)
            begin = await page("desk.page.histogram.x(desk.page.alpha) / desk.page.histogram.width")
            move = page.swipe if width == 400 else page.drag
            for end in (0.25, 0.6):
                await move("#histogram", begin, end)
                begin = end
                alpha = np.float32(await page("desk.page.alpha"))
                assert await told(page, "alarms") == counted(scores[~truth], alpha, "normal")
                assert await told(page, "finds") == counted(scores[truth], alpha, "anomalies")
                command = await page("document.getElementById('command').innerText")
                assert command.startswith(f"python cli.py calibrate --run {RUN} --threshold ")
                assert np.float32(command.split()[-1]) == alpha
            await page("document.querySelectorAll('details').forEach((each) => each.open = true)")
            await page.choose("#sort", "near")
            order = await page("[...desk.page.tiles.shown]")
            distances = np.abs(scores[order] - alpha)
            assert (np.diff(distances) >= 0).all() and sorted(order) == list(range(len(scores)))
            await page.choose("#decision", "alarms")
            shown = await page("desk.page.tiles.shown.length")
            assert shown == ((scores > alpha) & ~truth).sum()
            await page.choose("#decision", "all")
            await page("desk.page.tiles.moveTo(desk.page.tiles.shown.indexOf(0))")
            name = "document.querySelector('.tile.current:not([hidden]) .name')"
            await page.until(f"{name}?.textContent.endsWith({BAD!r})")
            assert await page("document.querySelectorAll('img[src=x]').length") == 0
            assert await page(SEEN % "#write, #undo, [data-live]") == 0
            assert await page(STICKS_OUT) == [] and await page(BROKEN) == 0
            assert await page(SCROLLS) == 0
            assert await page.violations() == []
            await page("desk.page.open()")
            assert await page.violations() == []

    asyncio.run(scenario())


def test_on_paper_there_is_nothing_to_press(report, tmp_path):
    async def scenario():
        async with looking(report, tmp_path, 720, prefers_color_scheme="dark") as page:
            await page("dispatchEvent(new Event('beforeprint'))")
            await page.send("Emulation.setEmulatedMedia", media="print")
            await page.until(f"{SEEN % '.tile'} === Math.min(60, desk.page.head.count)")
            await page.until(f"{BROKEN} === 0")
            assert await page(SEEN % "button, input, select, [role=slider]") == 0
            assert await page(SEEN % "#report h2, #counts, .tile .name, .figures img") > 8
            tiles = "[...document.querySelectorAll('.tile')].filter((t) => t.checkVisibility())"
            assert await page(f"{tiles}.every((t) => getComputedStyle(t).breakInside === 'avoid')")
            # One after the other, none over another, in order.
            places = f"{tiles}.sort((a, b) => a.dataset.place - b.dataset.place)"
            box = "({ left, top, right, bottom }) => [left, top, right, bottom]"
            boxes = await page(f"{places}.map((t) => t.getBoundingClientRect()).map({box})")
            for one, other in itertools.pairwise(boxes):
                assert other[0] >= one[2] or other[1] >= one[3]
            ink = await page("getComputedStyle(document.body).color")
            assert max(map(int, ink.removeprefix("rgb(").removesuffix(")").split(","))) < 128
            assert await page(STICKS_OUT) == []
            await page.send("Emulation.setEmulatedMedia", media="screen")
            await page("dispatchEvent(new Event('afterprint'))")
            assert await page(SEEN % ".tile") < await page("desk.page.head.count")

    asyncio.run(scenario())


def test_without_javascript_text_and_figures_are_there(report, tmp_path):
    async def scenario():
        async with looking(report, tmp_path, 400, script=False) as page:
            text = await page("document.body.innerText")
            for said in ("What was trained on what", "AUROC", "threshold is", "need JavaScript"):
                assert said in text
            assert "Loading" not in text and BAD in text
            assert await page("document.querySelectorAll('img[src=x]').length") == 0
            assert await page(SEEN % ".figures img") >= 4
            assert await page(BROKEN) == 0
            assert await page(SEEN % "[role=slider], button") == 0
            assert await page(STICKS_OUT) == []

    asyncio.run(scenario())
