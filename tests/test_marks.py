"""Marks of pictures: a file of lines, of which the last of a picture counts."""

import json
from pathlib import Path

import pytest

from lisae_tf.core.errors import LisaeError
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
