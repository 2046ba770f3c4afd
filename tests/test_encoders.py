"""Training of an encoder with a head: losses, collapse, both stages, and runs that are resumed."""

import functools
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import WHOLE_EPOCH, steps_of_an_epoch
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

from lisae_tf.core.errors import LisaeError
from lisae_tf.detectors import make_detector
from lisae_tf.model.heads import DistanceHead, LabelledDistanceHead, LogitHead, PseudoHuberHead
from lisae_tf.training.encoder_training import build_encoder, refuse_collapse
from lisae_tf.training.phase import TrainingOptions

N, M = np.float32([0.5, 2.0]), np.float32([0.25, 1.0, 4.0])
CODES = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)


def head_of(kind):
    return kind(2.0) if kind is LabelledDistanceHead else kind()


@pytest.mark.parametrize(
    "head, expected",
    [
        (LogitHead(), (np.mean(np.log1p(np.exp(N))) + np.mean(np.log1p(np.exp(-M)))) / 2),
        (PseudoHuberHead(), (np.mean(N) - np.mean(np.log(1 - np.exp(-M)))) / 2),
        (LabelledDistanceHead(2.0), (np.mean(N) + 2 * np.mean(1 / M)) / 2),
        (DistanceHead(), np.mean(N)),
    ],
    ids=["bce", "hsc", "deep-sad", "oc-dsvdd"],
)
def test_losses_are_those_of_the_papers(head, expected):
    assert float(head.loss(N, M)) == pytest.approx(expected, rel=1e-5)


def test_the_hypersphere_classifiers_distance_is_exact_where_it_is_small():
    z = np.float32([[1e-4, 0], [3, 4], [0, 0]])
    expected = np.sqrt(np.sum(z.astype(np.float64) ** 2, axis=1) + 1) - 1
    np.testing.assert_allclose(PseudoHuberHead()(z), expected, rtol=1e-4)
    assert np.isfinite(float(PseudoHuberHead().loss(N, np.float32([0.0]))))


def test_the_centre_is_the_mean_code_moved_away_from_zero():
    head = DistanceHead()
    head.build((None, 4))
    head.place(np.float32([[2, -3, 0.02, -0.04], [4, -1, 0.04, -0.02]]))
    np.testing.assert_allclose(head.centre, [3, -2, 0.1, -0.1], rtol=1e-6)
    assert not head.trainable_weights
    np.testing.assert_allclose(head(np.float32([[3, 0, 0.1, -0.1]])), [1], rtol=1e-6)


@pytest.mark.parametrize("kind", [DistanceHead, LabelledDistanceHead])
def test_what_could_collapse_has_neither_biases_nor_bounds(kind):
    model = build_encoder(tiny_config(), (32, 32, 1), head_of(kind))
    assert not [w.path for w in model.weights if "bias" in w.path]
    # Without a bias and with leaky units only, the code of 2x is twice that of x.
    x = surface("gravel", 3) // 2
    np.testing.assert_allclose(model.codes(2 * x), 2 * model.codes(x), rtol=1e-4, atol=1e-6)


def test_a_collapsed_sphere_is_refused_and_a_small_one_is_not():
    centre = np.full(8, 2.0)
    refuse_collapse(2 + 1e-3 * CODES, centre)
    with pytest.raises(LisaeError, match=r"collapsed.*hypersphere\.learning_rate"):
        refuse_collapse(np.broadcast_to(np.float32(2), (50, 8)), centre)
    with pytest.raises(LisaeError, match="collapsed"):
        refuse_collapse(np.full((50, 8), np.nan), centre)


CONFIGS = {
    "bce": tiny_config(variant="bce", feature_extraction={"epochs": 4, "batch_size": 16}),
    "hsc": tiny_config(variant="hsc", feature_extraction={"epochs": 4, "batch_size": 16}),
    "deep-sad": tiny_config(variant="deep-sad"),
    "oc-dsvdd": tiny_config(variant="oc-dsvdd"),
}


def trained(variant, *options):
    detector = make_detector(CONFIGS[variant])
    detector.fit_data(tiny_data(augment=True), TrainingOptions(*options))
    return detector


def rows(detector, phase):
    return [row for row in detector.history if row["phase"] == phase]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Gives the run of a variant, and the folder of its checkpoints."""

    @functools.cache
    def run(variant):
        checkpoint = tmp_path_factory.mktemp(variant) / "checkpoint.npz"
        return trained(variant, checkpoint, (KeepEach(checkpoint),)), checkpoint.parent

    return run


ONE_MORE = pytest.mark.slow("one more training; bce, of the same loop, stays in the fast set")


@pytest.mark.parametrize("variant", ["bce", pytest.param("hsc", marks=ONE_MORE)])
def test_training_tells_normals_from_negatives_better_and_better(variant, undisturbed):
    found = rows(undisturbed(variant)[0], 1)
    gaps = [row["val_negative_score"] - row["val_normal_score"] for row in found]
    assert gaps[-1] > gaps[0]
    assert min(row["val_loss"] for row in found[1:]) < found[0]["val_loss"]


class Untrained(keras.callbacks.Callback):
    """The held-out scores and the loss with which the encoder's own training begins."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def on_train_begin(self, logs=None):
        if self.model.phase == "encoder":
            normal, negative = (
                self.model(side.stopping) for side in (self.data.normal, self.data.negative)
            )
            self.normal, self.negative = (float(np.mean(each)) for each in (normal, negative))
            self.loss = float(self.model.head.loss(normal, negative))


@pytest.mark.slow("two stages of whole epochs; the loss by itself stays in the fast set")
def test_deep_sad_pushes_negatives_away_from_where_the_pretraining_left_them():
    # With everything at distance one its loss is (1 + eta) / 2 = 1 and nothing is told apart.
    data = tiny_data(normal="brick")
    detector, untrained = make_detector(tiny_config(
        variant="deep-sad", feature_extraction={"epochs": 4, "batch_size": 16},
        hypersphere={"epochs": 8, "learning_rate": 3e-3},
    )), Untrained(data)  # fmt: skip
    with steps_of_an_epoch(WHOLE_EPOCH):
        detector.fit_data(data, TrainingOptions(callbacks=(untrained,)))
    assert untrained.negative < 3 * untrained.normal
    best = min(rows(detector, 2), key=lambda row: row["val_loss"])
    assert best["val_loss"] < min(0.7, untrained.loss)
    assert best["val_negative_score"] > 5 * best["val_normal_score"]


def test_deep_svdd_starts_from_the_pretrained_encoder_and_draws_normals_in(undisturbed):
    detector, _ = undisturbed("oc-dsvdd")
    pretraining, sphere = rows(detector, 1), rows(detector, 2)
    assert pretraining[0]["val_normal_error"] > 0
    assert sphere[-1]["val_normal_score"] < sphere[0]["val_normal_score"]
    assert "val_negative_score" not in sphere[0]
    centre = detector.model.head.centre.numpy()
    assert np.all(np.abs(centre) >= np.float32(0.1))


def test_negatives_change_nothing_for_deep_svdd(undisturbed):
    alone = make_detector(CONFIGS["oc-dsvdd"])
    data = tiny_data(augment=True)
    alone.fit_data(replace(data, negative=None), TrainingOptions())
    pictures, (beside, _) = surface("camera", 10, "test"), undisturbed("oc-dsvdd")
    np.testing.assert_array_equal(alone.score(pictures), beside.score(pictures))


def content(detector):
    return without_times(detector.history), as_bytes(detector.arrays())


def test_a_killed_run_resumes_byte_equal(tmp_path, undisturbed):
    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        trained("bce", checkpoint, (KillAfter("encoder", 1),))
    assert content(trained("bce", checkpoint)) == content(undisturbed("bce")[0])


@pytest.mark.parametrize(
    "variant, phase, epoch",
    [pytest.param("deep-sad", "feature-extraction", 1, marks=ONE_MORE),
     pytest.param("deep-sad", "encoder", 0, marks=ONE_MORE), ("oc-dsvdd", "encoder", 2)],
)  # fmt: skip
def test_from_its_checkpoints_a_run_ends_byte_equal(variant, phase, epoch, undisturbed):
    detector, folder = undisturbed(variant)
    assert content(trained(variant, folder / f"{phase}-{epoch}.npz")) == content(detector)


def test_divergence_names_the_setting_of_the_stage():
    config = tiny_config(
        variant="oc-dsvdd", feature_extraction={"epochs": 1}, hypersphere={"learning_rate": 1e30}
    )
    with pytest.raises(LisaeError, match=r"phase 2 diverged.*hypersphere\.learning_rate"):
        make_detector(config).fit_data(tiny_data(), TrainingOptions())
