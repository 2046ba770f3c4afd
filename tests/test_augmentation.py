import numpy as np
import pytest
import tensorflow as tf

from lisae_tf.data.augmentation import AUGMENTATIONS, augment, random_strokes

SEED = tf.constant([3, 5], tf.int32)


@pytest.fixture
def pictures():
    return random_strokes(24, (20, 24, 1), tf.constant([1, 2], tf.int32))


@pytest.mark.parametrize("change", AUGMENTATIONS, ids=lambda f: f.__name__)
def test_each_augmentation_is_the_same_eagerly_and_inside_map(change, pictures):
    images = tf.cast(pictures, tf.float32)
    eager = change(images, SEED).numpy()
    mapped = tf.data.Dataset.from_tensors(images).map(lambda x: change(x, SEED))
    np.testing.assert_allclose(eager, next(iter(mapped)).numpy(), atol=1e-3)
    assert eager.shape == images.shape
    assert not np.array_equal(eager, images)
    assert not np.array_equal(eager, change(images, SEED + 1))


@pytest.mark.parametrize("axis, change", [(2, AUGMENTATIONS[0]), (1, AUGMENTATIONS[1])])
def test_flips_turn_some_pictures_and_leave_the_rest(axis, change, pictures):
    images = tf.cast(pictures, tf.float32).numpy()
    flipped = change(images, SEED).numpy()
    turned = [np.array_equal(a, np.flip(b, axis - 1)) for a, b in zip(flipped, images, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert 0 < sum(turned) < len(images)
    assert all(a or b for a, b in zip(turned, kept, strict=True))


def test_crop_enlarges_and_keeps_the_range(pictures):
    images = tf.cast(pictures, tf.float32)
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


def test_augment_is_uint8_and_a_function_of_the_seed(pictures):
    once, again = augment(pictures, SEED), augment(pictures, SEED)
    assert once.dtype == tf.uint8
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, augment(pictures, SEED + 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_strokes_differ_and_are_bright_on_black(channels):
    drawn = random_strokes(50, (28, 28, channels), SEED).numpy()
    assert drawn.shape == (50, 28, 28, channels)
    assert len(np.unique(drawn.reshape(50, -1), axis=0)) == 50
    assert np.median(drawn) == 0
    assert np.all(drawn.max(axis=(1, 2, 3)) > 120)
