"""Rivals on pixels: variational, memory and replicator autoencoders, and f-AnoGAN."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_fixtures import (
    KeepEach,
    KillAfter,
    Killed,
    as_bytes,
    surface,
    tiny_config,
    tiny_data,
    without_times,
)

from lisae_tf.config.sections import Memory
from lisae_tf.config.settings import merge, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.pipelines import training_batches
from lisae_tf.detectors import make_detector
from lisae_tf.detectors.latent_layers import Recall, Sample, staircase
from lisae_tf.model.checkpoints import set_weights, weights_of
from lisae_tf.training.adversarial import (
    build_adversarial,
    feature_distance,
    gradient_penalty,
    train_adversarial,
)
from lisae_tf.training.convergence import ResumePoint
from lisae_tf.training.phase import TrainingOptions, build_autoencoder


def weights(model):
    return as_bytes(weights_of(model))


CONFIG = tiny_config(variant="anogan", anogan={"epochs": 2, "encoder_epochs": 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the checkpoints of `undisturbed`."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def undisturbed(folder):
    """A trained detector."""
    checkpoint = folder / "checkpoint.npz"
    detector = make_detector(CONFIG)
    detector.fit_data(tiny_data(), TrainingOptions(checkpoint, (KeepEach(checkpoint, "encoder"),)))
    return detector


def test_the_penalty_of_a_linear_critic_is_that_of_its_slope():
    slope = np.random.default_rng(0).normal(size=(32, 32, 1)).astype(np.float32)
    real, fake = tf.random.stateless_uniform((2, 5, 32, 32, 1), [1, 2])
    share = tf.random.stateless_uniform((5, 1, 1, 1), [3, 4])

    def critic(x):
        return tf.reduce_sum(x * slope, axis=(1, 2, 3))[:, None]

    expected = (np.linalg.norm(slope) - 1) ** 2
    assert float(gradient_penalty(critic, real, fake, share)) == pytest.approx(expected, rel=1e-4)


def test_the_penalty_is_taken_between_the_pictures_and_has_second_derivatives():
    """Against finite differences along each kernel, which leaves every leaky unit on its side."""
    gan, _ = build_adversarial(tiny_config(), (32, 32, 1))
    real, fake = tf.random.stateless_uniform((2, 5, 32, 32, 1), [1, 2])
    share = tf.random.stateless_uniform((5, 1, 1, 1), [3, 4])
    kernels = [gan.features.get_layer("convolution_1").kernel, gan.critic_head.kernel]
    for kernel in kernels:
        with tf.GradientTape() as tape:
            penalty = gradient_penalty(gan.critic, real, fake, share)
        start, step, nearby = kernel.numpy(), 1e-2, []
        slope = np.sum(tape.gradient(penalty, kernel.value).numpy() * start)
        for factor in (1 + step, 1 - step):
            kernel.assign(factor * start)
            nearby.append(float(gradient_penalty(gan.critic, real, fake, share)))
        kernel.assign(start)
        assert (nearby[0] - nearby[1]) / (2 * step) == pytest.approx(slope, rel=0.01)
    at_real = gradient_penalty(gan.critic, real, fake, tf.ones_like(share))
    assert float(at_real) == pytest.approx(
        float(gradient_penalty(gan.critic, real, 0 * fake, tf.ones_like(share)))
    )


def test_the_generator_moves_after_every_so_many_critic_steps():
    config = tiny_config(anogan={"critic_steps": 3})
    gan, _ = build_adversarial(config, (32, 32, 1))
    gan.generator.trainable = gan.features.trainable = True
    batches = training_batches(
        {"normal": surface("gravel", 320)}, None, batch_size=32, epochs=(0, 1), seed=0, phase=1
    )
    step = tf.function(gan.train_step)
    moved = []
    for batch in batches.take(6):
        before, critic = weights(gan.generator), weights(gan.features)
        step(batch)
        moved.append(weights(gan.generator) != before)
        assert weights(gan.features) != critic
    assert moved == [False, False, True] * 2


def test_the_encoder_is_trained_with_generator_and_critic_frozen(undisturbed, folder):
    gan, model = build_adversarial(CONFIG, (32, 32, 1))
    # The generator and the critic's features as stage 2 began.
    set_weights(gan, ResumePoint.load(folder / "encoder-0.npz").phase1_weights)
    done = undisturbed.model
    assert weights(done.generator) == weights(gan.generator)
    assert weights(done.features) == weights(gan.features)
    assert weights(done.encoder) != weights(model.encoder)
    assert not done.generator.trainable_weights
    assert not done.features.trainable_weights
    assert len(done.trainable_weights) == len(done.encoder.weights) + len(done.latent.weights)


@pytest.mark.slow("a stage traced anew; test_training and test_encoders resume by the same code")
def test_a_run_that_was_killed_in_stage_2_ends_byte_equal(undisturbed, folder):
    resumed = train_adversarial(CONFIG, tiny_data(), TrainingOptions(folder / "encoder-0.npz"))
    assert weights(resumed.model) == weights(undisturbed.model)
    assert without_times(resumed.history) == without_times(undisturbed.history)


@pytest.mark.slow("of stage 1 nothing is kept: a training anew, as that of feature matching is")
@pytest.mark.parametrize("phase, epoch", [("adversarial", 0), ("encoder", 0), ("encoder", 1)])
def test_a_killed_run_ends_byte_equal(tmp_path, undisturbed, phase, epoch):
    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        kill = TrainingOptions(checkpoint, (KillAfter(phase, epoch),))
        train_adversarial(CONFIG, tiny_data(), kill)
    resumed = train_adversarial(CONFIG, tiny_data(), TrainingOptions(checkpoint))
    assert weights(resumed.model) == weights(undisturbed.model)
    assert without_times(resumed.history) == without_times(undisturbed.history)


def test_feature_matching_adds_the_critics_distance_to_the_same_networks(undisturbed):
    pictures, plain = surface("camera", 20, "test"), undisturbed
    config = merge(CONFIG.model_dump(), {"variant": "anogan-fm", "anogan": {"kappa": 1.0}})
    matching = make_detector(resolve(config))
    matching.fit_data(tiny_data(), TrainingOptions())
    assert weights(plain.model) == weights(matching.model)
    x_hat, x = plain.reconstruct(pictures), np.float32(pictures / 255)
    added = feature_distance(matching.model.features, x, x_hat).numpy()
    assert np.all(added > 0)
    np.testing.assert_allclose(matching.score(pictures), plain.score(pictures) + added, rtol=1e-4)


def test_a_gan_that_diverges_is_refused():
    config = tiny_config(variant="anogan", anogan={"learning_rate": 1e30, "epochs": 1})
    with pytest.raises(LisaeError, match=r"GAN diverged; lower anogan\.learning_rate"):
        train_adversarial(config, tiny_data(), TrainingOptions())


LATENTS = ("vae", "mem-ae", "sig-repnn")
DATA = tiny_data()
# Two epochs, or nothing would be left after one.
QUICK = {"feature_extraction": {"epochs": 2}, "memory": {"items": 50}}
SHAPE = (32, 32, 1)


def untrained(variant, **sections):
    config = tiny_config(variant=variant, **sections)
    build = make_detector(config).build_latent if variant in LATENTS else None
    options = {"build_latent": build} if build else {}
    return build_autoencoder(config, SHAPE, seed=0, **options)


def trained(variant, *options):
    detector = make_detector(tiny_config(variant=variant, **QUICK))
    detector.fit_data(DATA, TrainingOptions(*options))
    return detector


@functools.cache
def undisturbed_latent(variant):
    return trained(variant)


@pytest.mark.parametrize("variant", LATENTS)
def test_encoder_decoder_and_first_layer_start_as_those_of_the_plain_autoencoder(variant):
    plain, other = untrained("ae"), untrained(variant)
    for part in ("encoder", "decoder", "preactivation"):
        ours, theirs = (as_bytes(weights_of(getattr(m, part))) for m in (plain, other))
        assert list(ours.values()) == list(theirs.values())


# The replicator's layer has but the weights of the plain one.
TRAINED = ["vae", "mem-ae"]
PLAIN = pytest.mark.slow("a training of no other weights than the plain latent layer's")


@pytest.mark.parametrize("variant", [*TRAINED, pytest.param("sig-repnn", marks=PLAIN)])
def test_training_moves_every_weight_of_the_latent_layer(variant):
    before, after = untrained(variant, **QUICK).latent, undisturbed_latent(variant).model.latent
    assert len(before.weights) == {"vae": 5, "mem-ae": 3, "sig-repnn": 2}[variant]
    for old, new in zip(before.weights, after.weights, strict=True):
        assert np.any(old.numpy() != new.numpy()), old.path


@pytest.mark.parametrize("variant", [*TRAINED, pytest.param("sig-repnn", marks=PLAIN)])
def test_there_is_no_second_phase(variant):
    assert undisturbed_latent(variant).phase1_detector() is None
    assert {row["phase"] for row in undisturbed_latent(variant).history} == {1}


STATELESS = pytest.mark.slow("vae alone keeps a state beside its weights: how often it has drawn")
COMPLETE = pytest.mark.slow("a training that is complete, which test_training resumes as well")


@pytest.mark.parametrize(
    "variant", ["vae", *(pytest.param(v, marks=STATELESS) for v in LATENTS[1:])]
)
@pytest.mark.parametrize("epoch", [0, pytest.param(1, marks=COMPLETE)])
def test_a_killed_run_resumes_byte_equal(variant, epoch, tmp_path):
    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        trained(variant, checkpoint, (KillAfter("feature-extraction", epoch),))
    resumed = trained(variant, checkpoint)
    assert as_bytes(resumed.arrays()) == as_bytes(undisturbed_latent(variant).arrays())
    again = trained(variant, checkpoint)  # complete already
    assert as_bytes(again.arrays()) == as_bytes(undisturbed_latent(variant).arrays())


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
