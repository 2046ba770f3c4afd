"""Linear LIS-AE (section 4.1): by its formula, and by second moments alone."""

from functools import partial

import numpy as np
import pytest
from scipy import linalg
from training_fixtures import tiny_config, tiny_data

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.detectors import make_detector
from lisae_tf.model import linear
from lisae_tf.model.linear import (
    DOMINANCE,
    RIDGE,
    fit_in_closed_form,
    fit_linear,
    principal_subspace,
)
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
    whole = tiny_data()
    sides = [
        Parts(*(part[:, ::2, ::2] for part in (side.fit, side.stopping, side.calibration)))
        for side in (whole.normal, whole.negative)
    ]
    data = TrainingData(*sides)
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


M, R = 16, 4


@pytest.fixture(scope="module")
def sides():
    """Normals of decaying variance in turned axes; negatives of another covariance."""
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.normal(size=(M, M)))[0]
    normal = random.normal(size=(3000, M)) * 0.7 ** np.arange(M) @ turn
    negative = random.normal(size=(800, M)) @ random.normal(size=(M, M)) / 3
    return normal, negative


@pytest.fixture(scope="module")
def fitted(sides):
    return fit_in_closed_form(*sides, R)


def ridge(normal):
    return RIDGE * np.mean(np.square(normal))


def ratios(fitted, sides, directions):
    """Energy of negatives for each unit of normal energy, of directions (m-r, k) in U_c."""
    on_normal, on_negative = (
        np.mean(np.square(fitted.orthogonal(side) @ directions), axis=0) for side in sides
    )
    return on_negative / (on_normal + ridge(sides[0]) * np.sum(np.square(directions), axis=0))


def test_a_second_moment_is_the_mean_of_outer_products(monkeypatch):
    x = np.random.default_rng(0).normal(2, 1, (503, 6)).astype(np.float32)
    expected = x.astype(np.float64).T @ x.astype(np.float64) / len(x)
    np.testing.assert_allclose(linear.second_moment(x), expected, rtol=1e-12)
    for rows in (1, 100, 503):
        monkeypatch.setattr(linear, "_ROWS", rows)
        np.testing.assert_allclose(linear.second_moment(x), expected, rtol=1e-12)
    assert linear.second_moment(x).dtype == np.float64


def test_phase_1_is_the_principal_subspace_whatever_the_negatives(fitted, sides):
    u_r, u_c = principal_subspace(sides[0], R)
    np.testing.assert_allclose(fitted.u_r, u_r, atol=1e-9)
    np.testing.assert_allclose(fitted.u_r.T @ fitted.u_r, np.eye(R), atol=1e-10)
    np.testing.assert_allclose(fitted.u_r.T @ fitted.u_c, 0, atol=1e-10)
    other = fit_in_closed_form(sides[0], sides[1][:, ::-1], R)
    np.testing.assert_array_equal(other.u_r, fitted.u_r)
    np.testing.assert_array_equal(other.u_c, fitted.u_c)
    assert np.abs(other.b - fitted.b).max() > 0.1 * np.abs(fitted.b).max()
    assert u_c.shape == (M, M - R)


def test_b_holds_the_first_generalised_eigenvectors(fitted, sides):
    moments = [fitted.u_c.T @ (side.T @ side / len(side)) @ fitted.u_c for side in sides]
    moments[0] += ridge(sides[0]) * np.eye(M - R)
    values = linalg.eigh(moments[1], moments[0], eigvals_only=True)[::-1]
    np.testing.assert_allclose(ratios(fitted, sides, fitted.b), values[:R], rtol=1e-8)
    within = fitted.b.T @ moments[0] @ fitted.b  # all with one normal energy, none with another's
    np.testing.assert_allclose(within, within[0, 0] * np.eye(R), atol=1e-8 * within[0, 0])


def test_no_other_direction_has_more_of_the_negatives(fitted, sides):
    random = np.random.default_rng(1).normal(size=(M - R, 500))
    found = ratios(fitted, sides, fitted.b)
    assert ratios(fitted, sides, random).max() < found[0]
    assert (np.diff(found) < 0).all()


def test_the_first_term_of_the_loss_dominates_on_normals(fitted, sides):
    c = fitted.orthogonal(sides[0])
    pushed = np.mean(np.sum(np.square(c @ fitted.b), axis=1))
    assert pushed == pytest.approx(DOMINANCE * np.mean(np.sum(np.square(c), axis=1)), rel=1e-9)


def test_scores_do_not_depend_on_the_axes(fitted, sides):
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(M, M)))[0]
    turned = fit_in_closed_form(*(side @ turn for side in sides), R)
    x = np.concatenate(sides)
    np.testing.assert_allclose(turned.loss(x @ turn), fitted.loss(x), rtol=1e-6)
    scaled = fit_in_closed_form(*(10 * side for side in sides), R)
    np.testing.assert_allclose(scaled.loss(10 * x), 100 * fitted.loss(x), rtol=1e-6)


def test_a_direction_of_negatives_in_which_normals_hardly_vary_is_found():
    random = np.random.default_rng(3)
    spread = np.r_[np.full(4, 3.0), np.ones(11), 0.1]
    turn = np.linalg.qr(random.normal(size=(M, M)))[0]
    planted, misleading = turn[-1], turn[7]  # in the other one normals vary ten times as much
    normal = random.normal(size=(4000, M)) * spread @ turn
    held_out = random.normal(size=(1000, M)) * spread @ turn
    strength = random.normal(size=(500, 2))
    negative = held_out[:500] + 2 * strength[:, :1] * planted + strength[:, 1:] * misleading
    fitted = fit_in_closed_form(normal, negative, 1)
    direction = fitted.u_c @ fitted.b[:, 0]
    cosine = abs(direction @ planted) / np.linalg.norm(direction)
    assert cosine > 0.99
    new = held_out[500:] + 2 * np.sign(random.normal(size=(500, 1))) * planted
    before, after = partial(autoencoder_loss, fitted), fitted.loss
    assert np.median(after(new)) > 50 * np.median(after(held_out))
    assert np.median(before(new)) < 2 * np.median(before(held_out))


def test_directions_without_any_energy_do_not_break_it():
    random = np.random.default_rng(4)
    normal = np.zeros((100, 8))
    normal[:, :2] = random.normal(size=(100, 2))  # the orthogonal complement is empty
    negative = random.normal(size=(50, 8))
    fitted = fit_in_closed_form(normal, negative, 3)
    assert np.isfinite(fitted.b).all()
    still = fit_in_closed_form(np.zeros((9, 8)) + 1e-30, negative, 3)
    assert np.isfinite(still.b).all()


@pytest.mark.parametrize("r", [0, 9])
def test_a_latent_size_beyond_half_the_features_is_refused(r, sides):
    with pytest.raises(ValueError, match="r must be 1 to 8"):
        fit_in_closed_form(*sides, r)


def test_the_detector_scores_by_the_mean_of_the_loss(sides):
    normal, negative = (side.astype(np.float32) for side in sides)
    config = tiny_config(
        variant="linear-lis", network={"latent": R}, latent_shaping={"closed_form": True}
    )
    detector = make_detector(config)
    data = TrainingData(Parts(normal, normal[:9], normal[:9]), Parts(negative, *[negative[:9]] * 2))
    detector.fit_data(data, TrainingOptions())
    assert detector.notes == []  # no gamma to tell of
    expected = fit_in_closed_form(normal, negative, R)
    np.testing.assert_allclose(detector.score(negative), expected.loss(negative) / M, rtol=1e-3)
    before = detector.phase1_detector().score(negative)
    np.testing.assert_allclose(before, autoencoder_loss(expected, negative) / M, rtol=1e-3)
    large = config.model_copy(update={"network": config.network.model_copy(update={"latent": 9})})
    with pytest.raises(LisaeError, match=r"network\.latent must be at most 8 in closed form"):
        make_detector(large).fit_data(data, TrainingOptions())
