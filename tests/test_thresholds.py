import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.thresholds import Threshold, choose_threshold, smallest_fpr

SCORES = arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32))
RATES = st.floats(1e-3, 0.999)
ROUNDING = 1e-9  # k / (n + 1) and the rate asked for may be the same number written twice


@given(scores=SCORES, fpr=RATES)
def test_the_guaranteed_rate_is_the_largest_that_the_pictures_support(scores, fpr):
    n = len(scores)
    if fpr < smallest_fpr(n) - ROUNDING:
        with pytest.raises(LisaeError, match="at the lowest"):
            choose_threshold(scores, fpr)
        return
    chosen = choose_threshold(scores, fpr)
    assert chosen.guaranteed_fpr <= fpr + ROUNDING
    assert min(chosen.guaranteed_fpr + 1 / (n + 1), 1) > fpr - ROUNDING
    assert (chosen.requested_fpr, chosen.n_calibration) == (fpr, n)


@given(scores=SCORES, fpr=RATES)
def test_alpha_is_the_score_that_k_minus_1_others_exceed_at_most(scores, fpr):
    chosen = choose_threshold(scores, fpr, nearest=True)
    k = round(chosen.guaranteed_fpr * (len(scores) + 1))
    assert np.float32(chosen.alpha) in scores
    assert np.sum(scores > chosen.alpha) <= k - 1
    assert np.sum(scores >= chosen.alpha) >= k


@given(scores=SCORES, one=RATES, other=RATES)
def test_alpha_falls_as_the_rate_rises(scores, one, other):
    low, high = (choose_threshold(scores, fpr, nearest=True) for fpr in sorted((one, other)))
    assert low.alpha >= high.alpha
    assert low.guaranteed_fpr <= high.guaranteed_fpr


@given(scores=SCORES, fpr=RATES, data=st.data())
def test_the_order_of_the_scores_is_irrelevant(scores, fpr, data):
    shuffled = np.array(data.draw(st.permutations(scores.tolist())))
    assert choose_threshold(shuffled, fpr, nearest=True) == choose_threshold(
        scores, fpr, nearest=True
    )


@given(n=st.integers(1, 300), fpr=RATES)
def test_the_number_that_a_refusal_asks_for_is_enough_and_one_less_is_not(n, fpr):
    if fpr >= smallest_fpr(n) - ROUNDING:
        return
    with pytest.raises(LisaeError) as refused:
        choose_threshold(np.arange(n), fpr)
    enough = int(str(refused.value).split("with at least ")[1].split()[0])
    choose_threshold(np.arange(enough), fpr)
    with pytest.raises(LisaeError):
        choose_threshold(np.arange(enough - 1), fpr)


@pytest.mark.parametrize(
    "n, fpr, above",
    [(19, 0.05, 0), (39, 0.05, 1), (99, 0.05, 4), (99, 0.01, 0), (9, 0.5, 4), (99, 0.29, 28)],
)
def test_known_choices(n, fpr, above):
    chosen = choose_threshold(np.arange(n), fpr)
    assert chosen == Threshold(n - 1 - above, fpr, (above + 1) / (n + 1), n)
    assert chosen.guaranteed_fpr == pytest.approx(fpr)


def test_alpha_is_never_below_every_score():
    assert choose_threshold(np.arange(9), 1 - 1e-12) == Threshold(0, 1 - 1e-12, 0.9, 9)


def test_new_normal_scores_exceed_alpha_as_often_as_promised():
    random = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        scores = random.standard_normal(40)
        shares.append(scores[39] > choose_threshold(scores[:39], 0.1).alpha)
    assert np.mean(shares) == pytest.approx(0.1, abs=3 * math.sqrt(0.1 * 0.9 / 2000))


def test_too_few_pictures_are_refused_or_give_the_nearest_rate():
    with pytest.raises(LisaeError, match=r"^18 .* of 0\.0526 at the lowest.* at least 19 normal"):
        choose_threshold(np.arange(18), 0.05)
    assert choose_threshold(np.arange(18), 0.05, nearest=True) == Threshold(17, 0.05, 1 / 19, 18)
