"""Pipes in the place of files are refused; whoever opened one would wait for ever."""

import contextlib
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from lisae_tf.core.arrays import load_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json, sha256
from lisae_tf.data import pictures
from lisae_tf.exported import model_record
from lisae_tf.exported.runtimes import open_model
from lisae_tf.exported.score_files import read as read_scores

REASON = "is no regular file"


@pytest.fixture(autouse=True)
def no_waiting():
    """Ends a test that waits, in the words of a failure."""

    def end(*_):
        raise TimeoutError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(folder, name):
    os.mkfifo(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.json", read_json),
        ("a.json", sha256),
        ("a.npz", load_arrays),
        ("scores.csv", read_scores),
        ("a.png", pictures.decode),
        ("a.png", pictures.header),
        ("a.png", lambda path: list(pictures.stream([path], (4, 4, 1), skip_bad=True))),
        ("a.npy", lambda path: list(pictures.stream([path], (4, 4, 1)))),
        ("a.npy", lambda path: pictures.load_array(path, (4, 4, 1))),
        ("model.onnx", open_model),
        ("model.tflite", open_model),
        ("model", open_model),
    ],
)
def test_a_pipe_is_refused(name, read, tmp_path):
    with pytest.raises(LisaeError, match=REASON):
        read(pipe(tmp_path, name))


@pytest.mark.parametrize("kind", ["onnx", "savedmodel"])
def test_a_pipe_in_place_of_a_record_is_refused(kind, tmp_path):
    (tmp_path / "model.onnx").touch()
    pipe(tmp_path, "lisae.json" if kind == "savedmodel" else "model.onnx.json")
    path = tmp_path if kind == "savedmodel" else tmp_path / "model.onnx"
    with pytest.raises(LisaeError, match=REASON):
        model_record.read_record(path, kind)


@pytest.mark.parametrize(
    "command",
    [
        ("score", "y", "--model", "x.onnx"),
        ("score", "y", "--model", "x.onnx", "--parts", "parts"),
        ("calibrate", "--model", "x.tflite", "--normal-dir", "y", "--fpr", "0.1"),
        ("train", "--normal-dir", "x.npy"),
    ],
)
def test_commands_refuse_pipes(command, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "y").mkdir()
    for name in ("x.onnx", "x.tflite", "x.npy"):
        pipe(tmp_path, name)
    result = cli(*command)
    assert result.exit_code != 0
    assert REASON in result.stderr


@contextlib.contextmanager
def nobody():
    """Without the rights of root, to whom every file is readable."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["lisae.json", "saved_model.pb"])
def test_a_model_that_nobody_may_read_is_refused_in_one_sentence(name):
    with tempfile.TemporaryDirectory() as base:  # others may look into it
        folder = Path(base)
        folder.chmod(0o755)
        (folder / "saved_model.pb").write_bytes(b"\x08\x01")
        threshold = {"alpha": 0.1, "guaranteed_fpr": 0.1, "requested_fpr": 0.1, "n_calibration": 9}
        record = {"kind": "savedmodel", "name": "m", "version": 1, "shape": [4, 4, 1]}
        record |= {"input": {"dtype": "uint8"}, "threshold": threshold, "metadata": {}}
        model_record.write_record(folder, record)
        for path in folder.iterdir():
            path.chmod(0o644)
        with nobody():
            model_record.read_record(folder, "savedmodel")
        (folder / name).chmod(0)
        with nobody(), pytest.raises(LisaeError, match=rf"{name} cannot be read \(Permission"):
            model_record.read_record(folder, "savedmodel")


def test_files_and_folders_pass(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4, 1), np.uint8))
    assert len(pictures.load_array(tmp_path / "a.npy", (4, 4, 1))) == 2
