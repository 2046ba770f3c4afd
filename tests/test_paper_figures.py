"""The paper's figures: curves from the cells alone, pictures from one training each."""

import numpy as np
import pytest
from benchmark_fixtures import store
from PIL import Image

from lisae_tf.config.settings import merge
from lisae_tf.core.files import read_json
from lisae_tf.experiments import experiment
from lisae_tf.grids import grid
from lisae_tf.paper import reconstructions, report, report_figures, tables
from lisae_tf.paper.reconstructions import EXHIBITS, Exhibit, decompose
from lisae_tf.paper.results import Results

pytestmark = pytest.mark.usefixtures("drawn_figures")
TABLE2 = tables.table2("lis")
LARGE = {"batch_size": 256}  # few steps
QUICK = merge(grid.QUICK, {"feature_extraction": LARGE, "latent_shaping": LARGE})


def drawn(root):
    return dict(report_figures.draw_all(Results(root, {}), root / "figures"))


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
        found[row] = report_figures.curves(results, TABLE2[row, "cifar10"])
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


def test_pictures_are_made_once_for_the_same_settings(tmp_path, monkeypatch):
    exhibits = {
        "linear": Exhibit("Linear", "surfaces", "linear-lis", "gravel"),
        "both": Exhibit("Both", "surfaces", "lis", "gravel"),
        "failing": Exhibit("Failing", "surfaces", "lis", "no such surface"),
    }
    monkeypatch.setattr(reconstructions, "EXHIBITS", exhibits)
    said = []
    made = list(reconstructions.make_all(tmp_path, None, QUICK, said.append))
    assert [path.name for path in made] == ["linear.png", "both.png"]
    assert len(said) == 1
    assert said[0].startswith("failing: failed: there is no class")
    assert reconstructions.stored(tmp_path) == {"Linear": made[0], "Both": made[1]}
    assert {"auroc", "seed", "version", "config_hash"} <= set(read_json(tmp_path / "both.json"))
    del exhibits["failing"]
    assert not list(reconstructions.make_all(tmp_path, None, QUICK, said.append))
    other = merge(QUICK, {"latent_shaping": {"gamma": 0.5}})
    assert len(list(reconstructions.make_all(tmp_path, None, other, said.append))) == 2


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


@pytest.mark.slow  # the figure's own training, on all of MNIST's eights and Omniglot
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
