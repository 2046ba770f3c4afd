"""The networks of keras.applications as backbones, with random weights.

Their pretrained weights are downloaded once by Keras; no test has them.
"""

import contextlib
from dataclasses import replace

import feature_fixtures
import keras
import numpy as np
import pytest

from lisae_tf.config.sections import Backbone
from lisae_tf.detectors import load_detector
from lisae_tf.exported.runtimes import open_model
from lisae_tf.features import backbones

NAMES = [name for name in Backbone.__args__ if name != "efficientnet_lite0"]
SLOW = [name if name == "mobilenet_v3_small" else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES]  # fmt: skip


def test_the_settings_know_all_backbones():
    assert set(Backbone.__args__) == set(backbones.BACKBONES)


@pytest.mark.parametrize("name", SLOW)
def test_it_trains_scores_and_is_exported(name, cli, tmp_path, monkeypatch):
    backbone = backbones.BACKBONES[name]

    def random(shape):
        keras.utils.set_random_seed(0)
        return backbones.weights_by_path(backbone.network(shape))

    monkeypatch.setitem(backbones.BACKBONES, name, replace(backbone, pretrained=random))
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
