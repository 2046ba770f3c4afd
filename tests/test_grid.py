"""The tables' descriptions and the grid: each training once, nothing lost, nothing overwritten."""

import itertools
from dataclasses import replace

import pytest
from training_fixtures import NAMES, TinyCell, invented

from lisae_tf.config.settings import merge, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, read_json, update_json, write_json
from lisae_tf.data.datasets import open_dataset
from lisae_tf.data.protocols import make_negatives, make_task
from lisae_tf.experiments import experiment
from lisae_tf.grids import cells, grid, workers
from lisae_tf.grids.cells import LATENTS, Column, Figure, Row, latent_key
from lisae_tf.paper import published, tables
from lisae_tf.training.sharing import SharedPhase1, phase1_key

SURFACES = Column("surfaces", (("gravel",),))
LARGE = {"batch_size": 256}  # few steps
SMALL = merge(
    grid.QUICK, {"feature_extraction": LARGE, "latent_shaping": LARGE | {"closed_form": True}}
)
TABLE = {
    (row, "surfaces"): Figure(SURFACES, system)
    for row, system in {
        "AE": Row("lis", phase1=True),
        "LIS-AE": Row("lis"),
        "LIS-AE, coins": Row("lis", "surfaces:coins"),
        "Linear": Row("linear-lis"),
    }.items()
}


def all_figures():
    for name, table in tables.TABLES.items():
        for variant in ("lis", "linsep"):
            for key, figure in table(variant).items():
                yield name, key, figure


def planned(figures, root, seeds=(0,)):
    return grid.plan(figures, seeds, root)


def test_rows_and_columns_are_the_paper_s():
    for name in ("table1", "table2", "table3"):
        printed = published.load()[name]
        described = tables.TABLES[name]("lis")
        wanted = {
            (row, column)
            for row, figures in printed["rows"].items()
            for column, figure in zip(printed["columns"], figures, strict=True)
            if figure is not None
        }
        assert wanted <= set(described)
    assert len(tables.table3("lis")) == 18 + 4  # phase 1 of each column is ours
    for variant, blocks in published.appendix_a().items():
        wanted = {(negative, positive) for positive, rows in blocks.items() for negative in rows}
        assert wanted == set(tables.appendix_a(tables.APPENDIX_VARIANTS[variant]))


def test_made_negatives_share_phase_1_with_real_ones(tmp_path):
    found = planned(tables.synthetic("lis"), tmp_path)
    assert not found.failures
    # Rows with a second phase, that of real negatives among them, over 45 tasks.
    rows = len(tables.MADE) + 1
    assert len(found.cells) == rows * 45
    grouped = grid.groups(found.cells)
    assert [len(group) for group in grouped] == [rows] * 45


def test_every_training_obeys_the_protocols(tmp_path):
    configs = {}
    for _, _, figure in all_figures():
        try:
            entries = figure.entries(tmp_path, 0, {})
        except LisaeError as error:
            assert "variant cannot be" in str(error)
            continue
        for entry in entries:
            config = entry.cell.config
            # One file for each training, and no two trainings in one file.
            assert configs.setdefault(entry.cell.path, config) == config
            names = NAMES[config.dataset]
            task = make_task(config.protocol, config.normal_class, None, names)
            make_negatives(config.negatives, config.dataset, task, names)  # refuses an overlap
            tested = {names[label] for label in task.anomaly}
            assert set(entry.outliers or ()) <= tested
    assert len({config.digest() for config in configs.values()}) == len(configs) > 300


def test_figures_with_the_same_training_have_the_same_cell(tmp_path):
    def paths(figure):
        return [entry.cell.path for entry in figure.entries(tmp_path, 0, {})]

    table1, table2, table3 = (tables.TABLES[f"table{n}"]("lis") for n in (1, 2, 3))
    appendix = tables.appendix_a("lis")
    assert paths(table1["AE", "mnist"]) == paths(table1["LIS-AE", "mnist"])
    assert paths(table3["Omniglot", "mnist"]) == paths(table1["LIS-AE", "mnist"])
    assert paths(table3[tables.PHASE1, "svhn"]) == paths(table2["LIS-AE", "svhn"])
    assert paths(table3["None", "svhn"]) == paths(table2["AE (own latent)", "svhn"])
    assert paths(table3["SVHN", "svhn"]) == paths(table2["LIS-AE", "svhn"])
    assert paths(table3["Same (Sup.)", "cifar10"]) == paths(table2["Sup. LIS-AE", "cifar10"])
    assert paths(appendix["Comb", "Car"]) == paths(table2["LIS-AE", "cifar10"])[1:2]
    assert paths(appendix["Sup", "Car"]) == paths(table2["Sup. LIS-AE", "cifar10"])[1:2]
    assert paths(table3["SVHN", "cifar10"]) != paths(table2["LIS-AE", "cifar10"])


def test_the_own_half_is_averaged_from_the_outlier_classes(tmp_path):
    entry = tables.table3("lis")["Omniglot", "mnist"].entries(tmp_path, 0, {})[2]
    assert entry.outliers == ("0", "1", "3", "4")
    record = invented(entry.cell, 0.5)
    record["outliers"]["1"] = {"auroc": 0.9, "n": 300}
    for name in ("0", "3", "4"):
        record["outliers"][name]["n"] = 100
    record["outliers"]["9"]["auroc"] = 0.0  # not of the own half
    assert entry.auroc(record) == pytest.approx(0.5 + 0.4 * 300 / 600)


def test_a_chosen_latent_size_is_taken_and_quick_wins(tmp_path):
    figure = tables.table1("lis")["LIS-AE", "mnist"]
    update_json(tmp_path / LATENTS, latent_key("mnist", "lis"), {"latent": 5})

    def latents(figure, over):
        return {e.cell.config.network.latent for e in figure.entries(tmp_path, 0, over)}

    assert latents(figure, {}) == {5}
    assert latents(figure, grid.QUICK) == {8}
    assert latents(tables.table1("lis")["LinSep-LIS-AE", "mnist"], {}) == {16}


def test_groups_hold_the_cells_with_one_phase_1(tmp_path):
    figures = tables.appendix_a("lis") | {
        (f"linsep {row}", column): figure
        for (row, column), figure in tables.appendix_a("linsep").items()
    }
    plan = planned(figures, tmp_path, seeds=(0, 1))
    groups = grid.groups(plan.cells)
    assert sorted(map(len, groups)) == [1] * (10 * 7 * 2) + [7] * (10 * 2)
    for group in groups:
        assert len({phase1_key(cell.config) for cell in group}) == 1
    assert {cell.path for group in groups for cell in group} == {c.path for c in plan.cells}


def test_what_cannot_be_planned_is_named_and_the_rest_is_run(tmp_path):
    figures = {("Odd", "c"): Figure(SURFACES, Row("no-such"))} | TABLE
    plan = planned(figures, tmp_path)
    assert list(plan.failures) == ["Odd, c"]
    assert len(plan.cells) == 3
    with pytest.raises(LisaeError, match="no row 'LIS'; it has Odd, AE"):
        grid.choose(figures, ["LIS"], None)
    assert set(grid.choose(figures, ["AE"], ["surfaces"])) == {("AE", "surfaces")}


def small(root):
    chosen = [figure.entries(root, 0, SMALL)[0].cell for figure in TABLE.values()]
    return list({cell.path: cell for cell in chosen}.values())


def tiny(root):
    """As `small`, two of one group and one of another, with nothing but closed forms."""
    over = {"dataset": "surfaces", "normal_class": ["gravel"], "variant": "linear-lis"}
    found = [
        cells.cell_of(resolve(merge(merge(SMALL, over), more), "surfaces"), root)
        for more in ({}, {"negatives": "surfaces:coins"}, {"seed": 1})
    ]
    return [TinyCell(cell.config, cell.path) for cell in found]


@pytest.fixture(
    scope="module",
    params=[
        tiny,
        pytest.param(small, marks=pytest.mark.slow("networks; tiny cells go the same way")),
    ],
    ids=["tiny", "small"],
)
def trained(tmp_path_factory, request):
    """What gives the cells of a root, a root, and its cells as they were trained."""
    root = tmp_path_factory.mktemp("grid")
    return request.param, root, list(grid.run(request.param(root), None))


def test_records_say_how_each_figure_came_about(trained):
    _, _, finished = trained
    assert [done.error for done in finished] == [None] * 3
    for done in finished:
        record = read_json(done.cell.path)
        assert record == done.record == done.cell.stored()
        assert record["config_hash"] == done.cell.config.digest()
        assert (record["latent"], record["seed"]) == (8, done.cell.config.seed)
        assert record["normal"] == ["gravel"]
        assert record["negatives"] == done.cell.config.negatives
        assert len(record["scores_sha256"]) == 64
        rows = record["outliers"]
        assert set(rows) == {"brick", "grass", "moon", "cell"}
        for key in ("auroc", "auroc_phase1"):
            whole = sum(row[key] * row["n"] for row in rows.values()) / record["n_anomaly"]
            assert whole == pytest.approx(record[key])


def test_a_cell_of_a_group_equals_the_same_cell_alone(trained, tmp_path):
    make, _, finished = trained
    alone = make(tmp_path)[1].train(None)
    assert alone["negatives"] == "surfaces:coins"
    assert alone["scores_sha256"] == finished[1].record["scores_sha256"]
    assert alone["auroc_phase1"] == finished[0].record["auroc_phase1"]


# That a shared phase 1 changes no score: test_distribution.py.
def test_cells_of_a_group_share_phase_1_and_groups_do_not(tmp_path, monkeypatch):
    given = []

    def stopped(config, loaded, shared):
        given.append(shared)
        raise LisaeError("far enough")

    monkeypatch.setattr(experiment, "load", lambda *_: None)
    monkeypatch.setattr(experiment, "run", stopped)
    assert [done.error for done in grid.run(small(tmp_path), None)] == ["far enough"] * 3
    assert isinstance(given[0], SharedPhase1)
    assert given[0] is given[1] is not given[2]


def test_running_again_trains_only_what_is_missing_or_stale(trained, monkeypatch):
    make, root, finished = trained
    assert list(grid.run(make(root), None)) == []
    calls = []

    def failing(cell, data_dir, shared):
        calls.append(cell.path)
        raise ValueError("odd\nand long")

    monkeypatch.setattr(cells, "run_cell", failing)
    gone = finished[0].cell.path
    text = gone.read_text()
    gone.unlink()
    try:
        again = list(grid.run(make(root), None))
    finally:
        gone.write_text(text)
    assert calls == [gone]
    assert [done.error for done in again] == ["ValueError: odd"]


@pytest.mark.parametrize(
    ("variant", "over", "kept"),
    [
        ("kde", {"latent_shaping": {"gamma": 0.7}}, True),
        ("kde", {"data": {"stopping_fraction": 0.3}}, False),
        ("lis", {"latent_shaping": {"gamma": 0.7}}, False),
        ("lis", {"anogan": {"epochs": 7}}, True),
        ("anogan-fm", {"anogan": {"epochs": 7}}, False),
        ("linsep-fused", {"fusion": {"weights": [0.0, 7.0]}}, False),
        ("linsep", {"fusion": {"weights": [0.0, 7.0]}}, True),
        ("linear-lis", {"latent_shaping": {"gamma": 0.7}}, False),
    ],
)
def test_a_setting_that_a_variant_does_not_read_leaves_its_cells(variant, over, kept, tmp_path):
    before = resolve({"dataset": "surfaces", "variant": variant})
    cell = cells.cell_of(before, tmp_path)
    make_folder(cell.path.parent)
    version = {"training_version": cells.TRAINING_VERSION}
    write_json(cell.path, {"config": before.model_dump()} | version)
    changed = resolve(merge({"dataset": "surfaces", "variant": variant}, over))
    assert (cells.Cell(changed, cell.path).stored() is not None) == kept


@pytest.mark.parametrize(
    "jobs",
    [1, pytest.param(2, marks=pytest.mark.slow("a second process starts as the first does"))],
)
def test_workers_give_the_same_and_outlive_a_failed_cell(jobs, trained, tmp_path):
    make, _, reference = trained
    cell = make(tmp_path)[2]  # in closed form: a process of its own takes long enough to start
    broken = cell.config.model_copy(update={"normal_class": ["no-such-surface"]})
    bad = replace(cell, config=broken, path=cells.cell_of(broken, tmp_path).path)
    finished = {done.cell.path: done for done in workers.run(grid.groups([bad, cell]), None, jobs)}
    assert "no class 'no-such-surface'" in finished[bad.path].error
    record = finished[cell.path].record
    assert cell.stored() == record
    # Another number of threads may add in another order.
    assert record["auroc"] == pytest.approx(reference[2].record["auroc"], abs=0.02)


def test_class_names_are_the_datasets_own(tfds_dir):
    data_dir = tfds_dir("mnist", "fashion_mnist", "svhn_cropped", "cifar10")
    for name, names in NAMES.items():
        assert open_dataset(name, data_dir).class_names == names


def test_quick_never_writes_where_results_lie(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "run_cell", lambda cell, *rest: write_quick(cell))
    written = []

    def write_quick(cell):
        cell.path.parent.mkdir(parents=True, exist_ok=True)
        record = invented(cell)
        write_json(cell.path, record)
        written.append(cell.path)
        return record

    for out in ((), ("--out", "results")):
        result = cli("benchmark", "table2", "--quick", "--columns", "svhn", *out)
        assert result.exit_code == 0, result.output
    folders = {path.parts[:2] for path in written}
    assert folders == {("runs", "quick"), ("results", "quick")}
    assert len(written) == 4  # LIS-AE and LinSep; AE is phase 1 of the former
    assert cli("benchmark", "report", "--quick").exit_code == 0
    assert "1 of 10 tasks" in (tmp_path / "runs/quick/RESULTS.md").read_text()
    assert not (tmp_path / "RESULTS.md").exists()


def test_all_tables_in_one_grid_share_phase_1(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grids = []
    monkeypatch.setattr(grid, "run", lambda cells, *rest, **more: grids.append(cells) or iter(()))
    some = ("--variants", "lis")
    for name, *more in (
        ("all", *some),
        ("table1",),
        ("table2",),
        ("table3",),
        ("appendix-a", *some),
    ):
        cli("benchmark", name, *more)
    together, *one_by_one = [{c.path for c in g if c.config.variant == "lis"} for g in grids]
    assert together == set().union(*one_by_one)
    assert {cell.config.variant for cell in grids[0]} == {"lis"}
    count = [len({phase1_key(cell.config) for cell in g if cell.path in together}) for g in grids]
    assert count[0] == 45 < sum(count[1:])  # a task each of the five columns


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("table1", "--rows", "LISAE"), "no row 'LISAE'"),
        (("all", "--variants", "lis,lisae"), "no such variant in these tables: lisae"),
        (("table1", "--columns", "cifar10"), "no column 'cifar10'"),
        (("table1", "--variants", "lis"), "takes --rows"),
        (("report",), "no current cell"),
        (("latent", "imagenet"), "no column 'imagenet'"),
        (("latent", "mnist", "--sizes", "8,x"), "whole numbers"),
        (("latent", "mnist", "--rows", "X"), "no row 'X'"),
    ],
)
def test_wrong_names_are_answered_in_a_sentence(cli, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = cli("benchmark", *arguments)
    assert result.exit_code != 0
    assert words in result.output


def test_seeds_come_one_after_the_other(tmp_path):
    figures = grid.choose(tables.table2("lis"), ["LIS-AE"], ["svhn"])
    plan = planned(figures, tmp_path, seeds=(0, 1))
    seeds = [cell.config.seed for cell in plan.cells]
    assert [seed for seed, _ in itertools.groupby(seeds)] == [0, 1]
