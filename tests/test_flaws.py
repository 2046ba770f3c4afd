"""Small flaws made in normal pictures, and masks of where a generator changed them."""

import math

import numpy as np
import pytest
import tensorflow as tf

from lisae_tf.data import flaws, synthetic
from lisae_tf.data.flaws import FLAW_HALF, MOST_FLAWS
from lisae_tf.data.parts import Parts
from lisae_tf.data.protocols import SYNTHETIC
from lisae_tf.data.stored import StoredPictures
from lisae_tf.data.synthetic import CHANGED, combined, made_with_masks

SEED = tf.constant([3, 4], tf.int32)


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
    found = flaws._flaw(tf.constant(images, tf.float32), SEED).numpy()
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
    monkeypatch.setattr(flaws, "_flaw", lambda images, seed: images + 10)
    found = flaws.flaws(tf.fill((300, 4, 4, 1), 100.0), SEED).numpy()
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
