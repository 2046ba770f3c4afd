"""All AE, LIS-AE and LinSep rows of the paper's tables, one seed, in one go: the last row."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import Row, figures_row
from lisae_tf.core.errors import LisaeError
from lisae_tf.grids import grid
from lisae_tf.paper import tables

ROOT = Path(__file__).parents[1]
LIMIT = 60.0  # minutes
NAME = "all AE, LIS-AE and LinSep rows, one seed: limit"
STAGES = ("data", "training", "calibration", "evaluation")
VARIANTS = ("lis", "linsep")  # AE is phase 1 of the first


def run(out: Path, data_dir: Path | None, jobs: int, quick: bool) -> list[Row]:
    """Trains every cell anew into an empty folder and takes the time."""
    more = ["--variants", ",".join(VARIANTS), "--jobs", str(jobs), "--out", str(out)]
    more += ["--data-dir", str(data_dir)] if data_dir else []
    more += ["--quick"] if quick else []
    begin = time.perf_counter()
    command = [sys.executable, str(ROOT / "cli.py"), "benchmark", "all", *more]
    subprocess.run(command, check=True)
    minutes = (time.perf_counter() - begin) / 60
    return [_row(minutes, f"{jobs} jobs, the settings in configs/")]


def _row(minutes: float, note: str) -> Row:
    return figures_row(NAME, [minutes], [LIMIT], target=1.0, unit="min", note=note)


def stored(root: Path, jobs: int) -> list[Row]:
    """The same from the seconds in the files of a grid that ran in several sittings.

    Raises:
        LisaeError: a training is missing.
    """
    figures = [tables.TABLES[name]("lis") for name in ("table1", "table2", "table3")]
    figures += [tables.appendix_a(variant) for variant in VARIANTS]
    plans = [grid.plan(figure, range(1), root) for figure in figures]
    cells = {cell.path: cell for plan in plans for cell in plan.cells}
    wanted = [cell for cell in cells.values() if cell.config.variant in VARIANTS]
    records = [cell.stored() for cell in wanted]
    if not all(records):
        raise LisaeError(
            f"{records.count(None)} of {len(wanted)} trainings are not stored in {root}; run "
            "'python cli.py benchmark all --variants lis,linsep' first"
        )
    seconds = sum(record["seconds"][stage] for record in records for stage in STAGES)
    note = (
        f"not in one go: the seconds in the files of its {len(records)} trainings, which ran "
        f"{jobs} at a time, some beside other work; the settings in configs/"
    )
    return [_row(seconds / 60 / jobs, note)]
