import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

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
    for _ in range(1000):
        area = auroc(random.normal(0, 1, 8), random.normal(1.5, 1, 12))
        low, high = auroc_interval(area, 8, 12)
        held += low <= true <= high
    assert 0.93 < held / 1000 < 0.99
