"""What the variational, memory and replicator autoencoders change in the latent layer."""

import functools

import keras
import numpy as np
import pytest
from training_fixtures import KillAfter, Killed, as_bytes, surface, tiny_config, tiny_data

from lisae_tf.config.sections import Memory
from lisae_tf.detectors import make_detector
from lisae_tf.detectors.mem_ae import Recall
from lisae_tf.detectors.sig_repnn import staircase
from lisae_tf.detectors.vae import Sample
from lisae_tf.model.checkpoints import weights_of
from lisae_tf.training.phase import TrainingOptions, build_autoencoder

LATENTS = ("vae", "mem-ae", "sig-repnn")
DATA = tiny_data()
SHAPE = (32, 32, 1)


def untrained(variant, **sections):
    config = tiny_config(variant=variant, **sections)
    build = make_detector(config).build_latent if variant in LATENTS else None
    options = {"build_latent": build} if build else {}
    return build_autoencoder(config, SHAPE, seed=0, **options)


@functools.cache
def undisturbed(variant):
    detector = make_detector(tiny_config(variant=variant))
    detector.fit_data(DATA, TrainingOptions())
    return detector


@pytest.mark.parametrize("variant", LATENTS)
def test_encoder_decoder_and_first_layer_start_as_those_of_the_plain_autoencoder(variant):
    plain, other = untrained("ae"), untrained(variant)
    for part in ("encoder", "decoder", "preactivation"):
        ours, theirs = (as_bytes(weights_of(getattr(m, part))) for m in (plain, other))
        assert list(ours.values()) == list(theirs.values())


ONE_MORE = pytest.mark.slow("one more training")


@pytest.mark.parametrize(
    "variant", ["vae", *(pytest.param(name, marks=ONE_MORE) for name in LATENTS[1:])]
)
def test_training_moves_every_weight_of_the_latent_layer(variant):
    before, after = untrained(variant).latent, undisturbed(variant).model.latent
    assert len(before.weights) == {"vae": 5, "mem-ae": 3, "sig-repnn": 2}[variant]
    for old, new in zip(before.weights, after.weights, strict=True):
        assert np.any(old.numpy() != new.numpy()), old.path


@pytest.mark.parametrize("variant", LATENTS)
def test_there_is_no_second_phase(variant):
    assert undisturbed(variant).phase1_detector() is None
    assert {row["phase"] for row in undisturbed(variant).history} == {1}


# Two trainings each. `vae` alone keeps a state beside its weights: how often it has drawn.
@pytest.mark.slow("the resume of other latent layers; test_training has the mechanism for LIS")
@pytest.mark.parametrize("variant", LATENTS)
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_killed_run_resumes_byte_equal(variant, epoch, tmp_path):
    checkpoint = tmp_path / "checkpoint.npz"
    kill = KillAfter("feature-extraction", epoch)
    with pytest.raises(Killed):
        make_detector(tiny_config(variant=variant)).fit_data(
            DATA, TrainingOptions(checkpoint, (kill,))
        )
    resumed = make_detector(tiny_config(variant=variant))
    resumed.fit_data(DATA, TrainingOptions(checkpoint))
    assert as_bytes(resumed.arrays()) == as_bytes(undisturbed(variant).arrays())
    again = make_detector(tiny_config(variant=variant))  # complete already
    again.fit_data(DATA, TrainingOptions(checkpoint))
    assert as_bytes(again.arrays()) == as_bytes(undisturbed(variant).arrays())


@pytest.mark.parametrize(
    "variant, section", [("vae", {"vae": {"kl_weight": 3.0}}),
                         ("mem-ae", {"memory": {"entropy_weight": 0.5}})],
)  # fmt: skip
def test_the_added_term_is_in_the_loss_and_not_in_the_error(variant, section):
    """loss − error is the term, weighed; the error is that of the plain scoring."""
    import tensorflow as tf

    model = untrained(variant, **section)
    model.enter_feature_extraction(keras.optimizers.Adam(0.0))
    normal = surface("gravel", 32)
    batch = tf.data.Dataset.from_tensors({"normal": normal})
    told = model.evaluate(batch, return_dict=True, verbose=0)
    assert told["normal_error"] == pytest.approx(np.mean(model.errors_of(normal)), rel=1e-5)
    s = model.encoder(model.scale(normal)).numpy()
    query = model.preactivation(s).numpy()
    if variant == "vae":  # the variance is 1 at the start
        term = 3.0 * np.mean(np.sum(np.square(query), axis=1)) / 2 / (32 * 32)
    else:
        weights = model.latent.get_layer("z").addresses(np.tanh(query)).numpy()
        term = 0.5 * np.mean(-np.sum(weights * np.log(weights + 1e-12), axis=1))
    assert told["loss"] - told["normal_error"] == pytest.approx(term, rel=1e-3)


def test_the_sample_is_drawn_in_training_and_the_mean_at_scoring():
    sample = Sample(0.0, seed=3)
    mean, log_variance = np.full((2000, 4), 5.0, "f"), np.full((2000, 4), np.log(4.0), "f")
    np.testing.assert_array_equal(sample([mean, log_variance]), mean)
    assert int(sample.draws) == 0
    first, second = (sample([mean, log_variance], training=True).numpy() for _ in range(2))
    assert int(sample.draws) == 2
    assert not np.array_equal(first, second)
    assert np.mean(first) == pytest.approx(5, abs=0.1)
    assert np.std(first) == pytest.approx(2, abs=0.1)
    sample.draws.assign(0)
    np.testing.assert_array_equal(sample([mean, log_variance], training=True), first)


def test_the_divergence_is_zero_for_the_prior_and_for_nothing_else():
    def divergence(mean, variance):
        sample = Sample(1.0, seed=0)
        sample([np.full((3, 2), mean, "f"), np.full((3, 2), np.log(variance), "f")])
        return float(sum(sample.losses))

    assert divergence(0, 1) == pytest.approx(0, abs=1e-6)
    assert divergence(2, 1) == pytest.approx(2 * 2**2 / 2)
    assert divergence(0, 4) == pytest.approx(2 * (4 - np.log(4) - 1) / 2)


def test_addresses_are_sparse_sum_to_one_and_ignore_a_querys_length():
    recall = Recall(**Memory(items=50, shrinkage=0.03).model_dump(), seed=0)
    query = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    z = recall(query).numpy()
    weights = recall.addresses(query).numpy()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert np.all(weights >= 0)
    assert 0.05 < np.mean(weights > 0) < 0.6
    np.testing.assert_allclose(recall.addresses(7 * query), weights, atol=1e-5)
    np.testing.assert_allclose(weights @ recall.items.numpy(), z, atol=1e-5)
    unit = query / np.linalg.norm(query, axis=1, keepdims=True)
    items = recall.items.numpy()
    cosine = unit @ (items / np.linalg.norm(items, axis=1, keepdims=True)).T
    soft = np.exp(cosine) / np.exp(cosine).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(weights > 0, soft > 0.03)


@pytest.mark.parametrize("levels", [2, 4, 7])
def test_a_steep_staircase_has_n_levels_from_0_to_1(levels):
    theta = (np.arange(levels) + 0.5) / levels  # the middle of each step
    steps = np.asarray(staircase(theta, levels, 1000.0))
    np.testing.assert_allclose(steps, np.linspace(0, 1, levels), atol=1e-6)
    slope = np.asarray(staircase(np.linspace(0, 1, 101), levels, 20.0))
    assert np.all(np.diff(slope) > 0)


def test_replicator_codes_lie_closer_to_the_levels_the_steeper_the_staircase():
    def distance(steepness):
        model = untrained("sig-repnn", sig_repnn={"steepness": steepness})
        z = np.asarray(model.latent(np.random.default_rng(0).normal(size=(50, 512)) * 3))
        assert np.all((z >= 0) & (z <= 1))
        return np.mean(np.abs(z * 3 - np.round(z * 3)))

    assert distance(100.0) < distance(20.0) < distance(5.0)
