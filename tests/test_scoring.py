import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fixtures import surface, tiny_config

from lisae_tf.model.scoring import (
    Pool,
    Scorer,
    reconstruction_score,
    scoring_graph,
    set_threshold,
)
from lisae_tf.training.phase import build_autoencoder

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
