"""File names that are no plain text, from the command line to figures and scores."""

import os
from pathlib import Path

import pytest
from conftest import QUICK

from lisae_tf.data import picture_files

pytestmark = pytest.mark.usefixtures("drawn_figures")  # names become text of figures
NEGATIVES = ("--negative-dir", "negative")


def test_file_names_may_hold_anything(bad_places, cli):
    """Markup, an emoji's code, a formula that is none, bytes that are no UTF-8."""
    Path("corrupt/031.jpg").rename("corrupt/[red]:cat:.jpg")
    Path("odd").mkdir()
    names = (os.fsdecode(b"\xff.png"), "a $a_{b$.png")
    for path, name in zip(picture_files.find(Path("anomaly")), names, strict=False):
        path.rename(Path("odd") / name)
    given = ("--normal-dir", "corrupt", *NEGATIVES, "--anomaly-dir", "odd", "--skip-bad")
    result = cli("train", *given, *QUICK, "--out", "new")
    assert result.exit_code == 0, result.output
    assert "left out: corrupt/[red]:cat:.jpg is damaged" in result.output
    assert Path("new/figures/reconstructions.png").is_file()
    assert cli("report", "--run", "new").exit_code == 0
    assert r"\xff.png" in Path("new/report.html").read_text()


def test_file_names_that_are_no_text_come_out_as_they_are(workplace, cli):
    name = os.fsencode(picture_files.find(Path("anomaly"))[0].parent) + b"/\xff.png"
    Path(os.fsdecode(name)).write_bytes(picture_files.find(Path("anomaly"))[0].read_bytes())
    assert cli("score", os.fsdecode(name), "--out", "scores.csv").exit_code == 0
    assert name + b"," in Path("scores.csv").read_bytes()
    assert name + b"," in cli("score", os.fsdecode(name)).stdout_bytes
