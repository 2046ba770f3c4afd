"""Negatives made from the normal pictures alone."""

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from lisae_tf.cli import main
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import Parts
from lisae_tf.data.protocols import SYNTHETIC, synthetic_generators
from lisae_tf.data.synthetic import GENERATORS, combined, joined, synthetic_negatives

SEED = tf.constant([3, 4], tf.int32)


def smooth(count: int, shape=(24, 20, 3), seed: int = 0) -> np.ndarray:
    """Pictures with structure: a ramp with a blot."""
    height, width, channels = shape
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    blot = generator.uniform(0.2, 0.8, (count, 2, 1, 1)) * [[[height]], [[width]]]
    distance = (rows - blot[:, :1]) ** 2 + (columns - blot[:, 1:]) ** 2
    grey = 80 + 2 * rows + 60 * np.exp(-distance / 20)
    tint = generator.uniform(0.6, 1, (count, 1, 1, channels))
    return (grey.reshape(count, height, width, 1) * tint).astype(np.uint8)


def test_every_generator_that_may_be_named_is_there():
    assert tuple(GENERATORS) == SYNTHETIC


@pytest.mark.parametrize("shape", [(24, 20, 3), (28, 28, 1)])
@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_generator_changes_each_picture_and_keeps_its_kind(name, shape):
    images = smooth(6, shape)
    change = combined([name])
    made = change(tf.constant(images), SEED).numpy()
    assert (made.shape, made.dtype) == (images.shape, np.uint8)
    gap = np.abs(made.astype(int) - images)
    # Flaws are few pixels of a picture as small as these.
    changed = gap.max(axis=(1, 2, 3)) / 10 if name == "flaws" else gap.mean(axis=(1, 2, 3))
    assert (changed > 0.1).all(), changed
    inside = tf.data.Dataset.from_tensors(images).map(lambda batch: change(batch, SEED))
    np.testing.assert_array_equal(next(iter(inside)), made)
    again = change(tf.constant(images), SEED).numpy()
    np.testing.assert_array_equal(again, made)
    other = change(tf.constant(images), tf.constant([3, 5], tf.int32)).numpy()
    if name != "rotate" or shape[0] == shape[1]:  # else there is one way to turn
        assert np.any(other != made)


@pytest.mark.parametrize("name", ["shuffle", "rotate", "flip"])
def test_what_only_moves_pixels_keeps_their_values(name):
    images = smooth(4, (24, 24, 3))
    made = combined([name])(tf.constant(images), SEED).numpy()
    for one, other in zip(images, made, strict=True):
        np.testing.assert_array_equal(
            np.sort(one.reshape(-1, 3), 0), np.sort(other.reshape(-1, 3), 0)
        )


def test_cutpaste_changes_one_rectangle_only():
    images = smooth(8)
    made = combined(["cutpaste"])(tf.constant(images), SEED).numpy()
    for one, other in zip(images, made, strict=True):
        rows, columns = np.nonzero(np.any(one != other, axis=2))
        area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert 0 < area <= 0.5 * 0.5 * 24 * 20 + 24 + 20


def test_random_phases_keep_the_amplitudes():
    images = np.random.default_rng(0).uniform(100, 120, (2, 16, 16, 1)).astype(np.float32)
    made = GENERATORS["frequency"](tf.constant(images), SEED).numpy()
    amplitude = [np.abs(np.fft.rfft2(each[..., 0]))[..., 1:-1] for each in (images, made)]
    np.testing.assert_allclose(amplitude[1], amplitude[0], rtol=1e-3, atol=1e-2)


def test_interpolation_stays_in_the_latent_space_but_off_the_line_between_two_pictures():
    images = np.random.default_rng(0).uniform(0, 255, (5, 6, 6, 1)).astype(np.float32)
    made = GENERATORS["interpolation"](tf.constant(images), SEED).numpy().reshape(5, -1)
    flat = images.reshape(5, -1)

    def distance(points: np.ndarray, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        axes = np.linalg.qr(directions.T)[0]
        rest = points - origin
        return np.linalg.norm(rest - rest @ axes @ axes.T, axis=1)

    # The space of five pictures has four components around their mean.
    assert distance(made, flat.mean(0), flat[1:] - flat[0]).max() < 0.01
    for k in range(5):
        line = distance(made[k : k + 1], flat[k], (flat[k - 1] - flat[k])[None])
        assert line[0] > 10


def test_several_generators_share_the_pictures():
    images = smooth(6, (24, 24, 3))
    made = combined(["flip", "strokes"])(tf.constant(images), SEED).numpy()
    values = [np.sort(each.ravel()) for each in images[::2]]
    for each, wanted in zip(made[:3], values, strict=True):
        np.testing.assert_array_equal(np.sort(each.ravel()), wanted)
    assert len(made) == 6


def test_each_part_is_made_of_its_own_pictures_only():
    """Held-out negatives must not be made of pictures that were trained on."""

    def level(value: int, count: int) -> np.ndarray:
        return np.full((count, 8, 8, 1), value, np.uint8)

    normal = Parts(level(1, 6), level(2, 3), level(3, 2))
    made = synthetic_negatives(["flip"], normal, seed=0)
    np.testing.assert_array_equal(made.fit, level(1, 12))
    np.testing.assert_array_equal(made.stopping, level(2, 6))
    np.testing.assert_array_equal(made.calibration, level(3, 4))


def test_joined_negatives_are_half_their_own_and_half_made_of_the_same_part():
    def level(value: int, count: int) -> np.ndarray:
        return np.full((count, 8, 8, 1), value, np.uint8)

    real = Parts(level(10, 7), level(20, 1), level(30, 2))
    normal = Parts(level(1, 3), level(2, 3), level(3, 2))
    found = joined(real, ["flip"], normal, seed=0)
    for part, own, made in (("fit", 10, 1), ("stopping", 20, 2), ("calibration", 30, 3)):
        pixels = getattr(found, part)
        count = len(getattr(real, part))
        np.testing.assert_array_equal(pixels[:count], level(own, count))
        np.testing.assert_array_equal(pixels[count:], level(made, count))


def test_joined_negatives_differ_where_there_are_more_than_normals():
    normal = Parts(*(smooth(5, (16, 16, 1), seed=seed) for seed in range(3)))
    real = Parts(*(smooth(12, (16, 16, 1), seed=9 + seed) for seed in range(3)))
    made = joined(real, ["elastic"], normal, seed=0).fit[12:]
    assert len(np.unique(made, axis=0)) == 12
    again = joined(real, ["elastic"], normal, seed=0).fit[12:]
    np.testing.assert_array_equal(made, again)


def test_names_are_checked():
    assert synthetic_generators("synth:cutpaste+shuffle") == ("cutpaste", "shuffle")
    assert synthetic_generators("strokes") is None
    with pytest.raises(LisaeError, match="there is no generator 'blur'; join some of cutpaste"):
        synthetic_generators("synth:cutpaste+blur")


def test_training_takes_them_for_named_data_and_says_what_is_wrong():
    result = CliRunner().invoke(main, ["train", "--negatives", "synth:nothing"])
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("Error: --negatives synth:nothing")
