"""Which negative places are trained against: marks, odd places, the choice by kinds left out."""

import numpy as np
import pytest

from lisae_tf.core.errors import LisaeError
from lisae_tf.features.negatives import (
    BOTH,
    CLEARLY,
    MADE,
    NONE,
    REAL,
    Chooser,
    NegativeMaps,
    marked_places,
    mixed,
    rows_of,
)

M, SIDE = 12, 6  # features, and places along each side of a picture


def test_a_place_is_marked_where_a_mask_covers_enough_of_it():
    masks = np.zeros((1, 8, 12), bool)
    masks[0, :4, :6] = True  # a quarter: place (0, 0) of 2 x 2
    masks[0, 4:, 6:8] = True  # a third of (1, 1)
    masks[0, 0, 6:] = True  # a quarter of (0, 1)
    found = marked_places(masks, (2, 2))
    np.testing.assert_array_equal(found, [[[True, False], [False, True]]])
    assert found.dtype == bool


def test_a_tiny_mask_keeps_the_places_that_it_covers_most():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 3, 3:6] = True  # one pixel in (0, 0), two in (0, 1)
    masks[1, 3, 3:5] = True  # as many in either
    found = marked_places(masks, (2, 2))
    np.testing.assert_array_equal(found[0], [[False, True], [False, False]])
    np.testing.assert_array_equal(found[1], [[True, True], [False, False]])


def test_empty_and_full_masks_stay_so_on_a_grid_that_does_not_divide_the_picture():
    masks = np.stack([np.zeros((13, 17), bool), np.ones((13, 17), bool)])
    found = marked_places(masks, (4, 5))
    assert not found[0].any() and found[1].all()
    masks[0, 12, 16] = True
    last = marked_places(masks, (4, 5))[0]
    assert last[3, 4] and last.sum() == 1


def first_feature(rows):
    return rows[:, 0]


def numbered(count: int = 3) -> np.ndarray:
    """Pictures whose places' first features are all different, in random order."""
    values = np.random.default_rng(0).permutation(count * SIDE * SIDE).astype(np.float32)
    return np.stack([values, -values], axis=-1).reshape(count, SIDE, SIDE, 2)


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.1, 4), (0.5, 18), (1.0, 36)])
def test_of_an_unmarked_picture_the_places_count_that_the_guide_scores_highest(share, count):
    places = numbered()
    found = rows_of(NegativeMaps(places), first_feature, share)
    assert found.shape == (3 * count, 2)
    for rows, picture in zip(found.reshape(3, count, 2), places, strict=True):
        highest = np.sort(picture[..., 0], axis=None)[-count:]
        np.testing.assert_array_equal(np.sort(rows[:, 0]), highest)
        np.testing.assert_array_equal(rows[:, 1], -rows[:, 0])


def test_marked_pictures_give_their_marked_places_whatever_the_guide_says():
    places, marked = numbered(), np.zeros((3, SIDE, SIDE), bool)
    marked[0, 2, 3:5] = marked[2, 0, 0] = True
    found = rows_of(NegativeMaps(places, marked), first_feature, 0.1)
    assert len(found) == 2 + 4 + 1
    np.testing.assert_array_equal(found[:2], places[0, 2, 3:5])
    assert found[2:6, 0].min() == np.sort(places[1, ..., 0], axis=None)[-4]
    np.testing.assert_array_equal(found[6], places[2, 0, 0])


def test_some_pictures_keep_what_is_known_of_them():
    places, marked = numbered(), np.zeros((3, SIDE, SIDE), bool)
    marked[1] = True
    maps = NegativeMaps(places, marked, np.array(["a", "b", "a"])).of(np.array([False, True, True]))
    np.testing.assert_array_equal(maps.places, places[1:])
    assert maps.marked[0].all() and not maps.marked[1].any()
    assert maps.kinds.tolist() == ["b", "a"]
    assert NegativeMaps(places).of(np.array([0])).kinds is None


@pytest.mark.parametrize(("few", "many"), [(3, 10), (10, 3), (4, 4)])
def test_a_mixture_holds_equally_many_of_either(few, many):
    one, other = np.full((few, 2), 1.0), np.full((many, 2), 2.0)
    found = mixed(one, other, seed=0)
    most = max(few, many)
    np.testing.assert_array_equal(found[:, 0], np.repeat([1.0, 2.0], most))
    different = np.arange(2.0 * few).reshape(few, 2)
    rows = mixed(different, other, seed=0)[:most]
    np.testing.assert_array_equal(rows[:few], different)  # none is lost
    assert {tuple(row) for row in rows} == set(map(tuple, different))


def axes(*numbers: int) -> np.ndarray:
    return np.eye(M)[list(numbers)]


def places_of(count: int, seed: int) -> np.ndarray:
    """Normal pictures: three directions of large variance, the others alike."""
    spread = np.r_[np.full(3, 4.0), np.ones(M - 3)]
    drawn = np.random.default_rng(seed).normal(size=(count, SIDE, SIDE, M))
    return (drawn * spread).astype(np.float32)


def maps_of(
    kinds: dict[str, np.ndarray], strength: float = 9.0, count: int = 40, marks: bool = True
) -> NegativeMaps:
    """Real negatives: normal pictures, one place of which lies off along its kind's directions."""
    random = np.random.default_rng(9)
    places = places_of(len(kinds) * count, 9)
    marked = np.zeros(places.shape[:3], bool)
    names = np.repeat(list(kinds), count)
    for picture, mark, name in zip(places, marked, names, strict=True):
        at = tuple(random.integers(SIDE, size=2))
        mixture = random.normal(size=len(kinds[name])) @ kinds[name]
        picture[at] += (strength * mixture / np.linalg.norm(mixture)).astype(np.float32)
        mark[at] = True
    return NegativeMaps(places, marked if marks else None, names)


def chooser(made: np.ndarray | None, real: NegativeMaps | None, made_strength: float = 6.0):
    """Of made flaws along some directions, each marked, and of real ones."""
    made_maps = None
    if made is not None:
        places = places_of(40, 3)
        random = np.random.default_rng(4)
        marked = np.zeros(places.shape[:3], bool)
        marked[:, 2, 2] = True
        mixtures = random.normal(size=(40, len(made))) @ made
        places[:, 2, 2] += (made_strength * mixtures).astype(np.float32)
        made_maps = NegativeMaps(places, marked)
    normal = places_of(60, 1).reshape(-1, M)
    return Chooser(normal, places_of(60, 2), made_maps, real, 3, 0.05, 0.03, 0)


ALL = [MADE, REAL, BOTH, NONE]


def test_real_negatives_are_chosen_where_their_kinds_point_one_way():
    """Made flaws lie elsewhere; two kinds of real ones share their direction."""
    real = maps_of({"dent": axes(9), "scratch": axes(9)}, strength=4.5)
    choice = chooser(axes(4, 5), real).choose(ALL)
    assert choice.name in (REAL, BOTH)
    assert f"negatives: {choice.name}; clearly better against every kind of the 2" in choice.why
    assert set(choice.auroc) == set(ALL)
    for kind in ("dent", "scratch"):
        assert choice.auroc[choice.name][kind] > choice.auroc[MADE][kind] + 0.1


def test_real_negatives_that_help_against_their_own_kind_alone_are_not_chosen():
    """Trained against one kind the others are found less well than by what is made."""
    real = maps_of({"dent": axes(8), "hole": axes(9), "scratch": axes(10)}, strength=6.0)
    made = chooser(axes(8, 9, 10), real)
    choice = made.choose(ALL)
    assert choice.name == MADE
    assert "negatives: made; no other is clearly better against every kind of the 3" in choice.why
    aurocs = choice.auroc
    assert np.mean(list(aurocs[REAL].values())) < np.mean(list(aurocs[MADE].values()))
    # Seen in training they would have been found: it is the leaving out that tells.
    hole = made.real.of(made.real.kinds == "hole")
    own = made._auroc(made._fitted(made.rows(REAL, hole)), hole.places)
    assert own > aurocs[REAL]["hole"] + 0.1


def test_the_odd_places_of_unmarked_ones_are_looked_for_with_what_is_made():
    """Made flaws that share a direction with the real ones show where those are."""
    real = maps_of({"dent": axes(9), "scratch": axes(9)}, marks=False)
    of = chooser(axes(4, 5, 9), real)
    rows = of.rows(REAL)
    energy = np.mean(np.square(rows), axis=0)
    assert energy[9] > 5 * np.delete(energy[3:], 6).max()
    assert np.sum(np.abs(rows[:, 9]) > 6) >= 75  # nearly all of the 80 flaws


def test_a_gain_against_some_kinds_only_is_no_reason():
    real = maps_of({"dent": axes(9), "scratch": axes(9), "stain": axes(5)}, strength=4.5)
    choice = chooser(axes(4, 5), real).choose([MADE, REAL])
    assert choice.auroc[REAL]["dent"] > choice.auroc[MADE]["dent"] + 0.1
    wrong = {name: 1 - choice.auroc[name]["stain"] for name in (MADE, REAL)}
    assert wrong[REAL] > CLEARLY * wrong[MADE]
    assert choice.name == MADE


def test_training_without_negatives_is_chosen_where_made_ones_mislead():
    """Real flaws stick out of the normal subspace everywhere; made ones lie in one direction."""
    around = axes(3, 4, 5, 6, 7, 8, 9)
    real = maps_of({"dent": around, "scratch": around}, strength=6.5)
    choice = chooser(axes(11), real, made_strength=30.0).choose([MADE, NONE])
    assert choice.name == NONE
    assert choice.auroc[NONE].keys() == {"dent", "scratch"}
    for kind, auroc in choice.auroc[NONE].items():
        assert auroc > choice.auroc[MADE][kind] + 0.05


def test_one_kind_tells_nothing_about_others_and_says_so():
    real = maps_of({"": axes(9)})
    choice = chooser(axes(4, 5), real).choose(ALL)
    assert (choice.name, choice.auroc) == (MADE, {})
    assert "The 40 real ones are of one kind" in choice.why
    assert "give each kind a folder of its own inside --negative-dir" in choice.why
    assert chooser(None, real).choose([REAL, NONE]).name == NONE
    unknown = NegativeMaps(real.places)
    assert chooser(axes(4), unknown).choose([MADE, REAL]).name == MADE


def test_without_an_alternative_there_is_nothing_to_judge():
    why = chooser(axes(4), None).choose([MADE, NONE]).why
    assert why == "negatives: made, for there are no real ones"
    real = maps_of({"dent": axes(9), "scratch": axes(9)})
    assert chooser(None, real).choose([REAL]).name == REAL
    with pytest.raises(LisaeError, match="there are no negatives to train against; give --neg"):
        chooser(None, None).choose([])


def test_rows_of_a_candidate_are_those_of_its_pictures():
    real = maps_of({"dent": axes(9), "scratch": axes(10)}, marks=False)
    of = chooser(axes(4), real)
    made, own = of.rows(MADE), of.rows(REAL)
    assert of.rows(NONE) is None
    assert made.shape == (40, M)  # the marked place of each
    assert own.shape == (80 * 2, M)  # 5 % of 36 places
    both = of.rows(BOTH)
    assert len(both) == 2 * 160
    np.testing.assert_array_equal(both[-160:], own)
    dents = of.rows(REAL, real.of(real.kinds == "dent"))
    np.testing.assert_array_equal(dents, own[:80])


def test_the_choice_is_the_same_each_time():
    real = maps_of({"dent": axes(9), "scratch": axes(9)}, strength=4.5)
    one, other = (chooser(axes(4, 5), real).choose(ALL) for _ in range(2))
    assert one == other
