"""Datasets by name, and who is normal, negative, test-normal and test-anomaly in them."""

import socket
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import datasets, pictures, tasks
from lisae_tf.data.augmentation import background_is_bright
from lisae_tf.data.datasets import Dataset, DecodedPictures, Images
from lisae_tf.data.protocols import PROTOCOLS, Negatives, class_numbers, make_negatives, make_task
from lisae_tf.data.tasks import load_test, load_training

TEN = tuple(f"class {chr(97 + number)}" for number in range(10))
EACH = 24  # pictures of a class in a part


def coded(dataset, part, label):
    """The grey level of such a picture."""
    return 100 * (dataset == "foreign") + 50 * (part == "test") + 5 * label


CODES = {
    coded(dataset, part, label): (dataset, part, label)
    for dataset in ("toy", "foreign") for part in ("train", "test") for label in range(10)
}  # fmt: skip


@pytest.fixture
def registry(monkeypatch):
    """Two sets of ten classes whose pictures tell where they come from."""

    def opened(name):
        def read(part, classes, size, channels):
            labels = np.repeat(classes, EACH)
            levels = np.array([coded(name, part, label) for label in labels], np.uint8)
            return Images(levels[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8), labels)

        return lambda data_dir: Dataset(name, TEN, (8, 8, 1), read)

    monkeypatch.setattr(datasets, "DATASETS", {name: opened(name) for name in ("toy", "foreign")})


def sources(pixels):
    return [CODES[level] for level in pixels[:, 0, 0, 0].tolist()]


def numbers(text):
    """ "0-2 5" as {0, 1, 2, 5}."""
    ends = [part.split("-") for part in text.split()]
    return {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}


# protocol, normal classes given, --negatives: normal, negative, test anomalies
ROLES = [
    ("one-class", [8], "none", "8", None, "0-7 9"),
    ("one-class", [8], "foreign", "8", "foreign 0-9", "0-7 9"),
    ("one-class", [8], "foreign:3,4", "8", "foreign 3-4", "0-7 9"),
    ("one-class", [2, 5], "foreign", "2 5", "foreign 0-9", "0-1 3-4 6-9"),
    ("one-class", [8], "supervised", "8", "toy 0-7 9", "0-7 9"),
    ("two-class", [0], "foreign", "0-1", "foreign 0-9", "2-9"),
    ("two-class", [7], "foreign", "6-7", "foreign 0-9", "0-5 8-9"),
    ("two-class", [8, 9], "supervised", "8-9", "toy 0-7", "0-7"),
    ("next-class", [0], "next-class", "0", "toy 1", "2-9"),
    ("next-class", [9], "next-class", "9", "toy 0", "1-8"),
    ("next-class", [3], "toy:4", "3", "toy 4", "0-2 5-9"),
    ("next-class", [3], "foreign:3", "3", "foreign 3", "0-2 5-9"),
    ("halves", [1], "other-half", "1", "toy 5-9", "0 2-4"),
    ("halves", [5], "other-half", "5", "toy 0-4", "6-9"),
    ("halves", [0, 4], "other-half", "0 4", "toy 5-9", "1-3"),
    ("halves", [1], "toy:6,8", "1", "toy 6 8", "0 2-4"),
    ("halves", [1], "foreign:0", "1", "foreign 0", "0 2-4"),
    ("halves", [1], "supervised", "1", "toy 0 2-4", "0 2-4"),
    ("halves", [1], "none", "1", None, "0 2-4"),
]  # fmt: skip


@pytest.mark.parametrize(
    "protocol, given_normal, spec, normal, negative, anomaly", ROLES,
    ids=[f"{row[0]}-{row[1]}-{row[2]}" for row in ROLES],
)  # fmt: skip
def test_each_part_holds_the_classes_of_its_role(
    protocol, given_normal, spec, normal, negative, anomaly, registry
):
    config = resolve(
        {"dataset": "toy", "protocol": protocol, "normal_class": given_normal, "negatives": spec}
    )
    data, test = tasks.load_training(config), tasks.load_test(config)

    def train_part(dataset, classes):
        return {(dataset, "train", label) for label in numbers(classes)}

    def test_part(classes):
        return {("toy", "test", label) for label in numbers(classes)}

    sides = [(data.normal, train_part("toy", normal))]
    if negative is None:
        assert data.negative is None
    else:
        sides.append((data.negative, train_part(*negative.split(" ", 1))))
    for parts, expected in sides:
        read = [sources(part) for part in (parts.fit, parts.stopping, parts.calibration)]
        assert set(read[0]) == expected
        assert set(read[1]) | set(read[2]) <= expected
        assert sum(map(len, read)) == EACH * len(expected)
    assert set(sources(test.pixels[~test.is_anomaly])) == test_part(normal)
    assert set(sources(test.pixels[test.is_anomaly])) == test_part(anomaly)
    assert len(test.pixels) == EACH * len(numbers(normal) | numbers(anomaly))
    assert test.labels == [TEN[label] for _, _, label in sources(test.pixels)]


def roles(protocol, normal, spec, anomaly=None, names=TEN):
    task = make_task(protocol, normal, anomaly, names)
    return task, make_negatives(spec, "toy", task, names)


def test_made_negatives_join_those_with_pictures_of_their_own():
    joined = roles("next-class", [3], "next-class+synth:elastic+flip")[1]
    assert joined == Negatives("toy", (4,), ("elastic", "flip"))
    assert roles("halves", [1], "foreign:1,2+synth:flip")[1] == Negatives(
        "foreign", (1, 2), ("flip",)
    )


def test_drawn_negatives_need_no_classes():
    assert roles("one-class", [8], "strokes")[1] == Negatives("strokes")


def test_a_version_in_the_name_hides_no_class():
    task = make_task("one-class", [8], None, TEN)
    with pytest.raises(LisaeError, match="normal or tested on"):
        make_negatives("mnist", "mnist:3.0.1", task, TEN)
    assert make_negatives("mnist", "fashion_mnist", task, TEN) == Negatives("mnist")


def test_anomaly_classes_override_those_of_the_protocol():
    task, negatives = roles("halves", [1], "other-half", anomaly=["class a", 3])
    assert (task.normal, task.anomaly) == ((1,), (0, 3))
    assert negatives == Negatives("toy", (5, 6, 7, 8, 9))


@pytest.mark.parametrize("normal", [None, []])
def test_the_first_class_is_normal_by_default(normal):
    assert make_task("one-class", normal, None, TEN).normal == (0,)


def test_supervised_follows_the_anomaly_classes_of_the_task():
    assert roles("one-class", [8], "supervised", anomaly=[3])[1] == Negatives("toy", (3,))


@st.composite
def any_task(draw):
    n = draw(st.integers(1, 20))
    some = st.lists(st.integers(0, n - 1), min_size=1, max_size=3)
    spec = draw(
        st.sampled_from(["strokes", "foreign", "next-class", "other-half", "supervised", "toy"])
        | some.map(lambda classes: "toy:" + ",".join(map(str, classes)))
    )
    names = [f"name {number}" for number in range(n)]
    return draw(st.sampled_from(sorted(PROTOCOLS))), draw(some), spec, draw(st.none() | some), names


@given(task=any_task())
@example(task=("one-class", [1], "supervised", None, TEN))
@example(task=("halves", [2], "toy:3", [9], TEN))
def test_normal_negative_and_anomaly_classes_never_meet(task):
    protocol, normal, spec, anomaly, names = task
    try:
        accepted, negatives = roles(protocol, normal, spec, anomaly, names)
    except LisaeError as error:
        assert "\n" not in str(error)
        assert names is not TEN  # the examples are accepted
        return
    assert set(normal) <= set(accepted.normal)
    assert accepted.anomaly
    assert not set(accepted.normal) & set(accepted.anomaly)
    assert set(accepted.normal + accepted.anomaly) <= set(range(len(names)))
    if spec == "supervised":
        assert set(negatives.classes) == set(accepted.anomaly)
    elif negatives.source == "toy":
        assert negatives.classes
        assert set(negatives.classes) <= set(range(len(names)))
        assert not set(negatives.classes) & {*accepted.normal, *accepted.anomaly}


@given(n=st.integers(1, 20), data=st.data())
def test_names_and_numbers_mean_the_same_classes(n, data):
    names = [f"name {number}" for number in range(n)]
    chosen = data.draw(st.lists(st.integers(0, n - 1)))
    mixed = [data.draw(st.sampled_from([c, str(c), names[c]])) for c in chosen]
    assert class_numbers(mixed, names) == tuple(dict.fromkeys(chosen))


def test_a_name_that_is_a_number_comes_first():
    assert class_numbers(["1", 2], ["2", "0", "1"]) == (2, 0)


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


class Beginning:
    """A set of TensorFlow Datasets of which each part is its first pictures alone."""

    def __init__(self, builder, count):
        self.builder, self.count = builder, count

    def __getattr__(self, name):
        return getattr(self.builder, name)

    def as_dataset(self, split, **options):
        return self.builder.as_dataset(split=f"{split}[:{self.count}]", **options)


@pytest.fixture
def reading(monkeypatch):
    """`reading(name, data_dir)` opens a set, and gives all that is read of it from now on.

    `first` pictures of each part of any set where that is given.
    """

    def watch(name, data_dir, first=None):
        if first:
            build, part = datasets._tfds_builder, datasets._tfds_part.__wrapped__
            monkeypatch.setattr(datasets, "_tfds_builder", lambda *of: Beginning(build(*of), first))
            monkeypatch.setattr(datasets, "_tfds_part", part)  # nothing that was read before
            monkeypatch.setattr(datasets, "DECODED", DecodedPictures(limit=0))
        opened, kept = datasets.open_dataset(name, data_dir), []

        def read(*how):
            kept.append(opened.read(*how))
            return replace(kept[-1], pixels=kept[-1].pixels.copy())

        watched = replace(opened, read=read)
        monkeypatch.setitem(datasets.DATASETS, name, lambda data_dir: watched)
        return kept

    return watch


@pytest.mark.parametrize(
    ("first", "normals", "tested", "drawings"),
    [
        (1500, 157, (158, 167, 169, 148, 130, 131, 150, 166, 148, 133), range(20, 201)),
        pytest.param(
            None, 5851, (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
            range(220, 601, 20),  # 20 people drew each character
            marks=pytest.mark.slow("the whole sets, of which a beginning is read above"),
        ),
    ],
    ids=["beginning", "whole"],
)  # fmt: skip
def test_mnist_one_class_against_omniglot(first, normals, tested, drawings, tfds_dir, reading):
    data_dir = tfds_dir("mnist", "omniglot")
    drawn = reading("omniglot", data_dir, first)
    characters = ",".join(map(str, range(0, 900, 30)))
    settings = {"protocol": "one-class", "normal_class": [8], "negatives": f"omniglot:{characters}"}
    config = resolve({"dataset": "mnist"} | settings)
    data, test = load_training(config, data_dir), load_test(config, data_dir)
    normal, negative = data.normal, data.negative
    assert sum(map(len, (normal.fit, normal.stopping, normal.calibration))) == normals
    assert Counter(test.labels) == dict(zip("0123456789", tested, strict=True))
    anomalies = np.array(test.labels)[test.is_anomaly]
    assert (set(anomalies), len(anomalies)) == (set("012345679"), sum(tested) - tested[8])
    assert data.augment
    held = [len(part) for part in (negative.fit, negative.stopping, negative.calibration)]
    assert sum(held) in drawings
    assert negative.fit.shape[1:] == data.shape == (28, 28, 1)
    assert not background_is_bright(normal.fit)
    assert not background_is_bright(negative.fit)
    assert len(drawn) == 1 and background_is_bright(drawn[0].pixels)


@pytest.mark.parametrize(
    ("first", "normal"),
    [
        (3000, [0, 1, 2]),  # of one digit there are hardly two in a photograph
        pytest.param(
            None, [9], marks=pytest.mark.slow("the whole set, of which a beginning is read above")
        ),
    ],
    ids=["beginning", "whole"],
)
def test_svhn_parts_share_no_photograph(first, normal, tfds_dir, reading):
    data_dir = tfds_dir("svhn_cropped")
    kept = reading("svhn_cropped", data_dir, first)
    config = resolve({"dataset": "svhn_cropped", "normal_class": normal, "negatives": "none"})
    data = load_training(config, data_dir)
    assert data.notes == ()
    (read,) = kept
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
