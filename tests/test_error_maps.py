"""Scores and maps of errors, and `score --maps`."""

import csv
import io

import numpy as np
import pytest
from conftest import assert_one_sentence
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fixtures import surface, tiny_config

from lisae_tf.config.settings import read_settings
from lisae_tf.data.pictures import decode
from lisae_tf.model.scoring import (
    Pool,
    Scorer,
    reconstruction_score,
    scoring_graph,
    set_threshold,
)
from lisae_tf.report.error_maps import (
    FULL_RED,
    FULL_RED_HIGHEST,
    LARGEST,
    full_red,
    overlay,
    resized,
)
from lisae_tf.training.phase import build_autoencoder


def test_maps_are_resized_bilinearly_and_their_own_size_changes_nothing():
    maps = np.float32([[[0, 1]], [[2, 6]]])
    assert resized(maps, (1, 2)) is maps
    found = resized(maps, (2, 4))
    assert (found.shape, found.dtype) == ((2, 2, 4), np.float32)
    np.testing.assert_allclose(found[0], [[0, 0.25, 0.75, 1]] * 2)
    np.testing.assert_allclose(found[1], [[2, 3, 5, 6]] * 2)
    assert resized(maps[:0], (2, 4)).shape == (0, 2, 4)


def test_full_red_lies_nearer_to_the_threshold_of_the_highest_places():
    reds = [full_red(0.5, share) for share in (1.0, 0.5, 0.1, 1e-6)]
    assert reds == sorted(reds, reverse=True)
    assert (reds[0], reds[-1]) == (FULL_RED * 0.5, pytest.approx(FULL_RED_HIGHEST * 0.5, rel=1e-4))
    # What lies at the threshold is visible in any case.
    picture, error = np.full((4, 4, 1), 100, np.uint8), np.full((2, 2), 0.5, np.float32)
    mean, highest = (overlay(picture, error, 0.5, share)[0, 0].astype(int) for share in (1.0, 1e-6))
    assert highest[0] > mean[0] > 100 > mean[1] > highest[1]


def test_an_overlay_is_red_where_the_error_is_and_grey_elsewhere():
    picture = np.full((60, 80, 3), 100, np.uint8)
    error = np.zeros((6, 8), np.float32)
    error[:, 6:] = FULL_RED * 0.01
    drawn = overlay(picture, error, alpha=0.01)
    assert drawn.shape == (60, 80, 3)
    np.testing.assert_array_equal(drawn[30, 75], [255, 0, 0])
    np.testing.assert_array_equal(drawn[30, 5], [100, 100, 100])
    half = overlay(picture, error / 2, alpha=0.01)[30, 75].astype(int)
    assert 100 < half[0] < 255 and half[1] == half[2] == 50


def test_large_originals_are_drawn_smaller():
    drawn = overlay(np.zeros((20, 3 * LARGEST, 1), np.uint8), np.zeros((4, 4), np.float32), 1.0)
    assert drawn.shape[1] == LARGEST


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_score_writes_a_map_for_each_row_at_the_size_of_the_original(form, workplace, cli):
    result = cli("score", "anomaly", "--maps", "maps", "--format", form)
    assert result.exit_code == 0, result.output
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(result.stdout)))
        assert [row["path"].split("/")[-1] for row in rows] == sorted(
            path.name for path in (workplace / "anomaly").iterdir()
        )
        for row in rows:
            original = decode(workplace / row["path"])
            assert decode(workplace / row["map"]).shape == (*original.shape[:2], 3)
    assert len(list((workplace / "maps").iterdir())) == len(list((workplace / "anomaly").iterdir()))
    assert not cli("score", "anomaly").stdout.splitlines()[0].endswith("map")


def test_rows_of_an_array_get_maps_too(workplace, cli):
    data = read_settings(workplace / "runs" / "normal-lis-seed0" / "config.yaml")["data"]
    np.save(workplace / "rows.npy", np.zeros((3, *data["size"], data["channels"]), np.uint8))
    result = cli("score", "rows.npy", "--maps", "maps")
    assert result.exit_code == 0, result.output
    assert len(list((workplace / "maps").iterdir())) == 3


def test_an_exported_model_draws_what_its_run_draws(workplace, cli):
    assert cli("export", "--format", "onnx", "--out", "models").exit_code == 0
    model = next((workplace / "models").rglob("*.onnx"))
    for options in (("--maps", "a"), ("--maps", "b", "--model", model)):
        result = cli("score", "anomaly", *options)
        assert result.exit_code == 0, result.output
    pairs = [sorted((workplace / folder).iterdir()) for folder in "ab"]
    assert len(pairs[0]) == 9
    for one, other in zip(*pairs, strict=True):
        assert one.name == other.name
        assert np.abs(decode(one).astype(int) - decode(other)).max() <= 1


def test_what_scores_whole_pictures_has_no_maps(workplace, cli):
    result = cli("train", "--normal-dir", "normal", "--variant", "kde", "--negatives", "none",
                 "--quiet")  # fmt: skip
    assert result.exit_code == 0, result.output
    result = cli("score", "anomaly", "--maps", "maps")
    assert result.exit_code == 1
    assert_one_sentence(result, "kde scores whole pictures and has no maps of errors")
    assert not (workplace / "maps").exists()


PICTURES = surface("gravel", 60)


@pytest.fixture(scope="module")
def model():
    return build_autoencoder(tiny_config(), (32, 32, 1), seed=0)


@pytest.fixture(scope="module")
def graph(model):
    return scoring_graph(reconstruction_score(model.encoder, model.latent, model.decoder))


@pytest.fixture(scope="module")
def whole(graph):
    return Scorer(graph)(PICTURES)


def test_training_and_scoring_agree(model, whole):
    np.testing.assert_allclose(model.errors_of(PICTURES), whole, rtol=1e-5)


def test_the_threshold_moves_decisions_and_not_scores(graph, whole):
    for alpha in (0.0, float(np.median(whole)), np.inf):
        set_threshold(graph, alpha)
        outputs = graph(PICTURES)
        np.testing.assert_allclose(outputs["score"], whole, rtol=1e-5)
        np.testing.assert_array_equal(
            outputs["is_anomaly"], outputs["score"].numpy() > np.float32(alpha)
        )


def test_no_pictures_have_no_scores(graph):
    assert Scorer(graph)(PICTURES[:0]).shape == (0,)


@settings(max_examples=30)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    st.floats(0, 1, exclude_min=True),
)
def test_a_pooled_score_is_the_mean_of_the_highest_places(shape, share):
    maps = np.random.default_rng(0).random(shape, np.float32)
    places = np.sort(maps.reshape(len(maps), -1), axis=1)
    count = max(1, round(share * places.shape[1]))
    found = np.asarray(Pool(share)(maps))
    np.testing.assert_allclose(found, places[:, -count:].mean(axis=1), rtol=1e-5)
    assert found.shape == (len(maps),)


def test_shares_that_say_everything_or_nothing_are_mean_and_maximum():
    maps = np.random.default_rng(0).random((4, 6, 5), np.float32)
    np.testing.assert_allclose(Pool(1.0)(maps), maps.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(Pool(1e-9)(maps), maps.max(axis=(1, 2)))


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_the_score_of_a_graph_is_pooled_from_its_map(model, whole, share):
    inference = reconstruction_score(model.encoder, model.latent, model.decoder, share)
    graph = scoring_graph(inference, error_map=True)
    maps = Scorer(graph)(PICTURES, "error_map")
    assert (maps.shape, maps.dtype) == ((60, 32, 32), np.float32)
    scores = Scorer(graph)(PICTURES)
    np.testing.assert_allclose(scores, Pool(share)(maps), rtol=1e-5)
    if share == 1:
        np.testing.assert_array_equal(scores, whole)
    else:
        assert (scores > whole).all()
    assert Scorer(graph)(PICTURES[:0], "error_map").shape == (0, 32, 32)


def test_maps_are_delivered_on_request_alone(graph):
    assert graph.output.keys() == {"score", "is_anomaly"}
