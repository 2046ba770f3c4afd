"""`report`: one HTML file about a run, whole in itself and readable on a phone."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from lisae_tf.core.arrays import save_arrays
from lisae_tf.core.files import read_json, write_json
from lisae_tf.core.thresholds import choose_threshold
from lisae_tf.detectors import load_detector
from lisae_tf.evaluation.metrics import Scored, auroc
from lisae_tf.report import run_report
from lisae_tf.runs import folders as runs

pytestmark = pytest.mark.usefixtures("drawn_figures")
VOID = {"meta", "img", "br", "link"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Outline(HTMLParser):
    """What the page holds; open elements must close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)


@pytest.fixture
def report(workplace, cli):
    """The report on the tiny run over folders, and the run's folder."""
    result = cli("report")
    assert result.exit_code == 0, result.output
    folder = workplace / "runs" / "normal-lis-seed0"
    return (folder / "report.html").read_text(encoding="utf-8"), folder


def test_everything_is_embedded_and_well_formed(report):
    text, _ = report
    page = Outline(text)
    assert page.open == []
    assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "<script" not in text
    assert page.headings[:2] == ["What was trained on what", "How well it tells them apart"]
    assert {"Highest scores", "Nearest to the threshold", "Lowest scores"} <= set(page.headings)


def test_it_says_what_the_run_found(report):
    text, folder = report
    metrics = read_json(folder / "metrics.json")
    assert f"{metrics['false_positive_rate']:.4f}" in text
    assert f"{metrics['threshold']:.6g}" in text
    assert metrics["config_hash"] in text


def test_names_are_text_and_never_markup(workplace, cli):
    folder = workplace / "runs" / "normal-lis-seed0"
    record = read_json(folder / "metrics.json")
    bad = "<img src=x onerror=alert(1)>"
    write_json(folder / "metrics.json", record | {"notes": [bad], "normal": [bad]})
    text = run_report.render(folder)
    assert bad not in text
    assert html.escape(bad) in text


def test_without_the_pictures_it_still_says_the_rest(workplace, cli):
    shutil.rmtree(workplace / "normal")
    result = cli("report", "--out", "elsewhere/new.html")
    assert result.exit_code == 0, result.output
    text = (workplace / "elsewhere" / "new.html").read_text(encoding="utf-8")
    assert "The test pictures cannot be read: the folder" in text
    assert "Highest scores" not in text
    assert "false alarms at the threshold" in text


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


def test_it_says_where_normal_test_pictures_are_not_like_the_calibration_pictures(report):
    text, folder = report
    saying = "The normal test pictures are not like them"
    assert saying not in text
    alpha = load_detector(folder).threshold_.alpha
    scores = runs.read_scores(folder) | {"is_anomaly": np.zeros(200, bool)}
    for alarms, said in ((0, False), (10, False), (150, True)):
        test = np.repeat(np.float32([2 * alpha, alpha / 2]), [alarms, 200 - alarms])
        save_arrays(folder / runs.SCORES, scores | {"test": test})
        text = run_report.render(folder)
        assert (saying in text) == said
    assert "150 of\n200 score above it" in text


def test_the_chance_of_false_alarms_is_how_often_they_occur():
    random, n, count, alarms = np.random.default_rng(0), 59, 40, 5
    drawn = random.random((20_000, n + count))
    above = []
    for scores in drawn:
        threshold = choose_threshold(scores[:n], 0.05)
        above.append(np.sum(scores[n:] > threshold.alpha))
    chance = run_report.chance_of_alarms(threshold, alarms, count)
    assert chance == pytest.approx(np.mean(np.array(above) >= alarms), abs=0.01)
    assert 0.05 < chance < 0.5
    assert run_report.chance_of_alarms(threshold, 0, count) == 1


def test_the_pictures_that_tell_most_are_chosen():
    found = run_report.chosen(scored(1.5), alpha=0.8)
    rows = scored(1.5)
    assert rows.scores[found["Highest scores"][0]] == rows.scores.max()
    assert rows.scores[found["Lowest scores"][0]] == rows.scores.min()
    near = np.abs(rows.scores - 0.8)
    assert near[found["Nearest to the threshold"][0]] == near.min()
    assert rows.is_anomaly[found["Missed anomalies"]].all()
    assert (rows.scores[found["Missed anomalies"]] <= 0.8).all()
    assert not rows.is_anomaly[found["False alarms"]].any()
    assert (rows.scores[found["False alarms"]] > 0.8).all()


def test_an_error_map_is_brightest_where_the_error_is():
    error = np.zeros((8, 8))
    error[2, 5] = 1.0
    assert np.unravel_index(run_report.heat(error).sum(axis=2).argmax(), (8, 8)) == (2, 5)
    assert not run_report.heat(np.zeros((4, 4))).sum(axis=2).max() > 20


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
@pytest.mark.parametrize("width", [1200, 500])  # 500 is the narrowest window it opens
def test_in_a_real_browser_nothing_sticks_out(report, tmp_path, width):
    text, _ = report
    measure = (
        "<script>addEventListener('load', () => document.title = [innerWidth, "
        "document.documentElement.scrollWidth, [...document.images].filter("
        "i => i.naturalWidth == 0).length].join(' '))</script></body>"
    )
    (tmp_path / "page.html").write_text(text.replace("</body>", measure), encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
        "--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
        (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    inner, scroll, broken = map(int, re.search(r"<title>(\d+) (\d+) (\d+)</title>", page).groups())
    assert inner == width
    assert scroll <= inner
    assert broken == 0
