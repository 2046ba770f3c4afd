"""Latent sizes are chosen on a kind of negatives that the training did not see, and on no test."""

import math
import multiprocessing

import numpy as np
import pytest
from training_fixtures import tiny_config

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import update_json
from lisae_tf.data import datasets, tasks
from lisae_tf.data.decoded import DecodedPictures
from lisae_tf.data.pictures import content_hashes
from lisae_tf.data.surfaces import PHOTOGRAPHS, patches
from lisae_tf.experiments import selection
from lisae_tf.grids import grid
from lisae_tf.grids.trainings import LATENTS, Column, Row, chosen_latent, latent_choice, latent_key
from lisae_tf.paper import latents, tables

GRAVEL = {"dataset": "surfaces", "normal_class": ["gravel"], "negatives": "other-half"}


def test_the_kind_left_out_is_not_in_the_training():
    left = selection.leave_out(tiny_config(**GRAVEL), None, negatives="other-half")
    assert left.kind == "surfaces: camera"
    assert left.config.negatives == "surfaces:5,6,7,8"
    kind = set(content_hashes(left.pixels))
    assert kind <= set(content_hashes(patches("camera", "train")))
    negative = left.data.negative
    for part in (negative.fit, negative.stopping, negative.calibration):
        assert not kind & set(content_hashes(part))


def test_kinds_are_left_out_in_turn():
    first, second = selection.left_out(tiny_config(**GRAVEL), None)
    assert first.kind == "surfaces: camera"
    assert (first.config.negatives, second.config.negatives) == (
        "surfaces:5,6,7,8", "surfaces:5,6,7,9",
    )  # fmt: skip
    pictures = [set(content_hashes(left.pixels)) for left in (first, second)]
    assert not pictures[0] & pictures[1]
    for left, own, other in ((first, *pictures), (second, *reversed(pictures))):
        trained = set(content_hashes(left.data.negative.fit))
        assert trained & other
        assert not trained & own


def test_a_model_without_negatives_stays_without():
    config = tiny_config(**GRAVEL | {"variant": "ae", "negatives": "none"})
    left = selection.leave_out(config, None, negatives="other-half")
    assert left.data.negative is None
    assert left.config == config
    assert left.kind == "surfaces: camera"


def test_made_negatives_stay_beside_the_kinds_that_are_kept():
    config = tiny_config(**GRAVEL | {"negatives": "other-half+synth:flip"})
    left = selection.leave_out(config, None, negatives=config.negatives)
    assert left.kind == "surfaces: camera"
    assert left.config.negatives == "surfaces:5,6,7,8+synth:flip"
    plain = selection.leave_out(tiny_config(**GRAVEL), None, negatives="other-half")
    assert len(left.data.negative.fit) == 2 * len(plain.data.negative.fit)


def test_one_kind_of_negatives_needs_a_foreign_set():
    with pytest.raises(LisaeError, match="of one kind"):
        selection.leave_out(tiny_config(**GRAVEL), None, negatives="surfaces:coins")


@pytest.mark.slow  # decodes the whole of MNIST, Omniglot and Fashion-MNIST
def test_an_alphabet_or_a_foreign_set_is_left_out(tfds_dir, monkeypatch):
    monkeypatch.setattr(datasets, "DECODED", DecodedPictures(2**29))  # each set once
    data_dir = tfds_dir("mnist", "omniglot", "fashion_mnist")
    mnist = {
        "dataset": "mnist", "protocol": "one-class", "normal_class": ["3"],
        "negatives": "omniglot",
    }  # fmt: skip
    left = selection.leave_out(tiny_config(**mnist), data_dir, negatives="omniglot")
    assert "one alphabet" in left.kind
    kept = left.config.negatives.removeprefix("omniglot:").split(",")
    whole = tasks.load_training(tiny_config(**mnist), data_dir).negative
    count = sum(len(part) for part in (whole.fit, whole.stopping, whole.calibration))
    rest = left.data.negative
    kept_count = sum(len(part) for part in (rest.fit, rest.stopping, rest.calibration))
    assert count - kept_count == 20 * (964 - len(kept)) == len(left.pixels)
    next_class = mnist | {"dataset": "fashion_mnist", "protocol": "next-class"}
    config = tiny_config(**next_class | {"negatives": "next-class"})
    left = selection.leave_out(config, data_dir, negatives="next-class")
    assert (left.kind, left.config) == ("mnist", config)
    # `tune` leaves the next class out where made negatives remain.
    joined = config.model_copy(update={"negatives": "next-class+synth:elastic"})
    (left,) = selection.left_out(joined, data_dir)
    assert (left.kind, left.config.negatives) == ("fashion_mnist: Coat", "synth:elastic")
    coats = set(content_hashes(tasks.load_training(config, data_dir).negative.fit))
    assert coats & set(content_hashes(left.pixels))
    assert not coats & set(content_hashes(left.data.negative.fit))


def test_the_figure_is_of_held_out_normals_against_the_kind():
    left = selection.leave_out(tiny_config(**GRAVEL), None, negatives="other-half")

    class ByPart:
        def score(self, images):
            high = len(images) == len(left.pixels)
            return np.full(len(images), float(high), np.float32)

    assert len(left.pixels) != len(left.data.normal.stopping)
    assert selection.measure(ByPart(), left).auroc == 1.0


def test_the_hardest_of_a_kind_tell_models_apart_where_the_whole_kind_does_not():
    left = selection.leave_out(tiny_config(**GRAVEL), None, negatives="other-half")
    count = len(left.pixels)

    class ByPart:
        """All of the kind is above all normal pictures, but for some of it."""

        def __init__(self, missed):
            self.missed = missed

        def score(self, images):
            if len(images) != count:
                return np.ones(len(images), np.float32)
            return np.where(np.arange(count) < self.missed, 0.0, 2.0).astype(np.float32)

    tenth = math.ceil(count / 10)
    for missed in (0, tenth // 2, tenth):
        found = selection.measure(ByPart(missed), left)
        assert found.auroc == pytest.approx(1 - missed / count)
        assert found.hardest == pytest.approx(1 - missed / tenth)


@pytest.fixture
def column(monkeypatch):
    monkeypatch.setitem(
        tables.COLUMNS, "surfaces", Column("surfaces", tuple((name,) for name in PHOTOGRAPHS))
    )
    return "surfaces"


ROWS = {"AE": Row("ae", "none"), "LIS-AE": Row("lis")}


def chosen(column, root, sizes=(4, 6), rows=ROWS):
    return latents.choose(column, rows, sizes, root, None, lambda line: None, quick=True)


def test_sizes_are_tried_once_and_the_test_decides_nothing(column, tmp_path, monkeypatch):
    monkeypatch.setitem(grid.QUICK, "network", {"filters": [4, 8]})
    for phase in ("feature_extraction", "latent_shaping"):
        few_steps = grid.QUICK[phase] | {"batch_size": 256}
        monkeypatch.setitem(grid.QUICK, phase, few_steps)
    record = chosen(column, tmp_path, sizes=[4], rows={"LIS-AE": Row("lis")})["LIS-AE"]
    assert record["tasks"] == ["moon", "hubble_deep_field"]
    assert set(record["trained"]) == {"4"}
    assert 0 <= record["sizes"]["4"]["auroc_left_out"] <= 1
    assert latent_choice(tmp_path, "surfaces", "lis") == record
    record["trained"]["6"] = {}
    # The choice, with the figures turned round: it follows the held-out figure alone.
    for high, low, test in (("4", "6", 0.0), ("6", "4", 0.0)):
        for task in record["tasks"]:
            record["trained"][high][task] = {"auroc_left_out": 0.9, "auroc_test": test}
            record["trained"][low][task] = {"auroc_left_out": 0.1, "auroc_test": 1 - test}
        update_json(tmp_path / LATENTS, latent_key("surfaces", "lis"), record)
        monkeypatch.setattr(latents.Trial, "train", None)  # would fail if called
        record = chosen(column, tmp_path, rows={"LIS-AE": Row("lis")})["LIS-AE"]
        assert record["latent"] == int(high) == chosen_latent(tmp_path, "surfaces", "lis")
        assert record["best_latent"] == int(low)
    # Other settings: nothing of it counts any more.
    monkeypatch.setitem(grid.QUICK, "latent_shaping", {"gamma": 0.5})
    with pytest.raises(LisaeError, match="not every size"):
        chosen(column, tmp_path, rows={"LIS-AE": Row("lis")})


def test_a_size_that_fails_leaves_the_choice_open(column, tmp_path, monkeypatch):
    def failing(trial, data_dir, shared):
        if trial.size == 6:
            raise LisaeError("collapsed")
        return {"kind": "a kind", "figures": {"auroc_left_out": 0.9, "auroc_test": 0.8}}

    monkeypatch.setattr(latents.Trial, "train", failing)
    with pytest.raises(LisaeError, match="not every size"):
        chosen(column, tmp_path)
    assert chosen_latent(tmp_path, "surfaces", "lis") is None
    assert chosen(column, tmp_path, sizes=(4,))["LIS-AE"]["latent"] == 4


def test_a_trial_travels_to_a_worker_and_is_known_again(column, tmp_path):
    choice = latents.Choice(tables.COLUMNS[column], Row("lis"), tmp_path, grid.QUICK)
    trial = latents.Trial("LIS-AE", ("moon",), 4, choice.config(("moon",), 4), choice.negatives)
    ours, theirs = multiprocessing.Pipe()
    ours.send(trial)
    assert theirs.recv() == trial
