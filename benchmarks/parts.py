"""Scores in Parquet parts: Ray beside the local engine, a Parquet table beside PNG files."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from benchmarks.measure import Row, compare, subject
from benchmarks.scoring import trained
from export import export_run
from lisae_tf.core.files import make_folder
from lisae_tf.experiments import bulk


def _files(images: np.ndarray, folder: Path) -> Path:
    make_folder(folder)
    for k, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{k:06d}.png")
    return folder


def _table(files: Path, path: Path) -> Path:
    encoded = [{"bytes": file.read_bytes()} for file in sorted(files.iterdir())]
    parquet.write_table(pyarrow.table({"image": encoded}), path, row_group_size=1000)
    return path


def run(data_dir: Path | None, quick: bool) -> list[Row]:
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
