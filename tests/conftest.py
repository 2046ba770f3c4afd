"""Fixtures of more than one test file: pictures on disk, a tiny trained run, real data sets."""

import contextlib
import gc
import hashlib
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

# Processes that test side by side share the cores; set before numpy and TensorFlow are imported.
if WORKERS := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    for _name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(_name, str(max(1, (os.cpu_count() or 1) // WORKERS)))

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import settings
from PIL import Image

from lisae_tf import __version__
from lisae_tf.cli import main
from lisae_tf.config.settings import read_settings, resolve
from lisae_tf.core.files import read_json, update_json, write_json
from lisae_tf.core.quiet import start_tensorflow
from lisae_tf.data import picture_files
from lisae_tf.runs import files as run_files

settings.register_profile("no-clock", deadline=None)
settings.load_profile("no-clock")

CHECKOUT = Path(__file__).parents[1]
SLOW_RESULTS = CHECKOUT / "results" / "slow.json"
# Height, width, mode and suffix of the pictures that a folder holds in turn.
KINDS = (
    (12, 14, "L", ".png"),
    (16, 12, "L", ".jpg"),
    (13, 13, "RGB", ".png"),
    (24, 11, "RGB", ".jpeg"),
    (12, 12, "RGBA", ".png"),
    (20, 30, "RGB", ".BMP"),
)
WHOLE_EPOCH = 50  # steps of a user's shortest epoch; see `short_epochs`
# `train` options under which a run takes a second or two: on pixels, with tiny networks.
QUICK = (
    *("--features", "none"),
    *("--set", "data.size=[12, 12]"),
    *("--set", "data.calibration_fraction=0.4"),
    *("--set", "network.latent=4"),
    *("--set", "network.filters=[4, 4]"),
    *("--set", "feature_extraction.epochs=1", "--set", "feature_extraction.decoder_steps=0"),
    *("--set", "feature_extraction.collapse_fraction=0"),
    *("--set", "latent_shaping.epochs=1"),
)


# Files of tests that take a minute and more: first, or one worker ends with them alone.
LONG = {
    "test_autoencoder", "test_detectors", "test_feature_commands", "test_feature_exports",
    "test_manifest", "test_training",
}  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    slow = [(item, mark) for item in items for mark in item.iter_markers("slow")]
    if unexplained := [item.nodeid for item, mark in slow if not mark.args]:
        raise pytest.UsageError(f"{unexplained[0]} is slow: say why, pytest.mark.slow('...')")
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection():
    """All test modules are imported now, which leaves no garbage."""
    gc.disable()


def pytest_collection_finish():
    """Garbage is looked for less often, and not among a million imported objects."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def load_folder_training(config, *, skip_bad=False):
    """What training sees of the user's folders."""
    from lisae_tf.data.folder_tasks import training_of
    from lisae_tf.data.opened_folders import Folders

    return training_of(Folders(config, skip_bad=skip_bad))


def load_folder_test(config, *, skip_bad=False):
    """Their test alone."""
    from lisae_tf.data.folder_tasks import test_of
    from lisae_tf.data.opened_folders import Folders

    return test_of(Folders(config, skip_bad=skip_bad))


def contents(folder):
    """The SHA-256 of each file of a folder, by its path in there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }  # fmt: skip


def copied(base, place, run):
    """A copy of a working folder, whose run names the pictures of the copy as its own."""
    shutil.copytree(base, place, dirs_exist_ok=True)
    settings, sidecar = Path(place) / run / "config.yaml", Path(place) / run / "detector.json"
    settings.write_text(settings.read_text().replace(f"{base}/", f"{place}/"))
    record, metrics = read_json(sidecar), read_json(sidecar.with_name("metrics.json"))
    record["sha256"]["config.yaml"] = hashlib.sha256(settings.read_bytes()).hexdigest()
    metrics["config_hash"] = resolve(read_settings(settings)).digest()
    write_json(sidecar, record)
    write_json(sidecar.with_name("metrics.json"), metrics)
    run_files.record(sidecar.parent, ["config.yaml", "detector.json", "metrics.json"])
    return place


def assert_one_sentence(result, *words):
    """One line on standard error, an exit code for scripts, nothing else."""
    assert result.exit_code != 0
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.output


@pytest.fixture(autouse=True, scope="session")
def the_checkout_is_no_workplace():
    """Runs of tests lie elsewhere: `export` after the tests must find the user's own last run."""
    last = CHECKOUT / "runs" / "last"

    def stamp() -> int | None:
        return last.stat().st_mtime_ns if last.exists() else None

    before = stamp()
    yield
    assert stamp() == before, f"a test trained in the checkout and left {last}"


@contextlib.contextmanager
def steps_of_an_epoch(fewest):
    """No epoch has fewer steps, however few its pictures are."""
    start_tensorflow()
    from lisae_tf.data import pipelines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "_FEWEST_STEPS", fewest)
        yield


@pytest.fixture(autouse=True, scope="session")
def short_epochs():
    """Epochs of a fifth of the steps; what must learn something asks for whole ones."""
    with steps_of_an_epoch(10):
        yield


@pytest.fixture(scope="module")
def whole_epochs(short_epochs):
    """Epochs as long as a user's, for a test module that names it before all other fixtures."""
    with steps_of_an_epoch(WHOLE_EPOCH):
        yield


# Functions of `lisae_tf.report.figures`, each of which makes a figure of a run at a path.
FIGURES = ("reconstructions", "score_histograms", "roc", "trade_off", "training_curves")


@contextlib.contextmanager
def drawing(print_png, figures):
    """Matplotlib writes a file by this function, and these functions make the figures of a run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCanvasAgg, "print_png", print_png)
        for name, function in figures.items():
            patch.setattr(f"lisae_tf.report.figures.{name}", function)
        yield


@pytest.fixture(autouse=True, scope="session")
def blank_figures():
    """Figures are stored, but not made; gives the context in which they are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from lisae_tf.report import figures

    def blank(path, *given, **options):
        Image.new("RGB", (8, 8)).save(path, "PNG")

    draw = FigureCanvasAgg.print_png
    made = {name: getattr(figures, name) for name in FIGURES}
    with drawing(lambda canvas, *given, **options: blank(*given), dict.fromkeys(made, blank)):
        yield lambda: drawing(draw, made)


@pytest.fixture(scope="module")
def drawn_figures(blank_figures):
    """Figures are made, for a test module that names it before all other fixtures."""
    with blank_figures():
        yield


@pytest.fixture
def tfds_dir():
    """`tfds_dir("mnist", …)` is the folder that holds these sets; without them the test skips."""

    def need(*names: str) -> Path:
        given = os.environ.get("TFDS_DATA_DIR")
        if not given:
            pytest.skip("TFDS_DATA_DIR is not set")
        missing = [name for name in names if not (Path(given) / name).is_dir()]
        if missing:
            pytest.skip(f"TFDS_DATA_DIR holds no {', '.join(missing)}")
        return Path(given)

    return need


@pytest.fixture
def measured(request):
    """`measured(requests=10_000, …)` writes what a full-size test found to results/slow.json."""
    began = time.monotonic()

    def write(**found) -> None:
        own = {
            "date": datetime.now(UTC).date().isoformat(),
            "seconds": round(time.monotonic() - began),
            "version": __version__,
        }
        name = request.node.name.removeprefix("test_").replace("[", "-").rstrip("]")
        update_json(SLOW_RESULTS, name, own | found)

    return write


@pytest.fixture(scope="session")
def picture_folder():
    """Writes `count` different pictures of mixed size, mode and format; returns their folder."""

    def write(folder: Path, count: int, *, level: int = 60, kinds=KINDS) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(level)
        for index in range(count):
            height, width, mode, suffix = kinds[index % len(kinds)]
            grey = (random.random((height, width)) * 50 + level).astype(np.uint8)
            Image.fromarray(grey).convert(mode).save(folder / f"{index:03d}{suffix}")
        return folder

    return write


@pytest.fixture(scope="session")
def cli():
    """Runs a command in this process; what is no tidy exit fails the test."""

    def run(*arguments) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory, picture_folder, cli, blank_figures) -> Path:
    """A working folder with pictures and one completed run, `runs/normal-lis-seed0`.

    Its figures are drawn.
    """
    base = tmp_path_factory.mktemp("trained")
    for name, count, level in (("normal", 50, 60), ("negative", 20, 150), ("anomaly", 9, 200)):
        picture_folder(base / name, count, level=level)
    sides = [part for name in ("normal", "negative", "anomaly") for part in (f"--{name}-dir", name)]
    with contextlib.chdir(base), blank_figures():
        result = cli("train", *sides, *QUICK, "--out", "runs/normal-lis-seed0")
    assert result.exit_code == 0, result.stderr
    return base


@pytest.fixture
def workplace(trained, tmp_path, monkeypatch) -> Path:
    """A copy of `trained` to spoil, as the working folder."""
    copied(trained, tmp_path, "runs/normal-lis-seed0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def with_one_bad(tmp_path, picture_folder):
    """Twelve paths; the file of the eighth is no picture."""
    paths = picture_files.find(picture_folder(tmp_path / "p", 12))
    paths[7].write_bytes(b"no picture")
    return paths


@pytest.fixture(scope="session")
def spoil_places(picture_folder):
    """Puts folders and files that commands must refuse into a working folder."""

    def spoil(base: Path) -> Path:
        (base / "empty").mkdir()
        picture_folder(base / "single", 1)
        first = picture_files.find(base / "normal")[0]
        (picture_folder(base / "copies", 12, level=90) / "copy.png").write_bytes(first.read_bytes())
        corrupt = picture_folder(base / "corrupt", 60, kinds=[(24, 24, "L", ".jpg")]) / "031.jpg"
        corrupt.write_bytes(corrupt.read_bytes()[:-100])
        (base / "key.yaml").write_text("sed: 1\n")
        (base / "broken.yaml").write_text("seed: 1\n  network: 2\n")
        return base

    return spoil


@pytest.fixture
def bad_places(workplace, spoil_places):
    """The working folder with folders and files that commands must refuse."""
    return spoil_places(workplace)


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two workers."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()
