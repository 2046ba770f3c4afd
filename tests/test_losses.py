import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lisae_tf.model.losses import HINGES, negative_loss, reconstruction_error, separation_loss

# Thousandths: TensorFlow flushes subnormal floats to zero, which hypothesis objects to.
thousandths = st.integers(0, 1000).map(lambda n: n / 1000)


def test_error_is_the_paper_norm_over_the_number_of_values():
    generator = np.random.default_rng(0)
    x, x_hat = generator.random((2, 5, 4, 3, 2), np.float32)
    expected = [np.sum((a - b) ** 2) / (4 * 3 * 2) for a, b in zip(x, x_hat, strict=True)]
    np.testing.assert_allclose(reconstruction_error(x, x_hat), expected, rtol=1e-5)


@given(thousandths, thousandths.filter(lambda gamma: gamma > 0))
def test_hinges_are_satisfied_past_gamma_and_the_literal_form_is_not(error, gamma):
    value = {name: float(negative_loss(np.float32(error), gamma, name)) for name in HINGES}
    if error > gamma:
        assert value["hinge"] == value["squared-hinge"] == 0
    assert value["hinge"] == pytest.approx(max(0, gamma - error), abs=1e-6)
    assert value["squared-hinge"] == pytest.approx(max(0, gamma - error) ** 2, abs=1e-6)
    assert value["literal"] == pytest.approx((gamma - error) ** 2, abs=1e-6)


def test_separation_falls_as_the_logits_part_and_weighs_both_sides_alike():
    normal, negative = np.full((4, 1), 2.0, np.float32), np.full((9, 1), -2.0, np.float32)
    apart = float(separation_loss(normal, negative))
    assert apart == pytest.approx(np.log1p(np.exp(-2.0)), rel=1e-5)
    assert float(separation_loss(negative, normal)) > float(separation_loss(normal, normal)) > apart
