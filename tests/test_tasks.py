from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lisae_tf.config.settings import dataset_settings, merge, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import augmentation, folders, picture_files, pictures
from lisae_tf.data.augmentation import background_is_bright, match_polarity
from lisae_tf.data.layout import PictureSet
from lisae_tf.data.tasks import load_test, load_training
from lisae_tf.experiments import experiment


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
    whole = folders.read_set(PictureSet(Path(config.normal_dir)), config, skip_bad=False)
    assert read == digests(whole.pixels)
    assert set(read.values()) == {1}
    assert [len(p) for p in (normal.stopping, normal.calibration)] == [4, 4]
    assert (len(test.pixels), int(test.is_anomaly.sum())) == (11, 7)
    seen = digests(data.negative.fit, data.negative.stopping, data.negative.calibration)
    assert not seen.keys() & digests(test.pixels).keys()
    assert all("/anomaly/" in label for label in np.array(test.labels)[test.is_anomaly])


def test_copies_of_one_picture_stay_in_one_part(three_folders):
    for path in picture_files.find(three_folders / "normal")[:30]:
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
    for path in picture_files.find(three_folders / side)[kept:]:
        path.unlink()
    reason = f"usable {side} picture{'s' * (kept != 1)}; training needs at least {minimum}"
    wanted = rf"{side} holds {kept} {reason}" if kept else f"{side} holds no PNG, JPEG, BMP"
    with pytest.raises(LisaeError, match=wanted):
        load_training(folder_config(three_folders))


@pytest.mark.parametrize("side", ["normal", "negative", "anomaly"])
def test_missing_folders_are_named(side, three_folders):
    config = folder_config(three_folders)
    (three_folders / side).rename(three_folders / "elsewhere")
    with pytest.raises(LisaeError, match=rf"folder .*{side} does not exist; check the path"):
        (load_test if side == "anomaly" else load_training)(config)


@pytest.mark.parametrize("side", ["normal", "negative", "anomaly"])
@pytest.mark.parametrize("channels", [None, 1])
def test_missing_folders_are_named_before_any_picture_is_read(
    side, channels, three_folders, monkeypatch
):
    config = folder_config(three_folders, data={"size": [12, 12], "channels": channels})
    (three_folders / side).rename(three_folders / "elsewhere")
    monkeypatch.delattr(folders.pictures, "header")
    monkeypatch.delattr(folders.pictures, "decode_all")
    with pytest.raises(LisaeError, match=rf"{side} does not exist; check the path"):
        folders.settle_folder_channels(config)


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
    shared = picture_files.find(three_folders / one)[0]
    copy = three_folders / other / f"another name{shared.suffix}"
    copy.write_bytes(shared.read_bytes())
    config = folder_config(three_folders)
    reason = rf"{copy} \({other}\) holds the same picture as {shared} \({one}\); remove it"
    with pytest.raises(LisaeError, match=reason):
        load_training(config), load_test(config)


def test_drawn_negatives_fit_the_folder(tmp_path, picture_folder, monkeypatch):
    monkeypatch.setattr(augmentation, "GENERATED_COUNT", 1000)
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
