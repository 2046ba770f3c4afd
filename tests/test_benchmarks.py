"""The comparisons with other software: same work on both sides, and a file of honest ratios."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import measure
from benchmarks.__main__ import main
from benchmarks.growth import peak_mib
from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.training.phase import build_autoencoder

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = "PyTorch is not installed (extra `bench`)"


def row(ours, theirs, unit):
    return measure.figures_row("a", ours, theirs, target=1.0, unit=unit)


def test_a_ratio_above_1_is_better_whatever_the_unit():
    assert row([30.0, 20.0, 10.0], [10.0], "pictures/s").ratio == pytest.approx(2)
    assert row([2.0], [10.0], "s").ratio == pytest.approx(5)
    assert row([200.0], [100.0], "MiB").ratio == pytest.approx(0.5)


def test_sides_take_turns_and_the_first_turn_does_not_count():
    calls = []
    seconds = measure.in_turns(lambda: calls.append("o"), lambda: calls.append("t"), 2)
    assert "".join(calls) == "ototot"
    assert [len(side) for side in seconds] == [2, 2]


def test_a_row_replaces_the_one_of_its_name_only(tmp_path):
    path = tmp_path / "results.json"
    measure.store([row([1.0], [2.0], "s")], path)
    other = measure.figures_row("b", [1.0], [1.0], target=2.0, unit="s")
    measure.store([other], path)
    measure.store([row([1.0], [3.0], "s")], path)
    kept = {r["name"]: r for r in measure.stored(path)}
    assert list(kept) == ["a", "b"]
    assert kept["a"]["ratio"] == 3 and kept["b"]["target"] == 2


@pytest.fixture(params=[((28, 28, 1), [4, 8]), ((32, 32, 3), [8, 4])], ids=["grey", "colour"])
def sides(request):
    """Our networks, pictures and our errors of them."""
    shape, filters = request.param
    config = resolve({"network": {"latent": 5, "filters": filters, "decoder_filters": [6, 10]}})
    model = build_autoencoder(config, shape, seed=3)
    generator = np.random.default_rng(0)
    for network in (model.encoder, model.latent, model.decoder):
        for weight in network.weights:
            weight.assign(generator.normal(0, 0.3, weight.shape))
    images = generator.integers(0, 256, (7, *shape), np.uint8)
    ours = model.errors_of(images).numpy()
    assert np.ptp(ours) > 0
    return (model.encoder, model.latent, model.decoder), images, ours


def test_plain_keras_has_the_same_network(sides):
    from benchmarks.training import plain_scorer

    networks, images, ours = sides
    np.testing.assert_allclose(plain_scorer(*networks).predict(images, verbose=0), ours, 1e-4)


def test_torch_has_the_same_network(sides):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    from benchmarks.peers import TorchAutoencoder, torch_scores

    networks, images, ours = sides
    np.testing.assert_allclose(torch_scores(TorchAutoencoder(*networks), images, 3), ours, 1e-4)


def test_multiplications_of_a_known_network():
    import keras

    from benchmarks.measure import multiplications

    network = keras.Sequential([
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, 2, padding="same"),  # 4 * 4 places
        keras.layers.Conv2DTranspose(2, 3, 2, padding="same"),  # on 4 * 4 places
        keras.layers.Flatten(),
        keras.layers.Dense(10),
    ])  # fmt: skip
    assert multiplications(network) == 16 * 9 * 3 * 4 + 16 * 9 * 4 * 2 + 8 * 8 * 2 * 10


def test_the_page_marks_what_meets_its_target(tmp_path):
    from benchmarks import render

    rows = [
        measure.figures_row(n, [1.0], [t], target=2.0, unit="s") for n, t in (("a", 3), ("b", 1))
    ]
    measure.store(rows, tmp_path / "results.json")
    page = render.write(tmp_path / "README.md", tmp_path / "results.json").read_text()
    lines = {line.split(" |")[0]: line for line in page.splitlines() if line.startswith("| ")}
    assert "**3.00**" in lines["| a"] and "**" not in lines["| b"]


def test_the_grid_row_adds_up_the_seconds_of_its_cells_and_wants_all_of_them(monkeypatch):
    from benchmarks import grid as whole

    def cell(name, variant, record):
        config = SimpleNamespace(variant=variant)
        return SimpleNamespace(path=name, config=config, stored=lambda: record)

    seconds = {"data": 60.0, "training": 600.0, "calibration": 0.0, "evaluation": 60.0}
    found = [
        cell("a", "lis", {"seconds": seconds | {"phase1": 500.0}}),  # a part of the training
        cell("b", "linsep", {"seconds": seconds}),
        cell("c", "vae", None),  # no row of ours
    ]
    monkeypatch.setattr(whole.grid, "plan", lambda *_: SimpleNamespace(cells=tuple(found)))
    row = whole.stored(Path("results"), jobs=2)[0]
    assert row.ours == pytest.approx(12.0)
    assert "2 trainings" in row.note
    found.append(cell("d", "lis", None))
    with pytest.raises(LisaeError, match="1 of 3 trainings are not stored"):
        whole.stored(Path("results"), jobs=2)


@pytest.mark.slow("trains in PyTorch as well, several seconds a rival")
def test_training_and_its_rivals_run_and_store_nothing(tfds_dir, monkeypatch):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    monkeypatch.setattr(measure, "store", lambda rows: pytest.fail("quick figures were stored"))
    result = CliRunner().invoke(
        main, ["training", "--quick", "--data-dir", str(tfds_dir("mnist", "cifar10"))]
    )
    assert result.exit_code == 0, result.output
    named = [line.split(":")[0] for line in result.output.splitlines() if "target" in line]
    assert named == [
        f"phase {k}, {shape}"
        for shape in ("28×28×1", "32×32×3")
        for k in (1, "1 in bfloat16", "2 in bfloat16", 2, 2)
    ]


def test_the_peak_of_memory_is_the_process_s_own():
    held = np.ones(2**27, np.uint8)  # 128 MiB, which a child must not count as its own
    code = "from benchmarks.growth import peak_mib; print(peak_mib())"
    child = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert 10 < float(child.stdout) < peak_mib() - 100
    assert held.all()
