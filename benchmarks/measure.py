"""Two sides in turns: medians, spread, ratio; and the file of all comparisons.

A row's ratio above 1 means that ours is better, whatever the unit.
"""

import datetime
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lisae_tf import __version__
from lisae_tf.core.files import read_json, write_json

RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: of the comparison.
        ours: median, or a single figure.
        theirs: likewise; a limit counts as theirs.
        unit: what ends in "/s" is better when larger, everything else when smaller.
        target: the ratio aimed at.
        spread: smallest and largest of ours, then of theirs.
        repeats: of each side.
        peak: share of the measured matrix-multiply peak that ours reaches; None where it says
            nothing.
        note: what a reader must know.
    """

    name: str
    ours: float
    theirs: float
    unit: str
    target: float
    spread: tuple[float, float, float, float]
    repeats: int
    peak: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """Above 1: ours is better."""
        better = self.ours / self.theirs
        return better if self.unit.endswith("/s") else 1 / better

    def record(self) -> dict:
        """As `results.json` holds it."""
        return asdict(self) | {
            "ratio": round(self.ratio, 3),
            "date": datetime.date.today().isoformat(),
            "version": __version__,
            "cores": os.cpu_count(),
        }


def in_turns(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of each side, measured alternately after one call of each that does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for side, work in zip(seconds, (ours, theirs), strict=True):
            begin = time.perf_counter()
            work()
            if turn:
                side.append(time.perf_counter() - begin)
    return seconds


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    target: float,
    repeats: int,
    work: float | None = None,
    unit: str = "s",
    **more,
) -> Row:
    """A row of two sides that do the same work.

    Args:
        name: of the row.
        ours: does it once.
        theirs: likewise.
        target: of the ratio.
        repeats: of each side.
        work: pictures in a call, for a rate; seconds are compared without it.
        unit: of the figures.
        more: `peak` or `note`.
    """
    seconds = in_turns(ours, theirs, repeats)
    figures = [sorted(work / s for s in side) if work else sorted(side) for side in seconds]
    return figures_row(name, *figures, target=target, unit=unit, **more)


def figures_row(
    name: str, ours: Sequence[float], theirs: Sequence[float], *, target: float, unit: str, **more
) -> Row:
    """A row of figures that were measured elsewhere."""
    medians = (statistics.median(ours), statistics.median(theirs))
    spread = (min(ours), max(ours), min(theirs), max(theirs))
    return Row(name, *medians, unit, target, spread, len(ours), **more)


def stored(path: Path = RESULTS) -> list[dict]:
    """The rows measured so far."""
    return read_json(path)["rows"] if path.exists() else []


def store(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Adds rows; a row of the same name is replaced where it stands."""
    kept = {record["name"]: record for record in stored(path)}
    kept |= {row.name: row.record() for row in rows}
    write_json(path, {"rows": list(kept.values())})


def line(row: Row) -> str:
    """One row for the terminal."""
    low, high, low_theirs, high_theirs = row.spread
    peak = "" if row.peak is None else f", {100 * row.peak:.0f} % of peak"
    return (
        f"{row.name}: {row.ours:.4g} [{low:.4g}-{high:.4g}] against {row.theirs:.4g} "
        f"[{low_theirs:.4g}-{high_theirs:.4g}] {row.unit}, ratio {row.ratio:.2f} "
        f"(target {row.target:g}){peak}"
    )
