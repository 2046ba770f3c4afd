"""The report and its figures from result files alone, the same each time."""

import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import contents
from PIL import Image
from training_fixtures import store, tiny_surfaces

from lisae_tf.config.settings import merge
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json, write_json
from lisae_tf.experiments import experiment
from lisae_tf.grids import grid
from lisae_tf.paper import published, reconstructions, report, tables
from lisae_tf.paper.reconstructions import EXHIBITS, Exhibit, decompose
from lisae_tf.paper.results import Results

CHECKOUT = Path(__file__).parents[1]
LIS, AE = ("LIS-AE", "cifar10"), ("AE", "cifar10")


def written(root):
    return [path.read_bytes() for path in report.write(root, root / "RESULTS.md", {})]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The report of three seeds of LIS-AE on CIFAR-10 and four of the ten tasks on SVHN.

    Only to be read.
    """
    root, figures = tmp_path_factory.mktemp("stored"), tables.table2("lis")
    store(figures[LIS], root, seeds=range(3))
    store(figures["LIS-AE", "svhn"], root, tasks=4)
    written(root)
    return root


@pytest.fixture
def one_seed(tmp_path):
    """The cells of LIS-AE on CIFAR-10 without a report: each seed is read for every figure."""
    store(tables.table2("lis")[LIS], tmp_path)
    return tmp_path


def every_page(root):
    """The report and the pages behind it, one after the other."""
    pages = [root / "RESULTS.md", *sorted((root / report.PAGES).glob("*.md"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in pages)


def test_a_figure_is_the_mean_over_tasks_and_then_over_seeds(stored):
    summary = read_json(stored / "summary.json")
    by_seed = [
        statistics.fmean(
            read_json(entry.cell.path)["auroc"]
            for entry in tables.table2("lis")[LIS].entries(stored, seed, {})
        )
        for seed in range(3)
    ]
    assert summary["table2"]["LIS-AE"]["cifar10"] == {
        "mean": pytest.approx(statistics.fmean(by_seed), abs=1e-6),
        "std": pytest.approx(statistics.stdev(by_seed), abs=1e-6),
        "seeds": 3,
    }
    # Phase 1 of the same cells, and the cell of table 3 with the same training.
    ours = summary["table2"]["LIS-AE"]["cifar10"]["mean"]
    assert summary["table2"]["AE"]["cifar10"]["mean"] == pytest.approx(ours - 0.1)
    assert summary["table3"]["CIFAR-10"]["cifar10"]["mean"] == pytest.approx(ours)
    appendix = summary["appendix_a_cifar10"]["LIS-AE"]
    assert set(appendix) == set(tables.CIFAR10)
    assert set(appendix["Plane"]) == {"None", "Comb"}


def test_one_seed_has_no_spread(tmp_path):
    store(tables.table1("lis")["LIS-AE", "mnist"], tmp_path)
    written(tmp_path)
    assert read_json(tmp_path / "summary.json")["table1"]["LIS-AE"]["mnist"]["std"] is None


def test_an_incomplete_column_is_counted_and_not_compared(stored):
    assert "svhn" not in read_json(stored / "summary.json")["table2"]["LIS-AE"]
    line = next(
        line
        for line in (stored / "RESULTS.md").read_text().splitlines()
        if line.startswith("| LIS-AE |") and "tasks" in line
    )
    assert "| 4 of 10 tasks | 0.6886 |  |" in line


def test_a_seed_begun_changes_no_task_of_the_whole_ones(one_seed):
    def table2():
        written(one_seed)
        text = (one_seed / "RESULTS.md").read_text()
        page = one_seed / report.PAGES / "tasks.md"
        return text[text.index("## Table 2") : text.index("## Table 3")] + page.read_text()

    before, figure = table2(), tables.table2("lis")[LIS]
    store(figure, one_seed, tasks=4, seeds=[1], auroc=0.1)
    assert table2() == before
    store(figure, one_seed, seeds=[1], auroc=0.1)
    assert table2() != before


def test_a_stale_cell_counts_as_missing(one_seed, monkeypatch):
    from lisae_tf.grids import cells

    monkeypatch.setattr(cells, "TRAINING_VERSION", cells.TRAINING_VERSION + 1)
    with pytest.raises(LisaeError, match="no current cell"):
        written(one_seed)


def test_a_cell_of_an_earlier_training_that_still_counts_is_named(one_seed):
    from lisae_tf.grids import cells

    path = next(one_seed.glob("cells/*/*/*/*/*.json"))
    write_json(path, read_json(path) | {"training_version": cells.STILL_COUNTED[0]})
    written(one_seed)
    text = (one_seed / "RESULTS.md").read_text()
    assert f"with training version {cells.STILL_COUNTED[0]} (1 cells)" in text


def test_the_same_cells_give_the_same_bytes_and_need_no_tensorflow(one_seed, blank_figures):
    code = (
        "import sys; from pathlib import Path; from lisae_tf.cli import main\n"
        f"main(['benchmark', 'report', '--out', {str(one_seed)!r}], standalone_mode=False)\n"
        "assert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    first = contents(one_seed)
    assert {"RESULTS.md", "summary.json", "figures/figure3.png"} <= set(first)
    with blank_figures():  # drawn, as over there
        written(one_seed)
    assert contents(one_seed) == first


def test_a_classifier_ahead_of_ours_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(tables.ROWS, "Binary classifier", tables.Row("linear-lis"))
    figures = tables.table2("lis")
    store(figures[LIS], tmp_path, auroc=0.8)
    store(figures["LinSep-LIS-AE", "cifar10"], tmp_path, auroc=0.9)
    store(figures["Binary classifier", "cifar10"], tmp_path, auroc=0.85)
    written(tmp_path)
    text = every_page(tmp_path)
    assert "**cifar10: Binary classifier (0.8500) beats LIS-AE (0.8000)**" in text
    assert "LinSep-LIS-AE (0.9000) is ahead of it" in text
    # Table 3's cell of CIFAR-10 with its own other half is the same training.
    place = "table 3, cifar10 with CIFAR-10"
    assert f"**{place}: Binary classifier (0.8500) beats LIS-AE (0.8000)**" in text


def test_a_generator_above_the_autoencoder_everywhere_is_named(tmp_path):
    figures = tables.synthetic("lis")
    for (row, column), figure in figures.items():
        if row == "real negatives":
            store(figure, tmp_path, auroc=0.9)  # and AE, its phase 1: 0.8
        elif row == "elastic":
            store(figure, tmp_path, auroc=0.85)
        elif row == "flip":
            store(figure, tmp_path, auroc=0.7 if column == "svhn" else 0.89)
    written(tmp_path)
    text = every_page(tmp_path)
    assert "better than AE in every column: elastic." in text
    assert "| elastic | 0.8500 ▲ +0.0500 |" in text
    assert "| rotate |" not in text  # no cell has it
    assert read_json(tmp_path / "summary.json")["synthetic"]["flip"]["svhn"]["mean"] == 0.7


def test_without_made_negatives_there_is_no_section_on_them(stored):
    assert "Negatives made of" not in every_page(stored)


def test_the_report_says_what_the_data_is_and_which_averages_contradict(stored):
    text = every_page(stored)
    assert "SVHN is a lossy subset" in text
    assert "re-encoded" in text
    assert "18 printed averages" in text
    assert "| LinSep-LIS-AE | Horse | None | 0.5275 | 0.0531 |" in text
    assert "▲" in text
    assert "▼" in text


def test_the_paper_contradicts_itself_eighteen_times():
    assert len(published.contradictory_averages()) == 18
    for blocks in published.appendix_a().values():
        for rows in blocks.values():
            for row in rows.values():
                assert row["avg"] == pytest.approx(statistics.fmean(row["outliers"].values()))


def test_the_committed_report_follows_from_the_committed_cells(tmp_path, monkeypatch):
    shutil.copytree(CHECKOUT / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)  # relative, as in a checkout
    monkeypatch.setattr(report, "_draw", lambda path, *_: path.touch())  # texts alone
    written = report.write(Path("results"), Path("RESULTS.md"), {})
    texts = [path for path in written if path.suffix in (".md", ".json")]
    assert len(texts) == 8
    for name in texts:
        assert name.read_text() == (CHECKOUT / name).read_text(), (
            f"{name} is not that of the cells: run 'python cli.py benchmark report' and commit it"
        )


def test_the_first_page_is_short_and_leads_to_the_others(stored):
    text = (stored / "RESULTS.md").read_text()
    assert len(text.splitlines()) <= 250
    pages = list((stored / report.PAGES).glob("*.md"))
    assert len(pages) > 2
    for path in pages:
        assert f"]({report.PAGES}/{path.name})" in text
        assert path.read_text().startswith("# ")


TABLE2 = tables.table2("lis")
LARGE = {"batch_size": 256}  # few steps
QUICK = merge(
    grid.QUICK, {"feature_extraction": LARGE, "latent_shaping": LARGE | {"closed_form": True}}
)


def drawn(root):
    return dict(report.draw_all(Results(root, {}), root / "figures"))


def test_a_figure_waits_for_all_its_tasks(tmp_path):
    store(TABLE2["LIS-AE", "cifar10"], tmp_path, tasks=9)
    assert not drawn(tmp_path)
    store(TABLE2["LIS-AE", "cifar10"], tmp_path)
    found = drawn(tmp_path)
    assert list(found) == ["Figure 3: CIFAR-10"]
    Image.open(found["Figure 3: CIFAR-10"]).verify()


def test_the_curves_are_those_of_the_stage_and_of_one_seed(tmp_path):
    store(TABLE2["LIS-AE", "cifar10"], tmp_path, seeds=[0], tasks=3)
    store(TABLE2["LIS-AE", "cifar10"], tmp_path, seeds=[1])
    results = Results(tmp_path, {})
    found = {}
    for row in ("AE", "LIS-AE"):
        found[row] = report.curves(results, TABLE2[row, "cifar10"])
        assert list(found[row]) == list(tables.CIFAR10.values())
    entry = TABLE2["AE", "cifar10"].entries(tmp_path, 1, {})[0]
    stages = read_json(entry.cell.path)["detection"]
    assert found["AE"]["airplane"] == stages["phase1"] != stages["final"]
    assert found["LIS-AE"]["airplane"] == stages["final"]


def test_the_report_shows_what_was_drawn(tmp_path):
    store(TABLE2["LIS-AE", "cifar10"], tmp_path)
    files = report.write(tmp_path, tmp_path / "RESULTS.md", {})
    assert tmp_path / "figures" / "figure3.png" in files
    assert "![Figure 3: CIFAR-10](figures/figure3.png)" in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.parametrize(
    "kind",
    [
        "linear-lis",
        pytest.param("lis", marks=pytest.mark.slow("networks; linear-lis is kept the same way")),
    ],
)
def test_pictures_are_made_once_for_the_same_settings(kind, tmp_path, monkeypatch):
    exhibits = {
        "made": Exhibit("Made", "surfaces", kind, "gravel"),
        "failing": Exhibit("Failing", "surfaces", kind, "no such surface"),
    }
    monkeypatch.setattr(reconstructions, "EXHIBITS", exhibits)
    outcomes = []
    for name in ("linear_case", "both_phases"):
        draw = getattr(reconstructions, name)
        monkeypatch.setattr(
            reconstructions, name, lambda *of, draw=draw: outcomes.append(of[1]) or draw(*of)
        )
    said = []
    with tiny_surfaces():
        made = list(reconstructions.make_all(tmp_path, None, QUICK, said.append))
    assert [path.name for path in made] == ["made.png"]
    assert len(said) == 1
    assert said[0].startswith("failing: failed: there is no class")
    assert reconstructions.stored(tmp_path) == {"Made": made[0]}
    assert {"auroc", "seed", "version", "config_hash"} <= set(
        reconstructions.records(tmp_path)["made"]
    )
    # Figure 4's rows need a first phase, and linear LIS-AE has one as well.
    reconstructions.both_phases(tmp_path / "both.png", outcomes[0])
    Image.open(tmp_path / "both.png").verify()
    del exhibits["failing"]
    assert not list(reconstructions.make_all(tmp_path, None, QUICK, said.append))
    other = merge(QUICK, {"latent_shaping": {"gamma": 0.5}})
    # Without another training: what it gives is drawn above.
    monkeypatch.setattr(experiment, "run", lambda *_: outcomes[0])
    monkeypatch.setattr(experiment, "load", lambda *_: None)
    assert len(list(reconstructions.make_all(tmp_path, None, other, said.append))) == 1


def test_the_parts_of_figure_2(tmp_path):
    random = np.random.default_rng(0)
    u_r, u_c = np.split(np.linalg.qr(random.normal(size=(16, 16)))[0], [3], axis=1)
    b = random.normal(size=(13, 3))
    pixels = random.integers(0, 256, (5, 4, 4, 1), np.uint8)
    parts = decompose(pixels, e=u_r + u_c @ b, u_r=u_r)
    x, orthogonal, ae_orthogonal, lis_orthogonal, ae, lis = parts
    np.testing.assert_allclose(orthogonal @ u_r, 0, atol=1e-6)
    np.testing.assert_allclose(ae_orthogonal, 0, atol=1e-6)
    np.testing.assert_allclose(lis_orthogonal, x @ u_c @ b @ u_r.T, atol=1e-5)
    np.testing.assert_allclose(ae + lis_orthogonal, lis, atol=1e-5)


@pytest.mark.slow("the figure's own training, on all of MNIST's eights and Omniglot")
def test_linear_lis_leaves_nothing_of_an_eight_orthogonal_to_the_eights(tfds_dir):
    """Figure 2 in figures: rows (c) and (d), the mean square of what comes out."""
    data_dir = tfds_dir("mnist", "omniglot")
    config = EXHIBITS["figure2"].settings({})
    outcome = experiment.run(config, experiment.load(config, data_dir))
    _, orthogonal, ae, lis, _, _ = decompose(outcome.test.pixels, **outcome.detector.arrays())
    truth = outcome.test.is_anomaly
    assert np.max(np.abs(ae)) < 1e-4  # the linear autoencoder is blind to it

    def kept(side):
        return np.mean(lis[side] ** 2) / np.mean(orthogonal[side] ** 2)

    assert kept(truth) > 3 * kept(~truth)
