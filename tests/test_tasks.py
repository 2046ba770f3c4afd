"""The parts of a task, batches of a training, and what augmentation makes of their pictures."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from lisae_tf.config.settings import dataset_settings, merge, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import augmentation, folders, picture_files, pictures
from lisae_tf.data.augmentation import (
    AUGMENTATIONS,
    augment,
    background_is_bright,
    match_polarity,
    random_strokes,
)
from lisae_tf.data.layout import PictureSet
from lisae_tf.data.pipelines import (
    _order,
    augmented_bank,
    held_out_batches,
    steps_at_once,
    steps_per_epoch,
    training_batches,
)
from lisae_tf.data.tasks import load_test, load_training
from lisae_tf.experiments import experiment

pytestmark = pytest.mark.usefixtures("whole_epochs")


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


def ramp(count, offset=0):
    values = (np.arange(count) + offset).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, 4, 4, 1)).copy()


STEPS = 50


def read(epochs, seed=0, phase=1, augment=None, negatives=7):
    stream = training_batches(
        {"normal": ramp(202)},
        {"negative": ramp(negatives, 210)},
        batch_size=4, epochs=epochs, seed=seed, phase=phase, augment=augment,
    )  # fmt: skip
    return [{k: v.numpy()[:, 0, 0, 0] for k, v in batch.items()} for batch in stream]


def test_an_epoch_visits_normals_once_and_negatives_evenly():
    batches = read((0, 1))
    assert len(batches) == steps_per_epoch({"normal": ramp(202)}, 4) == STEPS
    normal = np.concatenate([b["normal"] for b in batches])
    negative = np.concatenate([b["negative"] for b in batches])
    assert len(np.unique(normal)) == len(normal) == 200
    counts = np.unique(negative, return_counts=True)[1]
    assert counts.max() - counts.min() <= 1


def assert_equal(a, b):
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def noise(images, seed):
    drawn = tf.random.stateless_uniform(tf.shape(images), seed, maxval=256, dtype=tf.int32)
    return tf.cast(drawn, tf.uint8)


@pytest.mark.parametrize(
    "augment", [pytest.param(None, marks=pytest.mark.slow("one path less than with noise")), noise]
)
def test_epoch_k_depends_on_seed_phase_and_k_only(augment):
    whole = read((0, 3), augment=augment)
    assert_equal(whole[STEPS : 2 * STEPS], read((1, 2), augment=augment))
    assert_equal(whole[2 * STEPS :], read((2, 3), augment=augment))
    for other in (read((0, 1), seed=1), read((0, 1), phase=2), whole[STEPS : 2 * STEPS]):
        assert any(
            not np.array_equal(a["normal"], b["normal"])
            for a, b in zip(whole[:STEPS], other, strict=True)
        )


def test_each_round_is_shuffled_by_a_seed_of_its_own():
    seed = tf.constant([3, 4])
    rounds = tf.random.experimental.stateless_split(seed, 5)
    one_by_one = [tf.random.experimental.stateless_shuffle(tf.range(7), own) for own in rounds]
    np.testing.assert_array_equal(_order(7, 30, seed), np.concatenate(one_by_one)[:30])


def test_augmentation_touches_negatives_only_and_anew_each_epoch():
    plain, changed = read((0, 2)), read((0, 2), augment=noise)
    np.testing.assert_array_equal(plain[0]["normal"], changed[0]["normal"])
    assert not np.array_equal(plain[0]["negative"], changed[0]["negative"])
    assert not np.array_equal(changed[0]["negative"], changed[STEPS]["negative"])


@pytest.mark.parametrize("normals, negatives", [(10, 3), (3, 10), (1, 1), (17, 16)])
def test_held_out_batches_hold_each_picture_once(normals, negatives):
    stream = held_out_batches(
        {"normal": ramp(normals)}, {"negative": ramp(negatives, 100)}, batch_size=4
    )
    batches = list(stream)
    seen = {n: np.concatenate([b[n][:, 0, 0, 0] for b in batches]) for n in batches[0]}
    np.testing.assert_array_equal(seen["normal"], np.arange(normals))
    np.testing.assert_array_equal(seen["negative"], 100 + np.arange(negatives))


def test_bank_holds_different_copies_and_repeats():
    bank = augmented_bank(ramp(9), 3, noise, seed=0, batch_size=4)
    assert bank.shape == (27, 4, 4, 1)
    assert not np.array_equal(bank[:9], bank[9:18])
    np.testing.assert_array_equal(bank, augmented_bank(ramp(9), 3, noise, seed=0, batch_size=4))
    assert not np.array_equal(bank, augmented_bank(ramp(9), 3, noise, seed=1, batch_size=4))


@pytest.mark.parametrize(
    ("count", "steps", "at_once"),
    # 83 batches are a prime number of them: the last three wait for another epoch.
    [(5, 50, 1), (306, 51, 1), (400, 64, 16), (500, 80, 16), (1000, 160, 16)],
)
def test_steps_run_together_without_running_epochs_together(count, steps, at_once):
    wanted = steps_per_epoch({"normal": ramp(count)}, 6)
    assert (wanted, steps_at_once(wanted)) == (steps, at_once)


def test_few_pictures_come_several_times_in_an_epoch_and_evenly():
    stream = training_batches(
        {"normal": ramp(7)}, None, batch_size=32, epochs=(0, 1), seed=0, phase=1
    )
    batches = [batch["normal"].numpy()[:, 0, 0, 0] for batch in stream]
    assert len(batches) == STEPS
    np.testing.assert_array_equal(np.unique(np.concatenate(batches), return_counts=True)[1], STEPS)


def test_no_tuner_makes_the_end_of_a_training_wait():
    normal = {"normal": ramp(202)}
    streams = (
        training_batches(normal, None, batch_size=4, epochs=(0, 1), seed=0, phase=1),
        held_out_batches(normal, None),
    )
    for stream in streams:
        # A dataset made of the stream, as `fit` makes one, keeps what it says.
        assert stream.repeat(2).options().autotune.enabled is False


SEED = tf.constant([3, 5], tf.int32)


@pytest.fixture
def flat():
    return random_strokes(24, (20, 24, 1), tf.constant([1, 2], tf.int32))


@pytest.mark.parametrize("change", AUGMENTATIONS, ids=lambda f: f.__name__)
def test_each_augmentation_is_the_same_eagerly_and_inside_map(change, flat):
    images = tf.cast(flat, tf.float32)
    eager = change(images, SEED).numpy()
    mapped = tf.data.Dataset.from_tensors(images).map(lambda x: change(x, SEED))
    np.testing.assert_allclose(eager, next(iter(mapped)).numpy(), atol=1e-3)
    assert eager.shape == images.shape
    assert not np.array_equal(eager, images)
    assert not np.array_equal(eager, change(images, SEED + 1))


@pytest.mark.parametrize("axis, change", [(2, AUGMENTATIONS[0]), (1, AUGMENTATIONS[1])])
def test_flips_turn_some_pictures_and_leave_the_rest(axis, change, flat):
    images = tf.cast(flat, tf.float32).numpy()
    flipped = change(images, SEED).numpy()
    turned = [np.array_equal(a, np.flip(b, axis - 1)) for a, b in zip(flipped, images, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert 0 < sum(turned) < len(images)
    assert all(a or b for a, b in zip(turned, kept, strict=True))


def test_crop_enlarges_and_keeps_the_range(flat):
    images = tf.cast(flat, tf.float32)
    constant = tf.ones_like(images) * 7
    crop = AUGMENTATIONS[2]
    np.testing.assert_allclose(crop(constant, SEED), constant, rtol=1e-5)
    assert float(tf.reduce_max(crop(images, SEED))) <= 255


def test_blur_keeps_each_pictures_ink_level_and_smooths():
    images = np.zeros((16, 21, 21, 1), np.float32)
    images[:, 10, 8:13] = 255
    blurred = AUGMENTATIONS[3](images, SEED).numpy()
    spread = (blurred > 1).sum(axis=(1, 2, 3))
    assert spread.max() > 5
    np.testing.assert_allclose(blurred.max(axis=(1, 2, 3)), 255, rtol=1e-4)
    assert len(np.unique(spread)) > 1  # each picture has its own width


def test_augment_is_uint8_and_a_function_of_the_seed(flat):
    once, again = augment(flat, SEED), augment(flat, SEED)
    assert once.dtype == tf.uint8
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, augment(flat, SEED + 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_strokes_differ_and_are_bright_on_black(channels):
    drawn = random_strokes(50, (28, 28, channels), SEED).numpy()
    assert drawn.shape == (50, 28, 28, channels)
    assert len(np.unique(drawn.reshape(50, -1), axis=0)) == 50
    assert np.median(drawn) == 0
    assert np.all(drawn.max(axis=(1, 2, 3)) > 120)
