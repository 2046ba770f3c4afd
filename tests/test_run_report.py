"""`report`: one HTML file about a run; what it says and holds, and how a real browser shows it."""

import asyncio
import base64
import contextlib
import hashlib
import html
import itertools
import json
import os
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import copied
from desk_fixtures import CHROMIUM, LINES, READY, browser, counted, desk_of, drawn_desk, told

from lisae_tf.core.arrays import save_arrays
from lisae_tf.core.files import read_json, write_json
from lisae_tf.core.thresholds import choose_threshold
from lisae_tf.desk import frozen, reported
from lisae_tf.detectors import load_detector
from lisae_tf.evaluation.metrics import Scored, auroc, chance_of_alarms
from lisae_tf.report import run_report
from lisae_tf.runs import folders as runs

pytestmark = pytest.mark.usefixtures("drawn_figures")
VOID = {"meta", "img", "br", "link", "input"}
RUN = Path("runs/normal-lis-seed0")
BAD = "<img src=x onerror=alert(1)>.png"


class Outline(HTMLParser):
    """What the page holds; open elements must close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.inline: list[str] = []  # attributes that a policy of hashes would not let in
        self.policy = ""
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.options: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if given.get("http-equiv") == "Content-Security-Policy":
            assert not self.scripts + self.styles  # it counts from here on
            self.policy = given["content"]
        if tag == "script":
            assert "src" not in given
            self.scripts.append("" if given.get("type") != "application/json" else "data")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside in ("h2", "h3"):
            self.headings.append(data)
        elif inside == "option":
            self.options.append(data)
        elif inside == "style":
            self.styles.append(data)
        elif inside == "script" and self.scripts[-1] != "data":
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def report(drawn_figures, trained, tmp_path_factory, cli):
    """The report on the tiny run over folders, and the run's folder, to be left as they are."""
    folder = copied(trained, tmp_path_factory.mktemp("report"), RUN) / RUN
    result = cli("report", "--run", folder)
    assert result.exit_code == 0, result.output
    return (folder / "report.html").read_text(encoding="utf-8"), folder


def test_everything_is_embedded_and_well_formed(report):
    text, _ = report
    page = Outline(text)
    assert page.open == []
    assert {"#pictures-title", "data:,"} < set(page.links)
    for link in page.links:
        assert link.startswith(("data:image/png;base64,", "#", "data:,"))
    assert page.headings[:2] == ["What was trained on what", "How well it tells them apart"]
    orders = {"highest score first", "lowest score first", "nearest to the threshold"}
    assert orders | {"false alarms", "missed anomalies"} <= set(page.options)


def test_its_own_scripts_run_and_no_others(report):
    text, _ = report
    page = Outline(text)
    assert page.inline == []

    def hashes(contents):
        digests = [hashlib.sha256(content.encode()).digest() for content in contents]
        return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)

    assert page.scripts.count("data") == 1
    scripts = [script for script in page.scripts if script != "data"]
    assert page.policy == (
        f"default-src 'none'; img-src data:; style-src {hashes(page.styles)}; "
        f"script-src {hashes(scripts)}; base-uri 'none'; form-action 'none'"
    )
    inside = "".join(scripts + page.styles).replace("http://www.w3.org/2000/svg", "")
    assert not any(each in inside for each in ("http:", "https:", "@import", "innerHTML", "eval("))


def test_it_says_what_the_run_found(report):
    text, folder = report
    metrics = read_json(folder / "metrics.json")
    assert f"{metrics['false_positive_rate']:.4f}" in text
    assert f"{metrics['threshold']:.6g}" in text
    assert metrics["config_hash"] in text


def test_names_are_text_and_never_markup(workplace, cli):
    folder = workplace / "runs" / "normal-lis-seed0"
    record = read_json(folder / "metrics.json")
    write_json(folder / "metrics.json", record | {"notes": [BAD], "normal": [BAD]})
    first = desk_of(RUN, workplace / "cache").pictures.names[0]
    os.rename(first, Path(first).with_name(BAD))
    shutil.copytree(folder, other := workplace / "runs" / "<script>x" / BAD)
    desk = desk_of(other, workplace / "cache")
    kinds = ["</script><script>alert(1)</script>"] * len(desk.pictures)
    desk.pictures = replace(desk.pictures, kinds=kinds)
    text = reported.page(other, desk, reason=BAD)
    assert BAD not in text and "<script>x" not in text and "alert(1)</script>" not in text
    assert text.count(html.escape(BAD)) >= 5  # notes, folder, title, heading and reason
    found = data_of(text)
    assert found["names"][0] == BAD and found["thumbs"][0].startswith("data:image/")
    assert found["kinds"] == kinds[:1]
    assert found["command"].startswith("python cli.py calibrate --run '")


def data_of(text: str) -> dict:
    """The document of the page."""
    return json.loads(text.split('id="frozen">')[1].split("</script>", maxsplit=1)[0])


def test_it_shows_the_scores_that_were_stored_and_scores_nothing_anew(workplace, cli, monkeypatch):
    from lisae_tf.detectors.graph import GraphDetector

    def score(*_):
        raise AssertionError("scores are stored")

    monkeypatch.setattr(GraphDetector, "score", score)
    monkeypatch.setattr(reported, "MAPPED", 3)
    assert cli("report").exit_code == 0
    found, stored = data_of((RUN / "report.html").read_text("utf-8")), runs.read_scores(RUN)
    scores = np.frombuffer(base64.b64decode(found["scores"]), "<f4")
    np.testing.assert_array_equal(scores, stored["test"])
    assert all(thumb.startswith("data:image/") for thumb in found["thumbs"])
    assert sum(bool(each) for each in found["maps"]) == 3 and found["maps"][scores.argmax()]


def test_without_the_pictures_it_still_says_the_rest(workplace, cli):
    shutil.rmtree(workplace / "normal")
    result = cli("report", "--out", "elsewhere/new.html")
    assert result.exit_code == 0, result.output
    text = (workplace / "elsewhere" / "new.html").read_text(encoding="utf-8")
    stored = runs.read_scores(RUN)
    lost = int((~stored["is_anomaly"]).sum())
    assert f"{lost} pictures are gone or changed" in text
    assert "false alarms at the threshold" in text
    assert data_of(text)["thumbs"].count(None) == lost
    (workplace / "normal").mkdir()
    moved = f"{workplace}/anomaly={workplace}/elsewhere"
    result = cli("report", "--data-root", moved, "--out", "elsewhere/new.html")
    assert result.exit_code == 0, result.output
    text = (workplace / "elsewhere" / "new.html").read_text(encoding="utf-8")
    assert data_of(text)["thumbs"] == [None] * len(stored["test"])


def test_where_it_cannot_be_told_which_pictures_were_tested_the_scores_are_there(workplace, cli):
    pictures, reason = reported.tested(RUN, load_detector(RUN).config)
    assert reason is None
    lines = (RUN / "manifest.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line).get("part") != "test"]
    (RUN / "manifest.jsonl").write_text("\n".join(kept) + "\n")
    alone, reason = reported.tested(RUN, load_detector(RUN).config)
    assert reason.startswith("The test pictures cannot be read: the test pictures of ")
    np.testing.assert_array_equal(alone.scores, pictures.scores)
    np.testing.assert_array_equal(alone.truth, pictures.truth)


def test_an_incomplete_run_is_refused(workplace, cli):
    (workplace / "runs" / "normal-lis-seed0" / "scores.npz").unlink()
    result = cli("report")
    assert result.exit_code == 1
    assert not (workplace / "runs" / "normal-lis-seed0" / "report.html").exists()


def scored(separation: float, count: int = 150) -> Scored:
    generator = np.random.default_rng(0)
    scores = np.concatenate([generator.normal(0, 1, count), generator.normal(separation, 1, count)])
    return Scored(scores, np.arange(2 * count) >= count)


def test_intervals_hold_the_figure_and_shrink_with_more_pictures():
    few, many = (run_report.metrics_of(scored(1.5, count), alpha=1.0) for count in (50, 1000))
    assert few[0].name == "AUROC"
    for small, large in zip(few, many, strict=True):
        assert small.low <= small.value <= small.high
        assert large.high - large.low < small.high - small.low
    assert few[0].value == auroc(scored(1.5, 50).normal, scored(1.5, 50).anomaly)
    # The standard error of AUROC at 0.86 with 1,000 and 1,000 (Hanley & McNeil 1982).
    assert many[0].high - many[0].low == pytest.approx(2 * 1.96 * 0.0083, rel=0.25)


def test_it_says_where_normal_test_pictures_are_not_like_the_calibration_pictures(report, tmp_path):
    text, folder = report
    folder = shutil.copytree(folder, tmp_path / "run")
    saying = "The normal test pictures are not like them"
    assert saying not in text
    detector = load_detector(folder)
    alpha = detector.threshold_.alpha
    scores = runs.read_scores(folder) | {"is_anomaly": np.zeros(200, bool)}
    for alarms, said in ((0, False), (10, False), (150, True)):
        test = np.repeat(np.float32([2 * alpha, alpha / 2]), [alarms, 200 - alarms])
        save_arrays(folder / runs.SCORES, scores | {"test": test})
        text = run_report.render(folder, detector)
        assert (saying in text) == said
    assert "150 of\n200 score above it" in text


def test_the_chance_of_false_alarms_is_how_often_they_occur():
    random, n, count, alarms = np.random.default_rng(0), 59, 40, 5
    drawn = random.random((20_000, n + count))
    above = []
    for scores in drawn:
        threshold = choose_threshold(scores[:n], 0.05)
        above.append(np.sum(scores[n:] > threshold.alpha))
    chance = chance_of_alarms(threshold, alarms, count)
    assert chance == pytest.approx(np.mean(np.array(above) >= alarms), abs=0.01)
    assert 0.05 < chance < 0.5
    assert chance_of_alarms(threshold, 0, count) == 1


def test_the_pictures_that_tell_most_come_first():
    rows = scored(1.5)
    scores, truth, alpha = rows.scores, rows.is_anomaly, 0.8
    found = reported.telling(scores, truth, alpha, 300)
    assert sorted(found) == list(range(300))
    missed = np.flatnonzero(truth & (scores <= alpha))
    alarms = np.flatnonzero(~truth & (scores > alpha))
    near = np.argsort(np.abs(scores - alpha))
    firsts = [scores.argmax(), near[0], scores.argmin()]
    firsts += [missed[scores[missed].argmin()], alarms[scores[alarms].argmax()]]
    assert set(found[: len(set(firsts))]) == set(firsts)
    for side, count in ((np.argsort(-scores), 8), (near, 8), (missed, len(missed))):
        assert set(side[:count]) <= set(found[: 5 * count])
    assert reported.telling(scores, truth, alpha, 7) == found[:7]
    assert len(reported.telling(scores[:1], truth[:1], alpha, 7)) == 1


def test_two_thousand_pictures_stay_below_ten_megabytes(report, tmp_path):
    text, _ = report
    desk = drawn_desk(tmp_path / "pictures")
    everything = range(len(desk.pictures))
    found = frozen.document(desk, everything, everything)
    thumb, drawn = (np.mean([len(each) for each in found[key]]) for key in ("thumbs", "maps"))
    rest = len(text) - sum(len(each) for key in ("thumbs", "maps") for each in data_of(text)[key])
    assert rest + reported.MOST * (thumb + 40) + reported.MAPPED * drawn < reported.SIZE == 10**7
    # Where each takes more, the last ones are left out.
    room = 10.5 * max(map(len, found["thumbs"]))
    some = frozen.document(desk, everything, [], room)["thumbs"]
    assert 10 <= sum(map(bool, some)) < len(desk.pictures)
    assert sum(map(len, some)) <= room
    assert some == found["thumbs"][: (count := sum(map(bool, some)))] + [""] * (len(some) - count)


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
# What ends beyond the window and cannot be scrolled to in a box of its own, and broken pictures.
STICKS_OUT = """[...document.querySelectorAll('body *')].filter((each) => each.checkVisibility()
  && !each.closest('.scroll, .tile, svg') && each.getBoundingClientRect().right
    > document.documentElement.clientWidth + 0.5)
  .map((each) => each.outerHTML.slice(0, 200))"""
SCROLLS = "(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.documentElement)"
BROKEN = "[...document.images].filter((i) => i.currentSrc && !i.naturalWidth).length"
SEEN = "[...document.querySelectorAll('%s')].filter((each) => each.checkVisibility()).length"


@pytest.fixture
def read_report(workplace) -> Path:
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
async def looking(read_report: Path, tmp_path: Path, width: int, script: bool = True, **features):
    async with browser(tmp_path / "profile") as page:
        await page.send("Emulation.setScriptExecutionDisabled", value=not script)
        await page.open(read_report.as_uri(), width, 900, **features)
        if script:
            await page.until("globalThis.desk?.page?.tiles?.columns > 0")
        else:
            await page.until("document.readyState === 'complete'")
        yield page
        assert page.wrong == []  # nor did its policy stop anything


@needs_browser
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
def test_it_is_read_filtered_and_its_threshold_is_dragged(read_report, tmp_path, width, scheme):
    stored = runs.read_scores(RUN)
    scores, truth = np.asarray(stored["test"], np.float32), stored["is_anomaly"]

    async def scenario():
        async with looking(read_report, tmp_path, width, prefers_color_scheme=scheme) as page:
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


@needs_browser
def test_on_paper_there_is_nothing_to_press(read_report, tmp_path):
    async def scenario():
        async with looking(read_report, tmp_path, 720, prefers_color_scheme="dark") as page:
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


@needs_browser
def test_without_javascript_text_and_figures_are_there(read_report, tmp_path):
    async def scenario():
        async with looking(read_report, tmp_path, 400, script=False) as page:
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
