"""`benchmark tuning`: one setting for each column, from held-out data, beside the defaults."""

import numpy as np
import pytest
from benchmark_fixtures import invented
from click.testing import CliRunner

from lisae_tf.cli import main
from lisae_tf.config.settings import Config, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, read_json, update_json, write_json
from lisae_tf.experiments import selection, tuning
from lisae_tf.grids import grid
from lisae_tf.paper import column_tuning, report, tables, tuning_table

COLUMN = "fashion_mnist"


@pytest.fixture
def attempts(monkeypatch):
    """Studies without training: the nearer γ is to 0.3, the better; a large β fails."""
    seen = []

    def left_out(config, data_dir):
        return [selection.LeftOut(config, None, None, kind) for kind in ("a kind", "a kind")]

    def fit(left, shared):
        seen.append(left.config)
        if left.config.latent_shaping.beta > 5:
            raise LisaeError("it diverged")
        return left.config

    monkeypatch.setattr(selection, "left_out", left_out)
    monkeypatch.setattr(selection, "fit", fit)

    def measure(config, left):
        off = abs(np.log(config.latent_shaping.gamma / 0.3))
        return selection.HeldOut(auroc=off / 10, hardest=1 - off / 10)  # the first misleads

    monkeypatch.setattr(selection, "measure", measure)
    return seen


def test_the_defaults_are_those_of_a_folder():
    config = tuning_table.folder_defaults("mnist", ["3"])
    plain = Config()
    for section in ("network", "feature_extraction", "latent_shaping", "data"):
        assert getattr(config, section) == getattr(plain, section)
    assert (config.negatives, config.protocol, config.normal_class) == (
        "omniglot", "one-class", ["3"],
    )  # fmt: skip


def test_a_setting_is_tried_on_both_tasks_and_the_best_is_for_all(attempts, tmp_path):
    said = []
    column_tuning.choose(COLUMN, tmp_path, 10, None, 1, said.append)
    by_setting = {}
    for config in attempts:
        key = (config.network.latent, *config.latent_shaping.model_dump().values())
        by_setting.setdefault(key, set()).add(tuple(config.normal_class))
    assert set(map(len, by_setting.values())) == {2}
    given = tuning_table.folder_defaults(COLUMN, ["Dress"])
    assert attempts[0] == given
    chosen = resolve(tuning_table.choice(tmp_path, COLUMN)["settings"])
    fine = [c.latent_shaping for c in attempts if c.latent_shaping.beta <= 5]
    assert chosen.latent_shaping.gamma == min(
        (each.gamma for each in fine), key=lambda gamma: abs(np.log(gamma / 0.3))
    )
    assert any("failed: it diverged" in line for line in said) == (len(fine) < len(attempts))
    study = tuning.open_study(tmp_path / tuning_table.FOLDER, COLUMN)
    done = tuning.done(study)
    assert 4 * len(done) == len(fine)  # two tasks, two kinds left out of each
    assert all(t.user_attrs[tuning.AUROC] == pytest.approx(1 - t.value) for t in done)
    # Nothing but what is tuned differs from the defaults, on any task.
    cells = tuning_table.cells_of(tmp_path, COLUMN)
    assert [len(found) for found in cells.values()] == [10, 10]
    for before, after in zip(*cells.values(), strict=True):
        same = {"latent_shaping": after.config.latent_shaping, "network": after.config.network}
        assert after.config == before.config.model_copy(update=same)
        assert after.path != before.path
    # What is there is not tried again.
    count = len(attempts)
    column_tuning.choose(COLUMN, tmp_path, 10, None, 1, said.append)
    assert len(attempts) == count
    values = [trial.value for trial in tuning.done(study)]
    choice = tuning_table.choice(tmp_path, COLUMN)
    assert (choice["trials"], choice["left_out"]) == (10, ["a kind"] * 4)
    assert (choice[tuning_table.DEFAULTS], choice[tuning_table.TUNED]) == (values[0], max(values))


def test_where_the_defaults_are_kept_nothing_is_trained_twice(tmp_path):
    path = tuning_table.choices_file(tmp_path)
    kept = tuning_table.folder_defaults(COLUMN, ["Dress"])
    for config, same in ((kept, True), (tuning.apply(kept, {tuning.LATENT: 8}), False)):
        update_json(path, COLUMN, {"settings": config.model_dump()})
        cells = tuning_table.cells_of(tmp_path, COLUMN)
        assert (cells[tuning_table.DEFAULTS] == cells[tuning_table.TUNED]) is same


def test_trials_of_one_latent_size_share_phase_1(attempts, tmp_path, monkeypatch):
    kept, fit = {}, selection.fit

    def remembering(left, shared):
        place = (tuple(left.config.normal_class), left.config.network.latent)
        kept.setdefault(place, []).append(shared)
        return fit(left, shared)

    monkeypatch.setattr(selection, "fit", remembering)
    sizes, trials = len(tuning.LATENT_SIZES), column_tuning.TOGETHER
    column_tuning.choose(COLUMN, tmp_path, sizes + trials, None, 1, lambda line: None)
    phases = {place: len(set(map(id, found))) for place, found in kept.items()}
    sized = resolve(tuning_table.choice(tmp_path, COLUMN)["settings"]).network.latent
    # Each size once for both kinds; those after it once more for all trials and both kinds.
    assert sum(map(len, kept.values())) == 2 * 2 * (sizes + trials)
    assert all(count == 1 + (latent == sized) for (_, latent), count in phases.items())


def test_a_trial_is_kept_as_soon_as_its_tasks_are_there(attempts, tmp_path, monkeypatch):
    fit = selection.fit

    def interrupted(left, shared):
        if len(attempts) == 2 * 2 * 2 + 1:  # in the third trial: two tasks, two kinds
            raise KeyboardInterrupt
        return fit(left, shared)

    monkeypatch.setattr(selection, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        column_tuning.choose(COLUMN, tmp_path, 3, None, 1, lambda line: None)
    study = tuning.open_study(tmp_path / tuning_table.FOLDER, COLUMN)
    assert [len(trial.user_attrs[tuning.HARDEST]) for trial in tuning.done(study)] == [4, 4]


def test_where_nothing_can_be_trained_it_says_so(attempts, tmp_path, monkeypatch):
    def fit(left, shared):
        raise LisaeError("it diverged")

    monkeypatch.setattr(selection, "fit", fit)
    with pytest.raises(LisaeError, match="no setting could be trained on fashion_mnist"):
        column_tuning.choose(COLUMN, tmp_path, 3, None, 1, lambda line: None)
    assert not tuning_table.choices_file(tmp_path).exists()


def test_the_report_compares_columns_whose_tasks_are_all_there(tmp_path):
    for column in (COLUMN, "mnist", "svhn", "cifar10"):
        config = tuning_table.folder_defaults(column, tables.COLUMNS[column].tasks[0])
        changed = {"network.latent": 64, "latent_shaping.gamma": 0.3}
        settings = {} if column == "cifar10" else changed  # there the defaults are kept
        choice = {
            "trials": 12,
            "left_out": ["Coat", "Bag"],
            tuning_table.DEFAULTS: 0.5,
            tuning_table.TUNED: 0.6,
            "settings": tuning.apply(config, settings).model_dump(),
        }
        update_json(tuning_table.choices_file(tmp_path), column, choice)
        found = tuning_table.cells_of(tmp_path, column)
        # On SVHN one task gains and one loses: no clear gain.
        special = {"svhn": [0.9, 0.75] + 8 * [0.8], "cifar10": 10 * [0.8]}
        after = special.get(column, 10 * [0.9])
        for aurocs, cells in zip((10 * [0.8], after), found.values(), strict=True):
            tasks = 3 if column == "mnist" else 10
            for auroc, cell in list(zip(aurocs, cells, strict=True))[:tasks]:
                make_folder(cell.path.parent)
                write_json(cell.path, invented(cell, auroc))
    report.write(tmp_path, tmp_path / "RESULTS.md", {})
    assert read_json(tmp_path / "summary.json")["tuning"] == {
        tuning_table.DEFAULTS: {
            COLUMN: {"mean": 0.8, "std": None, "seeds": 1},
            "svhn": {"mean": 0.8, "std": None, "seeds": 1},
            "cifar10": {"mean": 0.8, "std": None, "seeds": 1},
        },
        tuning_table.TUNED: {
            COLUMN: {"mean": 0.9, "std": None, "seeds": 1},
            "svhn": {"mean": 0.805, "std": None, "seeds": 1},
            "cifar10": {"mean": 0.8, "std": None, "seeds": 1},
        },
    }
    text = (tmp_path / report.PAGES / "tuning.md").read_text()
    assert "better on 2 of 3 columns, on 1 of them by more than the standard error" in text
    assert "| ▲ +0.1000 ± 0.0000 |" in text and "| ▲ +0.0050 ± 0.0117 |" in text
    assert "| cifar10 | 0.8000 | 0.8000 | defaults kept |" in text
    assert "3 of 10 tasks" in text
    assert "latent 64, γ 0.3, β 1 | 0.5000 → 0.6000 (12 trials; without Coat; Bag) |" in text


@pytest.mark.parametrize("trials, kept", [(8, False), (1, True)])
def test_the_command_trains_both_settings_and_stores_them(
    attempts, tmp_path, monkeypatch, trials, kept
):
    trained = []

    def run(cells, data_dir, jobs, **options):
        for cell in cells:
            trained.append(cell)
            yield grid.Finished(cell, invented(cell) | {"auroc_phase1": None})

    monkeypatch.setattr(grid, "run", run)
    arguments = ("--columns", COLUMN, "--trials", str(trials), "--out", str(tmp_path))
    result = CliRunner().invoke(main, ["benchmark", "tuning", *arguments])
    assert result.exit_code == 0, result.output
    assert len(trained) == (10 if kept else 20)
    folders = {cell.path.relative_to(tmp_path).parts[2] for cell in trained}
    assert folders == {"folder-defaults", *(() if kept else ("tuned",))}
    wrong = CliRunner().invoke(main, ["benchmark", "tuning", "--columns", "nothing"])
    assert wrong.exit_code == 1 and "there is no column 'nothing'" in wrong.output
