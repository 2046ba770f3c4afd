"""Batches of a training, and what augmentation makes of their pictures."""

import numpy as np
import pytest
import tensorflow as tf

from lisae_tf.data.augmentation import AUGMENTATIONS, augment, random_strokes
from lisae_tf.data.pipelines import (
    _order,
    augmented_bank,
    held_out_batches,
    steps_at_once,
    steps_per_epoch,
    training_batches,
)


def pictures(count, offset=0):
    values = (np.arange(count) + offset).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, 4, 4, 1)).copy()


pytestmark = pytest.mark.usefixtures("whole_epochs")
STEPS = 50


def read(epochs, seed=0, phase=1, augment=None, negatives=7):
    stream = training_batches(
        {"normal": pictures(202)},
        {"negative": pictures(negatives, 210)},
        batch_size=4, epochs=epochs, seed=seed, phase=phase, augment=augment,
    )  # fmt: skip
    return [{k: v.numpy()[:, 0, 0, 0] for k, v in batch.items()} for batch in stream]


def test_an_epoch_visits_normals_once_and_negatives_evenly():
    batches = read((0, 1))
    assert len(batches) == steps_per_epoch({"normal": pictures(202)}, 4) == STEPS
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
        {"normal": pictures(normals)}, {"negative": pictures(negatives, 100)}, batch_size=4
    )
    batches = list(stream)
    seen = {n: np.concatenate([b[n][:, 0, 0, 0] for b in batches]) for n in batches[0]}
    np.testing.assert_array_equal(seen["normal"], np.arange(normals))
    np.testing.assert_array_equal(seen["negative"], 100 + np.arange(negatives))


def test_bank_holds_different_copies_and_repeats():
    bank = augmented_bank(pictures(9), 3, noise, seed=0, batch_size=4)
    assert bank.shape == (27, 4, 4, 1)
    assert not np.array_equal(bank[:9], bank[9:18])
    np.testing.assert_array_equal(bank, augmented_bank(pictures(9), 3, noise, seed=0, batch_size=4))
    assert not np.array_equal(bank, augmented_bank(pictures(9), 3, noise, seed=1, batch_size=4))


@pytest.mark.parametrize(
    ("count", "steps", "at_once"),
    # 83 batches are a prime number of them: the last three wait for another epoch.
    [(5, 50, 1), (306, 51, 1), (400, 64, 16), (500, 80, 16), (1000, 160, 16)],
)
def test_steps_run_together_without_running_epochs_together(count, steps, at_once):
    wanted = steps_per_epoch({"normal": pictures(count)}, 6)
    assert (wanted, steps_at_once(wanted)) == (steps, at_once)


def test_few_pictures_come_several_times_in_an_epoch_and_evenly():
    stream = training_batches(
        {"normal": pictures(7)}, None, batch_size=32, epochs=(0, 1), seed=0, phase=1
    )
    batches = [batch["normal"].numpy()[:, 0, 0, 0] for batch in stream]
    assert len(batches) == STEPS
    np.testing.assert_array_equal(np.unique(np.concatenate(batches), return_counts=True)[1], STEPS)


def test_no_tuner_makes_the_end_of_a_training_wait():
    normal = {"normal": pictures(202)}
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
