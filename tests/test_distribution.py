"""One training over several devices or workers, and one phase 1 for several trainings.

The same result, one writer, no lost epoch.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from training_fixtures import surface, tiny_config, tiny_data

from lisae_tf.core.arrays import load_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json
from lisae_tf.data.datasets import DecodedPictures
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.detectors import make_detector
from lisae_tf.model.checkpoints import weights_of
from lisae_tf.training.algorithm1 import train
from lisae_tf.training.convergence import ResumePoint
from lisae_tf.training.distribution import fit, make_strategy, own_rows
from lisae_tf.training.phase import TrainingOptions
from lisae_tf.training.sharing import SharedPhase1, phase1_key

ROOT = Path(__file__).parents[1]
WORKPLACE = tempfile.TemporaryDirectory()  # where `runs/last` may be written
ENVIRONMENT = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
# Sums of gradients in another order; a few hundred steps of Adam carry it on.
SCORES = {"rtol": 0.05, "atol": 1e-3}
SETTINGS = (
    *("--dataset", "surfaces", "--normal-class", "gravel", "--quiet"),
    *("--set", "network.latent=4", "--set", "network.filters=[4, 4]"),
    *("--set", "feature_extraction.epochs=2", "--set", "feature_extraction.collapse_fraction=0"),
    *("--set", "latent_shaping.epochs=2"),
    *("--set", "feature_extraction.batch_size=128", "--set", "latent_shaping.batch_size=128"),
)
# The command line; kills itself after an epoch where told to.
PROGRAM = """
import os, sys
import keras
from lisae_tf.training import convergence
from lisae_tf.cli import main
from lisae_tf.data import pipelines
pipelines._FEWEST_STEPS = 10
if os.environ.get("DIE_AFTER"):
    whole = convergence.Convergence.on_epoch_end
    def dying(self, epoch, logs=None):
        whole(self, epoch, logs)
        if f"{self.phase},{epoch}" == os.environ["DIE_AFTER"]:
            os._exit(9)
    convergence.Convergence.on_epoch_end = dying
main(["train", *sys.argv[1:]])
"""


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


def start(*arguments, **variables):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *SETTINGS, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=WORKPLACE.name, env=ENVIRONMENT | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def workers(folder, *more, die_after=("", "")):
    """Two workers on loopback until both have ended."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    processes = []
    for index, epoch in enumerate(die_after):
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        arguments = ("--distribute", "workers", "--out", folder, *more)
        processes.append(start(*arguments, TF_CONFIG=json.dumps(task), DIE_AFTER=epoch))
    try:
        ends = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *end) for p, end in zip(processes, ends, strict=True)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cli):
    """The run of one process: this one."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    with contextlib.chdir(WORKPLACE.name):
        done = cli("train", *SETTINGS, "--out", folder)
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The run of two workers, and what each of them said."""
    folder = tmp_path_factory.mktemp("together") / "run"
    return folder, workers(folder)


def scores(folder):
    return load_arrays(folder / "scores.npz")[0]["test"]


def weights(folder):
    return load_arrays(folder / "weights.npz")[0]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_row_of_a_batch_goes_to_one_replica_of_one_worker(workers):
    rows = np.arange(24, dtype=np.int32)
    stream = tf.data.Dataset.from_tensor_slices({"normal": rows, "negative": -rows}).batch(12)
    each = 4 // workers
    found = [
        list(own_rows(stream, range(each * k, each * (k + 1)), 4).as_numpy_iterator())
        for k in range(workers)
    ]
    assert [len(batches) for batches in found] == [2 * each] * workers
    for batch in (0, 1):
        parts = [part for of in found for part in of[batch * each : (batch + 1) * each]]
        assert [len(part["normal"]) for part in parts] == [3] * 4
        whole = np.sort(np.concatenate([part["normal"] for part in parts]))
        np.testing.assert_array_equal(whole, rows[12 * batch : 12 * (batch + 1)])
        for part in parts:  # pairs stay together, and rows are dealt in turn
            np.testing.assert_array_equal(part["negative"], -part["normal"])
            np.testing.assert_array_equal(np.diff(part["normal"]), [4, 4])


def test_batches_that_cannot_be_divided_are_refused(monkeypatch):
    strategy = SimpleNamespace(num_replicas_in_sync=3)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: strategy)
    stream = tf.data.Dataset.from_tensors({"normal": np.zeros((4, 2, 2, 1), np.uint8)})
    with pytest.raises(LisaeError, match=r"4 normal pictures cannot be divided by 3.*multiple"):
        fit(None, stream, None, steps=1, epochs=(0, 1), callbacks=())


def test_a_strategy_of_one_device_trains_to_the_result_of_fit():
    config = tiny_config(
        **{name: {"epochs": 1} for name in ("feature_extraction", "latent_shaping")}
    )
    alone, distributed = (
        train(config, tiny_data(), TrainingOptions(strategy=strategy))
        for strategy in (None, make_strategy("mirrored"))
    )
    ours, theirs = (weights_of(result.model) for result in (distributed, alone))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-4, atol=1e-5)
    for row, reference in zip(distributed.history, alone.history, strict=True):
        assert row["val_loss"] == pytest.approx(reference["val_loss"], rel=1e-4)


@pytest.mark.slow(
    "two processes that import TensorFlow and one training; a strategy of one device stays fast"
)
def test_two_workers_train_to_the_result_of_one(alone, together):
    folder, ends = together
    assert [code for code, *_ in ends] == [0, 0], ends
    np.testing.assert_allclose(scores(folder), scores(alone), **SCORES)
    ours, theirs = (read_json(run / "history.json") for run in (folder, alone))
    for row, reference in zip(ours, theirs, strict=True):
        for name in ("loss", "val_loss", "val_normal_error"):
            assert row[name] == pytest.approx(reference[name], rel=0.01)
    # The first epoch differs by rounding alone; it would not if a worker saw other pictures.
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-5)


@pytest.mark.slow("needs the run of the two workers")
def test_the_chief_alone_speaks_and_writes(together):
    folder, ((_, chief, _), (_, other, _)) = together
    assert "AUROC" in chief and other == ""
    assert not (folder / "checkpoint.npz").exists()
    assert read_json(folder / "metrics.json")["epochs"] == [2, 2]


@pytest.mark.slow("two pairs of processes more, each of which imports TensorFlow")
def test_a_lost_worker_is_named_and_resuming_ends_as_if_undisturbed(together, tmp_path):
    folder = tmp_path / "run"
    (chief, _, errors), (other, *_) = workers(folder, die_after=("", "2,0"))
    assert (chief, other) == (1, 9)
    assert "start all of them again with --resume" in errors
    assert (folder / "checkpoint.npz").exists() and not (folder / "metrics.json").exists()
    ends = workers(folder, "--resume")
    assert [code for code, *_ in ends] == [0, 0], ends
    resumed, undisturbed = weights(folder), weights(together[0])
    assert resumed.keys() == undisturbed.keys()
    for name, array in undisturbed.items():
        np.testing.assert_array_equal(resumed[name], array)


@pytest.mark.slow("a process that imports TensorFlow for both devices")
def test_two_devices_of_one_machine(alone, tmp_path):
    program = PROGRAM.replace("import keras", (
        "import tensorflow as tf\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "pair = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, pair)"
    ))  # fmt: skip
    arguments = [*SETTINGS, "--distribute", "mirrored", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments], cwd=WORKPLACE.name, text=True,
        capture_output=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(scores(tmp_path / "run"), scores(alone), **SCORES)


@pytest.mark.parametrize("given", ["", "{}", '{"cluster": {"worker": []}}', "no json"])
def test_a_missing_cluster_is_explained(given, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", given)
    with pytest.raises(LisaeError, match=r"TF_CONFIG (with all workers|names no worker)"):
        make_strategy("workers")


def test_what_cannot_be_distributed_is_refused(cli):
    other = cli("train", "--variant", "vae", "--distribute", "mirrored")
    assert other.exit_code == 1 and "not vae" in other.output
    nowhere = cli("train", "--distribute", "workers")
    assert nowhere.exit_code == 1 and "--out" in nowhere.output


@pytest.mark.parametrize("chief", [True, False])
def test_the_chief_alone_writes_for_tensorboard(chief, tmp_path):
    import keras

    from lisae_tf.commands.train import _callbacks

    chosen = _callbacks(None, tmp_path, quiet=True, tensorboard=True, chief=chief)
    assert [type(each) for each in chosen] == [keras.callbacks.TensorBoard] * chief


GRAVEL = {"dataset": "surfaces", "normal_class": ["gravel"], "negatives": "other-half"}


def key(**over):
    return phase1_key(tiny_config(**(GRAVEL | over)))


def test_linsep_never_shares_over_negative_sets_and_lis_always_does():
    sets = ["other-half", "supervised", "surfaces:coins", "strokes", "none"]
    assert len({key(variant="lis", negatives=name) for name in sets}) == 1
    assert len({key(variant="linsep", negatives=name) for name in sets}) == len(sets)
    # What "supervised" means hangs on the protocol and on the anomaly classes.
    meant = [{}, {"protocol": "one-class"}, {"anomaly_class": ["moon"]}]
    keys = {key(variant="linsep", negatives="supervised", **over) for over in meant}
    assert len(keys) == 3


@pytest.mark.parametrize(
    "over",
    [
        {"seed": 1},
        {"normal_class": ["brick"]},
        {"dataset": "mnist"},
        {"protocol": "two-class"},
        {"network": {"latent": 9}},
        {"network": {"decoder_filters": [4, 4]}},
        {"feature_extraction": {"epochs": 4}},
        {"data": {"mirror": True}},
        {"data": {"stopping_fraction": 0.2}},
    ],
)
def test_what_phase_1_sees_is_in_the_key(over):
    for variant in ("lis", "linsep"):
        assert key(variant=variant) != key(variant=variant, **over)


@pytest.mark.parametrize(
    "over",
    [
        {"latent_shaping": {"gamma": 0.9}},
        {"calibration": {"false_positive_rate": 0.2}},
        {"scoring": {"highest_share": 0.1}},
    ],
)
def test_what_phase_1_does_not_see_is_not(over):
    for variant in ("lis", "linsep"):
        assert key(variant=variant) == key(variant=variant, **over)


def test_variants_share_where_they_minimise_the_same():
    assert key(variant="ae", negatives="none") == key(variant="lis")
    assert key(variant="linsep") != key(variant="lis")
    assert key(variant="linear-lis") not in {key(variant="lis"), key(variant="linsep")}
    weight = {"feature_extraction": {"linsep_weight": 0.7}}
    assert key(variant="lis") == key(variant="lis", **weight)
    assert key(variant="linsep") != key(variant="linsep", **weight)
    assert key(variant="anogan") == key(variant="anogan-fm")
    assert key(variant="anogan") != key(variant="anogan", anogan={"epochs": 4})
    assert key(variant="anogan") not in {key(variant="lis"), key(variant="vae")}


@pytest.mark.slow("two adversarial trainings; that their keys are equal stays in the fast set")
def test_both_anogans_share_their_gan():
    shared = SharedPhase1()
    detectors = [fitted(name, "none", tiny_data(), shared) for name in ("anogan", "anogan-fm")]
    assert phases(detectors[0]) == phases(detectors[1])
    alone = fitted("anogan-fm", "none", tiny_data())
    pictures = surface("coins", 20, "test")
    np.testing.assert_array_equal(detectors[1].score(pictures), alone.score(pictures))


def other_negatives(data: TrainingData) -> TrainingData:
    stopping, calibration = surface("moon", 40, "stopping"), surface("moon", 40, "calibration")
    return TrainingData(data.normal, Parts(surface("moon", 320), stopping, calibration))


def fitted(variant, negatives, data, shared=None):
    detector = make_detector(tiny_config(**(GRAVEL | {"variant": variant, "negatives": negatives})))
    detector.fit_data(data, TrainingOptions(shared=shared))
    return detector


def phases(detector):
    return [row["seconds"] for row in detector.history if row["phase"] == 1]


def test_a_shared_phase_1_gives_the_scores_of_an_unshared_one():
    coins, moon = tiny_data(), other_negatives(tiny_data())
    shared = SharedPhase1()
    first = fitted("lis", "surfaces:coins", coins, shared)
    second = fitted("lis", "surfaces:moon", moon, shared)
    alone = fitted("lis", "surfaces:moon", moon)
    assert phases(first) == phases(second)  # the very same epochs, trained once
    assert phases(first) != phases(alone)
    pictures = np.concatenate([surface("gravel", 20, "test"), surface("page", 20, "test")])
    assert np.array_equal(second.score(pictures), alone.score(pictures))
    assert not np.array_equal(first.score(pictures), second.score(pictures))
    before = second.phase1_detector().score(pictures)
    assert np.array_equal(before, alone.phase1_detector().score(pictures))


def test_one_of_another_key_is_not_found(tmp_path):
    def linsep(negatives):
        return tiny_config(**(GRAVEL | {"variant": "linsep", "negatives": negatives}))

    shared = SharedPhase1()
    shared.keep(linsep("surfaces:coins"), ResumePoint(None, phase=2))
    assert shared.find(linsep("surfaces:coins"), tmp_path).phase == 2
    assert shared.find(linsep("surfaces:moon"), tmp_path) is None


@pytest.mark.slow("two whole trainings; that another key finds nothing is above")
def test_linsep_trains_its_own_phase_1_for_each_negative_set():
    shared = SharedPhase1()
    first = fitted("linsep", "surfaces:coins", tiny_data(), shared)
    second = fitted("linsep", "surfaces:moon", other_negatives(tiny_data()), shared)
    assert phases(first) != phases(second)


def test_pictures_are_decoded_once_and_memory_is_bounded():
    whole = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2, 1)
    decoded = []

    def decode(indices):
        decoded.extend(indices.tolist())
        return whole[indices]

    kept = DecodedPictures(limit=2 * whole.nbytes)
    for indices in (np.array([1, 3]), np.array([3, 4]), np.array([1, 3, 4])):
        found = kept.pixels("a", whole.shape, indices, decode)
        assert np.array_equal(found, whole[indices])
        found[:] = 0  # a copy: spoils nothing
    assert decoded == [1, 3, 4]
    for key_ in "bc":  # the first part has to go
        kept.pixels(key_, whole.shape, np.array([0]), decode)
    kept.pixels("a", whole.shape, np.array([1]), decode)
    assert decoded == [1, 3, 4, 0, 0, 1]
    nothing = DecodedPictures(limit=0)
    for _ in range(2):
        nothing.pixels("a", whole.shape, np.array([5]), decode)
    assert decoded[-2:] == [5, 5]
