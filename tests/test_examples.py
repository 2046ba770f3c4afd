"""The scripts and the notebook in `examples/`, on tiny pictures."""

import json
import runpy

import feature_fixtures
import numpy as np
import pytest
import serving_fixtures
from conftest import CHECKOUT
from PIL import Image

EXAMPLES = CHECKOUT / "examples"
QUICKLY = (
    "epochs=1, shaping_epochs=1, settings={'feature_extraction': {'collapse_fraction': 0.0}, "
    "'network': {'filters': [4, 4]}}"
)
pytestmark = pytest.mark.filterwarnings("ignore:.*calibration samples? supports?:UserWarning")


def example(name: str):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_own_folder(tmp_path, capsys):
    feature_fixtures.write_folders(tmp_path)
    scores = example("own_folder")(tmp_path / "good", tmp_path / "bad", (64, 64))
    assert scores.shape == (10,)
    assert capsys.readouterr().out.count("anomaly\n") == 10


def test_onnx_on_a_device(workplace, cli, tmp_path):
    from lisae_tf import open_model
    from lisae_tf.data.pictures import decode

    assert cli("export", "--format", "onnx", "--name", "tiny").exit_code == 0
    path = "models/onnx/tiny/1/model.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ((score, is_anomaly),) = example("onnx_on_a_device")(path, str(tmp_path / "a.png"))
    model = open_model(path)
    found = model.run(decode(tmp_path / "a.png", model.shape[:2], model.shape[2])[None])
    assert (score, is_anomaly) == (found["score"][0], found["is_anomaly"][0])


def test_tf_serving_client(tmp_path):
    serving_fixtures.write_model(tmp_path / serving_fixtures.NAME, 1)
    images = serving_fixtures.pictures(2)
    (tmp_path / "new").mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(tmp_path / "new" / f"{k}.png")
    server = serving_fixtures.Embedded(tmp_path / serving_fixtures.NAME)
    try:
        name, folder = serving_fixtures.NAME, tmp_path / "new"
        scores = example("tf_serving_client")(name, str(folder), server.rest)
    finally:
        server.end()
    np.testing.assert_allclose(scores, serving_fixtures.expected(images), rtol=1e-4)


def test_sklearn_pipeline():
    assert 0 <= example("sklearn_pipeline")(epochs=1) <= 1


def test_notebook(monkeypatch):
    import matplotlib.pyplot as plt

    cells = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 3 and all(cell["outputs"] for cell in code)
    monkeypatch.setattr(plt, "show", plt.close)
    names = {}
    for cell in code:
        # Fewer pictures and epochs than a reader has, on which a network learns nothing.
        source = "".join(cell["source"]).replace("epochs=8, shaping_epochs=8", QUICKLY)
        exec(compile(source.replace("[::", "[::10 * "), "first_steps.ipynb", "exec"), names)
    assert names["errors"].shape == (4, 32, 32)
