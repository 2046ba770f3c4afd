"""Metrics, their intervals, thresholds, and pixel figures by `evaluate --mask-dir`."""

import json
import math
import shutil
import subprocess

import numpy as np
import pytest
from conftest import CHECKOUT, assert_one_sentence
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import stats
from sklearn.metrics import roc_auc_score

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.thresholds import (
    CONFIDENCE,
    Threshold,
    Z,
    choose_threshold,
    smallest_fpr,
    wilson,
)
from lisae_tf.data.masks import read_masks
from lisae_tf.evaluation import localisation
from lisae_tf.evaluation.localisation import pixel_figures
from lisae_tf.evaluation.metrics import (
    Scored,
    accuracy_trade_off,
    auroc,
    auroc_interval,
    detection_curve,
    evaluate,
    fpr_at_tpr,
)
from lisae_tf.report.error_maps import resized

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
        "  Float32Array.from(given.scores), given.truth, given.kind, ['', 'a', 'b'], [0.5, 0.7]);"
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
            # Of copies each group counts once: so many groups there are for each picture.
            groups = math.floor(total * {"alarms": 0.5, "finds": 0.7}.get(name, 1) + 0.5)
            interval = wilson(math.floor(count / total * groups + 0.5), groups)
            assert said[name]["interval"] == pytest.approx(interval, abs=1e-12)
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


def pixel_auroc(maps, masks):
    return localisation.pixel_auroc(np.sort(maps[~masks]), maps[masks])


def per_region_overlap(maps, masks):
    return localisation.per_region_overlap(np.sort(maps[~masks]), maps, masks)


@pytest.fixture
def masks():
    """A large and a small region in one picture, one in another, none in the third."""
    found = np.zeros((3, 20, 20), bool)
    found[0, 2:12, 2:12] = True
    found[0, 15:17, 15:17] = True
    found[1, 5:9, 5:9] = True
    return found


def test_perfect_maps_reach_one_and_random_ones_half_of_the_limit(masks):
    assert pixel_auroc(masks.astype(np.float32), masks) == 1.0
    assert per_region_overlap(masks + np.float32(0.0), masks) == pytest.approx(1.0)
    noise = np.random.default_rng(0).random((200, 20, 20)).astype(np.float32)
    many = np.concatenate([masks] * 66 + [masks[:2]])
    assert pixel_auroc(noise, many) == pytest.approx(0.5, abs=0.02)
    # By chance a region is covered as far as free pixels are: 0.3 / 2.
    assert per_region_overlap(noise, many) == pytest.approx(0.15, abs=0.02)


def test_the_auroc_of_pixels_is_that_of_all_pixels_as_single_cases(masks):
    noise = np.random.default_rng(2).normal(0, 0.7, masks.shape)
    for values in (masks + noise, np.round(masks + noise, 1), np.zeros(masks.shape)):  # ties too
        maps = values.astype(np.float32)
        plain = roc_auc_score(masks.ravel(), maps.ravel())
        assert pixel_auroc(maps, masks) == pytest.approx(plain, abs=1e-12)


def test_a_small_region_counts_as_much_as_a_large_one(masks):
    """Missing the 4 pixels of the small region costs a third, not 4 of 120."""
    maps = masks.astype(np.float32)
    maps[0, 15:17, 15:17] = -1
    assert per_region_overlap(maps, masks) == pytest.approx(2 / 3)
    assert pixel_auroc(maps, masks) > 0.96


def test_the_overlap_is_what_a_plain_count_gives(masks):
    generator = np.random.default_rng(1)
    maps = (masks + generator.normal(0, 0.7, masks.shape)).astype(np.float32)
    thresholds = np.unique(maps)[::-1]
    regions = [np.zeros_like(masks) for _ in range(3)]
    regions[0][0, 2:12, 2:12] = regions[1][0, 15:17, 15:17] = regions[2][1, 5:9, 5:9] = True
    rates = np.array([(maps[~masks] > t).mean() for t in thresholds])
    covered = np.array([np.mean([(maps[r] > t).mean() for r in regions]) for t in thresholds])
    grid = np.linspace(0, 0.3, 3001)
    plain = np.trapezoid(np.interp(grid, rates, covered), grid) / 0.3
    assert per_region_overlap(maps, masks) == pytest.approx(plain, abs=0.01)


@pytest.mark.parametrize("free", [1, 4, 5, 11, 10_000])
@pytest.mark.parametrize("levels", [1, 2, 3, 1000])
def test_the_overlap_never_exceeds_one_nor_credits_what_no_threshold_reaches(free, levels):
    """Few free pixels, ties, and curves that begin late or jump past the limit."""
    generator = np.random.default_rng(free + levels)
    masks = np.zeros((2, 1, free), bool)
    masks[0] = True
    constant = np.ones(masks.shape, np.float32)
    assert per_region_overlap(constant, masks) == 0
    assert per_region_overlap(constant + masks, masks) == 1
    for _ in range(20):
        maps = generator.integers(0, levels, masks.shape).astype(np.float32)
        found = per_region_overlap(maps, masks)
        assert 0 <= found <= 1
        # Another scale of the map is the same map.
        assert per_region_overlap(maps * 1000 - 7, masks) == pytest.approx(found)
    if free >= 4:  # all of the region, but only with half of the free pixels: past the limit
        late = masks.astype(np.float32)
        late[1, 0, ::2] = 2
        assert per_region_overlap(late, masks) == 0


def test_anomalies_whose_mask_marks_nothing_do_not_count(masks):
    maps = np.random.default_rng(0).random((5, 20, 20)).astype(np.float32)
    truth = np.array([False, True, True, True, False])
    kept = np.array([0, 1, 2, 4])  # the third anomaly has no mask
    known = np.zeros((4, 20, 20), bool)
    known[1:3] = masks[:2]
    assert pixel_figures(maps, truth, masks) == {
        "pixel_auroc": pixel_auroc(maps[kept], known),
        "per_region_overlap": per_region_overlap(maps[kept], known),
        "n_masks": 2,
    }
    assert pixel_figures(maps, truth, np.zeros_like(masks)) == {}


def write_masks(folder, anomalies):
    """Each picture is marked as a whole."""
    folder.mkdir()
    for path in anomalies:
        with Image.open(path) as picture:
            mask = np.full((picture.height, picture.width), 255, np.uint8)
        Image.fromarray(mask).save(folder / f"{path.stem}.png")


def test_evaluate_adds_both_where_there_are_masks(workplace, cli):
    anomalies = sorted((workplace / "anomaly").iterdir())
    write_masks(workplace / "masks", anomalies)
    result = cli("evaluate", "--mask-dir", "masks")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert 0 <= record["pixel_auroc"] <= 1
    assert 0 <= record["per_region_overlap"] <= 1
    assert record["n_masks"] == len(anomalies)
    assert "pixel_auroc" not in json.loads(cli("evaluate").stdout)
    # The run keeps what was found, and the report shows it.
    stored = json.loads((workplace / "runs" / "normal-lis-seed0" / "metrics.json").read_text())
    assert stored["pixel_auroc"] == record["pixel_auroc"]
    assert cli("report", "--out", "report.html").exit_code == 0
    said = " ".join((workplace / "report.html").read_text().split())
    assert f"With {len(anomalies)} masks, pixel AUROC is {record['pixel_auroc']:.4f}" in said
    # The figure is that of the maps themselves: normal pictures count as free of anomalies.
    from lisae_tf.data.tasks import load_test
    from lisae_tf.detectors import load_detector

    detector = load_detector(workplace / "runs" / "normal-lis-seed0")
    test = load_test(detector.config)
    maps = detector.error_maps(test.pixels)
    truth = np.zeros(maps.shape, bool)
    truth[test.is_anomaly] = True
    assert record["pixel_auroc"] == pytest.approx(roc_auc_score(truth.ravel(), maps.ravel()))


def test_maps_of_another_resolution_are_brought_to_that_of_the_masks(workplace, monkeypatch):
    from lisae_tf.data.tasks import load_masks, load_test
    from lisae_tf.detectors import load_detector
    from lisae_tf.experiments.experiment import localise

    write_masks(workplace / "masks", sorted((workplace / "anomaly").iterdir()))
    detector = load_detector(workplace / "runs" / "normal-lis-seed0")
    config = detector.config.model_copy(update={"mask_dir": str(workplace / "masks")})
    test = load_test(config)
    coarse = detector.error_maps(test.pixels)[:, ::4, ::4]
    monkeypatch.setattr(detector, "error_maps", lambda images: coarse)
    found, _ = localise(detector, test, load_masks(config, test))
    truth = np.repeat(test.is_anomaly, 12 * 12)
    expected = roc_auc_score(truth, resized(coarse, (12, 12)).ravel())
    assert found["pixel_auroc"] == pytest.approx(expected)


def test_a_missing_or_misshapen_mask_is_named_an_empty_one_left_out(workplace, cli, tmp_path):
    anomalies = sorted((workplace / "anomaly").iterdir())
    write_masks(workplace / "masks", anomalies)
    (workplace / "masks" / f"{anomalies[3].stem}.png").unlink()
    result = cli("evaluate", "--mask-dir", "masks")
    assert result.exit_code == 1
    assert f"holds no mask {anomalies[3].stem}.png" in result.output
    with Image.open(anomalies[3]) as picture:
        width, height = picture.size
    place = workplace / "masks" / f"{anomalies[3].stem}.png"
    Image.new("L", (2 * width, 3 * height), 255).save(place)
    result = cli("evaluate", "--mask-dir", "masks")
    assert result.exit_code == 1
    assert f"is {2 * width}x{3 * height}, other proportions than the {width}x{height}" in (
        result.output
    )
    Image.new("L", (2 * width, 2 * height)).save(place)
    result = cli("evaluate", "--mask-dir", "masks")
    assert result.exit_code == 0, result.output
    assert "1 mask of anomaly pictures marks nothing (no pixel is above 127 of 255)" in (
        result.stderr
    )
    assert f"do not count in the pixel figures: masks/{place.name}" in result.stderr
    assert json.loads(result.stdout)["n_masks"] == len(anomalies) - 1


def test_a_thin_defect_survives_the_shrinking(tmp_path):
    mask = np.zeros((640, 640), np.uint8)
    mask[300, 100:500] = 255
    for name in ("pictures", "masks"):
        (tmp_path / name).mkdir()
        Image.fromarray(mask).save(tmp_path / name / "scratch.png")
    scratch = [tmp_path / "pictures" / "scratch.png"]
    found = read_masks(
        tmp_path / "masks", scratch, scratch, tmp_path / "pictures", (32, 32), what="", so=""
    ).marked
    assert found[0, 15, 5:25].all()
    assert found.sum() <= 21


def test_masks_need_anomalies_from_a_folder(cli, workplace):
    options = ("--variant", "kde", "--negatives", "none", "--quiet")
    result = cli("train", "--normal-dir", "normal", *options)
    assert result.exit_code == 0, result.output
    result = cli("evaluate", "--mask-dir", "anomaly")
    assert result.exit_code == 1
    assert "--anomaly-dir" in result.output


def test_what_scores_whole_pictures_cannot_be_localised(cli, workplace):
    options = ("--variant", "kde", "--negatives", "none", "--anomaly-dir", "anomaly", "--quiet")
    result = cli("train", "--normal-dir", "normal", *options)
    assert result.exit_code == 0, result.output
    result = cli("evaluate", "--mask-dir", "anomaly")
    assert_one_sentence(result, "kde scores whole pictures and has no maps", "--mask-dir")
