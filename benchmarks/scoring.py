"""Scoring beside `predict` and PyTorch: arrays, folders, one picture, start-up, int8; parts.

Parquet parts are Ray's beside the local engine's, and of a table beside those of PNG files.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from benchmarks.measure import (
    FLOPS,
    Row,
    Subject,
    compare,
    figures_row,
    multiplications,
    peak_flops,
    subject,
)
from export import export_run
from lisae_tf.commands.score import scored_rows
from lisae_tf.config.settings import merge, resolve
from lisae_tf.core.files import make_folder
from lisae_tf.detectors.base import Detector
from lisae_tf.experiments import bulk, experiment
from lisae_tf.exported.runtimes import open_model

ROOT = Path(__file__).parents[1]
SHORT = {
    "data": {"mirror": False},
    "feature_extraction": {"epochs": 2, "collapse_fraction": 0.0},
    "latent_shaping": {"epochs": 2},
}
BATCH = 500
CALLS = 20  # of one picture, in a turn


def trained(item: Subject, data_dir: Path | None, folder: Path) -> Detector:
    """A briefly trained detector and its run folder; speed does not depend on the weights."""
    config = resolve(merge(item.config.model_dump(), SHORT))
    make_folder(folder)
    return experiment.run(config, experiment.load(config, data_dir), folder).detector


def arrays(item: Subject, detector: Detector, images: np.ndarray, repeats: int) -> list[Row]:
    """Pictures that are decoded already."""
    from benchmarks.peers import TorchAutoencoder, torch_scores
    from benchmarks.training import plain_scorer

    networks = detector.networks()
    plain, peer = plain_scorer(*networks), TorchAutoencoder(*networks)
    flops = FLOPS * multiplications(*networks)
    aim = 1.5 if item.dataset == "mnist" else 1.2
    notes = {"keras predict as it comes": "theirs: its default batch of 32"}
    rows = []
    for name, theirs, target in (
        ("keras predict", lambda: plain.predict(images, BATCH, verbose=0), aim),
        ("keras predict as it comes", lambda: plain.predict(images, verbose=0), aim),
        ("PyTorch", lambda: torch_scores(peer, images, BATCH), 1.2),
    ):
        row = compare(
            f"scoring arrays, {item.label}: {name}", lambda: detector.score(images), theirs,
            target=target, repeats=repeats, work=len(images), unit="pictures/s",
            note=notes.get(name, f"batch {BATCH}"),
        )  # fmt: skip
        rows.append(Row(**(vars(row) | {"peak": round(row.ours * flops / peak_flops(), 3)})))
    return rows


def folder_of_files(
    item: Subject, detector: Detector, model: Path, images: np.ndarray, repeats: int
) -> list[Row]:
    """PNG files, decoded and scored."""
    from benchmarks.training import plain_scorer

    plain = plain_scorer(*detector.networks())
    exported = open_model(model)
    with tempfile.TemporaryDirectory() as name:
        for k, image in enumerate(images):
            Image.fromarray(image.squeeze()).save(Path(name) / f"{k:06d}.png")
        files = sorted(Path(name).iterdir())

        def loop() -> None:
            for start in range(0, len(files), 32):
                pixels = [np.asarray(Image.open(file)) for file in files[start : start + 32]]
                plain.predict(np.stack(pixels).reshape(-1, *item.shape), verbose=0)

        row = compare(
            f"scoring a folder of PNGs, {item.label}: Pillow and predict",
            lambda: list(scored_rows(exported, exported.threshold, (Path(name),), False)),
            loop, target=4.0, repeats=repeats, work=len(images), unit="pictures/s",
            note="theirs: a loop over batches of 32; ours: `score --model model.onnx`",
        )  # fmt: skip
        return [row]


def one_picture(item: Subject, detector: Detector, model: Path, repeats: int) -> list[Row]:
    """A single decoded picture, everything warm: several calls in each turn."""
    from benchmarks.peers import TorchAutoencoder, torch_scores
    from benchmarks.training import plain_scorer

    networks, image = detector.networks(), item.normal[:1]
    plain, peer, exported = plain_scorer(*networks), TorchAutoencoder(*networks), open_model(model)

    def often(call: Callable[[], object]) -> Callable[[], object]:
        return lambda: [call() for _ in range(CALLS)]

    return [
        compare(
            f"one picture, {item.label}: {name}", often(lambda: exported.score(image)),
            often(theirs), target=target, repeats=repeats, work=CALLS, unit="pictures/s",
            note=f"ours: the ONNX export; {CALLS} calls a turn",
        )
        for name, theirs, target in (
            ("keras predict", lambda: plain.predict(image, verbose=0), 100.0),
            ("PyTorch", lambda: torch_scores(peer, image, 1), 1.0),
        )
    ]  # fmt: skip


def cold_start(item: Subject, model: Path, repeats: int) -> list[Row]:
    """Whole processes: one file scored, and TensorFlow imported."""
    with tempfile.TemporaryDirectory() as name:
        picture = Path(name) / "picture.png"
        Image.fromarray(item.normal[0].squeeze()).save(picture)
        score = [sys.executable, str(ROOT / "cli.py"), "score", "--model", str(model), str(picture)]

        def process(*command: str) -> None:
            subprocess.run(command, check=True, capture_output=True)

        row = compare(
            f"cold start of score through ONNX, {item.label}: importing TensorFlow",
            lambda: process(*score),
            lambda: process(sys.executable, "-c", "import tensorflow"),
            target=5.0, repeats=repeats,
        )  # fmt: skip
        return [row]


def int8(
    item: Subject, run: Path, out: Path, images: np.ndarray, data_dir: Path | None, repeats: int
) -> list[Row]:
    """The quantised TFLite file beside the float32 one."""
    small, whole = (
        export_run(run, ["tflite"], out, quantize=quantize, data_dir=data_dir)[0].path
        for quantize in ("int8", None)
    )
    ours, theirs = open_model(small), open_model(whole)
    speed = compare(
        f"int8 TFLite, {item.label}: speed of float32 TFLite",
        lambda: ours.score(images), lambda: theirs.score(images),
        target=1.0, repeats=repeats, work=len(images), unit="pictures/s", note="one thread each",
    )  # fmt: skip
    sizes = [[file.stat().st_size / 1024] for file in (small, whole)]
    return [
        speed,
        figures_row(f"int8 TFLite, {item.label}: size of float32 TFLite", *sizes, target=2.5,
                    unit="KiB"),
    ]  # fmt: skip


def run(data_dir: Path | None, quick: bool) -> list[Row]:
    """Every comparison of this file."""
    rows: list[Row] = []
    for dataset in ("mnist", "cifar10"):
        item = subject(dataset, data_dir, 10_000)
        images = item.normal[: 200 if quick else 10_000]
        with tempfile.TemporaryDirectory() as name:
            detector = trained(item, data_dir, Path(name) / "run")
            out = Path(name) / "models"
            model = export_run(Path(name) / "run", ["onnx"], out, data_dir=data_dir)[0].path
            rows += arrays(item, detector, images, 1 if quick else 7)
            rows += folder_of_files(item, detector, model, images[:4000], 1 if quick else 3)
            rows += one_picture(item, detector, model, 1 if quick else 15)
            rows += cold_start(item, model, 1 if quick else 5)
            if dataset == "cifar10":
                few = images[:2000]
                rows += int8(item, Path(name) / "run", out, few, data_dir, 1 if quick else 7)
    return rows


def _files(images: np.ndarray, folder: Path) -> Path:
    make_folder(folder)
    for k, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{k:06d}.png")
    return folder


def _table(files: Path, path: Path) -> Path:
    encoded = [{"bytes": file.read_bytes()} for file in sorted(files.iterdir())]
    parquet.write_table(pyarrow.table({"image": encoded}), path, row_group_size=1000)
    return path


def run_parts(data_dir: Path | None, quick: bool) -> list[Row]:
    """Both comparisons, on pictures of 32×32×3."""
    import ray

    count, size, repeats = (60, 20, 1) if quick else (20_000, 2500, 3)
    item = subject("cifar10", data_dir, count)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        trained(item, data_dir, root / "run")
        model = export_run(root / "run", ["onnx"], root / "models", data_dir=data_dir)[0].path
        files = _files(item.normal, root / "pictures")
        table = _table(files, root / "pictures.parquet")
        begun: list[Path] = []

        def score(source: Path, engine: str) -> None:
            begun.append(root / f"parts-{len(begun)}")
            scorer = bulk.scorer_of(None, model)
            bulk.score(
                bulk.claim(begun[-1], [source], size, scorer), begun[-1], scorer, engine=engine
            )

        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        try:
            work = {"repeats": repeats, "work": len(item.normal), "unit": "pictures/s"}
            rows = [
                compare(
                    f"parts from PNG files, {item.label}: Ray, the local engine",
                    lambda: score(files, "ray"), lambda: score(files, "local"), target=1.0,
                    note="a warm Ray on the same cores", **work,
                ),
                compare(
                    f"parts from a Parquet table, {item.label}: from PNG files",
                    lambda: score(table, "local"), lambda: score(files, "local"), target=1.0,
                    **work,
                ),
            ]  # fmt: skip
        finally:
            ray.shutdown()
        bytes_a_row = sum(p.stat().st_size for p in begun[0].glob("*.parquet")) / len(item.normal)
        encoded = table.stat().st_size / len(item.normal)
    note = f"{bytes_a_row:.0f} bytes a row of scores, {encoded:.0f} bytes a picture in the table"
    return [rows[0], Row(**(vars(rows[1]) | {"note": note}))]
