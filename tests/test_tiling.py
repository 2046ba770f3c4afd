"""Large pictures in overlapping tiles, from the geometry to the exported graph."""

import contextlib
import json
from pathlib import Path

import detector_laws
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from training_fixtures import TINY, surface

from lisae_tf.config.settings import merge, resolve
from lisae_tf.config.tiling import Tiling
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.detectors import load_detector, make_detector
from lisae_tf.detectors.tiled import Cut, Highest, Mend
from lisae_tf.exported.runtimes import open_model
from lisae_tf.report.error_maps import resized
from lisae_tf.training.phase import TrainingOptions


@st.composite
def tilings(draw):
    tile = draw(st.integers(1, 6))
    stride = draw(st.integers(1, tile))
    height, width = (tile + stride * draw(st.integers(0, 3)) for _ in range(2))
    return Tiling((height, width, draw(st.sampled_from([1, 3]))), tile, stride)


@given(tilings())
def test_tiles_are_where_they_should_be_and_come_back_as_the_picture(tiling):
    images = np.random.default_rng(0).random((2, *tiling.shape), np.float32)
    tiles = tiling.cut(images)
    assert tiles.shape == (2 * tiling.count, *tiling.tile_shape)
    expected = [
        image[y : y + tiling.tile, x : x + tiling.tile]
        for image in images
        for y in range(0, tiling.shape[0] - tiling.tile + 1, tiling.stride)
        for x in range(0, tiling.shape[1] - tiling.tile + 1, tiling.stride)
    ]
    np.testing.assert_array_equal(tiles, np.stack(expected))
    np.testing.assert_array_equal(Cut(tiling)(images), tiles)
    np.testing.assert_allclose(Mend(tiling)(tiles[..., 0]), images[..., 0], rtol=1e-6)


def test_where_tiles_overlap_the_map_is_their_mean():
    tiling = Tiling((4, 6, 1), 4, 2)
    maps = np.stack([np.full((4, 4), value, np.float32) for value in (1, 3)])
    whole = np.asarray(Mend(tiling)(maps))
    assert whole.shape == (1, 4, 6)
    np.testing.assert_array_equal(whole[0, 0], [1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_maps_smaller_than_their_tiles_are_mended_at_pixels(side):
    tiling = Tiling((24, 32, 3), 16, 8)
    maps = np.random.default_rng(0).random((2 * tiling.count, side, side), np.float32)
    found = np.asarray(Mend(tiling)(maps))
    assert found.shape == (2, 24, 32)
    np.testing.assert_allclose(found, Mend(tiling)(resized(maps, (16, 16))), rtol=1e-5)


def test_a_tile_of_a_coarse_map_is_where_the_tile_is():
    tiling = Tiling((16, 32, 1), 16, 16)
    maps = np.zeros((2, 2, 2), np.float32)
    maps[1, 0, 1] = 1  # above, right, in the second tile
    found = np.asarray(Mend(tiling)(maps))[0]
    assert not found[:, :16].any()
    assert found[:4, 28:].min() == 1
    assert found[12:, 16:20].max() == 0


def test_the_score_is_the_highest_of_each_picture():
    scores = np.float32([1, 5, 2, 9, 0, 3])
    np.testing.assert_array_equal(Highest(Tiling((4, 8, 1), 4, 2))(scores), [5, 9])


def config(variant="lis", **data):
    data = {"size": [32, 48], "channels": 1, "tile": 16, "stride": 8} | data
    return resolve(merge(TINY, {"variant": variant, "data": data}))


def mosaic(name, count):
    """Pictures of 32x48 pixels of one surface, uint8 (count, 32, 48, 1)."""
    patches = surface(name, 2 * count)
    return np.concatenate([patches[:count], patches[count:, :, :16]], axis=2)


def data(normal="gravel"):
    def parts(name):
        pixels = mosaic(name, 60)
        return Parts(pixels[:40], pixels[40:50], pixels[50:])

    return TrainingData(parts(normal), parts("coins"))


@pytest.mark.parametrize("kind", [Cut, Highest, Mend])
def test_keras_makes_the_layers_again(kind):
    layer = kind(Tiling((4, 8, 1), 4, 2), name="tiles")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (again._tiling, again.name) == (layer._tiling, "tiles")


ONE_MORE = pytest.mark.slow("its tiles are cut and mended as those of the others")
FUSED, ENCODER = (pytest.param(name, marks=ONE_MORE) for name in ("linsep-fused", "bce"))


@pytest.fixture(scope="module", params=["lis", FUSED, ENCODER])
def detector(request):
    from lisae_tf.core.thresholds import choose_threshold

    found = make_detector(config(request.param))
    found.fit_data(data(), TrainingOptions())
    found.set_threshold(choose_threshold(found.score(data().normal.calibration), 0.1))
    return found


def test_a_picture_scores_as_the_worst_of_its_tiles(detector):
    pictures = mosaic("moon", 5)
    tiles = Tiling((32, 48, 1), 16, 8).cut(pictures)
    alone = detector._inner.score(tiles).reshape(5, -1)
    assert alone.shape == (5, 15)
    np.testing.assert_allclose(detector.score(pictures), alone.max(axis=1), rtol=1e-5)
    before, after = detector.score_phases(pictures)
    assert (before is None) == (detector.config.variant == "bce")
    assert not np.array_equal(before, after)


def test_a_small_flaw_is_found_wherever_it_is(detector):
    good = mosaic("gravel", 1)
    usual = detector.score(good)[0]
    for y, x in ((0, 0), (8, 20), (22, 38)):
        flawed = good.copy()
        flawed[0, y : y + 10, x : x + 10] = np.indices((10, 10)).sum(axis=0)[..., None] % 2 * 255
        assert detector.score(flawed)[0] > usual


@pytest.mark.parametrize("law", detector_laws.OF_ALL + detector_laws.OF_GRAPHS)
def test_a_tiled_detector_keeps_each_law(law, detector, tmp_path):
    law(detector, np.concatenate([mosaic("gravel", 10), mosaic("moon", 10)]), tmp_path)


@pytest.mark.slow(
    "two trainings of each; that the detector of the tiles forgets, test_detectors has"
)
def test_a_second_fit_forgets_the_first_and_a_seed_repeats(detector):
    pictures, again = mosaic("moon", 5), make_detector(detector.config)
    again.fit_data(data("brick"), TrainingOptions())
    assert not np.array_equal(again.score(pictures), detector.score(pictures))
    again.fit_data(data(), TrainingOptions())
    np.testing.assert_array_equal(again.score(pictures), detector.score(pictures))


@pytest.fixture(scope="module")
def without_negatives():
    found = make_detector(config("ae"))
    found.fit_data(TrainingData(data().normal, None), TrainingOptions())
    return found


def test_the_map_has_the_pictures_size_and_is_highest_at_the_flaw(without_negatives):
    found = without_negatives
    flawed = mosaic("gravel", 1)
    flawed[0, 20:28, 30:38] = 255 * (np.indices((8, 8)).sum(axis=0)[..., None] % 2)
    error = found.error_maps(flawed)[0]
    assert error.shape == (32, 48)
    assert error[20:28, 30:38].mean() > 3 * np.median(error)
    # Where tiles overlap, the picture that is shown is the mean of theirs.
    assert found.reconstruct(flawed).shape == flawed.shape
    tiling = Tiling((32, 48, 1), 16, 8)
    cut = tiling.cut(flawed)
    maps = np.square(found._inner.reconstruct(cut) - cut / 255)[..., 0].astype(np.float32)
    np.testing.assert_allclose(error, Mend(tiling)(maps)[0], rtol=1e-4, atol=1e-6)


def test_a_share_of_the_highest_places_is_taken_in_each_tile(without_negatives):
    given = merge(config("ae").model_dump(), {"scoring": {"highest_share": 0.1}})
    found = make_detector(resolve(given))
    found.shape = without_negatives.shape
    found.restore(without_negatives.arrays())
    pictures = mosaic("moon", 5)
    tiles = Tiling((32, 48, 1), 16, 8).cut(pictures)
    maps = found._inner.error_maps(tiles).reshape(5, 15, -1)
    highest = np.sort(maps, axis=2)[:, :, -26:].mean(axis=2)  # of 256 places
    np.testing.assert_allclose(found.score(pictures), highest.max(axis=1), rtol=1e-5)
    assert found.meaning.startswith("highest over tiles: mean squared reconstruction error")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": {"tile": 16}}, "give --input-size"),
        ({"data": {"stride": 16}}, "give --tile"),
        ({"data": {"tile": 16, "size": [32, 32]}, "variant": "kde"}, "kde has none"),
        ({"data": {"tile": 4, "size": [32, 32]}}, "data.tile"),
    ],
)
def test_settings_that_cannot_be_tiled_are_refused(settings, words):
    with pytest.raises(LisaeError, match=words):
        make_detector(resolve(settings))


def test_settings_without_tiles_are_recorded_as_before():
    assert "tile" not in resolve({}).model_dump()["data"]
    assert resolve({}).digest() == resolve({"data": {"tile": None}}).digest()
    tiled = config()
    assert resolve(tiled.model_dump()) == tiled


@pytest.fixture(scope="module")
def run(tmp_path_factory, cli):
    """A working folder with pictures of mixed sizes and the tiled run `run`.

    Its pictures have two rows of tiles, each of which holds the network once in an export.
    """
    base = tmp_path_factory.mktemp("tiled")
    for name in ("gravel", "coins", "moon"):
        (base / name).mkdir()
        for index, picture in enumerate(mosaic(name, 60)):
            size = (48, 32) if index % 2 else (96, 64)
            Image.fromarray(picture[..., 0]).resize(size).save(base / name / f"{index:03d}.png")
    sides = [f"--normal-dir={base / 'gravel'}", f"--anomaly-dir={base / 'moon'}"]
    small = (
        "network.latent=8",
        "network.filters=[4, 8]",
        "feature_extraction.epochs=3",
        "feature_extraction.collapse_fraction=0",
        "feature_extraction.decoder_steps=0",
    )
    sets = [part for setting in small for part in ("--set", setting)]
    with contextlib.chdir(base):
        result = cli(
            "train", *sides, "--variant", "ae", "--features", "none", *sets, "--tile", 16,
            "--stride", 8, "--input-size", "24,32", "--out", base / "run", "--quiet",
        )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return base


def seen(count=9):
    """Pictures of another surface, as large as those of the run."""
    return mosaic("moon", count)[:, :24, :32]


@pytest.mark.parametrize("form", [
    "onnx",
    pytest.param("tflite", marks=pytest.mark.slow("the int8 file below is one as well")),
    pytest.param("savedmodel", marks=pytest.mark.slow("the very graph that the laws hold of")),
])  # fmt: skip
def test_tiling_is_part_of_the_exported_graph(form, run, cli, tmp_path):
    result = cli("export", "--run", run / "run", "--format", form, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    parity = next(tmp_path.rglob("parity.json"))
    assert json.loads(parity.read_text())["passed"]
    files = {"onnx": "*.onnx", "tflite": "*.tflite", "savedmodel": "saved_model.pb"}
    found = next(tmp_path.rglob(files[form]))
    model = open_model(found.parent if form == "savedmodel" else found)
    pictures = seen()
    detector = load_detector(run / "run")
    np.testing.assert_allclose(model.score(pictures), detector.score(pictures), rtol=1e-4)
    expected = detector.error_maps(pictures)
    assert expected.shape == (9, 24, 32)
    np.testing.assert_allclose(model.error_maps(pictures), expected, atol=1e-5)


FP16 = pytest.param("fp16", marks=pytest.mark.slow("the same code over the same graph"))


@pytest.mark.parametrize("quantized", [FP16, "int8"])
def test_a_tiled_file_can_be_quantised(quantized, run, cli, tmp_path):
    arguments = ("--format", "tflite", "--quantize", quantized, "--out", tmp_path)
    result = cli("export", "--run", run / "run", *arguments)
    assert result.exit_code == 0, result.stderr
    model = open_model(next(tmp_path.rglob("*.tflite")))
    pictures = seen()
    expected = load_detector(run / "run").score(pictures)
    tolerance = {"fp16": 1e-2, "int8": 0.2}[quantized]
    np.testing.assert_allclose(model.score(pictures), expected, rtol=tolerance)
    maps = load_detector(run / "run").error_maps(pictures)
    gap = np.abs(model.error_maps(pictures) - maps).max()
    assert gap < {"fp16": 1e-3, "int8": 0.1}[quantized] * maps.max()


def test_score_takes_pictures_of_any_size_and_draws_maps(run, cli, tmp_path):
    result = cli(
        "score", "--run", run / "run", run / "moon", "--maps", tmp_path, "--format", "jsonl"
    )
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 60
    assert all(Path(row["map"]).is_file() for row in rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tile", 16), "give --input-size"),
        (("--tile", 16, "--input-size", "32,big"), "write height,width"),
        (("--tile", 16, "--stride", 8, "--input-size", "36,48"), "do not fill a height of 36"),
    ],
)
def test_wrong_options_are_one_sentence_and_no_run(options, words, run, cli, monkeypatch):
    monkeypatch.chdir(run)
    before = sorted(path.name for path in run.iterdir())
    result = cli("train", "--normal-dir", "gravel", "--negative-dir", "coins", *options)
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in run.iterdir()) == before
