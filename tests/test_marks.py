"""Marks of pictures, and the lists that a run is continued with."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.manifest import Entry, Manifest
from lisae_tf.experiments.marked import lists_of
from lisae_tf.runs.marks import Mark, append_mark, place_of, read_marks

MARK = Mark("/a.png", "0" * 64, "normal", 0.5, 0.25, "2026-01-01T00:00:00+00:00")


def test_versions_of_a_model_share_their_marks(tmp_path, monkeypatch):
    (tmp_path / "part" / "1" / "variables").mkdir(parents=True)
    (tmp_path / "alone").mkdir()
    shared = tmp_path / "part" / "marks.jsonl"
    versions = tmp_path / "part" / "1", tmp_path / "part" / "2" / "model.onnx"
    assert {place_of(None, version) for version in versions} == {shared}
    monkeypatch.chdir(tmp_path / "part" / "1")
    assert place_of(None, Path("model.onnx")) == shared
    alone = tmp_path / "alone" / "model.tflite"
    assert place_of(None, alone) == alone.with_name("model.tflite.marks.jsonl")
    assert place_of(tmp_path / "run", None) == tmp_path / "run" / "marks.jsonl"


def test_half_a_mark_is_none_and_is_cut_off(tmp_path):
    path = tmp_path / "new" / "marks.jsonl"
    assert read_marks(path) == []
    append_mark(path, MARK)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-9])
    assert read_marks(path) == [MARK]
    other = Mark("/b\udcff.png", "1" * 64, "anomaly", 1.0, 0.25, MARK.time)
    append_mark(path, other)
    assert path.read_bytes().startswith(whole)
    assert read_marks(path) == [MARK, other]
    append_mark(path, Mark(MARK.picture, MARK.sha256, None, 0.5, 0.25, MARK.time))
    assert read_marks(path) == [other]


@pytest.mark.parametrize(
    "line",
    [
        "x", "[]", "{}", '{"picture": "/a"}', "[" * 100_000,
        json.dumps(vars(MARK) | {"mark": "odd"}), json.dumps(vars(MARK) | {"score": "1"}),
        json.dumps(vars(MARK) | {"score": float("nan")}), json.dumps(vars(MARK) | {"more": 1}),
        json.dumps(vars(MARK) | {"mark": ["normal"]}),
    ],
)  # fmt: skip
def test_what_is_no_mark_is_refused(tmp_path, line):
    path = tmp_path / "marks.jsonl"
    path.write_text(json.dumps(vars(MARK)) + f"\n{line}\n")
    with pytest.raises(LisaeError, match=r"line 2 of .*marks\.jsonl is no mark"):
        read_marks(path)


def mark(picture, said, **changed):
    digest = hashlib.sha256(Path(picture).read_bytes()).hexdigest()
    return replace(
        Mark(str(picture), digest, said, 0.5, 0.4, "2026-01-31T12:00:00+00:00"), **changed
    )


@pytest.fixture
def place(tmp_path):
    """A folder of six files, and a run that has the last of them as normal."""
    for k in range(6):
        (tmp_path / f"{k}.png").write_bytes(bytes([k]))
    (tmp_path / "run").mkdir()
    digest = hashlib.sha256(bytes([5])).hexdigest()
    entry = Entry("normal", 0, "5.png", digest, "fit", "", 8, 8, "L")
    Manifest([entry]).write(tmp_path / "run")
    return tmp_path


def written(place, *marks):
    path = place / "marks.jsonl"
    for each in marks:
        append_mark(path, each)
    return path


def test_lists_hold_what_the_run_does_not_have(place):
    marks = [
        *(mark(place / f"{k}.png", "normal") for k in (1, 0, 5)),
        *(mark(place / f"{k}.png", "anomaly") for k in (3, 2)),
        mark(place / "4.png", None),
    ]
    path = written(place, *marks)
    found = lists_of(path, place / "run")
    (normal,), (known,) = found.normal, found.known
    assert Path(normal).read_text() == f"{place}/0.png\n{place}/1.png\n"
    assert Path(known).read_text() == f"{place}/2.png\n{place}/3.png\n"
    assert found.notes == ["1 of 5 marked pictures are the run's own"]
    # Later marks make lists of their own: those of an earlier run stay.
    written(place, mark(place / "4.png", "normal"))
    assert lists_of(path, place / "run").normal != found.normal
    assert Path(normal).is_file()


def test_a_single_anomaly_is_left_out_and_named(place):
    marks = mark(place / "0.png", "normal"), mark(place / "1.png", "anomaly")
    found = lists_of(written(place, *marks), place / "run")
    assert (len(found.normal), found.known) == (1, [])
    assert "1.png is left out" in found.notes[0]


@pytest.mark.parametrize(
    ("marks", "sentence"),
    [
        ([(0, None)], "marks no picture"),
        ([(5, "normal")], "has all pictures"),
        ([(5, "anomaly")], "is marked anomaly, and .* has it among its normal pictures"),
        ([(1, "anomaly")], "a single anomaly"),
    ],
)
def test_marks_that_add_nothing_are_refused(place, marks, sentence):
    path = written(place, *(mark(place / f"{k}.png", said) for k, said in marks))
    with pytest.raises(LisaeError, match=sentence):
        lists_of(path, place / "run")
    assert not list(place.glob("marks-*"))


def test_a_picture_that_changed_since_is_refused(place):
    path = written(place, mark(place / "0.png", "normal"))
    (place / "0.png").write_bytes(b"other")
    with pytest.raises(LisaeError, match=r"0\.png has changed since it was marked"):
        lists_of(path, place / "run")
    (place / "0.png").unlink()
    with pytest.raises(LisaeError, match=r"0\.png is marked in .* and does not exist"):
        lists_of(path, place / "run")
