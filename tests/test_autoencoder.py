"""The autoencoder and its losses, that of fused LinSep among them."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from training_fixtures import surface, tiny_config, tiny_data

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import Parts
from lisae_tf.data.pipelines import training_batches
from lisae_tf.detectors import make_detector
from lisae_tf.detectors.linsep_fused import choose_fusion
from lisae_tf.detectors.lisae import LatentInsensitiveDetector
from lisae_tf.model.checkpoints import set_weights, weights_of
from lisae_tf.model.losses import HINGES, negative_loss, reconstruction_error, separation_loss
from lisae_tf.model.networks import Architecture, build_networks
from lisae_tf.training.phase import TrainingOptions, build_autoencoder
from lisae_tf.training.sharing import SharedPhase1


@pytest.fixture
def model():
    return build_autoencoder(tiny_config(), (32, 32, 1), seed=0)


def stream(epochs=(0, 1), negative=True):
    return training_batches(
        {"normal": surface("gravel", 128)},
        {"negative": surface("coins", 128)} if negative else None,
        batch_size=32, epochs=epochs, seed=0, phase=1,
    )  # fmt: skip


def parts_of(model):
    return {
        name: [w.numpy().copy() for w in getattr(model, name).weights]
        for name in ("encoder", "latent", "decoder", "logit")
    }


def changed(before, after):
    return {
        name: any(
            a.tobytes() != b.tobytes() for a, b in zip(before[name], after[name], strict=True)
        )
        for name in before
    }


def phase_1(model, **options):
    model.enter_feature_extraction(keras.optimizers.Adam(1e-3), **options)
    return model.fit(stream(), steps_per_epoch=4, shuffle=False, verbose=0)


def phase_2(model, **options):
    settings = {"gamma": 0.3, "beta": 1.0} | options
    model.enter_latent_shaping(keras.optimizers.Adam(1e-3), **settings)
    return model.fit(stream(), steps_per_epoch=4, shuffle=False, verbose=0)


@pytest.fixture(scope="module")
def moved():
    """Which parts each step of one model's life moves; a graph is traced for each step but one."""
    model, found = build_autoencoder(tiny_config(), (32, 32, 1), seed=0), {}

    def step(name, train, *given, **options):
        before = parts_of(model)
        told = train(*given, **options)
        found[name] = changed(before, parts_of(model))
        return told

    step("phase 1", phase_1, model)
    model.encoder.trainable = model.decoder.trainable = False
    step("frozen alone", model.fit, stream(), steps_per_epoch=4, shuffle=False, verbose=0)
    step("phase 2", phase_2, model)
    history = step("linsep after phase 2", phase_1, model, linsep_weight=0.1).history
    return found, history


def test_phase_1_trains_everything_but_the_logit(moved):
    assert moved[0]["phase 1"] == {
        "encoder": True, "latent": True, "decoder": True, "logit": False
    }  # fmt: skip


def test_linsep_trains_the_logit_too(moved):
    found, history = moved
    assert all(found["linsep after phase 2"].values())
    assert history["separation"][0] > 0


def test_phase_2_after_fit_leaves_frozen_weights_byte_equal(moved):
    assert moved[0]["phase 2"] == {
        "encoder": False, "latent": True, "decoder": False, "logit": False
    }  # fmt: skip


def test_freezing_without_compiling_would_train_on(moved):
    """The reason why flags and compile stand in one method."""
    assert moved[0]["frozen alone"]["encoder"]


def test_phase_1_may_follow_phase_2(moved):
    assert moved[0]["linsep after phase 2"]["encoder"]


def test_phase_2_pushes_negatives_and_keeps_normals(model):
    model.enter_feature_extraction(keras.optimizers.Adam(3e-3))
    model.fit(stream((0, 25)), steps_per_epoch=100, shuffle=False, verbose=0)
    gravel, coins = surface("gravel", 64), surface("coins", 64)
    normal, negative = np.mean(model.errors_of(gravel)), np.mean(model.errors_of(coins))
    model.enter_latent_shaping(keras.optimizers.Adam(3e-3), gamma=0.3, beta=1.0)
    model.fit(stream((0, 25)), steps_per_epoch=100, shuffle=False, verbose=0)
    risen = np.mean(model.errors_of(gravel)) - normal
    pushed = np.mean(model.errors_of(coins)) - negative
    assert pushed > 0.5 * negative
    assert risen < 0.3 * pushed


@pytest.mark.parametrize("hinge", ["hinge", "squared-hinge", "literal"])
def test_reported_loss_is_equation_4(model, hinge):
    model.enter_latent_shaping(keras.optimizers.Adam(0.0), gamma=0.1, beta=0.7, hinge=hinge)
    normal, negative = surface("gravel", 32), surface("coins", 32)
    batch = tf.data.Dataset.from_tensors({"normal": normal, "negative": negative})
    reported = model.evaluate(batch, return_dict=True, verbose=0)
    pushed = negative_loss(model.errors_of(negative), 0.1, hinge)
    expected = np.mean(model.errors_of(normal)) + 0.7 * np.mean(pushed)
    assert reported["loss"] == pytest.approx(expected, rel=1e-4)


def test_past_gamma_the_hinge_is_silent_and_the_literal_form_pulls_back(model):
    gamma = 1e-6  # every negative lies past it
    coins = surface("coins", 32)
    assert np.all(np.asarray(model.errors_of(coins)) > gamma)
    for hinge, moves in (("hinge", False), ("literal", True)):
        model.enter_latent_shaping(keras.optimizers.Adam(1e-3), gamma=gamma, beta=1, hinge=hinge)
        with tf.GradientTape() as tape:
            error = model.errors_of(coins)
            loss = tf.reduce_mean(negative_loss(error, gamma, hinge))
        gradients = tape.gradient(loss, model.latent.trainable_weights)
        size = sum(0 if g is None else float(tf.reduce_sum(tf.abs(g))) for g in gradients)
        assert (size > 0) == moves


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (30, 17, 1), (9, 8, 3)])
def test_networks_fit_any_size_and_stay_in_range(shape):
    networks = build_networks(Architecture(shape, 5, (4, 6)), seed=1)
    x = np.random.default_rng(0).random((3, *shape), np.float32)
    s = networks[0](x)
    z = networks[1](s)
    x_hat = networks[2](z).numpy()
    assert x_hat.shape == x.shape
    assert z.shape == (3, 5)
    assert np.all(np.abs(z) < 1)
    assert np.all((x_hat > 0) & (x_hat < 1))


def test_initial_weights_follow_the_seed_and_the_mean_pixel():
    def build(**options):
        model = build_networks(Architecture((16, 16, 1), 4, (4, 4)), **options)
        return [w.tobytes() for network in model for w in network.get_weights()]

    assert build(seed=3) == build(seed=3)
    assert build(seed=3) != build(seed=4)
    assert build(seed=3)[:-1] == build(seed=3, mean_pixel=0.1)[:-1]
    assert build(seed=3)[-1] != build(seed=3, mean_pixel=0.1)[-1]


def test_weights_have_distinct_names(model):
    assert len(weights_of(model)) == len(model.weights) == 16


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


WEIGHTS = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0]


def sides(error_gap: float, logit_gap: float, seed: int = 0):
    """Error and logit of 400 normals and 400 negatives; a negative's logit is lower."""
    noise = np.random.default_rng(seed).normal(size=(4, 400))
    normal = 5 + 3 * noise[0], 7 + 2 * noise[1]
    return normal, (5 + 3 * (noise[2] + error_gap), 7 + 2 * (noise[3] - logit_gap))


PHASE_1 = SharedPhase1()  # the same for both


@pytest.fixture(scope="module")
def fused():
    detector = make_detector(tiny_config(variant="linsep-fused"))
    detector.fit_data(tiny_data(), TrainingOptions(shared=PHASE_1))
    return detector


@pytest.mark.parametrize(
    "error_gap, logit_gap, weight",
    [(1.0, 0.0, 0.0), (0.0, 1.0, 4.0), (1.0, 1.0, 1.0), (99.0, 99.0, 1.0), (99.0, 0.0, 1.0)],
    ids=["error alone tells", "logit alone tells", "both tell", "both perfect", "near-ties"],
)
def test_the_weight_follows_what_tells_normals_from_negatives(error_gap, logit_gap, weight):
    fusion, found = choose_fusion(*sides(error_gap, logit_gap), WEIGHTS)
    assert list(found) == WEIGHTS
    assert fusion.weight == weight


def test_normals_are_standardised_and_a_lower_logit_is_more_anomalous():
    normal, negative = sides(1.0, 1.0)
    fusion, _ = choose_fusion(normal, negative, [2.0])
    assert np.mean(fusion(*normal)) == pytest.approx(0, abs=1e-9)
    error_only = dataclasses.replace(fusion, weight=0.0)
    assert np.std(error_only(*normal)) == pytest.approx(1)
    logit_part = fusion(*normal) - error_only(*normal)
    assert np.std(logit_part) == pytest.approx(2)
    assert np.corrcoef(logit_part, normal[1])[0, 1] == pytest.approx(-1)


def test_scores_that_are_all_alike_cannot_be_standardised():
    (error, logit), negative = sides(1.0, 1.0)
    with pytest.raises(LisaeError, match="all score alike"):
        choose_fusion((np.ones_like(error), logit), negative, WEIGHTS)


def test_the_graph_fuses_the_final_error_with_the_logit_of_phase_1(fused):
    pictures = surface("gravel", 20, "test")
    x = pictures.astype(np.float32) / 255
    error = np.mean((fused.reconstruct(pictures) - x) ** 2, axis=(1, 2, 3))
    phase1 = build_autoencoder(fused.config, fused.shape, seed=0)
    set_weights(phase1, fused._phase1_weights)
    logit = phase1.logit(phase1.preactivation(phase1.encoder(x))).numpy()[:, 0]
    np.testing.assert_allclose(fused.score(pictures), fused.fusion(error, logit), atol=1e-3)
    final = fused.model.logit(fused.model.preactivation(fused.model.encoder(x))).numpy()[:, 0]
    assert np.abs(final - logit).max() > 0.01  # phase 2 would have changed it


def test_all_but_the_score_is_that_of_linsep(fused):
    linsep = make_detector(tiny_config(variant="linsep"))
    linsep.fit_data(tiny_data(), TrainingOptions(shared=PHASE_1))
    pictures = surface("camera", 20, "test")
    np.testing.assert_array_equal(fused.reconstruct(pictures), linsep.reconstruct(pictures))
    before = fused.phase1_detector()
    assert type(before) is LatentInsensitiveDetector
    np.testing.assert_array_equal(before.score(pictures), linsep.phase1_detector().score(pictures))
    assert not np.array_equal(fused.score(pictures), linsep.score(pictures))


@pytest.mark.slow(
    "one more training of both phases; calibration rows are nowhere in `choose_fusion`"
)
def test_the_weight_is_chosen_on_held_out_pictures_alone(fused):
    """Other calibration pictures change nothing of it."""
    data = tiny_data()
    swapped = {
        side: Parts(part.fit, part.stopping, part.calibration[:1])
        for side, part in (("normal", data.normal), ("negative", data.negative))
    }
    again = make_detector(fused.config)
    again.fit_data(dataclasses.replace(data, **swapped), TrainingOptions())
    assert again.fusion == fused.fusion
    assert any("held-out AUROC by weight" in note for note in fused.notes)


@pytest.mark.parametrize("fusion", [np.ones(4), np.full(5, np.nan), None])
def test_damaged_numbers_are_refused(fused, fusion):
    arrays = {name: a for name, a in fused.arrays().items() if name != "fusion"}
    if fusion is not None:
        arrays["fusion"] = fusion
    other = make_detector(fused.config)
    other.shape = fused.shape
    with pytest.raises(LisaeError, match="do not fit the configuration"):
        other.restore(arrays)
