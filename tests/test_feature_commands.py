"""Every command that follows training, on a run of pretrained features."""

import contextlib
import csv
import io
import json
from pathlib import Path

import feature_fixtures
import numpy as np
import pytest
from conftest import assert_one_sentence, copied
from PIL import Image

from lisae_tf.core.files import read_json
from lisae_tf.data.pictures import decode


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cli):
    """Folders and a completed run, `run`."""
    base = feature_fixtures.write_folders(tmp_path_factory.mktemp("commands"))
    result, _ = feature_fixtures.train(cli, base)
    assert result.exit_code == 0, result.stderr
    return base


@pytest.fixture
def workplace(trained, tmp_path, monkeypatch):
    copied(trained, tmp_path, "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(cli, *arguments):
    result = cli(*arguments)
    assert result.exit_code == 0, result.output
    return result


def test_scores_maps_and_parts_agree(workplace, cli):
    rows = list(csv.DictReader(io.StringIO(
        ran(cli, "score", "bad", "--run", "run", "--maps", "maps").stdout)))  # fmt: skip
    assert len(rows) == 10 and all(row["is_anomaly"] == "true" for row in rows)
    for row in rows:
        assert decode(workplace / row["map"]).shape == (64, 64, 3)
    ran(cli, "score", "bad", "--run", "run", "--parts", "scores")
    table = pytest.importorskip("pyarrow.parquet").read_table(
        next(workplace.glob("scores/*.parquet"))
    )
    names = [Path(path).name for path in table["path"].to_pylist()]
    found = dict(zip(names, table["score"].to_pylist(), strict=True))
    for row in rows:
        assert found[Path(row["path"]).name] == pytest.approx(float(row["score"]), rel=1e-4)


def test_evaluation_with_masks(workplace, cli):
    masks = workplace / "masks"
    masks.mkdir()
    normal = feature_fixtures.parts(10, seed=1).astype(int)
    flawed = feature_fixtures.parts(10, flaw=True, seed=1).astype(int)
    del normal
    for k, picture in enumerate(flawed):
        marked = (picture[..., 0] > 230) & (picture[..., 2] < 60)
        Image.fromarray(np.uint8(255 * marked)).save(masks / f"{k:03d}.png")
    stored = read_json(workplace / "run" / "metrics.json")
    again = json.loads(ran(cli, "evaluate", "--run", "run", "--mask-dir", "masks").stdout)
    assert again["auroc"] == pytest.approx(stored["auroc"], abs=1e-6)
    assert again["threshold"] == stored["threshold"]
    assert again["pixel_auroc"] > 0.9
    assert read_json(workplace / "run" / "metrics.json")["pixel_auroc"] == again["pixel_auroc"]
    ran(cli, "report", "--run", "run")
    assert "pixel AUROC" in (workplace / "run" / "report.html").read_text()


def test_thresholds_and_drift(workplace, cli):
    before = read_json(workplace / "run" / "metrics.json")["threshold"]
    ran(cli, "calibrate", "--run", "run", "--fpr", "0.2")
    feature_fixtures.write_parts(workplace / "unseen", 30, seed=11)
    ran(cli, "calibrate", "--run", "run", "--fpr", "0.2", "--normal-dir", "unseen")
    assert read_json(workplace / "run" / "metrics.json")["threshold"] != before
    feature_fixtures.write_parts(workplace / "flawed", 30, flaw=True, seed=3)
    ran(cli, "score", "flawed", "--run", "run", "--out", "scores.csv")
    assert cli("monitor", "--run", "run", "--scores", "scores.csv").exit_code == 3
    ran(cli, "score", "good", "--run", "run", "--out", "scores.csv")
    ran(cli, "export", "--run", "run", "--format", "onnx")
    model = next((workplace / "models").rglob("model.onnx"))
    ran(cli, "calibrate", "--model", model, "--normal-dir", "unseen", "--fpr", "0.1")
    assert len(list((workplace / "models").rglob("model.onnx"))) == 2


def test_a_later_normal_class(workplace, cli):
    feature_fixtures.write_parts(workplace / "more", 20, seed=7)
    result = ran(cli, "train", "--continue", "run", "--normal-dir", "more", "--out", "after",
                 "--quiet")  # fmt: skip
    assert "old normals" in result.stdout and "new normals" in result.stdout
    found = read_json(workplace / "after" / "metrics.json")["continued"]
    assert found["old_normals"]["auroc_before"] is not None
    assert found["new_normals"]["auroc_after"] is not None


def test_tuning_tries_what_the_variant_reads(workplace, cli):
    options = ("--set", "data.size=[64,64]", "--set", "features.places=1000",
               "--set", "features.made=100", "--set", "network.latent=8")  # fmt: skip
    feature_fixtures.write_parts(workplace / "many", 70, seed=9)
    result = ran(cli, "tune", "--normal-dir", "many", *options, "--trials", "2", "--out", "tuned")
    assert "gamma" not in result.stdout and "directions 80" in result.stdout
    ran(cli, "train", "--config", "tuned/best.yaml", "--out", "best", "--quiet")


def test_tiles_are_trained_scored_and_drawn(workplace, cli):
    options = ("--tile", "64", "--stride", "32", "--input-size", "96,96")
    result, run = feature_fixtures.train(cli, workplace, *options, out="tiles")
    assert result.exit_code == 0, result.stderr
    ran(cli, "score", "bad", "--run", run, "--maps", "maps")
    assert len(list((workplace / "maps").iterdir())) == 10


def test_what_training_refuses_data_check_refuses(workplace, cli):
    checked = cli("data", "check", "--normal-dir", "good", "--anomaly-dir", "bad")
    assert checked.exit_code == 0, checked.output
    (workplace / "good" / "000.png").write_bytes(b"no picture")
    result, _ = feature_fixtures.train(cli, workplace, out="bad-run")
    assert_one_sentence(result, "000.png")
    assert cli("data", "check", "--normal-dir", "good", "--anomaly-dir", "bad").exit_code == 1


def test_a_finished_run_is_not_resumed(workplace, cli):
    with contextlib.chdir(workplace):
        result, _ = feature_fixtures.train(cli, workplace, "--resume")
    assert result.exit_code in (0, 1)
    assert "Traceback" not in result.output
