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

from lisae_tf.config.settings import merge, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.pipelines import training_batches
from lisae_tf.detectors import make_detector
from lisae_tf.model.checkpoints import set_weights, weights_of
from lisae_tf.training.adversarial import (
    build_adversarial,
    feature_distance,
    gradient_penalty,
    train_adversarial,
)
from lisae_tf.training.convergence import ResumePoint
from lisae_tf.training.phase import TrainingOptions


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


@pytest.fixture(scope="module")
def resumed_in_stage_2(undisturbed, folder):
    """The generator and the critic's features as stage 2 began, and a run that goes on in it."""
    checkpoint = folder / "encoder-0.npz"
    stage1 = ResumePoint.load(checkpoint).phase1_weights
    return stage1, train_adversarial(CONFIG, tiny_data(), TrainingOptions(checkpoint))


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


def test_the_encoder_is_trained_with_generator_and_critic_frozen(resumed_in_stage_2):
    stage1, resumed = resumed_in_stage_2
    gan, model = build_adversarial(CONFIG, (32, 32, 1))
    set_weights(gan, stage1)
    done = resumed.model
    assert weights(done.generator) == weights(gan.generator)
    assert weights(done.features) == weights(gan.features)
    assert weights(done.encoder) != weights(model.encoder)
    assert not done.generator.trainable_weights
    assert not done.features.trainable_weights
    assert len(done.trainable_weights) == len(done.encoder.weights) + len(done.latent.weights)


def test_a_run_that_was_killed_in_stage_2_ends_byte_equal(undisturbed, resumed_in_stage_2):
    _, resumed = resumed_in_stage_2
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
