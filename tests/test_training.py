import dataclasses
import shutil

import keras
import numpy as np
import pytest
from conftest import WHOLE_EPOCH, steps_of_an_epoch
from training_fixtures import (
    TINY,
    KeepEach,
    KillAfter,
    Killed,
    as_bytes,
    tiny_config,
    tiny_data,
    without_times,
)

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import Parts
from lisae_tf.detectors import DETECTORS, make_detector
from lisae_tf.model.checkpoints import set_weights, weights_of
from lisae_tf.training import feature_extraction, latent_shaping, phase
from lisae_tf.training.algorithm1 import train
from lisae_tf.training.convergence import Convergence, ResumePoint
from lisae_tf.training.phase import TrainingOptions, build_autoencoder
from lisae_tf.training.sharing import SharedPhase1


@pytest.fixture(scope="module")
def shared():
    """Phase 1 of the tiny settings, for tests of phase 2; it is the same: test_distribution."""
    return SharedPhase1()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the checkpoints of all epochs of `undisturbed` lie."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def undisturbed(shared, kept):
    checkpoint = kept / "checkpoint.npz"
    options = TrainingOptions(checkpoint, (KeepEach(checkpoint),), shared=shared)
    return train(tiny_config(), tiny_data(augment=True), options)


BETWEEN = pytest.mark.slow("falls between the two others; test_kill has fifty random moments")


@pytest.mark.parametrize(
    "phase, epoch",
    [("feature-extraction", 0), ("latent-shaping", 0),
     pytest.param("feature-extraction", 2, marks=BETWEEN),
     pytest.param("latent-shaping", 2, marks=BETWEEN)],
)  # fmt: skip
def test_a_killed_run_resumes_byte_equal(tmp_path, undisturbed, kept, phase, epoch):
    """From what a kill right after an epoch leaves: the checkpoint of that moment."""
    config, data, checkpoint = tiny_config(), tiny_data(augment=True), tmp_path / "checkpoint.npz"
    shutil.copy(kept / f"{phase}-{epoch}.npz", checkpoint)
    epochs_run = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: epochs_run.append(e))
    resumed = train(config, data, TrainingOptions(checkpoint, (count,)))
    assert as_bytes(weights_of(resumed.model)) == as_bytes(weights_of(undisturbed.model))
    assert as_bytes(resumed.phase1_weights) == as_bytes(undisturbed.phase1_weights)
    done = epoch + 1 + (3 if phase == "latent-shaping" else 0)
    assert len(epochs_run) == len(undisturbed.history) - done

    assert without_times(resumed.history) == without_times(undisturbed.history)


# `ae` is phase 1 of `lis`, so `undisturbed` has both results to compare with.
ONCE_MORE = pytest.mark.slow("both phases are fitted by one function; ae stays in the fast set")


@pytest.mark.parametrize("variant", ["ae", pytest.param("lis", marks=ONCE_MORE)])
def test_steps_run_together_train_to_the_same_weights(variant, undisturbed, monkeypatch):
    # So short an epoch runs one by one unless told otherwise.
    monkeypatch.setattr(phase, "steps_at_once", lambda steps: steps // 2)
    config = tiny_config(variant=variant)
    together = train(config, tiny_data(augment=True), TrainingOptions())
    whole = weights_of(undisturbed.model) if variant == "lis" else undisturbed.phase1_weights
    assert as_bytes(weights_of(together.model)) == as_bytes(whole)
    history = undisturbed.history[: len(together.history)]
    assert len(history) == (6 if variant == "lis" else 3)
    assert without_times(together.history) == without_times(history)


def test_another_seed_trains_to_other_weights(undisturbed):
    other = train(tiny_config(seed=1, variant="ae"), tiny_data(augment=True), TrainingOptions())
    assert as_bytes(other.phase1_weights) != as_bytes(undisturbed.phase1_weights)


LOWER = {"precision": "mixed_bfloat16"}


@pytest.fixture(scope="module")
def lower():
    return train(tiny_config(network=LOWER), tiny_data(augment=True), TrainingOptions())


def assert_nearly_the_same_losses(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a["val_loss"] != b["val_loss"]
        assert b["val_loss"] == pytest.approx(a["val_loss"], rel=0.2)  # of short trainings


def test_a_lower_precision_trains_both_phases_to_nearly_the_same_losses(undisturbed, lower):
    assert_nearly_the_same_losses(undisturbed.history, lower.history)


@pytest.mark.slow("two trainings of both phases more; the precision is set in one place for all")
def test_a_lower_precision_trains_linsep_to_nearly_the_same_losses():
    configs = (tiny_config(variant="linsep", network=network) for network in ({}, LOWER))
    assert_nearly_the_same_losses(
        *(train(config, tiny_data(), TrainingOptions()).history for config in configs)
    )


OWN_LATENT = ("mem-ae", "vae", "sig-repnn")


@pytest.mark.parametrize("variant", OWN_LATENT)
def test_a_lower_precision_is_that_of_encoder_and_decoder_alone(variant):
    config = tiny_config(variant=variant, network=LOWER)
    build_latent = DETECTORS[variant](config).build_latent
    model = build_autoencoder(config, (32, 32, 1), seed=0, build_latent=build_latent, training=True)
    computing = {
        part: {layer.compute_dtype for layer in getattr(model, part).layers}
        for part in ("encoder", "latent", "decoder")
    }
    assert computing["latent"] == {"float32"}
    assert "bfloat16" in computing["encoder"] and "bfloat16" in computing["decoder"]
    assert np.isfinite(model.errors_of(tiny_data().normal.stopping)).all()


@pytest.mark.slow("trainings of whole epochs; lis in both phases stays in the fast set")
@pytest.mark.parametrize("variant", [*OWN_LATENT, "deep-sad"])
def test_a_lower_precision_trains_whatever_the_latent_layer_is(variant):
    detector = make_detector(tiny_config(variant=variant, network=LOWER))
    with steps_of_an_epoch(WHOLE_EPOCH):
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


@pytest.mark.slow("a training and a half; test_a_killed_run_resumes_byte_equal has the mechanism")
def test_a_killed_run_of_lower_precision_resumes_byte_equal(tmp_path, lower):
    config, checkpoint = tiny_config(network=LOWER), tmp_path / "checkpoint.npz"
    kill = KillAfter("latent-shaping", 0)
    with pytest.raises(Killed):
        train(config, tiny_data(augment=True), TrainingOptions(checkpoint, (kill,)))
    resumed = train(config, tiny_data(augment=True), TrainingOptions(checkpoint))
    assert as_bytes(weights_of(resumed.model)) == as_bytes(weights_of(lower.model))


def with_normals(pictures):
    """The tiny data with 200 other normal pictures."""
    parts = Parts(pictures[:160], pictures[160:180], pictures[180:])
    return dataclasses.replace(tiny_data(), normal=parts)


def fixed_camera_data():
    """One part photographed again and again: a dark disc whose shading differs a little."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    part = np.where(np.hypot(x, y) < 0.7, 20.0, 250.0)[None, :, :, None]
    shading = generator.normal(0, 6, (200, 1, 1, 1)) * np.sin(6 * x)[None, :, :, None]
    noise = generator.normal(0, 2, (200, 32, 32, 1))
    return with_normals(np.clip(part + shading + noise, 0, 255).astype(np.uint8))


COLLAPSING = {"feature_extraction": {"epochs": 1, "collapse_fraction": 0.05}}


AGAIN = pytest.mark.slow("trains three times; restarts without training stay in the fast set")


@pytest.mark.parametrize("restarts", [0, pytest.param(2, marks=AGAIN)])
def test_pictures_near_their_mean_collapse_and_the_error_names_the_setting(restarts):
    said, options = [], COLLAPSING["feature_extraction"] | {"restarts": restarts}
    times = rf"collapsed {restarts + 1} times.*decoder_steps=300.*warmup_steps"
    with pytest.raises(LisaeError, match=times):
        train(
            tiny_config(feature_extraction=options), fixed_camera_data(),
            TrainingOptions(say=said.append),
        )  # fmt: skip
    assert len(said) == restarts


@pytest.fixture
def attempts(monkeypatch):
    """The seeds of phase 1's attempts, of which none trains: its error is that of a good one."""
    seeds, build = [], feature_extraction.build_autoencoder

    def recording(config, shape, *, seed, **options):
        seeds.append(seed)
        return build(config, shape, seed=seed, **options)

    def fit(model, stream, held_out, steps, convergence, options):
        convergence.history.append({"val_normal_error": 0.0})

    monkeypatch.setattr(feature_extraction, "build_autoencoder", recording)
    monkeypatch.setattr(feature_extraction, "fit_phase", fit)
    return seeds


def test_a_collapse_restarts_with_derived_seeds(attempts, monkeypatch):
    said, stride = [], feature_extraction.RESTART_STRIDE
    monkeypatch.setattr(feature_extraction, "spread_kept", lambda model, images: 0.0)
    with pytest.raises(LisaeError, match=r"collapsed 3 times.*decoder_steps=300.*warmup_steps"):
        train(tiny_config(**COLLAPSING), tiny_data(), TrainingOptions(say=said.append))
    assert attempts == [0, stride, 2 * stride]
    assert len(said) == 2
    for seed, line in zip(attempts[1:], said, strict=True):
        assert "every picture comes out as the mean picture" in line
        assert line.endswith(f"starting again with seed {seed}")


LINSEP_TOO = pytest.mark.slow("LinSep differs in its phase 2 alone, which comes after")


@pytest.mark.parametrize("variant", ["ae", pytest.param("linsep", marks=LINSEP_TOO)])
def test_pictures_near_their_mean_train_where_the_decoder_begins_alone(variant):
    settings = {"epochs": 1, "batch_size": 8, "collapse_fraction": 0.05, "decoder_steps": 300}
    config, data = tiny_config(variant=variant, feature_extraction=settings), fixed_camera_data()
    with steps_of_an_epoch(WHOLE_EPOCH):
        result = train(config, data, TrainingOptions())
    assert result.restart_seeds == []
    # No better than the mean picture yet, and no collapse for all that.
    own = min(row["val_normal_error"] for row in result.history if row["phase"] == 1)
    mean = feature_extraction.constant_picture_error(data.normal.fit, data.normal.stopping)
    assert own > 0.95 * mean
    assert len(result.history) == 1 + (3 if variant == "linsep" else 0)


def test_a_saturated_latent_layer_keeps_no_spread_and_a_fresh_one_some():
    images = tiny_data().normal.stopping
    model = build_autoencoder(tiny_config(), images.shape[1:], seed=0)
    assert feature_extraction.spread_kept(model, images) > 0
    dense = model.latent.get_layer("preactivation")
    dense.set_weights([1e3 * dense.kernel.numpy(), np.full_like(dense.bias.numpy(), 1e6)])
    assert feature_extraction.spread_kept(model, images) < 1e-9 < feature_extraction.COLLAPSED


def test_a_network_that_keeps_too_little_spread_restarts_whatever_its_error(attempts, monkeypatch):
    found = iter([feature_extraction.COLLAPSED, 2 * feature_extraction.COLLAPSED])
    monkeypatch.setattr(feature_extraction, "spread_kept", lambda model, images: next(found))
    config = tiny_config(variant="ae", **COLLAPSING)
    result = train(config, tiny_data(), TrainingOptions())
    assert result.restart_seeds == [feature_extraction.RESTART_STRIDE]
    assert attempts == [0, feature_extraction.RESTART_STRIDE]


def test_the_check_changes_nothing_about_a_healthy_training(undisturbed, monkeypatch):
    spread_kept, found = feature_extraction.spread_kept, []

    def healthy(model, images):  # so short a training is not, yet
        found.append(spread_kept(model, images))
        return 1.0

    monkeypatch.setattr(feature_extraction, "spread_kept", healthy)
    config = tiny_config(variant="ae", feature_extraction={"collapse_fraction": 1e-9})
    checked = train(config, tiny_data(augment=True), TrainingOptions())
    assert len(found) == 1
    assert checked.restart_seeds == []
    # `undisturbed` was not checked.
    assert as_bytes(weights_of(checked.model)) == as_bytes(undisturbed.phase1_weights)
    assert without_times(checked.history) == without_times(undisturbed.history[:3])


def test_one_and_the_same_picture_is_no_training_set():
    data = with_normals(np.full((200, 32, 32, 1), 40, np.uint8))
    with pytest.raises(LisaeError, match=r"same picture.*give pictures that differ"):
        train(tiny_config(**COLLAPSING), data, TrainingOptions())


@pytest.mark.slow("traces five phases; restarts and resuming are tested above, each by itself")
def test_a_run_killed_after_a_restart_resumes_in_that_attempt(tmp_path, monkeypatch):
    config, checkpoint = tiny_config(**COLLAPSING), tmp_path / "checkpoint.npz"
    seeds = []
    build = feature_extraction.build_autoencoder

    def recording(config, shape, *, seed, **options):
        seeds.append(seed)
        if len(seeds) == 3:
            raise Killed
        return build(config, shape, seed=seed, **options)

    monkeypatch.setattr(feature_extraction, "build_autoencoder", recording)
    monkeypatch.setattr(feature_extraction, "spread_kept", lambda model, images: 0.0)
    with pytest.raises(Killed):
        train(config, tiny_data(), TrainingOptions(checkpoint))
    with pytest.raises(LisaeError, match="collapsed"):
        train(config, tiny_data(), TrainingOptions(checkpoint))
    assert seeds[:3] == [
        0,
        feature_extraction.RESTART_STRIDE,
        2 * feature_extraction.RESTART_STRIDE,
    ]
    assert seeds[3:] == seeds[1:3]  # the first attempt is not repeated


def test_the_decoder_begins_alone(monkeypatch):
    fit, changed = feature_extraction.fit_epochs, []

    def watched(model, *rest):
        parts = (model.encoder, model.latent, model.decoder)
        before = [as_bytes(weights_of(part)) for part in parts]
        fit(model, *rest)
        changed.extend(
            as_bytes(weights_of(part)) != old for part, old in zip(parts, before, strict=True)
        )
        raise Killed

    monkeypatch.setattr(feature_extraction, "fit_epochs", watched)
    config = tiny_config(variant="ae", feature_extraction={"decoder_steps": 5})
    with pytest.raises(Killed):
        train(config, tiny_data(), TrainingOptions())
    assert changed == [False, False, True]


@pytest.mark.slow("four trainings; that the decoder begins alone is tested above")
def test_a_run_whose_decoder_began_alone_resumes_byte_equal(tmp_path):
    config = tiny_config(variant="ae", feature_extraction={"epochs": 2, "decoder_steps": 20})
    plain = train(
        tiny_config(variant="ae", feature_extraction={"epochs": 2}), tiny_data(), TrainingOptions()
    )
    whole = train(config, tiny_data(), TrainingOptions())
    assert as_bytes(weights_of(whole.model)) != as_bytes(weights_of(plain.model))
    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        kill = KillAfter("feature-extraction", 0)
        train(config, tiny_data(), TrainingOptions(checkpoint, (kill,)))
    resumed = train(config, tiny_data(), TrainingOptions(checkpoint))
    assert as_bytes(weights_of(resumed.model)) == as_bytes(weights_of(whole.model))


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
    model, after = build_autoencoder(tiny_config(), (32, 32, 1), seed=0), []
    model.enter_feature_extraction(keras.optimizers.Adam())
    watch = Convergence(ResumePoint(), phase=1, attempt=0, epochs=4, patience=4)
    watch.attach(model)
    for epoch, value in enumerate([0.3, 0.1, 0.2, 0.4]):
        watch.on_epoch_begin(epoch)
        for weight in model.weights:
            weight.assign(np.full(weight.shape, epoch, np.float32))
        after.append(weights_of(model))
        watch.on_epoch_end(epoch, {"val_loss": value})
    assert watch.finished
    phase.fit_phase(model, None, None, 1, watch, TrainingOptions())
    assert as_bytes(weights_of(model)) == as_bytes(after[1])


@pytest.mark.slow("six epochs that learn; the test above has the mechanism")
def test_best_weights_not_last_are_kept_by_a_training():
    config = tiny_config(
        feature_extraction={"epochs": 6, "learning_rate": 0.02, "patience": 5, "restarts": 0,
                            "collapse_fraction": 0.0},
    )  # fmt: skip
    result = train(config.model_copy(update={"variant": "ae"}), tiny_data(), TrainingOptions())
    held_out = tiny_data().normal.stopping
    best = min(row["val_normal_error"] for row in result.history)
    assert np.mean(result.model.errors_of(held_out)) == pytest.approx(best, rel=1e-4)


@pytest.fixture
def notes_of(shared, undisturbed, monkeypatch):
    """Gives the notes of phase 2 under some settings, and its model, which is moved untrained."""

    def nudge(model, *rest):
        for weight in model.latent.weights:
            weight.assign_add(np.full(weight.shape, 1e-3, np.float32))

    monkeypatch.setattr(latent_shaping, "fit_phase", nudge)
    point, data = shared.find(tiny_config(), None), tiny_data()

    def notes(**settings):
        config = tiny_config(latent_shaping=settings)
        model = build_autoencoder(config, data.shape, seed=0)
        set_weights(model, point.phase1_weights)
        before = latent_shaping.picture_errors(model, data.negative.stopping)
        return latent_shaping.latent_shaping(config, data, model, point, TrainingOptions())[
            1
        ], before

    return notes


def test_negatives_past_gamma_are_a_note_that_names_a_gamma_which_acts(notes_of):
    notes, errors = notes_of(gamma=1e-5)
    assert len(notes) == 1
    assert "100 % of the negatives lie past gamma" in notes[0]
    proposed = float(notes[0].split("gamma=")[-1].split()[0])
    assert np.mean(errors < proposed) > 0.8
    assert notes_of(gamma=proposed)[0] == []


def test_a_relative_gamma_that_does_little_is_a_note_in_its_own_terms(notes_of):
    note = notes_of(gamma_times=1e-3)[0][1]
    assert "100 % of the negatives lie past gamma_times=0.001" in note
    proposed = float(note.split("gamma_times=")[-1].split()[0])
    assert len(notes_of(gamma_times=proposed)[0]) == 1


def test_a_relative_gamma_is_so_many_times_the_held_out_normal_error(tmp_path, shared, undisturbed):
    data, said, checkpoint = tiny_data(augment=True), [], tmp_path / "checkpoint.npz"
    before = build_autoencoder(tiny_config(), data.shape, seed=0)
    set_weights(before, undisturbed.phase1_weights)
    error = float(np.mean(phase.picture_errors(before, data.normal.stopping), dtype=np.float64))
    absolute = TINY["latent_shaping"]["gamma"]
    config = tiny_config(latent_shaping={"gamma_times": absolute / error})
    kill = KillAfter("latent-shaping", 2)
    with pytest.raises(Killed):
        train(config, data, TrainingOptions(checkpoint, (kill,), said.append, shared))
    result = train(config, data, TrainingOptions(checkpoint, say=said.append))
    assert result.model.gamma == pytest.approx(absolute, rel=1e-6)
    # The same before and after the interruption, and kept with the run.
    times = f"{absolute / error:g} times the held-out normal error"
    assert said == [f"gamma {absolute:.3g}, {times}"] * 2
    assert result.notes == said[:1]
    # The run of that absolute γ.
    assert as_bytes(weights_of(result.model)) == as_bytes(weights_of(undisturbed.model))
    assert without_times(result.history) == without_times(undisturbed.history)


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
