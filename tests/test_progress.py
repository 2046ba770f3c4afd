"""What training tells of its progress: times, memory, lines in files and bars in terminals."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from lisae_tf.commands import train
from lisae_tf.config.sections import Features
from lisae_tf.core import progress
from lisae_tf.core.progress import PictureProgress, TrainingProgress, duration, pace, resident
from lisae_tf.features.places import PICTURES, PlaceFeatures, telling


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"),
     (7500, "2 h 5 min"), (360_000, "100 h 0 min")],
)  # fmt: skip
def test_a_time_has_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_memory_is_told_where_the_system_says_it(monkeypatch, tmp_path):
    assert re.fullmatch(r"\d+ MiB", resident())
    monkeypatch.setattr(progress, "_STATM", tmp_path / "statm")
    assert resident() == ""
    assert pace(2.0, 3) == "2.0 s, at most 6.0 s left"
    (tmp_path / "statm").write_text("9 x")
    assert pace(2.0, 0) == "2.0 s"


def two_epochs(console) -> str:
    told = TrainingProgress(console)
    told.set_model(SimpleNamespace(phase="latent-shaping"))
    told.set_params({"epochs": 3, "steps": 2})
    told.on_train_begin()
    for epoch in range(2):
        told.on_epoch_begin(epoch)
        for batch in range(2):
            told.on_train_batch_end(batch)
        told.on_epoch_end(epoch, {"val_loss": 1.0, "val_normal_error": 0.25})
    told.on_train_end()
    return console.file.getvalue()


def test_a_file_gets_one_line_an_epoch_with_its_time_and_what_is_left():
    lines = two_epochs(Console(file=io.StringIO(), width=200)).splitlines()
    assert len(lines) == 2
    pattern = (
        r"phase 2  epoch 1/3  held-out error: normal 0\.2500  "
        r"\(\d+\.\d s, at most \d+\.\d s left, \d+ MiB\)"
    )
    assert re.fullmatch(pattern, lines[0])


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=200)


def test_a_terminal_gets_a_bar():
    said = two_epochs(terminal())
    assert "phase 2" in said and "at most" in said and "epoch 1/3" not in said


def test_a_bar_of_pictures_begins_with_each_set_and_vanishes():
    console = terminal()
    told = PictureProgress(console)
    told(16, 40)
    assert told._bar is not None
    told(40, 40)
    assert told._bar is None
    told(16, 20)
    told.stop()
    assert told._bar is None
    said = console.file.getvalue()
    assert "40/40" in said and "pictures" in said


@pytest.fixture(scope="module")
def features():
    return PlaceFeatures(Features(), (32, 32, 3))  # untrained


@pytest.mark.parametrize(
    ("quiet", "on_terminal", "shown"), [(False, True, True), (True, True, False),
                                        (False, False, False)],
)  # fmt: skip
def test_pictures_are_told_in_a_terminal_alone_and_not_where_quiet(
    quiet, on_terminal, shown, features
):
    console = Console(file=io.StringIO(), force_terminal=on_terminal, width=100)
    with train._pictures_told(console, quiet=quiet):
        assert len(list(features.batches(np.zeros((PICTURES + 2, 32, 32, 3), np.uint8)))) == 2
    assert ("18/18" in console.file.getvalue()) == shown
    if not shown:
        assert console.file.getvalue() == ""


def test_each_batch_is_told(features):
    told = []
    with telling(lambda *numbers: told.append(numbers)):
        features.of(np.zeros((2 * PICTURES + 1, 32, 32, 3), np.uint8))
    assert told == [(16, 33), (32, 33), (33, 33)]
