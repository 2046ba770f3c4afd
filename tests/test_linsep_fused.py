import dataclasses

import numpy as np
import pytest
from training_fixtures import surface, tiny_config, tiny_data

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import Parts
from lisae_tf.detectors import make_detector
from lisae_tf.detectors.linsep_fused import choose_fusion
from lisae_tf.detectors.lisae import LatentInsensitiveDetector
from lisae_tf.model.checkpoints import set_weights
from lisae_tf.training.phase import TrainingOptions, build_autoencoder

WEIGHTS = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0]


def sides(error_gap: float, logit_gap: float, seed: int = 0):
    """Error and logit of 400 normals and 400 negatives; a negative's logit is lower."""
    noise = np.random.default_rng(seed).normal(size=(4, 400))
    normal = 5 + 3 * noise[0], 7 + 2 * noise[1]
    return normal, (5 + 3 * (noise[2] + error_gap), 7 + 2 * (noise[3] - logit_gap))


@pytest.fixture(scope="module")
def fused():
    detector = make_detector(tiny_config(variant="linsep-fused"))
    detector.fit_data(tiny_data(), TrainingOptions())
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
    linsep.fit_data(tiny_data(), TrainingOptions())
    pictures = surface("camera", 20, "test")
    np.testing.assert_array_equal(fused.reconstruct(pictures), linsep.reconstruct(pictures))
    before = fused.phase1_detector()
    assert type(before) is LatentInsensitiveDetector
    np.testing.assert_array_equal(before.score(pictures), linsep.phase1_detector().score(pictures))
    assert not np.array_equal(fused.score(pictures), linsep.score(pictures))


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
