"""All AE, LIS-AE and LinSep rows of the paper's tables, one seed, in one go: the last row."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import Row, figures_row

ROOT = Path(__file__).parents[1]
LIMIT = 60.0  # minutes


def run(out: Path, data_dir: Path | None, jobs: int, quick: bool) -> list[Row]:
    """Trains every cell anew into an empty folder and takes the time."""
    more = ["--variants", "lis,linsep", "--jobs", str(jobs), "--out", str(out)]
    more += ["--data-dir", str(data_dir)] if data_dir else []
    more += ["--quick"] if quick else []
    begin = time.perf_counter()
    command = [sys.executable, str(ROOT / "cli.py"), "benchmark", "all", *more]
    subprocess.run(command, check=True)
    minutes = (time.perf_counter() - begin) / 60
    note = f"{jobs} jobs, the settings in configs/"
    return [
        figures_row("all AE, LIS-AE and LinSep rows, one seed: limit", [minutes], [LIMIT],
                    target=1.0, unit="min", note=note)
    ]  # fmt: skip
