"""Negatives made from the normal pictures alone, small flaws among them."""

import math

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from lisae_tf.cli import main
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import synthetic
from lisae_tf.data.parts import Parts
from lisae_tf.data.protocols import SYNTHETIC, synthetic_generators
from lisae_tf.data.stored import StoredPictures
from lisae_tf.data.synthetic import (
    CHANGED,
    FLAW_HALF,
    GENERATORS,
    MOST_FLAWS,
    combined,
    joined,
    made_with_masks,
    synthetic_negatives,
)

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


ONE_CHANNEL = pytest.mark.slow("the same is done to one channel as to three")
# One that looks at the sides; the others do the same to one channel as to three. Flaws in grey
# pictures are below.
SQUARE = [pytest.param(name, (28, 28, 1), marks=[ONE_CHANNEL] * (name != "rotate"))
          for name in SYNTHETIC]  # fmt: skip


@pytest.mark.parametrize(("name", "shape"), [*((name, (24, 20, 3)) for name in SYNTHETIC), *SQUARE])
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
    made = joined(real, ["frequency"], normal, seed=0).fit[12:]
    assert len(np.unique(made, axis=0)) == 12
    again = joined(real, ["frequency"], normal, seed=0).fit[12:]
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


def textured(count: int, shape=(48, 64, 3), seed: int = 0) -> np.ndarray:
    """Waves of another phase in each picture, and noise: uint8 (N, H, W, C)."""
    height, width, channels = shape
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    phase = random.uniform(0, 6, (count, 1, 1, channels))
    waves = np.sin((rows / 5 + columns / 7)[None, ..., None] + phase)
    return (128 + 50 * waves + random.normal(0, 8, (count, *shape))).clip(0, 255).astype(np.uint8)


def parts(shape=(48, 64, 3), counts=(12, 5, 4)) -> Parts:
    return Parts(*(textured(count, shape, seed) for seed, count in enumerate(counts)))


def sides(found: Parts) -> tuple[np.ndarray, ...]:
    return found.fit, found.stopping, found.calibration


@pytest.fixture
def originals(monkeypatch):
    """What each made picture was made of, part by part."""
    kept, changed_pixels = [], synthetic.changed_pixels

    def noting(made, original):
        kept.append(original.copy())
        return changed_pixels(made, original)

    monkeypatch.setattr(synthetic, "changed_pixels", noting)
    return kept


@pytest.mark.parametrize("shape", [(48, 64, 3), (64, 40, 1)])
def test_masks_say_exactly_where_pixels_changed(shape, originals):
    normal = parts(shape)
    made, masks = made_with_masks(["flaws"], normal, seed=5, most=12)
    for pictures, marked, before, source in zip(
        sides(made), sides(masks), originals, sides(normal), strict=True
    ):
        assert (pictures.dtype, marked.dtype) == (np.uint8, bool)
        assert pictures.shape == before.shape and marked.shape == pictures.shape[:3]
        gap = np.abs(pictures.astype(int) - before).max(axis=3)
        assert gap[~marked].max() <= CHANGED < gap[marked].min()
        assert {each.tobytes() for each in before} <= {each.tobytes() for each in source}
    assert len(made.fit) == 12
    assert masks.fit.any(axis=(1, 2)).mean() > 0.8  # hardly a flaw that nobody sees
    assert masks.fit.mean() < 0.1


def test_changes_are_measured_without_wrapping_round():
    dark, bright = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    assert synthetic.changed_pixels(dark, bright).all()
    assert synthetic.changed_pixels(bright, dark).all()
    near = dark.copy()
    near[0, 0, 0, 2], near[0, 1, 1, 0] = CHANGED, CHANGED + 1
    np.testing.assert_array_equal(
        synthetic.changed_pixels(near, dark), [[[False, False], [False, True]]]
    )


def test_the_seed_decides_what_is_made():
    normal = parts()
    one, again = (made_with_masks(["flaws"], normal, 5, 12) for _ in range(2))
    for first, second in zip(one, again, strict=True):
        for a, b in zip(sides(first), sides(second), strict=True):
            np.testing.assert_array_equal(a, b)
    other = made_with_masks(["flaws"], normal, 6, 12)
    assert (other[1].fit != one[1].fit).any()


def test_each_part_is_made_of_its_own_pictures_and_in_proportion():
    def level(value: int, count: int) -> np.ndarray:
        return np.full((count, 16, 16, 1), value, np.uint8)

    normal = Parts(level(50, 20), level(100, 10), level(200, 1))
    made, masks = made_with_masks(["flip"], normal, seed=0, most=10)
    np.testing.assert_array_equal(made.fit, level(50, 10))
    np.testing.assert_array_equal(made.stopping, level(100, 5))
    np.testing.assert_array_equal(made.calibration, level(200, 2))  # two, of the only one
    assert not masks.fit.any()
    assert len(made_with_masks(["flip"], normal, 0, 500)[0].fit) == 20  # each once at most


def test_each_picture_is_used_before_one_is_used_again(originals):
    normal = parts(counts=(12, 5, 4))
    made_with_masks(["flaws"], normal, seed=0, most=12)
    assert len(np.unique(originals[0], axis=0)) == 12


@pytest.mark.parametrize("name", SYNTHETIC)
def test_every_generator_gives_masks(name):
    made, masks = made_with_masks([name], parts((32, 40, 3), (6, 2, 2)), seed=1, most=6)
    assert made.fit.shape == (6, 32, 40, 3) and masks.fit.shape == (6, 32, 40)
    assert masks.fit.any(axis=(1, 2)).mean() > 0.6
    assert all(each.dtype == bool for each in sides(masks))


def test_generators_share_the_pictures_with_their_masks(originals):
    """Half of the pictures have flaws; behind them those come that are turned."""
    made, masks = made_with_masks(["flaws", "rotate"], parts((48, 48, 1), (10, 2, 2)), 0, 10)
    gap = np.abs(made.fit.astype(int) - originals[0]).max(axis=3)
    np.testing.assert_array_equal(masks.fit, gap > CHANGED)
    shares = masks.fit.mean(axis=(1, 2))
    assert shares[:5].max() < 0.2 < 0.6 < shares[5:].min()


@pytest.mark.parametrize("shape", [(96, 96, 3), (64, 128, 1)])
def test_one_flaw_is_small_and_in_one_place(shape):
    images = textured(40, shape)
    found = synthetic._flaw(tf.constant(images, tf.float32), SEED).numpy()
    assert (found.shape, found.dtype) == (images.shape, np.float32)
    changed = np.abs(found - images).max(axis=3) > 0.5
    reach = 2 * (1.8 * FLAW_HALF[1] * min(shape[:2]) + 4)
    sizes = []
    for picture in changed[changed.any(axis=(1, 2))]:
        rows, columns = np.nonzero(picture)
        sizes.append((np.ptp(rows) + 1, np.ptp(columns) + 1))
    assert len(sizes) > 30 and np.max(sizes) <= reach
    lengths = np.max(sizes, axis=1)
    assert lengths.min() < 0.12 * min(shape[:2]) < lengths.max()  # small ones and large ones
    radius = 1.26 * FLAW_HALF[1] * min(shape[:2]) + 1.5
    assert changed.sum(axis=(1, 2)).max() <= math.pi * radius**2


def test_flaws_lie_everywhere_and_are_dark_and_bright():
    images = np.full((400, 32, 48, 1), 120, np.uint8)
    found = combined(["flaws"])(tf.constant(images), SEED).numpy().astype(int)
    changed = np.abs(found - images) > CHANGED
    share = changed.mean(axis=(0, 3))
    border = np.ones(share.shape, bool)
    border[3:-3, 3:-3] = False
    corners = share[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert share[border].mean() > 0.3 * share.mean()  # flaws are cut off there
    assert share[border].mean() < share[~border].mean()
    assert corners.max() > 0
    assert (found - images).max() > 40 and (found - images).min() < -40
    untouched = ~changed.any(axis=(1, 2, 3))
    assert untouched.mean() < 0.4  # of one level alone a piece of another picture shows nothing


def test_a_picture_has_one_to_three_flaws(monkeypatch):
    """Each flaw counted: one that adds a level wherever it is called."""
    monkeypatch.setattr(synthetic, "_flaw", lambda images, seed: images + 10)
    found = synthetic.flaws(tf.fill((300, 4, 4, 1), 100.0), SEED).numpy()
    numbers = (found[:, 0, 0, 0] - 100) / 10
    assert sorted(set(numbers.tolist())) == list(range(1, MOST_FLAWS + 1))
    assert min(np.bincount(numbers.astype(int))[1:]) > 60


@pytest.mark.parametrize("shape", [(16, 16, 1), (8, 64, 3)])
def test_a_single_small_picture_will_do(shape):
    images = textured(1, shape)
    found = combined(["flaws"])(tf.constant(images), SEED).numpy()
    assert (found.shape, found.dtype) == (images.shape, np.uint8)
    made, masks = made_with_masks(["flaws"], Parts(images, images, images), seed=0, most=200)
    assert len(made.fit) == len(masks.fit) == 2


def test_pictures_in_a_file_give_what_pictures_in_memory_give():
    normal = parts((24, 32, 1), (8, 2, 2))
    stored = []
    for pixels in sides(normal):
        stored.append(StoredPictures.empty(len(pixels), pixels.shape[1:]))
        for number, picture in enumerate(pixels):
            stored[-1][number] = picture
    one, other = (made_with_masks(["flaws"], each, 3, 6) for each in (normal, Parts(*stored)))
    for k in range(2):
        np.testing.assert_array_equal(one[k].fit, other[k].fit)
