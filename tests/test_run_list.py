"""`runs list` and `runs compare`."""

import shutil
from pathlib import Path

import pytest
from conftest import QUICK

from lisae_tf.commands.train import run_name
from lisae_tf.config.settings import resolve
from lisae_tf.runs import files as run_files
from lisae_tf.runs import folders as runs

RUN = Path("runs/normal-lis-seed0")
SIDES = ("--normal-dir", "normal", "--negative-dir", "negative", "--anomaly-dir", "anomaly")


@pytest.fixture
def begun(workplace):
    """An interrupted run beside the complete one."""
    folder = Path("runs/begun")
    runs.claim(folder, (RUN / "config.yaml").read_text(), resume=False)
    run_files.record(folder)
    (folder / "checkpoint.npz").touch()
    return folder


def rows(result):
    assert (result.exit_code, result.stderr) == (0, "")
    return {line.split()[0]: " ".join(line.split()) for line in result.stdout.splitlines() if line}


def test_each_run_is_listed_with_what_became_of_it(begun, cli):
    metrics = runs.read_metrics(RUN)
    found = rows(cli("runs", "list"))
    assert found.keys() == {"run", "begun", RUN.name}
    assert " normal lis 1.000 (95 %: 0." in found[RUN.name]
    assert found[RUN.name].endswith(f"to 1.000) {metrics['threshold']:.5g} complete")
    assert found["begun"].endswith(" normal lis - - interrupted")
    with run_files.writing(begun):
        assert rows(cli("runs", "list"))["begun"].endswith("being written")
    runs.abandon(begun, "the disk is full")
    assert rows(cli("runs", "list"))["begun"].endswith("failed: the disk is full")
    path = RUN / "metrics.json"
    path.write_text(path.read_text().replace("0.05", "0.04"))
    assert f"unreadable: {path} is damaged" in rows(cli("runs", "list"))[RUN.name]


def test_a_run_that_fails_leaves_nothing_in_the_way(workplace, cli, monkeypatch):
    from lisae_tf.experiments import experiment

    def fail(*args, **how):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run", fail)
        with pytest.raises(RuntimeError):
            cli("train", *SIDES, *QUICK, "--quiet", "--out", "new")
    assert not Path("new").exists()


def test_runs_on_other_folders_have_other_names():
    given = {"dataset": "folder", "normal_dir": "a/good", "negatives": "none", "variant": "ae"}
    name, *others = (
        run_name(resolve(given | more))
        for more in ({}, {"normal_dir": "b/good"}, {"anomaly_dir": "c"}, {"seed": 1})
    )
    assert name.startswith("good-ae-seed0-")
    assert len({name, *others}) == 4
    assert name == run_name(resolve(given))


def test_two_runs_are_compared(workplace, cli):
    shutil.copytree(RUN, "same")
    found = cli("runs", "compare", RUN, "same")
    assert (found.exit_code, found.stderr) == (0, "")
    assert "the settings are the same" in found.stdout and "note" not in found.stdout
    Path("anomaly/000.png").rename("one.png")
    more = ("--set", "network.latent=3", "--quiet", "--out", "other")
    assert cli("train", *SIDES, *QUICK, *more).exit_code == 0
    said = rows(cli("runs", "compare", RUN, "other"))
    a, b = (runs.read_metrics(folder) for folder in (RUN, Path("other")))
    assert said["threshold"] == f"threshold {a['threshold']:.5g} {b['threshold']:.5g}"
    assert said["n_anomaly"] == "n_anomaly 9 8"
    assert said["network.latent"] == "network.latent 4 3"
    assert "seed" not in said
    assert said["note:"].startswith("note: they were not tested on the same pictures")
