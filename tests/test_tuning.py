"""`tune`: what it tries, what it keeps, and that it goes on where it was."""

import numpy as np
import pytest
from click.testing import CliRunner
from training_fixtures import tiny_config, tiny_data

from lisae_tf import selection, tuning
from lisae_tf.cli import main
from lisae_tf.config import read_settings, resolve
from lisae_tf.errors import LisaeError


@pytest.fixture
def left(monkeypatch):
    """A study without training: the nearer γ is to 0.2, the better."""
    config, data = tiny_config(), tiny_data()
    tried = []

    def fit(left, shared):
        tried.append(left.config)
        return left.config

    def measure(config, left):
        off = abs(np.log(config.latent_shaping.gamma / 0.2))
        return selection.HeldOut(auroc=off / 10, hardest=1 - off / 10)  # the first misleads

    monkeypatch.setattr(selection, "fit", fit)
    monkeypatch.setattr(selection, "measure", measure)
    found = selection.LeftOut(config, data, data.negative.fit, "a kind")
    return found, tried


def test_the_settings_given_come_first_and_the_best_are_written(left, tmp_path):
    found, tried = left
    config = found.config.model_copy(
        update={"network": found.config.network.model_copy(update={"latent": 8})}
    )
    study = tuning.tune(config, found, tmp_path, 12)
    assert len(tried) == 12
    first = tried[0]
    assert first.network.latent == 8
    assert first.latent_shaping.gamma == config.latent_shaping.gamma
    assert len({each.latent_shaping.gamma for each in tried}) > 6
    best = resolve(read_settings(tmp_path / tuning.BEST))
    nearest = min((each.latent_shaping.gamma for each in tried), key=lambda g: abs(np.log(g / 0.2)))
    assert best.latent_shaping.gamma == nearest
    # Nothing but what is tuned may change.
    same = {"latent_shaping": best.latent_shaping, "network": best.network}
    assert best == config.model_copy(update=same)
    assert study.best_value == max(trial.value for trial in study.trials)


def test_a_study_goes_on_where_it_was_with_new_proposals(left, tmp_path):
    found, tried = left
    tuning.tune(found.config, found, tmp_path, 4)
    tuning.tune(found.config, found, tmp_path, 9)
    assert len(tried) == 9
    assert len({(c.latent_shaping.gamma, c.latent_shaping.beta) for c in tried}) == 9
    tuning.tune(found.config, found, tmp_path, 9)
    assert len(tried) == 9


def test_a_first_trial_that_was_cut_off_is_tried_again(left, tmp_path):
    found, tried = left
    latent = found.config.network.model_copy(update={"latent": 8})
    config = found.config.model_copy(update={"network": latent})
    cut_off = tuning.open_study(tmp_path, 0)
    tuning.begin_with(cut_off, config)
    tuning.begin_with(cut_off, config)
    assert len(cut_off.trials) == 1
    tuning.suggest(cut_off.ask(), "lis")
    tuning.tune(config, found, tmp_path, 3)
    assert len(tried) == 3
    assert tried[0].network.latent == 8
    assert tried[0].latent_shaping == config.latent_shaping
    assert tried[1] != tried[0] != tried[2]


def test_a_failing_trial_ends_only_itself(left, tmp_path, monkeypatch):
    found, tried = left
    said = []
    real = selection.fit

    def fit(left, shared):
        if len(tried) == 1:
            tried.append(None)
            raise LisaeError("it diverged")
        return real(left, shared)

    monkeypatch.setattr(selection, "fit", fit)
    tuning.tune(found.config, found, tmp_path, 3, said.append)
    assert "trial 2: failed: it diverged" in said
    assert (tmp_path / tuning.BEST).is_file()


def test_a_damaged_journal_is_refused(left, tmp_path):
    found, _ = left
    (tmp_path / tuning.TRIALS).write_text("nothing\n")
    with pytest.raises(LisaeError, match="damaged"):
        tuning.tune(found.config, found, tmp_path, 2)


def test_a_cluster_is_left_out_of_every_part_and_is_what_is_measured_against():
    data = tiny_data()
    left = selection.leave_out_cluster(tiny_config(), data)
    counts = [len(getattr(each.negative, "fit")) for each in (data, left.data)]  # noqa: B009
    assert selection.SMALLEST_CLUSTER <= counts[0] - counts[1] < counts[0]
    kept = {picture.tobytes() for picture in left.data.negative.fit}
    assert not kept & {picture.tobytes() for picture in left.pixels}
    np.testing.assert_array_equal(left.data.normal.fit, data.normal.fit)


def test_negatives_are_needed():
    result = CliRunner().invoke(main, ["tune", "--negatives", "none", "--dataset", "surfaces"])
    assert result.exit_code == 1
    assert "negative" in result.output


def test_on_the_embedded_photographs(tmp_path):
    """The whole command, with real trainings of one epoch."""
    quick = ("feature_extraction.epochs=1", "latent_shaping.epochs=1",
             "feature_extraction.collapse_fraction=0", "network.filters=[4,8]")  # fmt: skip
    settings = [part for each in quick for part in ("--set", each)]
    result = CliRunner().invoke(
        main, ["tune", "--trials", "2", "--out", str(tmp_path / "study"), *settings]
    )
    assert result.exit_code == 0, result.output
    assert "left out of each training: surfaces: camera" in result.output
    assert {path.name for path in (tmp_path / "study").iterdir()} >= {
        "config.yaml", tuning.TRIALS, tuning.BEST, tuning.FIGURE,
    }  # fmt: skip
