"""Metrics, their intervals, and thresholds."""

import json
import math
import shutil
import subprocess

import numpy as np
import pytest
from conftest import CHECKOUT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.thresholds import (
    CONFIDENCE,
    Threshold,
    Z,
    choose_threshold,
    smallest_fpr,
    wilson,
)
from lisae_tf.evaluation.metrics import (
    Scored,
    accuracy_trade_off,
    auroc,
    auroc_interval,
    detection_curve,
    evaluate,
    fpr_at_tpr,
)

scores = st.lists(st.integers(0, 1000).map(float), min_size=1, max_size=40)


def scored(normal, anomaly):
    both = np.asarray([*normal, *anomaly], np.float32)
    return Scored(both, np.arange(len(both)) >= len(normal))


@given(scores, scores)
def test_auroc_is_the_chance_that_an_anomaly_scores_higher(normal, anomaly):
    pairs = [(a > n) + 0.5 * (a == n) for a in anomaly for n in normal]
    assert auroc(np.asarray(normal), np.asarray(anomaly)) == pytest.approx(np.mean(pairs))


@given(scores, scores)
def test_fpr_at_95_finds_95_percent_at_the_lowest_price(normal, anomaly):
    both = scored(normal, anomaly)
    prices = [
        np.mean(both.normal >= alpha)
        for alpha in both.scores
        if np.mean(both.anomaly >= alpha) >= 0.95
    ]
    assert fpr_at_tpr(both) == pytest.approx(min(prices))


def test_rates_are_strictly_above_the_threshold():
    record = evaluate(scored([1, 2, 3, 4], [3, 4, 5, 6, 7]), alpha=4)
    assert record["false_positive_rate"] == 0
    assert record["detection_rate"] == pytest.approx(3 / 5)
    assert (record["n_normal"], record["n_anomaly"]) == (4, 5)


def test_without_anomalies_what_needs_them_is_null():
    record = evaluate(scored([1, 2, 3], []), alpha=2)
    nulls = {name for name, value in record.items() if value is None}
    assert nulls == {"auroc", "average_precision", "fpr_at_95_tpr", "detection_rate"}
    assert record["false_positive_rate"] == pytest.approx(1 / 3)


def test_the_trade_off_runs_from_all_anomalous_to_all_normal():
    alpha, normal, anomaly = accuracy_trade_off(scored([1, 2, 3], [2, 3, 9]), 11).T
    assert np.all(np.diff(alpha) >= 0)
    assert np.all(np.diff(normal) >= 0)
    assert np.all(np.diff(anomaly) <= 0)
    assert (normal[-1], anomaly[-1]) == (1, 0)


@given(scores, scores)
def test_the_detection_curve_falls_and_its_area_is_nearly_the_auroc(normal, anomaly):
    both = scored(normal, [score + 0.5 for score in anomaly])  # no ties
    curve = np.array(detection_curve(both, 2001))
    assert np.all(np.diff(curve) <= 0)
    few = 1 / len(normal) + 1e-3  # a quantile lies between two normal scores
    assert abs(np.mean(curve) - auroc(both.normal, both.anomaly)) <= few


@pytest.mark.parametrize("area", [0.0, 0.5, 0.8, 0.97, 1.0])
def test_an_interval_holds_the_auroc_and_shrinks_with_more_pictures(area):
    intervals = [auroc_interval(area, count, 2 * count) for count in (1, 5, 50, 1000)]
    widths = [high - low for low, high in intervals]
    assert all(0 <= low <= area <= high <= 1 for low, high in intervals)
    assert widths == sorted(widths, reverse=True) and widths[-1] > 0
    assert widths[0] > 0.7  # one picture tells next to nothing, whatever the figure


def test_an_interval_holds_the_true_area_as_often_as_it_says():
    random, held = np.random.default_rng(0), 0
    true = stats.norm.cdf(1.5 / np.sqrt(2))
    for _ in range(300):
        area = auroc(random.normal(0, 1, 8), random.normal(1.5, 1, 12))
        low, high = auroc_interval(area, 8, 12)
        held += low <= true <= high
    assert 0.93 < held / 300 < 0.99


PAIRS = [(k, n) for n in (1, 2, 7, 20, 333, 50_000) for k in {0, 1, n // 3, n - 1, n}]


def test_they_are_those_of_scipy():
    for count, total in PAIRS:
        expected = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
        assert wilson(count, total) == pytest.approx(tuple(expected), abs=1e-12)
    assert wilson(0, 0) == (0, 1)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_page_counts_as_python_does():
    generator = np.random.default_rng(0)
    scores = np.round(generator.random(500), 2).astype(np.float32)  # with equal ones
    truth = generator.integers(-1, 2, 500)
    kind = generator.integers(0, 3, 500)
    alphas = np.concatenate([[-1, 2], np.unique(scores)[::7]])
    given = {
        "pairs": PAIRS, "z": Z, "scores": scores.tolist(), "truth": truth.tolist(),
        "kind": kind.tolist(), "alphas": alphas.tolist(),
    }  # fmt: skip
    script = (CHECKOUT / "lisae_tf/desk/static/counts.js").read_text() + (
        "\nconst given = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "const counts = new desk.Counts("
        "  Float32Array.from(given.scores), given.truth, given.kind, ['', 'a', 'b']);"
        "console.log(JSON.stringify({"
        "  wilson: given.pairs.map(([k, n]) => desk.wilson(k, n, given.z)),"
        "  at: given.alphas.map((alpha) => counts.at(alpha, given.z)) }));"
    )
    done = subprocess.run(
        ["node", "-e", script], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    for pair, interval in zip(PAIRS, found["wilson"], strict=True):
        assert interval == pytest.approx(wilson(*pair), abs=1e-12)
    for alpha, said in zip(alphas, found["at"], strict=True):
        above = scores > np.float32(alpha)
        for name, side in (("alarms", 0), ("finds", 1), ("unknown", -1)):
            count, total = int(above[truth == side].sum()), int((truth == side).sum())
            assert (said[name]["count"], said[name]["total"]) == (count, total)
            assert said[name]["interval"] == pytest.approx(wilson(count, total), abs=1e-12)
        for k, each in enumerate(said["kinds"]):
            assert each["count"] == int(above[(truth == 1) & (kind == k)].sum())


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
