"""Pixel AUROC and PRO, and `evaluate --mask-dir`."""

import json

import numpy as np
import pytest
from conftest import assert_one_sentence
from PIL import Image
from sklearn.metrics import roc_auc_score

from lisae_tf.data.masks import read_masks
from lisae_tf.evaluation import localisation
from lisae_tf.evaluation.localisation import pixel_figures
from lisae_tf.report.error_maps import resized


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
