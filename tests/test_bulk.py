"""Scores in Parquet parts: whole or absent, restarted, and the same from every engine."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import tensorflow as tf
from PIL import Image
from pyarrow import parquet

from lisae_tf.core import ray_engine
from lisae_tf.core.errors import LisaeError
from lisae_tf.experiments import bulk

PART = 7


@pytest.fixture(scope="module")
def model(trained, cli, tmp_path_factory):
    """An ONNX file of the tiny run."""
    out = tmp_path_factory.mktemp("models")
    with contextlib.chdir(trained):
        result = cli("export", "--run", "runs/normal-lis-seed0", "--out", out, "--name", "bulk")
    assert result.exit_code == 0, result.output
    return next(out.rglob("model.onnx"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, picture_folder):
    """Thirty pictures of mixed kinds, one of them damaged."""
    folder = picture_folder(tmp_path_factory.mktemp("bulk") / "new", 30, level=90)
    (folder / "012.png").write_bytes(b"no picture")
    return folder


def score(cli, model, pictures, parts, *more):
    arguments = ("--model", model, "--parts", parts, "--part-size", PART, *more)
    return cli("score", pictures, *arguments)


def tables(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.fixture(scope="module")
def local(cli, model, pictures, tmp_path_factory):
    """What the local engine wrote."""
    folder = tmp_path_factory.mktemp("local") / "parts"
    result = score(cli, model, pictures, folder, "--skip-bad")
    assert result.exit_code == 0, result.output
    return folder


def test_parts_hold_a_row_for_each_picture_with_the_scores_of_score(cli, model, pictures, local):
    assert list(tables(local)) == [f"part-00000{k}.parquet" for k in range(5)]
    rows = parquet.read_table(local).to_pylist()
    assert {Path(row["path"]).name for row in rows} == {p.name for p in pictures.iterdir()}
    good = {row["path"]: row for row in rows if row["reason"] is None}
    (bad,) = (row for row in rows if row["reason"])
    assert bad["path"].endswith("012.png") and bad["score"] is None
    assert "not a readable PNG" in bad["reason"]
    lines = cli("score", pictures, "--model", model, "--skip-bad").stdout.splitlines()[1:]
    assert len(lines) == len(good) == 29
    for line in lines:
        path, value, threshold, decision = line.split(",")
        found = good[str(Path(path).absolute())]
        # The same pictures lie in other batches here.
        assert found["score"] == pytest.approx(float(value), rel=1e-5)
        assert found["threshold"] == float(threshold)
        assert found["is_anomaly"] == (decision == "true")


def test_a_restart_scores_only_what_is_missing(cli, model, pictures, local, tmp_path):
    folder = tmp_path / "parts"
    assert score(cli, model, pictures, folder).exit_code == 1  # an unreadable picture
    before = {name: (folder / name).stat().st_mtime_ns for name in tables(folder)}
    (folder / "part-000003.parquet").unlink()
    result = score(cli, model, pictures, folder)
    assert result.exit_code == 0, result.output
    assert "5 parts in" in result.output and "4 stored" in result.output
    assert tables(folder) == tables(local)
    after = {name: (folder / name).stat().st_mtime_ns for name in before}
    assert [name for name in before if before[name] != after[name]] == ["part-000003.parquet"]


def test_a_folder_of_another_scoring_is_refused(cli, model, pictures, local, tmp_path):
    before = tables(local)
    arguments = ("score", pictures, "--model", model, "--parts", local)
    other_size = cli(*arguments, "--part-size", 8)
    other_files = cli("score", pictures / "000.png", *arguments[2:], "--part-size", PART)
    for result, what in ((other_size, "--part-size"), (other_files, "list of pictures")):
        assert result.exit_code == 1
        assert f"was begun with another {what}" in result.output
    assert tables(local) == before


def test_a_file_that_came_later_is_another_list_and_changes_nothing(
    cli, model, pictures, local, tmp_path
):
    folder, more = tmp_path / "parts", tmp_path / "more"
    shutil.copytree(local, folder)
    shutil.copytree(pictures, more)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = score(cli, model, more, folder)
    assert result.exit_code == 1 and "another list of pictures" in result.output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_without_pictures_is_refused(cli, model, tmp_path):
    (tmp_path / "empty").mkdir()
    result = score(cli, model, tmp_path / "empty", tmp_path / "parts")
    assert result.exit_code == 1 and "holds no PNG" in result.output
    assert not (tmp_path / "parts").exists()


def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    """Nothing but the names of one folder is held."""

    def peak(folders):
        place = tmp_path / f"{folders} folders"
        for folder in range(folders):
            (place / f"{folder:03d}").mkdir(parents=True)
            for number in range(100):
                (place / f"{folder:03d}" / f"{number:03d}.png").touch()
        tracemalloc.start()
        scorer = bulk.Scorer("model", False, "0", 0.5)
        parts = bulk.claim(tmp_path / f"parts of {folders}", [place], 1000, scorer)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(part.size for part in parts) == 100 * folders
        return found

    few = peak(10)
    assert peak(40) < few + 3_000 * 20  # bytes: a path alone has more than 100


def test_a_name_that_is_not_utf_8_is_told_all_the_same(cli, model, pictures, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    try:
        shutil.copy(os.fsencode(pictures / "000.png"), folder + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    result = score(cli, model, tmp_path / "odd", tmp_path / "parts")
    assert result.exit_code == 0, result.output
    (row,) = parquet.read_table(tmp_path / "parts").to_pylist()
    assert row["path"].endswith("odd/\\xff.png") and row["score"] is not None


def test_parquet_tables_and_arrays_are_read_by_rows(cli, model, pictures, local, tmp_path):
    files = sorted(p for p in pictures.iterdir() if p.name != "012.png")
    encoded = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    table = pyarrow.table({"image": encoded, "label": [0] * len(files)})
    parquet.write_table(table, tmp_path / "set.parquet", row_group_size=4)
    result = score(cli, model, tmp_path / "set.parquet", tmp_path / "parts")
    assert result.exit_code == 0, result.output
    rows = parquet.read_table(tmp_path / "parts").to_pylist()
    assert [row["path"].rsplit("#")[1] for row in rows] == [str(k) for k in range(29)]
    known = {Path(r["path"]).name: r["score"] for r in parquet.read_table(local).to_pylist()}
    scores = [row["score"] for row in rows]
    np.testing.assert_allclose(scores, [known[file.name] for file in files], rtol=1e-5)

    wrong = tmp_path / "wrong.parquet"
    parquet.write_table(pyarrow.table({"picture": [b""]}), wrong)
    refused = score(cli, model, wrong, tmp_path / "more")
    assert refused.exit_code == 1 and "has no column 'image'" in refused.output
    assert not (tmp_path / "more").exists()


def record_of(features):
    """A tf.train.Example, framed as TensorFlow frames it."""
    example = tf.train.Example()
    for name, value in features.items():
        values = example.features.feature[name]
        if isinstance(value, bytes):
            values.bytes_list.value.append(value)
        else:
            values.int64_list.value.append(value)
    return example.SerializeToString()


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def test_tfrecord_files_are_read_by_records(cli, model, pictures, local, tmp_path):
    files = sorted(p for p in pictures.iterdir() if p.name != "012.png")
    records = [record_of({"a": 7, "image": f.read_bytes(), "label": 1}) for f in files]
    shard = write_records(tmp_path / "set.tfrecord-00000-of-00001", records)
    result = score(cli, model, shard, tmp_path / "parts")
    assert result.exit_code == 0, result.output
    rows = parquet.read_table(tmp_path / "parts").to_pylist()
    assert [row["path"].rsplit("#")[1] for row in rows] == [str(k) for k in range(29)]
    known = {Path(r["path"]).name: r["score"] for r in parquet.read_table(local).to_pylist()}
    np.testing.assert_allclose(
        [row["score"] for row in rows], [known[file.name] for file in files], rtol=1e-5
    )


def test_damaged_tables_are_named_and_the_parts_before_them_stay(cli, model, pictures, tmp_path):
    files = sorted(p for p in pictures.iterdir() if p.name != "012.png")
    encoded = [file.read_bytes() for file in files]
    records = [record_of({"image": content}) for content in encoded]
    shard = write_records(tmp_path / "set.tfrecord", records)
    data = bytearray(shard.read_bytes())
    whole = len(records[0]) + 16
    header, body, cut = bytearray(data), bytearray(data), data[:-1]
    header[whole] ^= 1  # of the second record's length
    body[data.index(encoded[20]) + 40] ^= 1
    parquet.write_table(pyarrow.table({"image": encoded}), tmp_path / "a.parquet", row_group_size=7)
    group = bytearray((tmp_path / "a.parquet").read_bytes())
    place = parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(2).column(0)
    start = place.dictionary_page_offset or place.data_page_offset
    group[start : start + 60] = b"\xff" * 60
    for name, content, parts, said in (
        ("header.tfrecord", header, None, f"header.tfrecord (from byte {whole} on) is damaged"),
        ("cut.tfrecord", cut, None, "cut.tfrecord (its last record) is damaged"),
        ("body.tfrecord", body, 2, "record 20 of"),
        ("group.parquet", group, 2, "rows 14 to 20 of"),
        ("none.tfrecord", b"no records at all", None, "from byte 0 on"),
    ):
        (tmp_path / name).write_bytes(content)
        folder = tmp_path / f"parts of {name}"
        result = score(cli, model, tmp_path / name, folder)
        assert result.exit_code == 1 and said in result.output, result.output
        assert folder.exists() == (parts is not None)
        if parts is not None:
            assert len(tables(folder)) == parts
    other = write_records(tmp_path / "o.tfrecord", [record_of({"picture": encoded[0]})])
    result = score(cli, model, other, tmp_path / "others")
    assert result.exit_code == 1 and "no feature 'image'" in result.output
    junk = write_records(tmp_path / "j.tfrecord", [b"\x0b junk"])
    result = score(cli, model, junk, tmp_path / "junk")
    assert result.exit_code == 1 and "no tf.train.Example" in result.output


def test_a_table_or_an_array_without_pictures_is_refused(cli, model, tmp_path):
    parquet.write_table(pyarrow.table({"image": [1, 2]}), tmp_path / "numbers.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    for name, said in (
        ("numbers.parquet", "it must hold encoded pictures"),
        ("text.parquet", "is not a Parquet file"),
        ("text.npy", "is no array of pictures"),
        ("objects.npy", "is no array of pictures"),
    ):
        result = score(cli, model, tmp_path / name, tmp_path / "parts")
        assert result.exit_code == 1 and said in result.output
        assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--engine", "ray"), "name their folder with --parts"),
        (("--address", "x:1"), "belongs to --engine ray"),
        (("--parts", "p", "--out", "o.csv"), "leave --out and --maps out"),
    ],
)
def test_options_that_do_not_go_together(cli, model, pictures, arguments, said):
    result = cli("score", pictures, "--model", model, *arguments)
    assert result.exit_code == 1 and said in result.output


# Ray. Its engine is here, where a cluster is started anyway.


def test_what_a_worker_refuses_arrives_as_it_is(cluster):
    def work(item):
        if item == 1:
            raise LisaeError("item 1 is no good; leave it out")
        return item

    with pytest.raises(LisaeError, match="item 1 is no good"):
        list(ray_engine.run(work, [0, 1, 2]))


def test_no_more_than_a_few_tasks_wait(cluster, tmp_path):
    """Items are taken from the list only as results come."""
    taken = []

    def items():
        for k in range(40):
            taken.append(k)
            yield k

    results = ray_engine.run(lambda item: item, items())
    next(results)
    assert len(taken) <= 2 * ray_engine.AHEAD + 1
    assert len(list(results)) == 39


def test_ray_writes_the_same_bytes(cli, model, pictures, local, tmp_path, cluster):
    result = score(cli, model, pictures, tmp_path / "parts", "--skip-bad", "--engine", "ray")
    assert result.exit_code == 0, result.output
    assert tables(tmp_path / "parts") == tables(local)


def test_a_killed_worker_loses_nothing(model, pictures, local, tmp_path, cluster):
    folder, marker = tmp_path / "parts", tmp_path / "killed"
    scorer = bulk.scorer_of(None, model)
    parts = bulk.claim(folder, [pictures], PART, scorer)
    assert not tables(folder)
    one = partial(bulk.score_part, folder=str(folder), scorer=scorer)

    def work(part):
        if part.number == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return one(part)

    done = dict(ray_engine.run(work, parts))
    assert marker.exists()
    assert sorted(part.number for part in done) == [0, 1, 2, 3, 4]
    assert tables(folder) == tables(local)


def rows_of(folder):
    return {Path(row["path"]).name: row for row in parquet.read_table(folder).to_pylist()}


def test_a_replaced_picture_is_scored_again_and_nothing_else_is(cli, model, pictures, tmp_path):
    place, parts = tmp_path / "new", tmp_path / "parts"
    shutil.copytree(pictures, place)
    assert score(cli, model, place, parts, "--skip-bad").exit_code == 0
    before, stamp = tables(parts), (place / "002.png").stat()
    shutil.copy(place / "008.png", place / "002.png")
    os.utime(place / "002.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    result = score(cli, model, place, parts, "--skip-bad")
    assert result.exit_code == 0, result.output
    assert "part-000000.parquet: 7 pictures, 0 unreadable; scored again" in result.output
    assert "4 stored, 1 scored" in result.output
    after = tables(parts)
    assert [name for name in before if before[name] != after[name]] == ["part-000000.parquet"]
    rows = rows_of(parts)
    assert rows["002.png"]["score"] == pytest.approx(rows["008.png"]["score"], rel=1e-5)


@pytest.mark.parametrize("kind", [".npy", ".parquet", ".tfrecord"])
def test_replaced_rows_of_a_table_are_scored_again(kind, cli, model, trained, tmp_path):
    random, path = np.random.default_rng(0), tmp_path / f"set{kind}"
    levels = random.integers(0, 256, (9, 12, 12, 3)).astype(np.uint8)

    def write(pixels):
        if kind == ".npy":
            np.save(path, pixels)
            return
        encoded = []
        for picture in pixels:
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "BMP")
            encoded.append(stream.getvalue())
        if kind == ".parquet":
            parquet.write_table(pyarrow.table({"image": encoded}), path)
        else:
            write_records(path, [record_of({"image": each}) for each in encoded])

    write(levels)
    assert score(cli, model, path, tmp_path / "parts").exit_code == 0
    levels[8] = levels[0]
    write(levels)
    result = score(cli, model, path, tmp_path / "parts")
    assert result.exit_code == 0 and "1 stored, 1 scored" in result.output, result.output
    scores = [row["score"] for row in parquet.read_table(tmp_path / "parts").to_pylist()]
    assert scores[8] == pytest.approx(scores[0], rel=1e-5)


def test_a_run_that_was_calibrated_meanwhile_scores_by_its_new_threshold(cli, pictures, workplace):
    run = Path("runs/normal-lis-seed0")

    def parts(name):
        arguments = ("--run", run, "--parts", name, "--part-size", PART, "--skip-bad")
        return cli("score", pictures, *arguments)

    assert parts("before").exit_code == 0
    assert cli("calibrate", "--run", run, "--fpr", "0.4").exit_code == 0
    alpha = json.loads((run / "detector.json").read_text())["threshold"]["alpha"]
    assert parts("after").exit_code == 0
    old, new = rows_of("before"), rows_of("after")
    assert {row["threshold"] for row in new.values()} == {alpha}
    assert {row["threshold"] for row in old.values()} != {alpha}
    good = [row for row in new.values() if row["score"] is not None]
    assert len(good) > 10
    assert all(row["is_anomaly"] == (row["score"] > alpha) for row in good)
    refused = parts("before")
    assert refused.exit_code == 1 and "another model or threshold" in refused.output


def test_a_part_names_the_model_the_threshold_and_its_pictures(model, local):
    known = {"model_sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
    record = json.loads(Path(f"{model}.json").read_text())
    known["threshold"] = repr(record["threshold"]["alpha"])
    digests = set()
    for path in local.glob("*.parquet"):
        found = {k.decode(): v.decode() for k, v in parquet.read_schema(path).metadata.items()}
        digests.add(found.pop("pictures_sha256"))
        assert found == known
    assert len(digests) == 5


def test_a_model_that_changes_while_it_scores_is_refused(cli, model, pictures, trained, tmp_path):
    copy = tmp_path / model.name
    for path in (model, Path(f"{model}.json")):
        shutil.copy(path, tmp_path)
    scorer = bulk.scorer_of(None, copy)
    parts = bulk.claim(tmp_path / "parts", [pictures], PART, scorer)
    # Training has not seen these: it refuses others.
    other = ("--fpr", "0.5", "--normal-dir", trained / "anomaly", "--out", tmp_path / "other.onnx")
    result = cli("calibrate", "--model", copy, *other)
    assert result.exit_code == 0, result.output
    (tmp_path / "other.onnx").replace(copy)
    (tmp_path / "other.onnx.json").replace(f"{copy}.json")
    with pytest.raises(LisaeError, match="was changed while it scored"):
        bulk.score(parts, tmp_path / "parts", scorer)
    assert not tables(tmp_path / "parts")
