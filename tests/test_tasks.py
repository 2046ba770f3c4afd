import socket
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lisae_tf import datasets, drawings, experiment, folders, parts, pictures, surfaces
from lisae_tf.config import dataset_settings, merge, resolve
from lisae_tf.drawings import background_is_bright, match_polarity
from lisae_tf.errors import LisaeError
from lisae_tf.parts import split
from lisae_tf.sections import Data
from lisae_tf.tasks import load_test, load_training

# Splitting


@st.composite
def to_split(draw):
    groups = np.array(draw(st.lists(st.integers(0, 12), max_size=60)), np.int64)
    shares = draw(st.lists(st.floats(0.01, 0.5, exclude_max=True), min_size=1, max_size=3))
    return groups, shares, draw(st.integers(0, 99)), draw(st.booleans())


@given(case=to_split())
def test_parts_are_disjoint_exhaustive_and_divide_no_group(case):
    groups, shares, seed, grouped = case
    arguments = {"groups": groups if grouped else None}

    def parts():
        return split(len(groups), shares, **arguments, generator=np.random.default_rng(seed))

    try:
        first = parts()
    except LisaeError as error:
        assert f"{len(groups)} picture" in str(error)
        return
    assert len(first) == 1 + len(shares)
    assert all(len(part) for part in first)
    assert sorted(np.concatenate(first)) == list(range(len(groups)))
    assert all(np.array_equal(a, b) for a, b in zip(first, parts(), strict=True))
    if grouped:
        kinds = [set(groups[part]) for part in first]
        assert sum(map(len, kinds)) == len(set(groups))


@given(count=st.integers(0, 200), seed=st.integers(0, 99))
def test_parts_have_the_size_of_their_share(count, seed):
    shares = [0.1, 0.2]
    wanted = [max(1, round(share * count)) for share in shares]
    if count <= sum(wanted):
        with pytest.raises(LisaeError, match="cannot be held apart for training"):
            split(count, shares, generator=np.random.default_rng(seed))
        return
    _, *held_out = split(count, shares, generator=np.random.default_rng(seed))
    assert [len(part) for part in held_out] == wanted


def test_seed_and_stream_decide_who_goes_where():
    pixels = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1)

    def fit(**options):
        return parts.split_side(pixels, Data(), **options)[0].fit.tolist()

    assert fit(seed=1, stream=0) == fit(seed=1, stream=0)
    assert fit(seed=1, stream=0) != fit(seed=1, stream=1)
    assert fit(seed=1, stream=0) != fit(seed=2, stream=0)


# The embedded photographs


@pytest.mark.parametrize("name", surfaces.PHOTOGRAPHS)
def test_no_column_of_a_photograph_is_in_two_parts(name, monkeypatch):
    shape = surfaces.photograph(name).shape
    columns = np.broadcast_to(np.arange(shape[1])[:, None], shape)  # each pixel says where it is
    monkeypatch.setattr(surfaces, "photograph", lambda _: columns)
    used = [
        set(np.unique(surfaces.patches(name, part)))
        for part in ("train", "stopping", "calibration", "test")
    ]
    assert all(len(part) >= surfaces.PATCH for part in used)
    assert len(set.union(*used)) == sum(map(len, used))


def test_surfaces_are_read_part_by_part():
    config = resolve({"normal_class": ["gravel"]})
    data, test = load_training(config), load_test(config)
    for part in ("stopping", "calibration"):
        np.testing.assert_array_equal(getattr(data.normal, part), surfaces.patches("gravel", part))
    np.testing.assert_array_equal(data.normal.fit, surfaces.patches("gravel", "train"))
    np.testing.assert_array_equal(test.pixels[~test.is_anomaly], surfaces.patches("gravel", "test"))
    assert set(test.labels) == {"gravel", "brick", "grass", "moon", "cell"}
    assert (data.shape, data.augment, data.notes) == ((32, 32, 1), False, ())


# Ink and paper


def drawing(paper, ink, count=6):
    pictures = np.full((count, 9, 9, 1), paper, np.uint8)
    pictures[:, 2:7, 4] = ink
    return pictures


@pytest.mark.parametrize("paper, ink", [(0, 255), (255, 0), (30, 200), (140, 10)])
@pytest.mark.parametrize("bright", [True, False])
def test_drawings_take_the_polarity_of_the_normals(paper, ink, bright):
    drawn, normal = drawing(paper, ink), drawing(*((250, 5) if bright else (5, 250)))
    matched = match_polarity(drawn, normal)
    assert background_is_bright(matched) == bright
    same = background_is_bright(drawn) == bright
    np.testing.assert_array_equal(matched, drawn if same else 255 - drawn)


def test_the_border_is_the_background_whatever_the_ink_covers():
    pictures = drawing(255, 0)
    pictures[:, 1:8, 1:8] = 0
    assert background_is_bright(pictures)


# Folders


def folder_config(base, **over):
    sides = {f"{name}_dir": str(base / name) for name in ("normal", "negative", "anomaly")}
    given = {key: value for key, value in sides.items() if (base / key[:-4]).is_dir()}
    return resolve({"dataset": "folder", "data": {"size": [12, 12]}, **given} | over)


@pytest.fixture
def three_folders(tmp_path, picture_folder):
    for name, count, level in (("normal", 40, 60), ("negative", 20, 140), ("anomaly", 7, 200)):
        picture_folder(tmp_path / name, count, level=level)
    return tmp_path


def digests(*arrays):
    return Counter(digest for array in arrays for digest in pictures.content_hashes(array))


def test_each_picture_of_the_folders_has_one_place(three_folders):
    config = folder_config(three_folders)
    data, test = load_training(config), load_test(config)
    normal = data.normal
    read = digests(normal.fit, normal.stopping, normal.calibration, test.pixels[~test.is_anomaly])
    assert read == digests(folders._read(config.normal_dir, config, skip_bad=False).pixels)
    assert set(read.values()) == {1}
    assert [len(p) for p in (normal.stopping, normal.calibration)] == [4, 4]
    assert (len(test.pixels), int(test.is_anomaly.sum())) == (11, 7)
    seen = digests(data.negative.fit, data.negative.stopping, data.negative.calibration)
    assert not seen.keys() & digests(test.pixels).keys()
    assert all("/anomaly/" in label for label in np.array(test.labels)[test.is_anomaly])


def test_copies_of_one_picture_stay_in_one_part(three_folders):
    for path in pictures.find(three_folders / "normal")[:30]:
        (path.parent / f"copy of {path.name}").write_bytes(path.read_bytes())
    config = folder_config(three_folders)
    data, test = load_training(config), load_test(config)
    parts = [
        set(digests(part))
        for part in (
            data.normal.fit, data.normal.stopping, data.normal.calibration,
            test.pixels[~test.is_anomaly],
        )
    ]  # fmt: skip
    assert len(set.union(*parts)) == sum(map(len, parts)) == 40


@pytest.mark.parametrize(
    "kinds, channels",
    [([(9, 9, "L", ".png"), (8, 8, "LA", ".png")], 1),
     ([(9, 9, "L", ".png"), (8, 8, "RGB", ".jpg")], 3)],
)  # fmt: skip
def test_only_folders_without_any_colour_are_grey(kinds, channels, tmp_path, picture_folder):
    picture_folder(tmp_path / "normal", 25, kinds=kinds)
    config = folders.settle_folder_channels(folder_config(tmp_path, negatives="none"))
    assert (config.data.channels, config.data.size) == (channels, [12, 12])
    data = load_training(config)
    assert data.shape == (12, 12, channels)
    assert data.negative is None


def test_an_unreadable_file_is_no_colour(tmp_path, picture_folder):
    picture_folder(tmp_path / "normal", 25, kinds=[(9, 9, "L", ".png")])
    (tmp_path / "normal" / "a.png").write_bytes(b"no picture")
    config = folders.settle_folder_channels(folder_config(tmp_path, negatives="none"))
    assert config.data.channels == 1


def test_the_smallest_folders_are_enough(tmp_path, picture_folder):
    for name, count in (("normal", 20), ("negative", 10)):
        picture_folder(tmp_path / name, count, level=5 * count)
    data = load_training(folder_config(tmp_path))
    assert (len(data.normal.fit), len(data.negative.fit)) == (14, 8)


@pytest.mark.parametrize("side, minimum", [("normal", 20), ("negative", 10)])
@pytest.mark.parametrize("count", [0, 1, -1])
def test_too_small_folders_are_refused(side, minimum, count, three_folders):
    """Empty, a single picture, one too few."""
    kept = count if count >= 0 else minimum - 1
    for path in pictures.find(three_folders / side)[kept:]:
        path.unlink()
    reason = f"usable {side} picture{'s' * (kept != 1)}; training needs at least {minimum}"
    wanted = rf"{side} holds {kept} {reason}" if kept else f"{side} holds no PNG, JPEG or BMP"
    with pytest.raises(LisaeError, match=wanted):
        load_training(folder_config(three_folders))


@pytest.mark.parametrize("side", ["normal", "negative", "anomaly"])
def test_missing_folders_are_named(side, three_folders):
    config = folder_config(three_folders)
    (three_folders / side).rename(three_folders / "elsewhere")
    with pytest.raises(LisaeError, match=rf"folder .*{side} does not exist; check the path"):
        (load_test if side == "anomaly" else load_training)(config)


def test_one_corrupt_jpeg_among_many_is_named_and_left_out_only_on_demand(tmp_path, picture_folder):
    folder = picture_folder(tmp_path / "normal", 300, kinds=[(8, 8, "L", ".jpg")])
    broken = folder / "123.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    config = folder_config(tmp_path, negatives="none")
    for load in (load_training, load_test):
        with pytest.raises(LisaeError, match=rf"{broken} is "):
            load(config)
    data, test = load_training(config, skip_bad=True), load_test(config, skip_bad=True)
    parts = (data.normal.fit, data.normal.stopping, data.normal.calibration, test.pixels)
    assert sum(map(len, parts)) == 299
    assert len(data.notes) == 1
    assert data.notes[0].startswith(f"left out: {broken} is ")


@pytest.mark.parametrize("one, other", [("normal", "negative"), ("normal", "anomaly"),
                                        ("negative", "anomaly")])  # fmt: skip
def test_a_picture_in_two_folders_is_refused_by_content(one, other, three_folders):
    shared = pictures.find(three_folders / one)[0]
    copy = three_folders / other / f"another name{shared.suffix}"
    copy.write_bytes(shared.read_bytes())
    config = folder_config(three_folders)
    reason = rf"{copy} \({other}\) holds the same picture as {shared} \({one}\); remove it"
    with pytest.raises(LisaeError, match=reason):
        load_training(config), load_test(config)


def test_the_normal_folder_is_no_negative_folder(three_folders):
    config = folder_config(three_folders, negative_dir=str(three_folders / "normal"))
    with pytest.raises(LisaeError, match=r"\(negative\) holds the same picture as"):
        load_training(config)


def test_a_folder_of_copies_of_one_picture_is_refused(three_folders):
    paths = pictures.find(three_folders / "normal")
    for path in paths:
        path.unlink()
    picture = pictures.find(three_folders / "anomaly")[0]
    for index in range(30):
        (three_folders / "normal" / f"{index}.png").write_bytes(picture.read_bytes())
    with pytest.raises(LisaeError, match=r"^30 pictures \(1 different"):
        load_training(folder_config(three_folders))


def test_folders_take_no_classes_as_negatives(tmp_path, picture_folder):
    picture_folder(tmp_path / "normal", 25)
    with pytest.raises(LisaeError, match=r"--negatives strokes\|synth:GENERATOR\|none, not"):
        load_training(folder_config(tmp_path))


def test_drawn_negatives_fit_the_folder(tmp_path, picture_folder, monkeypatch):
    monkeypatch.setattr(drawings, "GENERATED_COUNT", 1000)
    picture_folder(tmp_path / "normal", 25, level=200)
    data = load_training(folder_config(tmp_path, negatives="strokes"))
    assert data.negative.fit.shape == (800, 12, 12, 3)
    assert background_is_bright(data.negative.fit)


def test_made_negatives_join_those_of_a_folder(three_folders):
    alone = load_training(folder_config(three_folders)).negative
    config = folder_config(three_folders, negatives="synth:flip")
    data = load_training(config)
    assert experiment.describe(config, None)["negatives"].endswith("negative+synth:flip")
    drawn = folder_config(three_folders, negatives="strokes")  # a folder takes their place
    assert experiment.describe(drawn, None)["negatives"].endswith("negative")
    for part in ("fit", "stopping", "calibration"):
        own, both = getattr(alone, part), getattr(data.negative, part)
        np.testing.assert_array_equal(both[: len(own)], own)
        assert len(both) == 2 * len(own)
        flipped = [*getattr(data.normal, part)[:, ::-1], *getattr(data.normal, part)[:, :, ::-1]]
        assert digests(both[len(own) :]).keys() <= digests(np.stack(flipped)).keys()


# Data sets that TensorFlow Datasets reads


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


def test_mirrored_pictures_are_trained_on_and_nothing_else():
    plain, both = (
        load_training(resolve(merge(dataset_settings("surfaces"), {"data": {"mirror": mirror}})))
        for mirror in (False, True)
    )
    for side in ("normal", "negative"):
        one, two = getattr(plain, side), getattr(both, side)
        half = len(one.fit)
        np.testing.assert_array_equal(two.fit[:half], one.fit)
        np.testing.assert_array_equal(two.fit[half:], one.fit[:, :, ::-1])
        np.testing.assert_array_equal(two.stopping, one.stopping)
        np.testing.assert_array_equal(two.calibration, one.calibration)
