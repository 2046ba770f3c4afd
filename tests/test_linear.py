import numpy as np
import pytest
from training_fixtures import tiny_config, tiny_data

from lisae_tf.detectors import make_detector
from lisae_tf.model.linear import fit_linear, principal_subspace
from lisae_tf.training.phase import TrainingOptions


def autoencoder_loss(fitted, x):
    """L_AE = ‖c‖² for each row."""
    return np.sum(np.square(fitted.orthogonal(x)), axis=1)


@pytest.fixture
def toy():
    """Section 4.2: variance 1, 0.2 and 0.01 on the axes; negatives on z alone."""
    generator = np.random.default_rng(0)
    normal = generator.normal(size=(2000, 3)) * np.sqrt([1, 0.2, 0.01])
    negative = np.zeros((500, 3))
    negative[:, 2] = generator.normal(size=500)
    return normal, negative


@pytest.fixture
def random_fit():
    generator = np.random.default_rng(1)
    normal = generator.normal(size=(300, 12)) @ generator.normal(size=(12, 12))
    negative = generator.normal(size=(200, 12))
    return normal, negative, fit_linear(normal, negative, 4, gamma=30.0)


def test_toy_tilts_the_encoder_towards_z_only(toy):
    g = []
    for gamma in (1.0, 5.0, 25.0):
        fitted = fit_linear(*toy, 1, gamma=gamma)
        e = fitted.e[:, 0] / fitted.e[0, 0]
        assert abs(e[1]) < 0.1 * abs(e[2])
        np.testing.assert_allclose(np.abs(fitted.u_r[:, 0]), [1, 0, 0], atol=0.05)
        g.append(abs(e[2]))
    assert g[0] < g[1] < g[2]


def test_toy_penalises_z_and_leaves_y(toy):
    fitted = fit_linear(*toy, 1, gamma=25.0)
    on_y, on_z = np.array([[0, 1.0, 0]]), np.array([[0, 0, 1.0]])
    assert fitted.loss(on_y) == pytest.approx(autoencoder_loss(fitted, on_y), rel=0.2)
    assert fitted.loss(on_z) > 5 * autoencoder_loss(fitted, on_z)


def test_b_has_the_shape_that_makes_e_a_matrix_and_the_decoder_stays(random_fit):
    normal, _, fitted = random_fit
    u_r, u_c = principal_subspace(normal, 4)
    assert fitted.b.shape == (8, 4)
    np.testing.assert_array_equal(fitted.u_r, u_r)
    np.testing.assert_allclose(u_r.T @ u_r, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(u_r.T @ u_c, 0, atol=1e-10)


def test_a_relative_gamma_is_a_multiple_of_the_held_out_error_of_the_subspace():
    config = tiny_config(variant="linear-lis", latent_shaping={"gamma_times": 10.0})
    data = tiny_data()
    detector = make_detector(config)
    detector.fit_data(data, TrainingOptions())
    error = float(np.mean(detector.phase1_detector().score(data.normal.stopping)))
    assert detector.notes == [f"gamma {10 * error:.3g}, 10 times the held-out normal error"]
    absolute = make_detector(
        tiny_config(variant="linear-lis", latent_shaping={"gamma": 10 * error})
    )
    absolute.fit_data(data, TrainingOptions())
    assert absolute.notes == []
    scores = (each.score(data.negative.stopping) for each in (detector, absolute))
    np.testing.assert_allclose(*scores, rtol=0.02)


def test_losses_are_the_reconstruction_errors_of_section_4_1(random_fit):
    normal, negative, fitted = random_fit
    x = np.concatenate([normal, negative])
    direct = np.sum((x @ fitted.e @ fitted.u_r.T - x) ** 2, axis=1)
    np.testing.assert_allclose(fitted.loss(x), direct, rtol=1e-8)
    plain = np.sum((x @ fitted.u_r @ fitted.u_r.T - x) ** 2, axis=1)
    np.testing.assert_allclose(autoencoder_loss(fitted, x), plain, rtol=1e-8)
    assert np.all(fitted.loss(x) >= autoencoder_loss(fitted, x))


def test_b_improves_on_any_perturbation(random_fit):
    """The solution is a minimum of the objective, not merely a tilt."""
    normal, negative, fitted = random_fit

    def objective(b):
        c, d = fitted.orthogonal(normal) @ b, fitted.orthogonal(negative)
        pushed = 30.0 - np.sum(d**2, axis=1) - np.sum((d @ b) ** 2, axis=1)
        return np.mean(np.sum(c**2, axis=1)) + np.mean(np.maximum(0, pushed))

    generator = np.random.default_rng(2)
    best = objective(fitted.b)
    for _ in range(20):
        assert objective(fitted.b + 0.05 * generator.normal(size=fitted.b.shape)) > best
    assert objective(np.zeros_like(fitted.b)) > best
