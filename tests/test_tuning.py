"""`tune`: what it tries, what it keeps, and that it goes on where it was."""

from dataclasses import replace

import numpy as np
import optuna
import pytest
from click.testing import CliRunner
from sklearn.exceptions import ConvergenceWarning
from training_fixtures import tiny_config, tiny_data

from lisae_tf.cli import main
from lisae_tf.config.settings import read_settings, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder
from lisae_tf.experiments import selection, tuning

SIZES = len(tuning.LATENT_SIZES)


def with_latent(config, latent):
    network = config.network.model_copy(update={"latent": latent})
    return config.model_copy(update={"network": network})


@pytest.fixture
def study(monkeypatch):
    """A study without training: the nearer γ is to 0.2 and the latent size to 16, the better."""
    config, data = with_latent(tiny_config(), 8), tiny_data()
    tried = []

    def fit(left, shared):
        if left.config.seed == config.seed:  # else trained again, beside the settings given
            tried.append((left.config, left.kind, shared))
        return left.config

    def measure(config, left):
        off = abs(np.log(config.latent_shaping.gamma / 0.2))
        off += abs(np.log(config.network.latent / 16))
        return selection.HeldOut(auroc=off / 20, hardest=1 - off / 20)  # the first misleads

    monkeypatch.setattr(selection, "fit", fit)
    monkeypatch.setattr(selection, "measure", measure)
    kinds = [
        selection.LeftOut(config, data, data.negative.fit, kind) for kind in ("a kind", "another")
    ]

    class Study:
        def __init__(self):
            self.config, self.tried, self.kinds = config, tried, kinds

        @property
        def configs(self):
            """Of each trial."""
            return [config for config, kind, _ in tried if kind == kinds[0].kind]

        def tune(self, folder, trials, config=config, kinds=kinds, say=lambda line: None):
            own = [replace(each, config=config) for each in kinds]
            return tuning.tune(config, own, folder, trials, say)

    return Study()


def test_latent_sizes_come_first_then_gamma_and_beta_and_the_best_are_written(study, tmp_path):
    found, best = study.tune(tmp_path, 14)
    assert len(study.tried) == 2 * 14, "each trial on both kinds"
    swept, rest = study.configs[:SIZES], study.configs[SIZES:]
    assert swept[0] == study.config
    assert sorted(c.network.latent for c in swept) == list(tuning.LATENT_SIZES)
    assert all(c.latent_shaping == study.config.latent_shaping for c in swept)
    assert {c.network.latent for c in rest} == {16}
    assert len({(c.latent_shaping.gamma, c.latent_shaping.beta) for c in rest}) == len(rest)
    chosen = resolve(read_settings(tmp_path / tuning.BEST))
    gammas = [c.latent_shaping.gamma for c in study.configs if c.network.latent == 16]
    nearest = min(gammas, key=lambda gamma: abs(np.log(gamma / 0.2)))
    assert (chosen.network.latent, chosen.latent_shaping.gamma) == (16, nearest)
    # Nothing but what is tuned may change.
    same = {"latent_shaping": chosen.latent_shaping, "network": chosen.network}
    assert chosen == study.config.model_copy(update=same)
    assert best.value == found.best_value == max(trial.value for trial in found.trials)


@pytest.mark.parametrize(
    "gains, kept",
    [
        ((0.02, 0.01, 0.03, 0.01), False),
        ((0.2, -0.05, -0.05, -0.05), True),
        ((0.1, -0.02), True),
        ((0.1, 0.001), False),
        ((0.001,), False),
        ((-0.1, -0.1), True),
    ],
)
def test_what_is_given_is_changed_for_a_clear_gain_alone(study, tmp_path, monkeypatch, gains, kept):
    kinds = [replace(study.kinds[0], kind=str(place)) for place in range(len(gains))]

    def measure(config, left):
        gain = gains[int(left.kind)] * (config.network.latent == 64)
        worse = 0.01 * (config.latent_shaping.gamma != study.config.latent_shaping.gamma)
        return selection.HeldOut(0.5, 0.5 + gain - worse - 0.3 * (config.network.latent < 8))

    monkeypatch.setattr(selection, "measure", measure)
    _, best = study.tune(tmp_path, SIZES + 3, kinds=kinds)
    chosen = resolve(read_settings(tmp_path / tuning.BEST))
    assert chosen == (study.config if kept else with_latent(study.config, 64))
    assert {c.network.latent for c, _, _ in study.tried[SIZES * len(kinds) :]} == {
        chosen.network.latent
    }
    assert best.params[tuning.LATENT] == chosen.network.latent


def is_noise(study, monkeypatch):
    """No setting is better than another: figures differ by seed and by pictures alone."""

    def measure(config, left):
        key = repr((config.network.latent, config.latent_shaping, config.seed, left.rows))
        random = np.random.default_rng(list(key.encode()))
        return selection.HeldOut(0.5, 0.5 + 0.1 * random.random() + 0.001 * (left.kind == "a kind"))

    monkeypatch.setattr(selection, "measure", measure)


def test_the_best_of_many_trials_is_not_taken_for_luck(study, tmp_path, monkeypatch):
    is_noise(study, monkeypatch)
    said = []
    found, best = study.tune(tmp_path, 12, say=said.append)
    assert tuning.Search(study.config).best(found).number != best.number == 0
    assert resolve(read_settings(tmp_path / tuning.BEST)) == study.config
    assert said[-1].endswith("not clearly better, so the settings given stay")
    # The comparison is kept with the study.
    monkeypatch.setattr(tuning, "_gains", lambda *_: pytest.fail("it was made again"))
    assert study.tune(tmp_path, 12)[1].number == 0


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("pictures", [0.0, 1.0])
def test_of_settings_that_are_no_better_few_are_taken(kinds, pictures):
    """Many tunings of pure noise, of the seed alone or of what suits some pictures by chance."""
    random = np.random.default_rng(0)
    tunings, trials, rounds = 1000, 30, tuning.ROUNDS
    claimed = 0
    for _ in range(tunings):
        # Of every setting: what suits each of the shares of pictures, of which one is searched on.
        suits = pictures * random.normal(size=(trials + 1, kinds, 1 + rounds))
        values = (suits[..., 0] + random.normal(size=(trials + 1, kinds))).mean(axis=1)
        chosen = 1 + np.argmax(values[1:])
        again = suits[[chosen, 0], :, 1:] + random.normal(size=(2, kinds, rounds))
        claimed += tuning.is_clear(again[0] - again[1])
    assert claimed / tunings <= tuning.LEVEL + 3 * np.sqrt(tuning.LEVEL / tunings)


def test_a_few_pictures_prove_nothing(study, tmp_path):
    few = [replace(each, pixels=each.pixels[:5]) for each in study.kinds]
    said = []
    study.tune(tmp_path, SIZES, kinds=few, say=said.append)
    assert said[-1] == "5 held-out pictures cannot prove any setting better: those given stay"
    assert resolve(read_settings(tmp_path / tuning.BEST)) == study.config


def test_a_gain_counts_where_it_is_one_against_every_kind():
    gains = np.random.default_rng(0).normal(0.02, 0.005, (2, tuning.ROUNDS))
    assert tuning.is_clear(gains)
    assert not tuning.is_clear(gains * [[1], [-1]])


def test_settings_outside_what_is_tried_are_tried_as_given(study, tmp_path):
    given = tuning.apply(
        with_latent(study.config, 24),
        {"latent_shaping.gamma": 1.23456, "latent_shaping.beta": 0.012345},
    )
    study.tune(tmp_path, 1, given)
    assert study.configs == [given]
    assert resolve(read_settings(tmp_path / tuning.BEST)) == given


def test_a_relative_gamma_is_tried_as_a_multiple(study, tmp_path):
    given = tuning.apply(study.config, {tuning.GAMMA_TIMES: 10.0})
    study.tune(tmp_path, SIZES + 4, given)
    tried = [c.latent_shaping for c in study.configs]
    assert study.configs[0] == given
    assert {shaping.gamma for shaping in tried} == {given.latent_shaping.gamma}
    assert len({shaping.gamma_times for shaping in tried}) == 5
    low, high = tuning.RANGES[tuning.GAMMA_TIMES]
    assert all(low <= shaping.gamma_times <= high for shaping in tried)


def test_a_model_without_gamma_is_tried_once_at_each_size(study, tmp_path):
    plain = study.config.model_copy(update={"variant": "ae"})
    study.tune(tmp_path, 30, plain)
    study.tune(tmp_path, 30, plain)
    assert sorted(c.network.latent for c in study.configs) == list(tuning.LATENT_SIZES)


def test_lis_knn_is_tried_with_numbers_of_directions(study, tmp_path):
    config = study.config.model_copy(update={"variant": "lis-knn"})
    study.tune(tmp_path, 30, config)
    assert [c.lis_knn.directions for c in study.configs] == [80, 20, 40, 120]
    assert {c.network.latent for c in study.configs} == {8}


def test_a_variant_without_a_size_is_not_tuned(study, tmp_path):
    config = study.config.model_copy(update={"variant": "mahalanobis"})
    with pytest.raises(LisaeError, match="mahalanobis has neither a latent size nor γ to tune"):
        study.tune(tmp_path, 3, config)
    assert study.configs == []


def test_phase_1_is_shared_where_it_does_not_see_the_negatives(study, tmp_path):
    for variant, phases in (("lis", SIZES), ("linsep", 2 * SIZES)):
        study.tried.clear()
        config = study.config.model_copy(update={"variant": variant})
        study.tune(make_folder(tmp_path / variant), SIZES + 2, config)
        assert len({id(shared) for _, _, shared in study.tried}) == phases
        by_kind = {(kind, c.network.latent): id(shared) for c, kind, shared in study.tried}
        assert len(by_kind) == 2 * SIZES


def test_a_study_goes_on_where_it_was_with_new_proposals(study, tmp_path):
    study.tune(tmp_path, 4)
    study.tune(tmp_path, 9)
    assert len(study.configs) == 9
    assert sorted(c.network.latent for c in study.configs[:SIZES]) == list(tuning.LATENT_SIZES)
    study.tune(tmp_path, 12)
    assert len({(c.latent_shaping.gamma, c.latent_shaping.beta) for c in study.configs}) == 7
    study.tune(tmp_path, 12)
    assert len(study.configs) == 12


def test_a_trial_that_was_cut_off_is_tried_again(study, tmp_path):
    search = tuning.Search(study.config)
    cut_off = tuning.open_study(tmp_path)
    assert search.enqueue(cut_off) == search.enqueue(cut_off) == len(cut_off.trials) == SIZES
    search.suggest(cut_off.ask())
    study.tune(tmp_path, SIZES)
    assert len(study.configs) == SIZES
    assert study.config in study.configs
    found = tuning.open_study(tmp_path)
    assert search.given_value(found) == pytest.approx(tuning.done(found)[-1].value)


def test_a_failing_trial_ends_only_itself(study, tmp_path, monkeypatch):
    said = []
    real = selection.fit

    def fit(left, shared):
        if left.config.network.latent == 4 and left.kind == "another":
            raise LisaeError("it diverged")
        return real(left, shared)

    monkeypatch.setattr(selection, "fit", fit)
    found, _ = study.tune(tmp_path, 3, say=said.append)
    assert "trial 2: failed: it diverged" in said
    assert [trial.params[tuning.LATENT] for trial in tuning.done(found)] == [8, 16]
    assert (tmp_path / tuning.BEST).is_file()


def test_a_damaged_journal_is_refused(study, tmp_path):
    (tmp_path / tuning.TRIALS).write_text("nothing\n")
    with pytest.raises(LisaeError, match="damaged"):
        study.tune(tmp_path, 2)


def test_a_study_of_an_earlier_version_is_refused(study, tmp_path):
    tuning.open_study(tmp_path).add_trial(optuna.create_trial(value=0.5))
    with pytest.raises(LisaeError, match="earlier version; tune in another folder"):
        study.tune(tmp_path, 2)


def test_clusters_are_left_out_of_every_part_and_are_what_is_measured_against():
    data = tiny_data()
    found = selection.leave_out_clusters(tiny_config(), data)
    assert len(found) == len({left.kind for left in found}) == selection.KINDS
    pictures = []
    for left in found:
        counts = [len(getattr(each.negative, "fit")) for each in (data, left.data)]  # noqa: B009
        assert selection.SMALLEST_CLUSTER <= counts[0] - counts[1] < counts[0]
        kept = {picture.tobytes() for picture in left.data.negative.fit}
        pictures.append({picture.tobytes() for picture in left.pixels})
        assert not kept & pictures[-1]
        np.testing.assert_array_equal(left.data.normal.fit, data.normal.fit)
    assert not pictures[0] & pictures[1]


def test_negatives_that_are_all_alike_are_refused():
    data = tiny_data()
    same = np.repeat(data.negative.fit[:1], len(data.negative.fit), axis=0)
    alike = replace(data, negative=replace(data.negative, fit=same))
    with pytest.warns(ConvergenceWarning), pytest.raises(LisaeError, match="all negatives look"):
        selection.leave_out_clusters(tiny_config(), alike)


def test_negatives_are_needed():
    result = CliRunner().invoke(main, ["tune", "--negatives", "none", "--dataset", "surfaces"])
    assert result.exit_code == 1
    assert "negative" in result.output


def test_one_command_at_a_time_writes_to_a_study(study, tmp_path, monkeypatch):
    folder, resume = tmp_path / "study", []

    def second(*_):
        resume.append(CliRunner().invoke(main, ["tune", "--out", str(folder), "--resume"]))
        raise LisaeError("the first ends here")

    monkeypatch.setattr(selection, "left_out", lambda *_, **__: study.kinds)
    monkeypatch.setattr(tuning, "tune", second)
    CliRunner().invoke(main, ["tune", "--out", str(folder)])
    assert len(resume) == 1
    assert "another command is writing to" in resume[0].output


# Networks take seconds for each of many trainings; by default a formula takes their place, and the
# tests of `study` say how γ and β are tried.
@pytest.mark.parametrize(
    "variant, rounds",
    [
        ("linear-ae", 0),
        pytest.param("lis", tuning.ROUNDS, marks=pytest.mark.slow("trains dozens of networks")),
    ],
)
def test_on_the_embedded_photographs(tmp_path, monkeypatch, variant, rounds):
    """The whole command, with real trainings, of one epoch where there are epochs."""
    monkeypatch.setattr(tuning, "ROUNDS", rounds)
    quick = ("feature_extraction.epochs=1", "latent_shaping.epochs=1",
             "feature_extraction.collapse_fraction=0", "network.filters=[4,8]",
             "feature_extraction.batch_size=256", "latent_shaping.batch_size=256")  # fmt: skip
    settings = [part for each in quick * (variant == "lis") for part in ("--set", each)]
    result = CliRunner().invoke(
        main,
        [
            *("tune", "--variant", variant, "--trials", "2", "--out", str(tmp_path / "study")),
            *settings,
        ],
    )
    assert result.exit_code == 0, result.output
    assert "left out of each training, in turn: surfaces: camera; surfaces:" in result.output
    assert "chosen of 2:" in result.output
    assert {path.name for path in (tmp_path / "study").iterdir()} >= {
        "config.yaml", tuning.TRIALS, tuning.BEST, tuning.FIGURE,
    }  # fmt: skip
