import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
from training_fixtures import (
    KillAfter,
    Killed,
    as_bytes,
    surface,
    tiny_config,
    tiny_data,
    without_times,
)

from lisae_tf import feature_extraction, latent_shaping, phase
from lisae_tf.checkpoints import weights_of
from lisae_tf.convergence import Convergence, ResumePoint
from lisae_tf.data.parts import Parts
from lisae_tf.detectors import make_detector
from lisae_tf.errors import LisaeError
from lisae_tf.encoder_features import FeatureFile, encode
from lisae_tf.phase import TrainingOptions, build_autoencoder
from lisae_tf.training import train


@pytest.fixture(scope="module")
def undisturbed():
    return train(tiny_config(), tiny_data(augment=True), TrainingOptions())


@pytest.mark.parametrize(
    "phase, epoch",
    [("feature-extraction", 0), ("feature-extraction", 2), ("latent-shaping", 0),
     ("latent-shaping", 2)],
)  # fmt: skip
def test_a_killed_run_resumes_byte_equal(tmp_path, undisturbed, phase, epoch):
    config, data = tiny_config(), tiny_data(augment=True)
    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        train(config, data, TrainingOptions(checkpoint, (KillAfter(phase, epoch),)))
    epochs_run = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: epochs_run.append(e))
    resumed = train(config, data, TrainingOptions(checkpoint, (count,)))
    assert as_bytes(weights_of(resumed.model)) == as_bytes(weights_of(undisturbed.model))
    assert as_bytes(resumed.phase1_weights) == as_bytes(undisturbed.phase1_weights)
    done = epoch + 1 + (3 if phase == "latent-shaping" else 0)
    assert len(epochs_run) == len(undisturbed.history) - done

    assert without_times(resumed.history) == without_times(undisturbed.history)


def test_steps_run_together_train_to_the_same_weights(undisturbed, monkeypatch):
    # So short an epoch runs one by one unless told otherwise.
    monkeypatch.setattr(phase, "steps_at_once", lambda steps: steps // 2)
    together = train(tiny_config(), tiny_data(augment=True), TrainingOptions())
    assert as_bytes(weights_of(together.model)) == as_bytes(weights_of(undisturbed.model))
    assert without_times(together.history) == without_times(undisturbed.history)


def test_another_seed_trains_to_other_weights(undisturbed):
    other = train(tiny_config(seed=1), tiny_data(augment=True), TrainingOptions())
    assert as_bytes(weights_of(other.model)) != as_bytes(weights_of(undisturbed.model))


def test_the_fast_path_learns_what_the_slow_path_learns():
    results = []
    for cached in (True, False):
        # One epoch: sums in another order drift apart with the number of steps.
        config = tiny_config(latent_shaping={"cache_features": cached, "epochs": 1})
        results.append(train(config, tiny_data(), TrainingOptions()))
    fast, slow = (r.model.latent.get_weights() for r in results)
    before = list(results[0].phase1_weights.values())
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert not any(np.array_equal(fast[0], w) for w in before if w.shape == fast[0].shape)


def test_features_beyond_the_budget_stay_in_a_file_and_are_equal(tmp_path):
    model = build_autoencoder(tiny_config(), (32, 32, 1), seed=0)
    images = surface("gravel", 50)
    here = encode(model, images, 2**30, tmp_path, batch_size=16)
    there = encode(model, images, 1000, tmp_path, batch_size=16)
    assert isinstance(here, np.ndarray)
    assert isinstance(there, FeatureFile)
    assert here.shape == there.shape == (50, model.encoder.output_shape[1])
    assert len(there) == 50
    rows = np.array([49, 3, 3, 17])
    np.testing.assert_array_equal(there[rows], here[rows])
    assert Path(there.path).stat().st_size == here.nbytes


def test_a_run_with_its_features_in_files_ends_with_the_same_weights(undisturbed, monkeypatch):
    kept = []

    def in_file(model, images, budget, folder):
        kept.append(encode(model, images, 0, folder))
        return kept[-1]

    monkeypatch.setattr(latent_shaping, "encode", in_file)
    filed = train(tiny_config(), tiny_data(augment=True), TrainingOptions())
    assert kept
    assert all(isinstance(features, FeatureFile) for features in kept)
    assert as_bytes(weights_of(filed.model)) == as_bytes(weights_of(undisturbed.model))


LOWER = {"precision": "mixed_bfloat16"}


@pytest.fixture(scope="module")
def lower():
    return train(tiny_config(network=LOWER), tiny_data(augment=True), TrainingOptions())


@pytest.mark.parametrize("variant", ["lis", "linsep"])
def test_a_lower_precision_trains_both_phases_to_nearly_the_same_losses(variant):
    config = tiny_config(variant=variant)
    other = tiny_config(variant=variant, network=LOWER)
    plain, lower = (train(c, tiny_data(), TrainingOptions()).history for c in (config, other))
    for a, b in zip(plain, lower, strict=True):
        assert a["val_loss"] != b["val_loss"]
        assert b["val_loss"] == pytest.approx(a["val_loss"], rel=0.2)  # of short trainings


@pytest.mark.parametrize("variant", ["vae", "mem-ae", "sig-repnn", "deep-sad"])
def test_a_lower_precision_trains_whatever_the_latent_layer_is(variant):
    detector = make_detector(tiny_config(variant=variant, network=LOWER))
    detector.fit_data(tiny_data(), TrainingOptions())
    first, last = (row["val_loss"] for row in detector.history[:3:2])
    assert last < first
    scores = detector.score(tiny_data().normal.stopping)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all() and len(np.unique(scores)) > 30


def test_what_a_lower_precision_ends_with_is_scored_in_float32(lower):
    networks = (lower.model.encoder, lower.model.latent, lower.model.decoder)
    layers = [layer for network in networks for layer in network.layers]
    assert {layer.compute_dtype for layer in layers} == {"float32"}
    assert {array.dtype for array in weights_of(lower.model).values()} == {np.dtype("float32")}
    assert keras.config.dtype_policy().name == "float32"


def test_a_killed_run_of_lower_precision_resumes_byte_equal(tmp_path, lower):
    config, checkpoint = tiny_config(network=LOWER), tmp_path / "checkpoint.npz"
    kill = KillAfter("latent-shaping", 0)
    with pytest.raises(Killed):
        train(config, tiny_data(augment=True), TrainingOptions(checkpoint, (kill,)))
    resumed = train(config, tiny_data(augment=True), TrainingOptions(checkpoint))
    assert as_bytes(weights_of(resumed.model)) == as_bytes(weights_of(lower.model))


def flat_data():
    """Pictures of noise: nothing but their mean can be painted."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 1)).astype(np.uint8)
    parts = Parts(noise[:160], noise[160:180], noise[180:])
    return dataclasses.replace(tiny_data(), normal=parts)


def test_a_collapse_restarts_with_derived_seeds_and_then_names_the_setting():
    said = []
    config = tiny_config(feature_extraction={"epochs": 2, "collapse_fraction": 0.05})
    with pytest.raises(LisaeError, match=r"collapsed 3 times.*warmup_steps"):
        train(config, flat_data(), TrainingOptions(say=said.append))
    assert len(said) == 2
    assert "starting again with seed" in said[0]


def test_a_run_killed_after_a_restart_resumes_in_that_attempt(tmp_path, monkeypatch):
    config = tiny_config(feature_extraction={"epochs": 2, "collapse_fraction": 0.05})
    checkpoint = tmp_path / "checkpoint.npz"
    seeds = []
    build = feature_extraction.build_autoencoder

    def recording(config, shape, *, seed, **options):
        seeds.append(seed)
        if len(seeds) == 3:
            raise Killed
        return build(config, shape, seed=seed, **options)

    monkeypatch.setattr(feature_extraction, "build_autoencoder", recording)
    with pytest.raises(Killed):
        train(config, flat_data(), TrainingOptions(checkpoint))
    with pytest.raises(LisaeError, match="collapsed"):
        train(config, flat_data(), TrainingOptions(checkpoint))
    assert seeds[:3] == [
        0,
        feature_extraction.RESTART_STRIDE,
        2 * feature_extraction.RESTART_STRIDE,
    ]
    assert seeds[3:] == seeds[1:3]  # the first attempt is not repeated


def test_a_plateau_uses_no_patience_and_progress_resets_it(tmp_path):
    model = build_autoencoder(tiny_config(), (32, 32, 1), seed=0)
    model.enter_feature_extraction(keras.optimizers.Adam())
    watch = Convergence(
        ResumePoint(), phase=1, attempt=0, epochs=99, patience=2, plateau=("val_normal_error", 0.05)
    )
    watch.attach(model)
    waited = []
    for epoch, value in enumerate([0.06, 0.07, 0.07, 0.07, 0.04, 0.045, 0.03, 0.04, 0.04]):
        watch.on_epoch_begin(epoch)
        watch.on_epoch_end(epoch, {"val_loss": value, "val_normal_error": value})
        waited.append(watch.waited)
    assert waited == [0, 0, 0, 0, 0, 1, 0, 1, 2]
    assert watch.finished
    assert watch.best_epoch == 6


def test_best_weights_not_last_are_kept():
    config = tiny_config(
        feature_extraction={"epochs": 6, "learning_rate": 0.02, "patience": 5, "restarts": 0,
                            "collapse_fraction": 0.0},
    )  # fmt: skip
    result = train(config.model_copy(update={"variant": "ae"}), tiny_data(), TrainingOptions())
    held_out = tiny_data().normal.stopping
    best = min(row["val_normal_error"] for row in result.history)
    assert np.mean(result.model.errors_of(held_out)) == pytest.approx(best, rel=1e-4)


def test_negatives_past_gamma_are_a_note_that_names_a_gamma_which_acts():
    config = tiny_config(latent_shaping={"gamma": 1e-5})
    result = train(config, tiny_data(), TrainingOptions())
    assert len(result.notes) == 1
    assert "100 % of the negatives lie past gamma" in result.notes[0]
    proposed = float(result.notes[0].split("gamma=")[-1].split()[0])
    errors = latent_shaping.picture_errors(result.model, tiny_data().negative.stopping)
    assert np.mean(errors < proposed) > 0.8


def test_a_hinge_that_acts_without_moving_weights_is_an_error(monkeypatch):
    monkeypatch.setattr(latent_shaping, "fit_phase", lambda model, *rest: None)
    config, data = tiny_config(), tiny_data()
    model = build_autoencoder(config, data.shape, seed=0)
    with pytest.raises(LisaeError, match="changed no latent weight"):
        latent_shaping.latent_shaping(config, data, model, ResumePoint(phase=2), TrainingOptions())


def test_the_mean_picture_is_what_a_collapse_is_measured_against():
    fit = np.zeros((4, 2, 2, 1), np.uint8)
    fit[:2] = 255
    held_out = np.zeros((3, 2, 2, 1), np.uint8)
    assert feature_extraction.constant_picture_error(fit, held_out) == pytest.approx(0.25)
