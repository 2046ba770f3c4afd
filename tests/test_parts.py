"""Held-out parts: disjoint, exhaustive, no group divided; those of the photographs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lisae_tf.config.sections import Data
from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import parts, surfaces
from lisae_tf.data.parts import split
from lisae_tf.data.tasks import load_test, load_training


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
        # Each part takes the pictures of its share and the rest of the group that goes beyond.
        sizes = np.unique(groups, return_counts=True)[1] if grouped else np.ones(len(groups))
        wanted = sum(max(1, round(share * len(groups))) for share in shares)
        assert wanted + len(shares) * (max(sizes, default=1) - 1) >= len(groups)
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
