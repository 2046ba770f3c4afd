"""Datasets by name: what is missing is named, what is there is cut as the paper has it."""

import socket
from collections import Counter

import numpy as np
import pytest

from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import datasets, pictures
from lisae_tf.data.drawings import background_is_bright
from lisae_tf.data.tasks import load_test, load_training


@pytest.mark.parametrize(
    "settings, missing",
    [({"dataset": "kmnist"}, "kmnist"), ({"negatives": "omniglot"}, "omniglot"),
     ({"negatives": "cifar10:3"}, "cifar10")],
)  # fmt: skip
def test_missing_data_is_named_when_offline(settings, missing, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_online", lambda: False)
    reason = (
        rf"^the dataset '{missing}' is not in {tmp_path} and there is no connection.*--data-dir"
    )
    with pytest.raises(LisaeError, match=reason):
        load_training(resolve(settings), tmp_path)


def test_without_a_connection_nothing_is_asked_for(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError

    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert not datasets._online()


@pytest.mark.parametrize("name", ["no_such_set", "", "mnist:9.9.9", "../mnist"])
def test_an_unknown_dataset_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_online", lambda: False)
    with pytest.raises(LisaeError, match=f"there is no dataset called '{name}'"):
        datasets.open_dataset(name, tmp_path)


def test_one_set_has_one_name(tmp_path):
    with pytest.raises(LisaeError, match="no dataset called 'MNIST'; write 'mnist'"):
        datasets.open_dataset("MNIST", tmp_path)


@pytest.mark.parametrize(
    "identifier, photo", [(b"train_123_4", 123), (b"test_9_0", 9), (b"train_5", -1), (b"x_a_1", -1)]
)
def test_the_photograph_is_the_middle_of_an_svhn_id(identifier, photo):
    assert datasets._photo({"id": identifier}) == photo


def test_mnist_one_class_against_omniglot(tfds_dir):
    data_dir = tfds_dir("mnist", "omniglot")
    characters = ",".join(map(str, range(0, 900, 30)))
    settings = {"protocol": "one-class", "normal_class": [8], "negatives": f"omniglot:{characters}"}
    config = resolve({"dataset": "mnist"} | settings)
    data, test = load_training(config, data_dir), load_test(config, data_dir)
    normal, negative = data.normal, data.negative
    assert sum(map(len, (normal.fit, normal.stopping, normal.calibration))) == 5851
    assert Counter(test.labels) == dict(
        zip("0123456789", (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009), strict=True)
    )
    anomalies = np.array(test.labels)[test.is_anomaly]
    assert (set(anomalies), len(anomalies)) == (set("012345679"), 9026)
    assert data.augment
    held = [len(part) for part in (negative.fit, negative.stopping, negative.calibration)]
    assert sum(held) % 20 == 0  # 20 people drew each character
    assert 200 < sum(held) <= 600
    assert negative.fit.shape[1:] == data.shape == (28, 28, 1)
    assert not background_is_bright(normal.fit)
    assert not background_is_bright(negative.fit)
    stored = datasets.open_dataset("omniglot", data_dir).read("train", [0], (28, 28), 1)
    assert background_is_bright(stored.pixels)


def test_svhn_parts_share_no_photograph(tfds_dir):
    data_dir = tfds_dir("svhn_cropped")
    config = resolve({"dataset": "svhn_cropped", "normal_class": [9], "negatives": "none"})
    data = load_training(config, data_dir)
    assert data.notes == ()
    read = datasets.open_dataset("svhn_cropped", data_dir).read("train", [9], (32, 32), 3)
    assert len(np.unique(read.groups)) < len(read.groups)  # some photographs hold several
    photo_of = dict(zip(pictures.content_hashes(read.pixels), read.groups.tolist(), strict=True))
    parts = (data.normal.fit, data.normal.stopping, data.normal.calibration)
    photos = [{photo_of[d] for d in pictures.content_hashes(part)} for part in parts]
    assert sum(map(len, parts)) == len(read.pixels)
    assert sum(map(len, photos)) == len(np.unique(read.groups))


def test_svhn_without_photographs_says_that_it_splits_at_random(registry_without_ids):
    config = resolve({"dataset": "svhn_cropped", "negatives": "none"})
    assert load_training(config).notes == (
        "SVHN ids name no photograph here: normals are held out at random",
    )


@pytest.fixture
def registry_without_ids(monkeypatch):
    def read(part, classes, size, channels):
        labels = np.repeat(classes, 40)
        return datasets.Images(np.zeros((len(labels), 32, 32, 3), np.uint8), labels)

    opened = datasets.Dataset("svhn_cropped", tuple("0123456789"), (32, 32, 3), read)
    monkeypatch.setitem(datasets.DATASETS, "svhn_cropped", lambda data_dir: opened)
