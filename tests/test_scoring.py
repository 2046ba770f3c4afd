import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fixtures import surface, tiny_config

from lisae_tf.phase import build_autoencoder
from lisae_tf.scoring import (
    BATCH_SIZE,
    Scorer,
    reconstruction_score,
    scoring_graph,
    set_threshold,
)

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


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(60)), st.integers(1, 60))
def test_scores_are_invariant_to_order_and_subset(graph, whole, order, count):
    chosen = np.asarray(order[:count])
    np.testing.assert_allclose(Scorer(graph)(PICTURES[chosen]), whole[chosen], rtol=1e-5)


def test_scores_are_invariant_to_the_batch_size(graph, whole):
    many = np.concatenate([PICTURES] * (BATCH_SIZE // 60 + 2))
    np.testing.assert_allclose(Scorer(graph)(many)[-60:], whole, rtol=1e-5)
    assert len(many) > BATCH_SIZE


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
