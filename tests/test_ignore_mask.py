"""Regions that do not count (`--ignore-mask`): in no score, no map, no training and no figure."""

import contextlib
import json
import shutil
from dataclasses import replace

import feature_fixtures
import keras
import numpy as np
import pytest
from conftest import QUICK, assert_one_sentence
from feature_fixtures import parts
from PIL import Image
from training_fixtures import tiny_config, tiny_data

from lisae_tf import LISAEDetector
from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json, sha256
from lisae_tf.core.regions import FILL, counted_places
from lisae_tf.data.levels import Header
from lisae_tf.data.masks import read_ignored
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.data.pictures import decode
from lisae_tf.data.synthetic import made_with_masks
from lisae_tf.data.tasks import reopen
from lisae_tf.detectors import load_detector, make_detector
from lisae_tf.evaluation.localisation import pixel_figures
from lisae_tf.experiments.settling import settle
from lisae_tf.exported.runtimes import open_model
from lisae_tf.features.places import remembering
from lisae_tf.model.scoring import Kept, Pool
from lisae_tf.training.phase import TrainingOptions

IGNORED = np.zeros((32, 32), bool)
IGNORED[:, 20:] = True
POOLED = {"scoring": {"highest_share": 0.1}}
SHORT = {"feature_extraction": {"epochs": 1}, "latent_shaping": {"epochs": 1}}


def test_a_place_counts_if_less_than_half_of_it_is_masked():
    ignored = np.zeros((6, 8), bool)
    ignored[0, 0] = ignored[:1, 2:4] = ignored[2:4, 4:6] = True
    counted = counted_places(ignored, (3, 4))
    expected = np.ones((3, 4), bool)
    expected[0, 1] = expected[1, 2] = False  # half, all; a quarter of place (0, 0)
    np.testing.assert_array_equal(counted, expected)
    with pytest.raises(LisaeError, match="leave none of the 1x1 places"):
        counted_places(np.ones((4, 4), bool), (1, 1))


@pytest.mark.parametrize("size", [(64, 64), (50, 31), (256, 256), (300, 400)])
@pytest.mark.parametrize("side", [256, 512])
def test_nothing_under_the_mask_flows_into_scaled_pictures(size, side, tmp_path):
    mask = np.zeros((side, side), np.uint8)
    mask[:, side - side // 3 :] = mask[40:43] = 255  # an edge, and a line thinner than a pixel
    Image.fromarray(mask).save(tmp_path / "mask.png")
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    under = np.asarray(Image.fromarray(mask).resize((256, 256), Image.Resampling.NEAREST)) > 0
    found = []
    for level in (0, 255):
        picture[under] = level
        Image.fromarray(picture).save(tmp_path / f"{level}.png")
        found.append(decode(tmp_path / f"{level}.png", size=size))
    ignored, _ = read_ignored(tmp_path / "mask.png", [Header(256, 256, "RGB")], size)
    np.testing.assert_array_equal(found[0][~ignored], found[1][~ignored])
    assert (found[0][ignored] != found[1][ignored]).any()
    assert 1 / 3 < ignored.mean() < 0.5


def test_a_score_pools_over_what_counts_alone():
    maps = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)  # below 0 as well
    counted = np.zeros((4, 5), bool)
    counted[1:3, :4] = True
    own = maps[:, counted]
    np.testing.assert_allclose(Pool(1.0, counted)(maps), own.mean(axis=1), rtol=1e-5)
    highest = np.sort(own, axis=1)[:, -2:].mean(axis=1)
    np.testing.assert_allclose(Pool(0.25, counted)(maps), highest, rtol=1e-5)
    errors = maps[..., None] * [1.0, 2.0]
    np.testing.assert_allclose(Pool(1.0, counted)(errors), 1.5 * own.mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(Kept(counted)(maps), maps * counted)
    kept = np.asarray(Kept(counted, 0.5)(errors.astype(np.float32)))
    assert (kept[:, ~counted] == 0.5).all()
    for layer in (Pool(0.25, counted), Kept(counted)):
        stored = keras.saving.serialize_keras_object(layer)
        again = keras.saving.deserialize_keras_object(stored)
        np.testing.assert_array_equal(again(maps), layer(maps))


def flawed(images, ignored):
    """Two copies: with a bright flaw under the mask, and with the same flaw beside it."""
    under, beside = images.copy(), images.copy()
    rows, columns = np.nonzero(ignored)
    under[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 255
    beside[:, 8:16, 4:12] = 255
    return under, beside


def fitted(over):
    detector = make_detector(tiny_config(**SHORT | over))
    detector.fit_data(tiny_data().ignoring(IGNORED), TrainingOptions())
    return detector


OTHERS = pytest.mark.slow("trainings of more networks on the same covered pictures; ae stays")


@pytest.mark.parametrize(
    "over",
    [{"variant": "ae"} | POOLED, {"variant": "linear-ae"},
     pytest.param({"variant": "lis"} | POOLED, marks=OTHERS),
     pytest.param({"variant": "linear-lis"} | POOLED, marks=OTHERS),
     pytest.param({"variant": "linsep-fused"}, marks=OTHERS),
     pytest.param({"variant": "anogan-fm"}, marks=OTHERS)],
    ids=lambda over: over["variant"],
)  # fmt: skip
def test_on_pixels_what_lies_under_the_mask_changes_nothing(over, tmp_path):
    detector = fitted(over)
    normal = tiny_data().normal.calibration
    under, beside = flawed(normal, IGNORED)
    scores = detector.score(normal)
    np.testing.assert_array_equal(detector.score(under), scores)
    assert (detector.score(beside) != scores).all()
    maps = detector.error_maps(under)
    np.testing.assert_array_equal(maps, detector.error_maps(normal))
    assert (maps[:, IGNORED] == 0).all() and (maps[:, ~IGNORED] > 0).any()
    np.testing.assert_array_equal(detector.reconstruct(under), detector.reconstruct(normal))
    for before, after in zip(*map(detector.score_phases, (normal, under)), strict=True):
        np.testing.assert_array_equal(before, after)
    detector.save(tmp_path)
    loaded = load_detector(tmp_path)
    np.testing.assert_array_equal(loaded.ignored, IGNORED)
    np.testing.assert_array_equal(loaded.score(under), scores)


def test_pixels_that_do_not_count_are_not_trained_on():
    """The same solution, whatever lies there."""
    data, other = tiny_data(), tiny_data()
    other.normal.fit[:, IGNORED] = 7
    found = []
    for each in (data, other):
        detector = make_detector(tiny_config(variant="linear-ae"))
        detector.fit_data(each.ignoring(IGNORED), TrainingOptions())
        found.append(detector.arrays()["components"])
    np.testing.assert_array_equal(*found)
    assert (data.ignoring(IGNORED).covered().normal.fit[:, IGNORED] == FILL).all()


SIDE = feature_fixtures.SIDE
STRIP = np.zeros((SIDE, SIDE), bool)
STRIP[:, 44:] = True


@pytest.fixture(scope="module")
def on_features():
    """The default variant on features, and its data before anything was left out."""
    normal = Parts(parts(20), parts(6, seed=2), parts(8, seed=3))
    made, masks = made_with_masks(["flaws"], normal, seed=0, most=12)
    data = TrainingData(normal, made, negative_masks=masks)
    config = resolve({
        "variant": "lis-knn", "features": {"places": 1000}, "network": {"latent": 8},
        "lis_knn": {"bank": 100, "directions": 20}, "scoring": {"highest_share": 0.05},
    })  # fmt: skip
    detector = make_detector(config)
    with remembering(2**28):
        detector.fit_data(data.ignoring(STRIP), TrainingOptions())
    return detector, data


def test_on_features_what_lies_under_the_mask_changes_nothing(on_features, tmp_path):
    detector, data = on_features
    normal = data.normal.calibration
    under, beside = flawed(normal, STRIP)
    scores = detector.score(normal)
    np.testing.assert_array_equal(detector.score(under), scores)
    assert (detector.score(beside) > scores).all()
    maps = detector.error_maps(under)
    np.testing.assert_array_equal(maps, detector.error_maps(normal))
    counted = counted_places(STRIP, maps.shape[1:])
    assert (maps[:, ~counted] == 0).all() and (maps[:, counted] > 0).all()
    own = np.sort(maps[:, counted], axis=1)
    count = max(1, round(0.05 * own.shape[1]))
    np.testing.assert_allclose(scores, own[:, -count:].mean(axis=1), rtol=1e-4)
    assert "of the places that count" in detector.meaning
    detector.save(tmp_path)
    loaded = load_detector(tmp_path)
    np.testing.assert_array_equal(loaded.score(under), scores)
    arrays = loaded.stored_arrays()
    for broken in (STRIP.astype(np.uint8), STRIP[:-1], np.ones_like(STRIP)):
        with pytest.raises(LisaeError, match="train again"):
            loaded.restore_stored(arrays | {"ignored": broken})


def test_places_that_do_not_count_are_not_trained_on(on_features):
    detector, data = on_features
    places, images = detector._places, data.normal.stopping
    under, _ = flawed(images, STRIP)
    kept = places.of(images)
    assert kept.shape == (len(images), places.counted.sum(), places.size)
    np.testing.assert_array_equal(places.of(under), kept)
    rows = places.sample(images, 100_000, seed=0)
    assert len(rows) == len(images) * places.counted.sum()


def test_marks_under_the_mask_are_none_and_such_negatives_are_left_out():
    data = tiny_data()
    masks = [np.zeros((len(part), 32, 32), bool) for part in vars(data.negative).values()]
    for mask in masks:
        mask[0, 4, 4] = mask[1, 4, 25] = True  # the others are not marked at all
    found = replace(data, negative_masks=Parts(*masks)).ignoring(IGNORED)
    assert len(found.negative.fit) == len(found.negative_masks.fit) == len(masks[0]) - 1
    assert found.negative_masks.fit.sum() == 1
    for mask in masks:
        mask[:] = IGNORED
    with pytest.raises(LisaeError, match="flaws of all negatives"):
        replace(data, negative_masks=Parts(*masks)).ignoring(IGNORED)
    for wrong in (IGNORED.astype(np.uint8), IGNORED[1:], np.ones_like(IGNORED)):
        with pytest.raises(LisaeError, match="must be bool"):
            data.ignoring(wrong)


def test_pixel_figures_leave_out_what_does_not_count():
    random = np.random.default_rng(0)
    maps = random.random((4, 20, 20)).astype(np.float32)
    truth, ignored = np.array([False, True, True, True]), np.zeros((20, 20), bool)
    ignored[:, 12:] = True
    marked = np.zeros((3, 20, 20), bool)
    marked[0, 2:6, 2:6] = marked[0, 2:6, 14:18] = marked[1, 4:9, 10:15] = True
    marked[2, :, 15:] = True  # there alone: it does not count
    found = pixel_figures(maps, truth, marked, ignored)
    rows = np.array([0, 1, 2])
    expected = pixel_figures(maps[rows][..., :12], truth[rows], marked[:2, :, :12])
    assert found == pytest.approx(expected) and found["n_masks"] == 2
    other = np.where(ignored, 9, maps).astype(np.float32)
    assert pixel_figures(other, truth, marked, ignored) == found
    assert pixel_figures(maps, truth, marked & ignored, ignored) == {}


def write_mask(path, mask) -> None:
    levels = mask if mask.dtype == np.uint8 else np.uint8(255 * mask)
    Image.fromarray(levels).save(path)


def test_a_mask_of_any_size_is_read_and_a_bad_one_named(tmp_path):
    headers, place = [Header(30, 40, "RGB")] * 3 + [Header(20, 20, "RGB")], tmp_path / "mask.png"
    large = np.zeros((60, 80), np.uint8)
    large[:, :40] = 255
    write_mask(place, large)
    ignored, notes = read_ignored(place, headers, (12, 16))
    # One more pixel than the half: scaling mixes some of the mask into it.
    np.testing.assert_array_equal(ignored, np.arange(16)[None] < np.full((12, 1), 9))
    assert notes == ()
    large[:, 40:50], large[:, 50:] = 200, 100
    write_mask(place, large)
    ignored, notes = read_ignored(place, headers, (12, 16))
    assert ignored.sum() == 12 * 11 and "50 % of" in notes[0]
    for content, words in (
        (np.ones((60, 80), bool), "leaves nothing"), (np.zeros((60, 80), bool), "marks nothing"),
        (large[:, :60], "60x60, other proportions than the 40x30 of the normal pictures"),
    ):  # fmt: skip
        write_mask(place, content)
        with pytest.raises(LisaeError, match=words):
            read_ignored(place, headers, (12, 16))
    place.write_bytes(b"no picture")
    with pytest.raises(LisaeError, match="not a readable"):
        read_ignored(place, headers, (12, 16))
    with pytest.raises(LisaeError, match="is a folder"):
        read_ignored(tmp_path, headers, (12, 16))


@pytest.mark.parametrize(
    ("over", "words"),
    [({"data": {"tile": 16, "size": [32, 32]}}, "leave --ignore-mask out, or --tile"),
     ({"data": {"mirror": True}}, "data.mirror=false"), ({"variant": "kde"}, "no map of errors"),
     ({"variant": "deep-sad"}, "no map of errors"),
     ({"dataset": "surfaces", "normal_dir": None}, "goes with --normal-dir")],
)  # fmt: skip
def test_where_nothing_can_be_left_out_one_sentence_says_so(over, words):
    given = {"dataset": "folder", "normal_dir": "good", "ignore_mask": "mask.png"}
    with pytest.raises(LisaeError, match=words):
        resolve(given | over)


def test_without_a_mask_the_record_is_as_it_was():
    plain = resolve({"dataset": "folder", "normal_dir": "good"})
    assert "ignore" not in plain.to_yaml()
    masked = resolve(plain.model_dump() | {"ignore_mask": "mask.png"})
    assert masked.digest() != plain.digest() and "ignore_mask: mask.png" in masked.to_yaml()


TRAIN = ("train", "--normal-dir", "good", "--anomaly-dir", "bad", "--mask-dir", "masks", *QUICK)
SOLVED = ("--variant", "linear-ae")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cli):
    """Folders, a mask of a strip, and a run on pixels without what lies under it."""
    base = feature_fixtures.write_folders(tmp_path_factory.mktemp("ignored"))
    write_mask(base / "strip.png", STRIP)
    (base / "masks").mkdir()
    for path in (base / "bad").iterdir():
        write_mask(base / "masks" / path.name, np.ones((SIDE, SIDE), bool))
    with contextlib.chdir(base):
        result = cli(*TRAIN, *SOLVED, "--ignore-mask", "strip.png", "--out", "run")
    assert result.exit_code == 0, result.stderr
    assert "41.7 % of each picture does not count" in result.stdout
    return base


def test_a_run_needs_its_mask_no_more(trained, cli, monkeypatch):
    monkeypatch.chdir(trained)
    metrics = read_json(trained / "run" / "metrics.json")
    assert metrics["ignored_share"] == pytest.approx(5 / 12)
    (trained / "strip.png").rename(trained / "away.png")
    result = cli("evaluate", "--run", "run")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["pixel_auroc"] == metrics["pixel_auroc"]
    assert cli("report", "--run", "run").exit_code == 0
    assert "does not count" in (trained / "run" / "report.html").read_text()
    (trained / "away.png").rename(trained / "strip.png")


@pytest.mark.slow("two trainings of a network; the mask lies in the run, as is tested above")
def test_a_continued_run_needs_its_mask_no_more(trained, cli, monkeypatch):
    monkeypatch.chdir(trained)
    shutil.copy("strip.png", "own.png")
    given = ("--variant", "ae", "--quiet", "--ignore-mask", "own.png", "--out", "begun-with")
    assert cli(*TRAIN, *given).exit_code == 0
    (trained / "own.png").unlink()
    feature_fixtures.write_parts(trained / "more", 8, seed=9)
    more = ("--normal-dir", "more", "--quiet", "--out", "continued")
    result = cli("train", "--continue", "begun-with", *more)
    assert result.exit_code == 0, result.stderr
    ignored = load_detector(trained / "continued").ignored
    np.testing.assert_array_equal(ignored, load_detector(trained / "run").ignored)


def assert_stretched_masks_are_noted(cli, model):
    """By an export as by the run."""
    for name, size in (("square", (40, 40)), ("nearly", (41, 40)), ("wide", (80, 40)),
                       ("tall", (40, 60))):  # fmt: skip
        Image.new("RGB", size).save(f"{name}.png")
    files = [f"{name}.png" for name in ("square", "nearly", "wide", "tall")]
    for given in (("--run", "run"), ("--model", model)):
        result = cli("score", *given, *files)
        assert result.exit_code == 0, result.stderr
        assert result.stderr.splitlines() == [
            f"note: 2 new pictures have other proportions than the {SIDE}x{SIDE} of the mask of "
            "what does not count, which is stretched over them; cut them as the normal pictures "
            "are: wide.png, tall.png"
        ]
        assert cli("score", *given, *files[:2]).stderr == ""


SAME = pytest.mark.slow("the very graph of ONNX, and that of the quantised file")


@pytest.mark.parametrize(
    "how",
    [("onnx",), ("tflite", "--quantize", "int8"),
     *(pytest.param((kind,), marks=SAME) for kind in ("savedmodel", "tflite"))],
    ids="-".join,
)  # fmt: skip
def test_every_export_leaves_the_same_out(how, trained, cli, tmp_path):
    detector = load_detector(trained / "run")
    with contextlib.chdir(trained):
        result = cli("export", "--run", "run", "--out", tmp_path, "--format", *how)
    assert result.exit_code == 0, result.output
    kind = how[0]
    found = next(tmp_path.rglob("saved_model.pb" if kind == "savedmodel" else f"model.{kind}"))
    model = open_model(found.parent if kind == "savedmodel" else found)
    side = detector.shape[0]
    pictures = np.random.default_rng(0).integers(0, 256, (6, *detector.shape)).astype(np.uint8)
    under = pictures.copy()
    under[:, detector.ignored] = 255
    assert "41.7 % of each picture does not count" in model.record["metadata"]["description"]
    assert model.mask_size == (SIDE, SIDE)
    share = 0.2 if model.record["quantization"] == "int8" else 1e-4
    scores, maps = model.score(pictures), model.error_maps(pictures)
    np.testing.assert_array_equal(model.score(under), scores)
    np.testing.assert_allclose(scores, detector.score(pictures), rtol=share)
    assert maps.shape == (6, side, side) and (maps[:, detector.ignored] == 0).all()
    if kind == "onnx":
        with contextlib.chdir(trained):
            assert_stretched_masks_are_noted(cli, found)


def test_test_pictures_that_the_mask_is_stretched_over_are_noted(trained, monkeypatch):
    monkeypatch.chdir(trained)
    config = load_detector(trained / "run").config
    assert config.ignore_mask_size == [SIDE, SIDE]

    def notes(size=None):
        changed = config.model_copy(update={"ignore_mask_size": size and [*size]})
        opened = reopen(trained / "run", changed)
        opened.training()
        return [note for note in opened.test().notes if "is stretched over" in note]

    assert notes((SIDE, SIDE)) == notes(None) == []
    (note,) = notes((SIDE, 2 * SIDE))
    count = len([*(trained / "bad").iterdir()])
    assert note.startswith(f"{count} anomaly pictures have other proportions than the {2 * SIDE}x")


@pytest.mark.slow("four exports of the whole backbone; masks in exports are tested above")
def test_on_features_every_export_leaves_the_same_out(trained, cli):
    result, run = feature_fixtures.train(cli, trained, "--ignore-mask", "strip.png", out="features")
    assert result.exit_code == 0, result.stderr
    detector, pictures = load_detector(run), parts(4, flaw=True, seed=5)
    under, _ = flawed(pictures, STRIP)
    with contextlib.chdir(trained):
        for each in (("all",), ("tflite", "--quantize", "int8")):
            result = cli("export", "--run", run, "--out", "of-features", "--format", *each)
            assert result.exit_code == 0, result.output
    models = trained / "of-features"
    paths = [*models.rglob("model.*x"), *models.rglob("model.tflite")]
    for path in [*paths, *(path.parent for path in models.rglob("saved_model.pb"))]:
        model = open_model(path)
        share = 0.2 if model.record["quantization"] == "int8" else 1e-3
        np.testing.assert_array_equal(model.score(under), model.score(pictures))
        np.testing.assert_allclose(model.score(pictures), detector.score(pictures), rtol=share)


@pytest.mark.parametrize("named", ["{home}/strip.png", "~/strip.png", "strip.png"])
def test_the_settings_hold_the_content_of_the_mask(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_mask(tmp_path / "strip.png", STRIP)
    given = {"normal_dir": ("good",), "ignore_mask": named.format(home=tmp_path)}
    config, _ = settle(given, None, ())
    assert config.ignore_mask_sha256 == sha256(tmp_path / "strip.png")
    assert config.ignore_mask_size == [*STRIP.shape]
    assert settle({"normal_dir": ("good",)}, None, ())[0].ignore_mask_sha256 is None


def test_another_mask_of_the_same_name_is_noticed(trained, cli, monkeypatch):
    monkeypatch.chdir(trained)
    begun = trained / "begun"
    begun.mkdir()
    for name in ("config.yaml", "manifest.jsonl"):
        shutil.copy(trained / "run" / name, begun / name)
    feature_fixtures.write_parts(trained / "later", 8, seed=10)
    given = (*SOLVED, "--ignore-mask", "strip.png")
    (trained / "strip.png").rename(trained / "own.png")
    write_mask(trained / "strip.png", STRIP.T)
    results = [
        cli(*TRAIN, *given, "--quiet", "--out", begun, "--resume"),
        cli("train", "--continue", "run", "--normal-dir", "later", "--quiet", *given[2:]),
        cli("train", "--config", "run/config.yaml", "--quiet", "--out", "again"),
    ]
    (trained / "own.png").replace(trained / "strip.png")
    words = ("settings", "ignore_mask_sha256 differs", "strip.png has changed since it was named")
    for result, said in zip(results, words, strict=True):
        assert_one_sentence(result, said)
    assert not (trained / "again").exists()
    assert cli(*TRAIN, *given, "--quiet", "--out", begun, "--resume").exit_code == 0


READ = pytest.mark.slow("made flaws come first; the reader's own test names each of these")


@pytest.mark.parametrize(
    ("mask", "words"),
    [("gone.png", "gone.png does not exist"),
     ("narrow.png", "32x64, other proportions than the 64x64"),
     pytest.param("black.png", "marks nothing", marks=READ),
     pytest.param("text.png", "is not a readable", marks=READ)],
)  # fmt: skip
def test_a_bad_mask_is_one_sentence_and_leaves_nothing(mask, words, trained, cli, monkeypatch):
    monkeypatch.chdir(trained)
    write_mask(trained / "narrow.png", STRIP[:, 32:])
    (trained / "text.png").write_text("no picture")
    write_mask(trained / "black.png", np.zeros_like(STRIP))
    assert_one_sentence(cli(*TRAIN, "--quiet", "--ignore-mask", mask, "--out", "bad-run"), words)
    assert not (trained / "bad-run").exists()


def test_data_check_tells_the_share_and_what_is_wrong(trained, cli, monkeypatch):
    monkeypatch.chdir(trained)
    given = ("data", "check", "--normal-dir", "good", "--set", f"data.size=[{SIDE},{SIDE}]")
    result = cli(*given, "--ignore-mask", "strip.png")
    assert result.exit_code == 0, result.stderr
    assert "31.2 % of each picture does not count" in result.stdout
    write_mask(trained / "white.png", np.ones((SIDE, SIDE), bool))
    assert_one_sentence(cli(*given, "--ignore-mask", "white.png"), "white.png leaves nothing")


def test_arrays_may_have_regions_that_do_not_count():
    detector = LISAEDetector("linear-ae", latent=4, false_positive_rate=0.25)
    pictures = tiny_data().normal.fit[:40]
    detector.fit(pictures, ignored=IGNORED)
    under, beside = flawed(pictures, IGNORED)
    scores = detector.score_samples(pictures)
    np.testing.assert_array_equal(detector.score_samples(under), scores)
    assert (detector.score_samples(beside) != scores).all()
    with pytest.raises(LisaeError, match="no map of errors"):
        LISAEDetector("kde").fit(pictures, ignored=IGNORED)
