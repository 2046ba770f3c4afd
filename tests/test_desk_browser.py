"""`desk` in a real browser: what people do there, at a desk and on a phone."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import export_fixtures
import numpy as np
import pytest
from conftest import CHECKOUT
from desk_fixtures import CHROMIUM, LINES, READY, browser, counted, drawn_desk, served, text, told
from export_fixtures import path_of
from PIL import Image

from lisae_tf.desk import frozen
from lisae_tf.runs.marks import read_marks

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
run, models = export_fixtures.run, export_fixtures.models
THERE = """[...document.querySelectorAll('.tile:not([hidden]):not(.gone) img.picture')]
  .every((image) => image.complete && image.naturalWidth)"""
# Texts in sight whose contrast with what is behind them is below WCAG's 4.5.
FAINT = """
(() => {
  const parsed = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const [r, g, b, a = 1] = parsed(getComputedStyle(element).backgroundColor);
      if (a) return [r, g, b];
    }
    return parsed(getComputedStyle(document.documentElement).backgroundColor);
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || element.closest(':disabled, svg')) continue;
    const [one, other] = [parsed(getComputedStyle(element).color), behind(element)].map(light);
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) found.push(`${element.tagName} ${element.className} ${ratio.toFixed(2)}`);
  }
  return found;
})()
"""


@contextlib.asynccontextmanager
async def looking(desk, tmp_path, width, height=900, **features):
    async with served(desk) as address, browser(tmp_path / "profile") as page:
        await page.open(address, width, height, **features)
        await page.until(READY)
        yield page
        assert page.wrong == []


@pytest.mark.parametrize(
    "width",
    [
        pytest.param(
            1300, marks=pytest.mark.slow("keys and dragging are in other tests; 400 stays")
        ),
        400,
    ],
)
def test_sort_filter_drag_write_undo_and_mark_five(tmp_path, width):
    desk = drawn_desk(tmp_path / "pictures")
    scores, truth = desk.pictures.scores, desk.pictures.truth
    begun, written = desk.thresholds.now(), desk.thresholds.written

    async def scenario():
        scheme = "dark" if width == 400 else "light"
        async with looking(desk, tmp_path, width, prefers_color_scheme=scheme) as page:
            shown = "[...document.querySelectorAll('.tile:not([hidden])')].sort((a, b) => " \
                "a.dataset.place - b.dataset.place).map((t) => Number(t.querySelector('.score')" \
                ".textContent))"  # fmt: skip
            first = await page(shown)
            assert first[0] == pytest.approx(scores.max(), rel=1e-3)
            assert first == sorted(first, reverse=True)
            await page.choose("#sort", "up")
            assert (await page(shown))[0] == pytest.approx(scores.min(), rel=1e-3)
            await page.choose("#sort", "down")
            # The threshold
            begin = await page("desk.page.histogram.x(desk.page.alpha) / desk.page.histogram.width")
            move = page.swipe if width == 400 else page.drag
            for end in (0.2, 0.6):
                await move("#histogram", begin, end)
                begin = end
                alpha = await page("desk.page.alpha")
                for name, side, what in (("alarms", 0, "normal"), ("finds", 1, "anomalies")):
                    assert await told(page, name) == counted(scores[truth == side], alpha, what)
            assert alpha != np.float32(begun)
            await page.choose("#decision", "anomaly")
            called = int((scores > np.float32(alpha)).sum())
            assert (await text(page, "how-many")).startswith(f"{called} of {len(scores)} ")
            await page.choose("#decision", "all")
            await page.click("#write")
            await page.until("document.getElementById('said').textContent.includes('by hand')")
            assert written == [begun, alpha]
            assert await page("document.getElementById('write').disabled")
            await page.click("#undo")
            await page.until("!document.getElementById('said').textContent.includes('Writing') && "
                             f"desk.page.alpha !== {alpha}")  # fmt: skip
            assert written == [begun, alpha, begun]
            # Marks: by keys at the desk, by buttons on the phone
            await page("document.getElementById('tiles').focus({ preventScroll: true })")
            if width == 400:
                await page.click(".tile .view")
                await page.until("document.getElementById('viewer').open")
            for k, key in enumerate("nfnfn"):
                if width == 400:
                    word = {"n": "normal", "f": "anomaly"}[key]
                    await page.click(f"#viewer [data-mark={word}]")
                else:
                    await page.key(key)
                await page.until(f"desk.page.marks.size === {k + 1}")
                if width == 400:
                    await page.click("#viewer [data-is=next]")
                else:
                    await page.key("ArrowRight")
            assert await page("document.documentElement.scrollWidth") <= width
            assert await page("document.querySelectorAll('.tile.gone').length") == 0

    asyncio.run(scenario())
    marks = read_marks(desk.marks_file)
    order = np.argsort(-scores, kind="stable")[:5]
    assert [mark.mark for mark in marks] == ["normal", "anomaly", "normal", "anomaly", "normal"]
    assert sorted(mark.score for mark in marks) == sorted(scores[order].tolist())


def test_the_keyboard_is_enough(tmp_path):
    desk = drawn_desk(tmp_path / "pictures")
    focused = "document.activeElement.id || document.activeElement.tagName"

    async def tab_to(page, name: str) -> list[str]:
        """What the Tab key reaches until then, all of it seen to have the focus."""
        reached = []
        while not reached or (reached[-1] != name and len(reached) < 30):
            await page.key("Tab")
            reached.append(await page(focused))
            if reached[-1] == "tiles":  # the tile that keys act on shows it
                tile = "document.querySelector('.tile.current:not([hidden])')"
                assert await page(f"getComputedStyle({tile}).boxShadow.includes(' 3px')")
            elif reached[-1] not in ("BODY", "HTML"):
                assert await page("(({ outlineStyle, outlineWidth }) => outlineStyle !== 'none' && "
                                  "parseFloat(outlineWidth) >= 2)"
                                  "(getComputedStyle(document.activeElement))")  # fmt: skip
        assert reached[-1] == name
        return reached

    async def scenario():
        async with looking(desk, tmp_path, 1300, prefers_reduced_motion="reduce") as page:
            reached = await tab_to(page, "tiles")
            wanted = {"histogram", "threshold", "sort", "decision", "marked", "blend", "tiles"}
            assert wanted <= set(reached)
            # The threshold goes past one picture at a time.
            await tab_to(page, "histogram")
            alphas = []
            for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowLeft"):
                await page.key(key)
                alphas.append(await page("desk.page.alpha"))
            ordered = np.unique(desk.pictures.scores)
            expected = [ordered[0], ordered[1], ordered[0], ordered[-1], ordered[-2]]
            assert alphas[1:] == pytest.approx([float(each) for each in expected])
            assert (desk.pictures.scores > np.float32(alphas[0])).all()
            said = await page("document.getElementById('histogram').getAttribute('aria-valuetext')")
            assert re.search(r"\d+ of \d+ normal above, \d+ of \d+ anomalies found", said)
            await tab_to(page, "reset")
            await page.key("Enter")
            assert await page("desk.page.alpha") == np.float32(desk.thresholds.now())
            assert await page(focused) == "histogram"  # for the button has gone
            # Pictures
            await tab_to(page, "tiles")
            await page.key("n")
            await page.until("desk.page.marks.get(desk.page.tiles.index) === 'normal'")
            await page.key("u")
            await page.until("desk.page.marks.size === 0")
            for key, place in (("ArrowRight", 1), ("ArrowDown", None), ("End", -1), ("Home", 0)):
                await page.key(key)
                now = await page("desk.page.tiles.current")
                if place is not None:
                    assert now == place % len(desk.pictures)
                assert await page("document.getElementById(document.getElementById('tiles')."
                                  "getAttribute('aria-activedescendant')).getAttribute("
                                  "'aria-selected')") == "true"  # fmt: skip
            await page.key("Enter")
            await page.until("document.getElementById('viewer').open")
            await page.key("f")
            await page.until("desk.page.marks.get(desk.page.tiles.index) === 'anomaly'")
            await page.key("u")
            await page.until("desk.page.marks.size === 0")
            await page.key("ArrowRight")
            await page.key("Escape")
            await page.until("!document.getElementById('viewer').open")
            assert await page("desk.page.tiles.current") == 1
            assert await page(focused) == "tiles"
            await page.key("?")
            await page.until("document.getElementById('help').open")
            await page.key("Escape")
            assert await page("getComputedStyle(document.querySelector('.view img'))"
                              ".transitionDuration") == "0s"  # fmt: skip

    asyncio.run(scenario())
    assert len(desk.marks_file.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1300, "light"),
        (400, "dark"),
        *(
            pytest.param(*both, marks=pytest.mark.slow("each width and each scheme stays once"))
            for both in ((1300, "dark"), (400, "light"))
        ),
    ],
)
def test_everything_has_a_name_and_can_be_read(tmp_path, width, scheme):
    desk = drawn_desk(tmp_path / "pictures")
    desk.mark(0, "normal", 1.0)

    async def scenario():
        async with looking(desk, tmp_path, width, prefers_color_scheme=scheme) as page:
            await page("document.querySelectorAll('details').forEach((each) => each.open = true)")
            assert await page.violations() == []
            await page("desk.page.say('well'); desk.page.viewer.show()")
            assert await page(FAINT) == []
            assert await page.violations() == []
            await page("document.getElementById('viewer').close(); desk.page.say('bad', true);"
                       "document.getElementById('help').showModal()")  # fmt: skip
            assert await page(FAINT) == []
            assert await page.violations() == []
            await page("document.getElementById('help').close()")
            tree = (await page.send("Accessibility.getFullAXTree"))["nodes"]
            roles = set()
            for node in tree:
                named = {each["name"]: each["value"].get("value") for each in node["properties"]} \
                    if "properties" in node else {}  # fmt: skip
                role = node.get("role", {}).get("value")
                roles.add(role)
                if named.get("focusable") and role != "RootWebArea" and not node.get("ignored"):
                    assert node.get("name", {}).get("value"), node
            assert {"slider", "listbox", "option", "button", "combobox", "main"} <= roles
            assert await page("document.documentElement.scrollWidth") <= width

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "width", [pytest.param(1300, marks=pytest.mark.slow("400 is where they are broken first")), 400]
)
def test_long_names_of_kinds_are_not_broken(tmp_path, width):
    desk = drawn_desk(tmp_path / "pictures", 5, 4)
    longer = {"hole": "contamination_by_shavings_of_a_lathe", "scratch": "s" * 200, "": ""}
    kinds = [longer[kind] for kind in desk.pictures.kinds]
    desk = replace(desk, pictures=replace(desk.pictures, kinds=kinds))

    async def scenario():
        async with looking(desk, tmp_path, width) as page:
            await page("document.getElementById('kinds').open = true")
            first, second = await page(f"[...document.querySelectorAll('#kinds th')].map({LINES})")
            assert first == 1 and second > 1
            assert await page("document.documentElement.scrollWidth") <= width

    asyncio.run(scenario())


def test_the_page_as_one_file_opens_offline_and_writes_nothing(tmp_path):
    desk = drawn_desk(tmp_path / "pictures")
    desk.mark(0, "normal", 1.0)
    os.unlink(desk.pictures.names[1])
    (tmp_path / "page.html").write_text(frozen.page(desk)[0], encoding="utf-8")

    async def scenario():
        async with browser(tmp_path / "profile") as page:
            await page.open((tmp_path / "page.html").as_uri(), 1300, 900)
            await page.until(READY)
            await page("document.getElementById('tiles').focus()")
            await page.key("f")
            await page.key("Enter")
            await page.until("document.getElementById('viewer').open")
            assert await page("[...document.querySelectorAll('#write, [data-mark], [data-live]')]"
                              ".every((each) => !each.checkVisibility())")  # fmt: skip
            await page.key("Escape")
            await page.drag("#histogram", 0.3, 0.7)
            alpha = await page("desk.page.alpha")
            normal = desk.pictures.scores[desk.pictures.truth == 0]
            assert await told(page, "alarms") == counted(normal, alpha, "normal")
            assert await page("desk.page.marks.size") == 1
            await page("desk.page.tiles.moveTo([...desk.page.tiles.shown].indexOf(1))")
            await page.until("document.querySelectorAll('.tile.gone:not([hidden])').length === 1")
            pictures = (
                "[...document.querySelectorAll('.tile:not([hidden]):not(.gone) img.picture')]"
            )
            await page.until(f"{pictures}.every((i) => i.complete && i.naturalWidth)")
            assert await page("document.getElementById('lost').checkVisibility()")
            assert (await text(page, "lost")).startswith("1 picture is gone or changed")
            assert page.wrong == []

    asyncio.run(scenario())


COUNT = 50_000
MOVES = """
new Promise((done) => {
  const gaps = [];
  let last = performance.now(), frames = 0;
  const step = (now) => {
    gaps.push(now - last);
    last = now;
    %s;
    if (++frames < 180) requestAnimationFrame(step);
    else done(gaps.slice(1).sort((a, b) => a - b));
  };
  requestAnimationFrame(step);
})
"""


@pytest.mark.slow("fifty thousand pictures are written, scored and looked at")
def test_fifty_thousand_pictures_at_the_desk(models, tmp_path, measured):
    generator = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for k in range(COUNT):
        kind = folder / f"line-{k % 20:02d}"
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (48, 48)).astype(np.uint8)).resize(
            (160, 120)
        ).save(kind / f"{k:06d}.png", compress_level=1)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    model = path_of(models, "onnx")
    with subprocess.Popen(
        [sys.executable, str(CHECKOUT / "cli.py"), "desk", "--model", model, folder,
         "--no-browser", "--marks", tmp_path / "marks.jsonl"],
        stdout=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        line = process.stdout.readline()
        assert line.startswith(f"{COUNT} pictures at "), line
        try:
            found = asyncio.run(measure(line.split()[3], tmp_path))
        finally:
            status = Path(f"/proc/{process.pid}/status").read_text()
            process.terminate()
    (peak,) = re.findall(r"VmHWM:\s+(\d+)", status)
    assert found["tiles_in_page"] < 200 and found["places_seen"] == COUNT
    measured(pictures=COUNT, server_peak_mb=round(int(peak) / 1024), **found)


def renderer_mb(profile: Path) -> int:
    """The resident memory of the process that has the page."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_text()
            if "--type=renderer" in command and str(profile) in command:
                (kept,) = re.findall(r"VmRSS:\s+(\d+)", (process / "status").read_text())
                found = max(found, round(int(kept) / 1024))
    return found


async def measure(address: str, tmp_path: Path) -> dict:
    found = {}
    async with browser(tmp_path / "profile") as page:
        await page.open(address, 1300, 900)
        await page.until(READY)
        found["tiles_ms"] = round(await page("performance.now()"))
        await page.until(THERE, 120)
        found["first_pictures_ms"] = round(await page("performance.now()"))
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        found["first_paint_ms"] = round(await page(paint))
        for name, act in (
            ("scrolling", "scrollBy(0, 400)"),
            ("jumping", "scrollTo(0, Math.random() * document.documentElement.scrollHeight)"),
            ("dragging", "desk.page.histogram.changed(desk.page.histogram.value("
             "desk.page.histogram.width * (0.5 + 0.4 * Math.sin(frames / 9))))"),
        ):  # fmt: skip
            if name == "dragging":
                await page("scrollTo(0, 0)")
            gaps = await page(MOVES % act)
            found[f"{name}_median_frame_ms"] = round(gaps[len(gaps) // 2], 1)
            found[f"{name}_worst_frame_ms"] = round(gaps[-1], 1)
        await page.choose("#decision", "anomaly")
        gaps = await page(MOVES % act)
        found["dragging_filtered_median_frame_ms"] = round(gaps[len(gaps) // 2], 1)
        found["dragging_filtered_worst_frame_ms"] = round(gaps[-1], 1)
        await page.choose("#decision", "all")
        await page("document.getElementById('tiles').focus()")
        await page.key("End")
        found["places_seen"] = await page("desk.page.tiles.current + 1")
        await page.until(THERE, 120)
        found["marking_ms"] = round(await page(
            "(async () => { const begun = performance.now(); await desk.page.mark('anomaly');"
            "return performance.now() - begun; })()"
        ))  # fmt: skip
        assert await page("desk.page.marks.size") == 1
        found["page_process_mb"] = renderer_mb(tmp_path / "profile")
        await page.send("HeapProfiler.enable")
        await page.send("HeapProfiler.collectGarbage")
        metrics = (await page.send("Performance.getMetrics"))["metrics"]
        heap = {each["name"]: each["value"] for each in metrics}
        found["page_heap_mb"] = round(heap["JSHeapUsedSize"] / 2**20, 1)
        found["tiles_in_page"] = await page("document.querySelectorAll('.tile').length")
        assert page.wrong == []
    return found
