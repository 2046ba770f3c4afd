"""Places of pictures as rows of features: taps averaged, on one grid, standardised, remembered."""

import keras
import numpy as np
import pytest

from lisae_tf.config.sections import Features
from lisae_tf.core.errors import LisaeError
from lisae_tf.features import places
from lisae_tf.features.places import Memo, PlaceFeatures, remembering

SHAPE, GRID, SIZE = (64, 64, 3), (8, 8), 40 + 112


def pictures(count: int, shape=SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


@pytest.fixture(scope="module")
def network():
    """The default features of 64x64 RGB pictures, with pretrained weights."""
    features = PlaceFeatures(Features(), SHAPE)
    features.pretrain(Features())
    return features


@pytest.fixture
def features(network):
    """The same, whose numbers of standardisation a test may change."""
    mean, scale = network.mean, network.scale
    yield network
    network.mean, network.scale = mean, scale


@pytest.fixture
def passes(features, monkeypatch):
    """The numbers of pictures that went through the backbone, call by call."""
    counts, run = [], features._run

    def counted(images):
        counts.append(len(images))
        return run(images)

    monkeypatch.setattr(features, "_run", counted)
    return counts


@pytest.fixture(scope="module")
def taps(network):
    """Both taps of some pictures as the backbone gives them, float32 (N, h, w, c) each."""
    return [tap.numpy() for tap in network._backbone(pictures(2).astype(np.float32))]


def local_mean(x: np.ndarray, side: int) -> np.ndarray:
    """What neighbours average to, zeros beyond the border."""
    reach = side // 2
    padded = np.pad(x.astype(np.float64), [(0, 0), (reach, reach), (reach, reach), (0, 0)])
    height, width = x.shape[1:3]
    shifted = [padded[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    return np.mean(shifted, axis=0)


def resized(x: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Bilinear, the middles of places on the middles of pixels, the border repeated."""
    for axis, count in enumerate(grid, start=1):
        old = x.shape[axis]
        at = np.clip((np.arange(count) + 0.5) * old / count - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (at - low).reshape([-1 if k == axis else 1 for k in range(4)])
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


@pytest.mark.parametrize("side", [3, 5])
def test_a_local_mean_counts_zeros_beyond_the_border(side):
    x = np.random.default_rng(0).normal(1, 1, (2, 6, 7, 3)).astype(np.float32)
    found = np.asarray(places._local_mean(side, "tap")(x))
    np.testing.assert_allclose(found, local_mean(x, side), rtol=1e-4, atol=1e-5)
    corner = x[:, : side // 2 + 1, : side // 2 + 1].sum(axis=(1, 2)) / side**2
    np.testing.assert_allclose(found[:, 0, 0], corner, rtol=1e-4, atol=1e-5)


def test_features_are_both_taps_averaged_on_the_grid_of_the_first(features, taps):
    fine, coarse = taps
    assert (fine.shape[1:], coarse.shape[1:]) == ((8, 8, 40), (4, 4, 112))
    (found,) = features.batches(pictures(2))
    assert (features.grid, features.size) == (GRID, SIZE)
    assert (found.shape, found.dtype) == ((2, *GRID, SIZE), np.float32)
    expected = np.concatenate([local_mean(fine, 3), resized(local_mean(coarse, 3), GRID)], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_one_tap_without_a_mean_is_the_layers_output():
    settings = Features(taps=["block_2"], local_mean=1)
    plain = PlaceFeatures(settings, (64, 96, 3))
    plain.pretrain(settings)
    images = pictures(2, (64, 96, 3))
    assert (plain.grid, plain.size) == ((16, 24), 24)
    (found,) = plain.batches(images)
    expected = np.asarray(plain._backbone(images.astype(np.float32)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_grey_pictures_are_rgb_ones_of_equal_channels(features):
    grey = pictures(3, (64, 64, 1))
    of_grey = PlaceFeatures(Features(), (64, 64, 1))
    of_grey.restore(features.arrays())
    of_rgb = features.of(np.repeat(grey, 3, axis=3))
    np.testing.assert_allclose(of_grey.of(grey), of_rgb, rtol=1e-4, atol=1e-4)


def test_standardised_places_have_mean_0_and_deviation_1(features):
    raw = np.random.default_rng(0).normal(50, 7, (5000, SIZE)).astype(np.float32)
    raw[:, 3] = 4.5  # says nothing
    found = features.standardise_by(raw)
    np.testing.assert_allclose(found.mean(axis=0, dtype=np.float64), 0, atol=1e-4)
    deviations = np.delete(found.std(axis=0, dtype=np.float64), 3)
    np.testing.assert_allclose(deviations, 1, atol=1e-3)
    assert np.isfinite(found).all() and not found[:, 3].any()
    raw[0, 3] = 1000.0  # nor does it in other pictures
    assert features.standardised(raw)[0, 3] == 0
    x = keras.Input((*GRID, SIZE))
    graph = keras.Model(x, features.standardise(x))
    maps = raw[: 2 * 64].reshape(2, *GRID, SIZE)
    np.testing.assert_allclose(graph(maps), features.standardised(raw[:128]), rtol=1e-5, atol=1e-5)


def test_all_places_of_any_number_of_pictures_are_standardised(features):
    images = pictures(2 * places.PICTURES + 3)
    features.standardise_by(features.sample(images, 1000, seed=0))
    found = features.of(images)
    assert (found.shape, found.dtype) == ((len(images), *GRID, SIZE), np.float32)
    last = features.of(images[-2:])
    np.testing.assert_allclose(found[-2:], last, rtol=1e-3, atol=1e-3)
    assert features.of(images[:0]).shape == (0, *GRID, SIZE)


def test_a_sample_holds_equally_many_places_of_each_picture(features):
    images = pictures(20)
    whole = np.concatenate(list(features.batches(images))).reshape(20, 64, SIZE)
    found = features.sample(images, 110, seed=3)  # 5 each
    assert (found.shape, found.dtype) == ((100, SIZE), np.float32)
    for rows, picture in zip(found.reshape(20, 5, SIZE), whole, strict=True):
        at = [int(np.flatnonzero((picture == row).all(axis=1))[0]) for row in rows]
        assert len(set(at)) == 5
    np.testing.assert_array_equal(features.sample(images, 110, seed=3), found)
    assert (features.sample(images, 110, seed=4) != found).any()
    assert len(features.sample(images, 10**6, seed=0)) == 20 * 64  # all there are
    assert len(features.sample(images, 3, seed=0)) == 20  # each has a say


def test_a_picture_goes_through_the_backbone_once_while_it_is_remembered(features, passes):
    images = pictures(20)
    plain = features.of(images)
    assert passes == [16, 4]
    with remembering(10**9):
        first, again = features.of(images), features.of(images[::-1])
        assert passes[2:] == [16, 4]
        mixed = features.of(np.concatenate([images[:3], pictures(2, seed=9)]))
        assert passes[4:] == [2]  # the new ones
        for found in (first, again[::-1]):
            np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(mixed[:3], first[:3])
        with remembering(1):  # the outermost decides
            features.of(images)
        assert passes[5:] == []
    features.of(images[:1])
    assert passes[5:] == [1]  # forgotten


def test_features_of_other_settings_are_not_mixed_up(features, network):
    images = pictures(2)
    with remembering(10**9):
        features.of(images)
        other = PlaceFeatures(Features(local_mean=1), SHAPE)
        other.restore(features.arrays())
        found = other.of(images)
    np.testing.assert_array_equal(found, other.of(images))


def test_memory_is_bounded_and_the_oldest_goes_first():
    def row(value):
        return np.full(10, value, np.float32)  # 40 bytes

    memo = Memo(100)
    memo.keep(b"a", row(1), 0.5)
    memo.keep(b"b", row(2), 0.5)
    assert memo.get(b"a") is not None  # used: younger than b
    memo.keep(b"c", row(3), 0.5)
    assert memo.get(b"b") is None
    np.testing.assert_array_equal(memo.get(b"a"), row(1))
    np.testing.assert_array_equal(memo.get(b"c"), row(3))
    memo.keep(b"large", np.zeros(100, np.float32), 0.5)
    assert [memo.get(key) for key in (b"a", b"b", b"c", b"large")] == [None] * 4
    given = row(5)
    memo.keep(b"d", given, 0.5)
    given[:] = 0
    np.testing.assert_array_equal(memo.get(b"d"), row(5))


def test_copies_of_a_picture_take_room_once():
    memo = Memo(100)
    for _ in range(5):
        memo.keep(b"a", np.ones(10, np.float32), 0.5)
    memo.keep(b"b", np.ones(10, np.float32), 0.5)
    assert memo.get(b"a") is not None and memo.get(b"b") is not None


def test_a_memory_counts_what_it_spares_and_may_outlive_a_block(features, passes):
    memo = Memo(1000)
    memo.keep(b"a", np.ones(10, np.float32), 0.25)
    for key in (b"a", b"b", b"a"):
        memo.get(key)
    assert memo.spared == 0.5
    kept = Memo(10**9)
    for _ in range(2):
        with remembering(kept):
            features.of(pictures(3))
    assert passes == [3]
    assert kept.spared > 0


def test_scarce_memory_costs_time_alone(features, passes):
    images = pictures(20)
    plain = features.of(images)
    with remembering(5 * 64 * SIZE * 4):  # five pictures
        for _ in range(2):
            np.testing.assert_allclose(features.of(images), plain, rtol=1e-4, atol=1e-4)
    # Of the five that are remembered the next round asks for one at once; by then the rest went.
    assert passes == [16, 4, 16, 4, 15, 4]


def test_arrays_restore_to_the_same_bits(features):
    images = pictures(3)
    features.standardise_by(features.sample(images, 100, seed=0))
    other = PlaceFeatures(Features(), SHAPE)
    assert (other.of(images) != features.of(images)).any()
    other.restore(features.arrays())
    np.testing.assert_array_equal(other.of(images), features.of(images))
    stored = features.arrays()
    stored.pop(next(name for name in stored if name.startswith("backbone:")))
    with pytest.raises(LisaeError, match="the stored weights lack"):
        other.restore(stored)
