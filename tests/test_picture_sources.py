"""Pictures to score and train on: arrays, streams of batches, lists of files; pipes are refused."""

import contextlib
import csv
import io
import json
import os
import signal
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import KINDS, QUICK, load_folder_test, load_folder_training
from hypothesis import given
from hypothesis import strategies as st

from lisae_tf.core.arrays import load_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json, sha256
from lisae_tf.data import manifest, picture_files, pictures
from lisae_tf.data.picture_files import find
from lisae_tf.data.pictures import BadPicture, array_to_uint8, decode, decode_all, load_array
from lisae_tf.experiments.settling import settle
from lisae_tf.exported import model_record
from lisae_tf.exported.runtimes import open_model
from lisae_tf.exported.score_files import read as read_scores


def save(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, np.float16, np.float64])
def test_arrays_of_integers_and_of_floats_mean_the_same_pixels(dtype, tmp_path):
    levels = np.arange(256).reshape(16, 4, 4, 1)
    stored = levels.astype(dtype) if np.dtype(dtype).kind != "f" else (levels / 255).astype(dtype)
    array = load_array(save(tmp_path / "a.npy", stored), (4, 4, 1))
    assert isinstance(array, np.memmap)
    np.testing.assert_array_equal(array_to_uint8(array, "a"), levels)


def test_grey_arrays_need_no_channel_axis(tmp_path):
    path = save(tmp_path / "a.npy", np.zeros((5, 4, 3), np.uint8))
    assert load_array(path, (4, 3, 1)).shape == (5, 4, 3, 1)
    with pytest.raises(LisaeError, match="arrays are not resized"):
        load_array(path, (4, 3, 3))


@pytest.fixture(scope="module")
def sources(tmp_path_factory, picture_folder):
    """A folder, an array, single files and another array, and what they hold in this order."""
    base = tmp_path_factory.mktemp("sources")
    folder = picture_folder(base / "folder", 2 * len(KINDS) + 1)
    singles = find(picture_folder(base / "singles", 5, level=120))[::-1]
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (17, 12, 12, 1), dtype=np.uint8)
    second = random.random((3, 12, 12, 1))
    arrays = [save(base / "first.npy", first), save(base / "second.npy", second)]
    files = find(folder)
    names = [
        *map(str, files), *(f"{arrays[0]}#{i}" for i in range(17)),
        *map(str, singles), *(f"{arrays[1]}#{i}" for i in range(3)),
    ]  # fmt: skip
    pixels = [
        *(decode(path, (12, 12), 1) for path in files), *first,
        *(decode(path, (12, 12), 1) for path in singles), *np.rint(second * 255),
    ]  # fmt: skip
    return [folder, arrays[0], *singles, arrays[1]], names, np.stack(pixels)


@given(batch_size=st.integers(1, 40))
def test_a_stream_is_the_same_in_batches_of_any_size(sources, batch_size):
    paths, names, pixels = sources
    batches = list(pictures.stream(paths, (12, 12, 1), batch_size=batch_size))
    assert max(len(batch.pixels) for batch in batches) == min(batch_size, 17)
    assert [name for batch in batches for name in batch.names] == names
    np.testing.assert_array_equal(np.concatenate([batch.pixels for batch in batches]), pixels)


def test_a_stream_reads_no_further_than_it_is_asked(sources, monkeypatch):
    read = []

    def counting(chunk, *rest, **options):
        read.append(len(chunk))
        return decode_all(chunk, *rest, **options)

    monkeypatch.setattr(pictures, "decode_all", counting)
    stream = pictures.stream(sources[0], (12, 12, 1), batch_size=4)
    assert read == []
    next(stream), next(stream)
    assert read == [4, 4]


def test_a_large_array_is_never_in_memory_as_a_whole(tmp_path):
    path = tmp_path / "a.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float32, (4000, 32, 32, 1))
    whole = array.nbytes
    del array
    tracemalloc.start()
    try:
        count = sum(len(b.pixels) for b in pictures.stream([path], (32, 32, 1), batch_size=50))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 4000
    assert peak < whole / 10


def test_a_stream_reports_bad_pictures_in_their_batch(with_one_bad):
    stream = pictures.stream(with_one_bad, (12, 12, 1), batch_size=6, skip_bad=True)
    assert [(len(batch.pixels), list(batch.bad)) for batch in stream] == [
        (6, []), (5, [str(with_one_bad[7])])
    ]  # fmt: skip
    with pytest.raises(BadPicture, match=with_one_bad[7].name):
        list(pictures.stream(with_one_bad, (12, 12, 1), batch_size=6))


def test_digests_tell_pictures_apart_by_content(sources):
    pixels = sources[2]
    digests = pictures.content_hashes(np.concatenate([pixels, pixels[:2]]))
    assert len(set(digests)) == len(pixels)
    assert digests[-2:] == digests[:2]


@pytest.fixture
def place(tmp_path, picture_folder):
    picture_folder(tmp_path / "lot", 4)
    return tmp_path


def test_lines_and_a_column_of_a_csv_are_paths_from_the_lists_folder_on(place):
    wanted = sorted((place / "lot").iterdir())
    (place / "all.txt").write_text("\n".join(f"lot/{each.name}" for each in wanted) + "\n\n")
    assert picture_files.read(place / "all.txt") == wanted
    rows = [f"{k},lot/{each.name}" for k, each in enumerate(wanted)]
    (place / "all.csv").write_text("\ufeffnumber, Path\n" + "\n".join(rows), encoding="utf-8")
    assert picture_files.read(place / "all.csv") == wanted
    (place / "one.csv").write_text(f"path\n{wanted[0]}\n")
    assert picture_files.read(place / "one.csv") == wanted[:1]


def test_a_list_is_scored(workplace, cli):
    Path("lot").mkdir()
    Path("lot/these.csv").write_text("path,station\n../normal/000.png,1\n../anomaly/002.png,2\n")
    result = cli("score", "--list", "lot/these.csv")
    assert result.exit_code == 0, result.stderr
    listed = [row["path"] for row in csv.DictReader(io.StringIO(result.stdout))]
    assert listed == ["lot/../normal/000.png", "lot/../anomaly/002.png"]
    # What `score` writes is such a list.
    Path("scores.csv").write_text(result.stdout)
    assert cli("score", "--list", "scores.csv").stdout == result.stdout


def test_nothing_to_score_is_said(workplace, cli):
    assert "name files or folders, or --list FILE" in cli("score").stderr


@pytest.fixture
def listed(tmp_path, picture_folder, monkeypatch):
    """`good.txt` and `bad.csv` name the pictures of folders elsewhere, and each one twice."""
    monkeypatch.chdir(tmp_path)
    good = picture_folder(tmp_path / "store" / "good", 40, level=60)
    bad = [
        path
        for kind, level in (("dent", 180), ("hole", 220))
        for path in picture_files.find(picture_folder(tmp_path / "store" / kind, 4, level=level))
    ]
    names = [str(path) for path in picture_files.find(good)]
    Path("good.txt").write_text("\n".join(names[::-1] + names))
    rows = [f"x,{path.relative_to(tmp_path)}" for path in bad]
    Path("bad.csv").write_text("\n".join(["id,path", *rows]))
    return tmp_path


def config_of(**options):
    sizes = ["data.size=[12, 12]", "data.channels=1", "features=null", "variant=ae"]
    return settle(options, None, sizes)[0]


def test_a_list_gives_the_parts_of_its_folder(listed):
    one = load_folder_training(config_of(normal_dir=("good.txt",)))
    other = load_folder_training(config_of(normal_dir=("store/good",)))
    assert len(one.normal.fit) > 20
    for part in ("fit", "stopping", "calibration"):
        assert np.array_equal(getattr(one.normal, part), getattr(other.normal, part))


def test_folders_in_a_list_are_kinds(listed):
    options = {"normal_dir": ("good.txt",), "anomaly_dir": "bad.csv"}
    assert sorted(set(load_folder_test(config_of(**options)).kinds)) == ["", "store"]
    Path("store/bad.csv").write_text("path\ndent/000.png\nhole/000.png\n")
    options["anomaly_dir"] = "store/bad.csv"
    assert sorted(set(load_folder_test(config_of(**options)).kinds)) == ["", "dent", "hole"]


def test_a_run_on_lists_is_evaluated_on_what_was_its_test(listed, cli):
    sides = ("--normal-dir", "good.txt", "--anomaly-dir", "bad.csv", "--variant", "ae")
    assert "training would start" in cli("data", "check", *sides[:4]).output
    result = cli("train", *sides, *QUICK, "--out", "run")
    assert result.exit_code == 0, result.output
    parts = {entry.path for entry in manifest.read(Path("run")).entries}
    assert {"store/good/000.png", "store/hole/000.png"} <= parts
    before = json.loads(Path("run/metrics.json").read_text())
    Path("good.txt").write_text("\n".join(Path("good.txt").read_text().splitlines()[::-1]))
    result = cli("evaluate", "--run", "run")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["auroc"] == before["auroc"]


REASON = "is no regular file"


@pytest.fixture
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


@pytest.mark.usefixtures("no_waiting")
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


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("kind", ["onnx", "savedmodel"])
def test_a_pipe_in_place_of_a_record_is_refused(kind, tmp_path):
    (tmp_path / "model.onnx").touch()
    pipe(tmp_path, "lisae.json" if kind == "savedmodel" else "model.onnx.json")
    path = tmp_path if kind == "savedmodel" else tmp_path / "model.onnx"
    with pytest.raises(LisaeError, match=REASON):
        model_record.read_record(path, kind)


@pytest.mark.usefixtures("no_waiting")
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


@pytest.mark.usefixtures("no_waiting")
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


@pytest.mark.usefixtures("no_waiting")
def test_files_and_folders_pass(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4, 1), np.uint8))
    assert len(pictures.load_array(tmp_path / "a.npy", (4, 4, 1))) == 2
