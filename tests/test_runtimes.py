import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import export_fixtures
import numpy as np
import pytest
from conftest import assert_one_sentence
from export_fixtures import ALL, edit_record, path_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lisae_tf.core import messages
from lisae_tf.core.errors import LisaeError
from lisae_tf.exported import model_record, onnx_file, tflite_file
from lisae_tf.exported.runtimes import open_model

run, models, opened = export_fixtures.run, export_fixtures.models, export_fixtures.opened
detector, samples = export_fixtures.detector, export_fixtures.samples

FILES = ("onnx", "tflite")
# Makes every package that a device does without fail to import.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = ["lisae"] + {arguments}
from lisae_tf.cli import main
main()
"""
HEAVY = {
    "tensorflow", "keras", "pydantic", "yaml", "sklearn", "scipy", "skimage", "rich", "matplotlib",
    "tensorflow_datasets", "tf2onnx", "onnx", "requests", "grpc", "aiohttp", "tensorflow_serving",
}  # fmt: skip


def without(blocked, *arguments):
    code = BLOCKER.format(blocked=set(blocked), arguments=[str(each) for each in arguments])
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
        cwd=Path(__file__).parents[1], env=os.environ | {"PYTHONWARNINGS": "error"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, samples):
    """PNG and JPEG pictures of mixed sizes and modes."""
    place = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(1)
    for index, pixels in enumerate(samples["real"][:40]):
        size = tuple(int(side) for side in rng.integers(12, 120, 2))
        picture = Image.fromarray(pixels[..., 0]).resize(size)
        picture = picture.convert(("L", "RGB")[index % 2])
        picture.save(place / f"{index:02d}.{('png', 'jpg', 'jpeg')[index % 3]}")
    return place


@pytest.fixture(scope="module")
def expected(run, folder, cli):
    """The rows that the run itself gives."""
    result = cli("score", "--run", run, folder)
    assert result.exit_code == 0, result.stderr
    return list(csv.DictReader(io.StringIO(result.stdout)))


def assert_same_rows(text, expected, relative=1e-4):
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in rows] == [row["path"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row["threshold"] == other["threshold"]
        assert float(row["score"]) == pytest.approx(float(other["score"]), rel=relative)
        assert row["is_anomaly"] == str(float(row["score"]) > float(row["threshold"])).lower()


@pytest.mark.parametrize("which", ["onnx", "tflite"])
def test_a_device_without_tensorflow_gives_the_same_csv(which, models, folder, expected):
    other = {"onnx": "ai_edge_litert", "tflite": "onnxruntime"}[which]
    result = without(HEAVY | {other}, "score", "--model", path_of(models, which), folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert_same_rows(result.stdout, expected)


@pytest.mark.parametrize("command", [(), ("benchmark",)])
def test_help_needs_none_of_the_packages_of_training(command):
    result = without(HEAVY, *command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Options:" in result.stdout


def test_a_savedmodel_gives_the_same_csv(models, folder, expected, cli):
    result = cli("score", "--model", path_of(models, "savedmodel").parent, folder)
    assert result.exit_code == 0, result.stderr
    assert_same_rows(result.stdout, expected)


def test_a_device_scores_sixteen_bits(models, tmp_path):
    levels = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    Image.fromarray(levels.astype(np.uint16)).save(tmp_path / "deep.png")
    result = without(HEAVY, "score", "--model", path_of(models, "onnx"), tmp_path / "deep.png")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("which", ["onnx", "tflite-int8"])
def test_a_device_without_tensorflow_calibrates(which, models, folder, tmp_path):
    path = path_of(models, which)
    new = tmp_path / f"new{path.suffix}"
    options = ["--normal-dir", folder, "--fpr", "0.1", "--out", new]
    result = without(HEAVY, "calibrate", "--model", path, *options)
    assert result.returncode == 0, result.stderr
    (said,) = result.stderr.splitlines()  # and nothing else
    assert said.startswith("note: near copies are not sought, for scikit-learn is not installed")
    assert open_model(new).threshold != open_model(path).threshold


@pytest.mark.parametrize(
    ("which", "package", "extra"),
    [
        ("onnx", "onnxruntime", "onnx"),
        ("tflite", "ai_edge_litert", "tflite"),
        ("savedmodel", "tensorflow", "train"),
    ],
)
def test_a_missing_runtime_is_named_with_the_extra_that_brings_it(
    which, package, extra, models, folder
):
    result = without({package}, "score", "--model", path_of(models, which), folder)
    assert result.returncode == 1
    assert f"needs the package '{package}'" in result.stderr
    assert f"pip install '.[{extra}]' in a clone" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_module_itself_imports_no_runtime():
    code = (
        "import sys; from lisae_tf.exported import recalibration, runtimes; "
        "print(sorted(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in eval(out.stdout)}
    assert not loaded & (HEAVY | {"onnxruntime", "ai_edge_litert", "PIL"})


def copy_of(models, which, tmp_path):
    """The artefact alone, elsewhere."""
    path = path_of(models, which)
    place = tmp_path / "copy"
    shutil.copytree(path if path.is_dir() else path.parent, place)
    return place if path.is_dir() else place / path.name


def main_file(path):
    return path / "variables" / "variables.data-00000-of-00001" if path.is_dir() else path


@pytest.mark.parametrize("which", ["savedmodel", "onnx", "tflite", "tflite-int8"])
@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.999])
def test_a_truncated_file_is_refused_before_it_is_parsed(which, kept, models, tmp_path):
    path = copy_of(models, which, tmp_path)
    data = main_file(path).read_bytes()
    length = kept if isinstance(kept, int) else int(kept * len(data))
    main_file(path).write_bytes(data[:length])
    with pytest.raises(LisaeError, match=r"is truncated \(.* bytes\); copy it again"):
        open_model(path)


@pytest.mark.parametrize("which", ["savedmodel", "onnx", "tflite", "tflite-int8"])
def test_an_altered_file_is_refused_before_it_is_parsed(which, models, tmp_path):
    path = copy_of(models, which, tmp_path)
    data = bytearray(main_file(path).read_bytes())
    for place in (0, len(data) // 3, len(data) - 1):
        data[place] ^= 1
        main_file(path).write_bytes(data)
        with pytest.raises(LisaeError, match="is not the file that was exported"):
            open_model(path)
        data[place] ^= 1
    main_file(path).write_bytes(data + b"\0")
    with pytest.raises(LisaeError, match="is not the file that was exported"):
        open_model(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", "[" * 100_000, '{"threshold": 1}', "\x00", "9" * 5000],
)
@pytest.mark.parametrize("which", ["savedmodel", "onnx"])
def test_a_broken_record_is_refused(which, text, models, tmp_path):
    path = copy_of(models, which, tmp_path)
    model_record.record_path(path).write_text(text)
    with pytest.raises(LisaeError, match="is no record of an exported model"):
        open_model(path)


def no_record(path):
    model_record.record_path(path).unlink()


def set_in_record(**values):
    return lambda path: edit_record(
        model_record.record_path(path), lambda record: record.update(values)
    )


def other_threshold(path):
    def change(record):
        record["threshold"]["alpha"] *= 2

    edit_record(model_record.record_path(path), change)


def nan_threshold(path):
    def change(record):
        record["threshold"]["alpha"] = float("nan")

    edit_record(model_record.record_path(path), change)


def outside(path):
    def change(record):
        each = next(iter(record["files"].values()))
        record["files"] = {"../elsewhere": each, **record["files"]}

    edit_record(model_record.record_path(path), change)


@pytest.mark.parametrize("which", ["savedmodel", "onnx", "tflite"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_record, "is missing"),
        (other_threshold, "disagree on the threshold"),
        (nan_threshold, "is no record of an exported model"),
        (outside, "another format"),
        (set_in_record(kind="other"), "another kind"),
        (set_in_record(format=2), "another format"),
        (set_in_record(shape=[32, 32]), "another format"),
        (set_in_record(shape=[10**9, 1, 1]), "another format"),
        (set_in_record(shape=[32, 32, 3]), "cannot be loaded"),
        (set_in_record(shape=[32, 33, 1]), "cannot be loaded"),
        (set_in_record(files={}), "another format"),
        (set_in_record(metadata={"a": 1}), "another format"),
    ],
)
def test_a_record_that_does_not_belong_is_refused(which, spoil, reason, models, tmp_path):
    path = copy_of(models, which, tmp_path)
    spoil(path)
    with pytest.raises(LisaeError, match=reason):
        open_model(path)


def other_share(record):
    record["error_map"]["highest_share"] /= 2


def other_scores(record):
    record["calibration_scores"] = "AAAA" + record["calibration_scores"][4:]


@pytest.mark.parametrize(
    "change",
    [
        other_share,
        other_scores,
        lambda record: record.update(depth=12),
        lambda record: record.update(shape=[32, 32, 3]),
        lambda record: record.update(mask_size=[64, 64]),
        lambda record: record.pop("calibration_scores"),
    ],
)
def test_a_change_to_any_part_of_a_record_is_noticed(change, models, tmp_path):
    path = copy_of(models, "onnx", tmp_path)
    edit_record(model_record.record_path(path), change, sealed=False)
    with pytest.raises(LisaeError, match="is not the record that was written; restore it"):
        open_model(path)


def of_an_earlier_version(path):
    def change(record):
        del record["error_map"]
        record["reconstruction"] = True

    edit_record(model_record.record_path(path), change)


@pytest.mark.parametrize("which", ["savedmodel", "onnx", "tflite"])
def test_a_model_of_an_earlier_version_scores_and_is_refused_for_maps(
    which, models, opened, samples, folder, tmp_path, cli
):
    path = copy_of(models, which, tmp_path)
    of_an_earlier_version(path)
    model = open_model(path)
    pictures = samples["real"][:5]
    np.testing.assert_array_equal(model.score(pictures), opened[which].score(pictures))
    with pytest.raises(LisaeError, match="of an earlier version, whose scores are good"):
        model.error_maps(pictures)
    assert cli("score", folder, "--model", path).exit_code == 0
    result = cli("score", folder, "--model", path, "--maps", tmp_path / "maps")
    assert_one_sentence(result, "gives no maps of errors; export it again")
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize(
    "stored",
    [7, {}, {"shape": ["batch", 32]}, {"shape": ["batch", 32, "a"], "highest_share": 1.0},
     {"shape": ["batch", 32, 32], "highest_share": 0}],
)  # fmt: skip
def test_a_record_with_a_strange_word_on_maps_is_refused(stored, models, tmp_path):
    path = copy_of(models, "onnx", tmp_path)
    set_in_record(error_map=stored)(path)
    with pytest.raises(LisaeError, match=r"another format|is no record"):
        open_model(path)


@pytest.mark.parametrize("which", FILES)
def test_a_file_whose_own_default_disagrees_is_refused(which, models, tmp_path):
    path = copy_of(models, which, tmp_path)
    files = {"onnx": onnx_file, "tflite": tflite_file}[which]
    alpha, metadata = files.read(path.read_bytes())
    for changed in ((2 * alpha, metadata), (alpha, metadata | {"threshold": repr(2 * alpha)})):
        path.write_bytes(files.replace(path.read_bytes(), *changed))
        record = json.loads(model_record.record_path(path).read_text())
        model_record.write_record(path, record)
        with pytest.raises(LisaeError, match="disagree on the threshold"):
            open_model(path)


@pytest.mark.parametrize("which", FILES)
def test_a_foreign_model_with_a_record_that_fits_is_refused(which, models, tmp_path):
    path = copy_of(models, which, tmp_path)
    start = {"onnx": b"\x08\x08", "tflite": b"\x1c\0\0\0TFL3"}[which]
    for data in (start, start + bytes(range(256)), b"\x80\x04.", b"PK" + bytes(60)):
        path.write_bytes(data)
        record = json.loads(model_record.record_path(path).read_text())
        model_record.write_record(path, record)
        with pytest.raises(LisaeError, match=r"cannot be loaded|is no (onnx|tflite) model"):
            open_model(path)


@pytest.mark.parametrize(
    "name", ["variables/more", "saved_model.cpb", "debug/saved_model_debug_info.pb"]
)
def test_a_file_added_to_a_savedmodel_is_refused(name, models, tmp_path):
    path = copy_of(models, "savedmodel", tmp_path)
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(b"1")
    with pytest.raises(LisaeError, match="files that its record does not name"):
        open_model(path)


def test_every_file_of_a_savedmodel_is_hashed(models, tmp_path):
    path = copy_of(models, "savedmodel", tmp_path)
    named = json.loads(model_record.record_path(path).read_text())["files"]
    there = {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}
    assert there - {*named} == {"lisae.json", model_record.CARD, model_record.PARITY}
    for name in named:
        good = (path / name).read_bytes()
        (path / name).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(LisaeError, match="is not the file that was exported"):
            open_model(path)
        (path / name).write_bytes(good)
    (path / ".DS_Store").write_bytes(b"1")  # no loader looks at it
    model_record.read_record(path, "savedmodel")


def test_the_newest_version_of_a_folder_is_taken(models, tmp_path):
    for version in ("2", "10", "latest"):
        shutil.copytree(path_of(models, "savedmodel"), tmp_path / version)
    assert open_model(tmp_path).path.name == "10"


@pytest.mark.parametrize("which", FILES)
def test_model_and_record_can_be_renamed_together(which, models, tmp_path):
    path = path_of(models, which)
    shutil.copy(path, tmp_path / f"mine{path.suffix}")
    shutil.copy(model_record.record_path(path), tmp_path / f"mine{path.suffix}.json")
    assert open_model(tmp_path / f"mine{path.suffix}").threshold == open_model(path).threshold


def test_run_and_model_exclude_each_other(models, run, folder, cli):
    for command in (["score", folder], ["calibrate", "--fpr", "0.1", "--normal-dir", folder]):
        result = cli(*command, "--run", run, "--model", path_of(models, "onnx"))
        assert result.exit_code != 0
        assert "--model" in result.stderr


@pytest.mark.parametrize("which", FILES)
def test_replacing_is_undone_by_replacing(which, models):
    files = {"onnx": onnx_file, "tflite": tflite_file}[which]
    data = path_of(models, which).read_bytes()
    alpha, metadata = files.read(data)
    changed = files.replace(data, 0.5, {"a": "ä", "threshold": "0.5"})
    assert files.read(changed) == (0.5, {"a": "ä", "threshold": "0.5"})
    assert files.replace(changed, alpha, metadata) == data


@pytest.mark.parametrize("which", [each for each in ALL if each != "savedmodel"])
def test_damage_inside_a_file_is_a_value_error_and_nothing_else(which, models):
    files = onnx_file if which == "onnx" else tflite_file
    data = path_of(models, which).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        spoilt = bytearray(data[: rng.integers(len(data))] if rng.random() < 0.3 else data)
        for place in rng.integers(0, max(1, min(len(spoilt), 4000)), 8):
            if spoilt:
                spoilt[place % len(spoilt)] = rng.integers(256)
        try:
            files.read(bytes(spoilt))
        except (ValueError, zipfile.BadZipFile):
            refused += 1
    assert 0 < refused < 300  # some damage lies where it changes a value and no structure


def test_what_an_onnx_file_holds_besides_stays_as_the_official_package_stores_it(models):
    onnx = pytest.importorskip("onnx")
    data = path_of(models, "onnx").read_bytes()
    model = onnx.load_from_string(data)
    assert onnx_file.read(data)[1] == {each.key: each.value for each in model.metadata_props}
    assert model.SerializeToString(deterministic=True) == data
    alpha = next(each for each in model.graph.initializer if each.name == "threshold")
    alpha.raw_data = np.float32(0.5).tobytes()
    del model.metadata_props[1:]
    model.metadata_props[0].key, model.metadata_props[0].value = "a", "b"
    assert onnx_file.replace(data, 0.5, {"a": "b"}) == model.SerializeToString(deterministic=True)


def text_and_number():
    return messages.declare({"Pair": {"number": (1, "int64"), "text": (2, "repeated bytes")}})[
        "Pair"
    ]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_value_error(data):
    kind = text_and_number()
    with contextlib.suppress(ValueError):
        found = messages.parse(kind, data)
        assert messages.parse(kind, found.SerializeToString()) == found


@pytest.mark.parametrize("data", [b"\x12\xff\xff\xff\xff\x07", b"\x12" + 9 * b"\xff" + b"\x01"])
def test_a_length_without_its_bytes_is_refused(data):
    with pytest.raises(ValueError, match="cut off"):
        messages.parse(text_and_number(), data)


@given(st.integers(0, 2**63 - 1), st.lists(st.binary(max_size=300)))
def test_what_is_not_declared_is_kept(number, texts):
    both = text_and_number()
    pair = both(number=number, text=texts)
    less = messages.declare({"Pair": {"number": (1, "int64")}})["Pair"]
    kept = messages.parse(less, pair.SerializeToString())
    assert kept.number == number
    assert messages.parse(both, kept.SerializeToString()) == pair
