"""`benchmark latent` and `benchmark tuning`: settings chosen from held-out data, and on no test."""

import math
import multiprocessing

import numpy as np
import pytest
from click.testing import CliRunner
from training_fixtures import invented, tiny_config

from lisae_tf.cli import main
from lisae_tf.config.settings import Config, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, read_json, update_json, write_json
from lisae_tf.data import datasets, tasks
from lisae_tf.data.datasets import PHOTOGRAPHS, DecodedPictures, patches
from lisae_tf.data.pictures import content_hashes
from lisae_tf.experiments import selection, tuning
from lisae_tf.grids import grid
from lisae_tf.grids.cells import LATENTS, Column, Row, chosen_latent, latent_choice, latent_key
from lisae_tf.paper import column_tuning, latents, report, tables, tuning_table

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
    text = (tmp_path / report.PAGES / "settings.md").read_text()
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


@pytest.mark.slow("decodes the whole of MNIST, Omniglot and Fashion-MNIST")
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
    rows = {"AE": Row("linear-ae", "none")}  # trained by a formula
    record = chosen(column, tmp_path, sizes=[4], rows=rows)["AE"]
    assert record["tasks"] == ["moon", "hubble_deep_field"]
    assert set(record["trained"]) == {"4"}
    assert 0 <= record["sizes"]["4"]["auroc_left_out"] <= 1
    assert latent_choice(tmp_path, "surfaces", "linear-ae") == record
    record["trained"]["6"] = {}
    # The choice, with the figures turned round: it follows the held-out figure alone.
    for high, low, test in (("4", "6", 0.0), ("6", "4", 0.0)):
        for task in record["tasks"]:
            record["trained"][high][task] = {"auroc_left_out": 0.9, "auroc_test": test}
            record["trained"][low][task] = {"auroc_left_out": 0.1, "auroc_test": 1 - test}
        update_json(tmp_path / LATENTS, latent_key("surfaces", "linear-ae"), record)
        monkeypatch.setattr(latents.Trial, "train", None)  # would fail if called
        record = chosen(column, tmp_path, rows=rows)["AE"]
        assert record["latent"] == int(high) == chosen_latent(tmp_path, "surfaces", "linear-ae")
        assert record["best_latent"] == int(low)
    # Other settings: nothing of it counts any more.
    monkeypatch.setitem(grid.QUICK, "scoring", {"highest_share": 0.5})
    with pytest.raises(LisaeError, match="not every size"):
        chosen(column, tmp_path, rows=rows)


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
