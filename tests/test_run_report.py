"""`report`: one HTML file about a run, whole in itself; what it says and what it holds."""

import base64
import hashlib
import html
import json
import os
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import copied
from desk_fixtures import desk_of, drawn_desk

from lisae_tf.core.arrays import save_arrays
from lisae_tf.core.files import read_json, write_json
from lisae_tf.core.thresholds import choose_threshold
from lisae_tf.desk import frozen, reported
from lisae_tf.detectors import load_detector
from lisae_tf.evaluation.metrics import Scored, auroc
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
    chance = run_report.chance_of_alarms(threshold, alarms, count)
    assert chance == pytest.approx(np.mean(np.array(above) >= alarms), abs=0.01)
    assert 0.05 < chance < 0.5
    assert run_report.chance_of_alarms(threshold, 0, count) == 1


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
