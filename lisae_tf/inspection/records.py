"""The rows of the inspection tables, and what the stored records give for each.

A row is a detector, what it sees, and which negatives it trains against. Without TensorFlow.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json
from lisae_tf.grids import stored
from lisae_tf.grids.cells import counts, version_of

MADE, REAL, BOTH, AUTO = "made", "real", "both", "auto"
WITH_REAL = (REAL, BOTH, AUTO)  # without real negatives they are made ones alone
CELLS, PEERS = "cells", "peers.json"  # below the folder of the results
USUAL = "usual"  # the split without real negatives
TIMES = ("fit_seconds", "pictures_per_second")
# By the names in the file of `benchmarks/inspection_peers.py`.
PEER_ROWS = {
    "padim": "PaDiM (anomalib {})",
    "patchcore-1": "PatchCore 1 % (anomalib {})",
    "patchcore-10": "PatchCore 10 % (anomalib {})",
}
_PEER_KEYS = {
    "auroc": "image_auroc", "auroc_mean_of_kinds": "image_auroc_mean_of_kinds",
    "pixel_auroc": "pixel_auroc", "per_region_overlap": "pro", "fit_seconds": "fit_seconds",
    "pictures_per_second": "predict_pictures_per_second", "seed": "seed",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        variant: as `--variant` takes it.
        negatives: as `features.negatives`; None for one that trains on normal pictures alone.
        pixels: sees the pixels themselves, not pretrained features.
        chance: whether another seed trains another model of the same pictures.
    """

    variant: str
    negatives: str | None = None
    pixels: bool = False
    chance: bool = True

    @property
    def name(self) -> str:
        """In tables and for `--rows`."""
        words = [self.variant, self.negatives, "pixels" if self.pixels else None]
        return " ".join(word for word in words if word)

    @property
    def real(self) -> bool:
        """Whether it asks for real negatives."""
        return self.negatives in WITH_REAL


# In the order in which they run: what takes a moment first. A variant without negatives is
# `ae`, or `linear-ae` in the linear case: those are the rows "none".
_ROWS = (
    Row("linear-ae", chance=False),
    Row("linear-lis", MADE),
    Row("mahalanobis", chance=False),
    Row("knn"),
    Row("lis-knn", MADE),
    Row("linear-lis", REAL),
    Row("linear-lis", BOTH),
    Row("linear-lis", AUTO),
    Row("lis-knn", REAL),
    Row("lis-knn", AUTO),
    Row("ae"),
    Row("lis", MADE),
    Row("lis", REAL),
    Row("bce", MADE),
    Row("bce", REAL),
    Row("deep-sad", MADE),
    Row("deep-sad", REAL),
    Row("linsep", MADE),
    Row("linsep-fused", MADE),
    Row("ae", pixels=True),
    Row("lis", MADE, pixels=True),
)
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}


def chosen(names: Sequence[str] | None) -> list[Row]:
    """Rows by name, in the order above; all where None.

    Raises:
        LisaeError: an unknown one.
    """
    unknown = [name for name in names or () if name not in ROWS]
    if unknown:
        raise LisaeError(f"there is no row '{unknown[0]}'; there are {', '.join(ROWS)}")
    return [row for name, row in ROWS.items() if names is None or name in names]


@dataclass
class Results:
    """All records by row, set and split, in the order of the rows.

    Attributes:
        records: (row, set, split) -> the record of each seed.
    """

    records: dict[tuple[str, str, str], list[dict]] = field(default_factory=dict)

    @property
    def rows(self) -> list[str]:
        """Ours in their order, then other packages'."""
        found = dict.fromkeys(row for row, _, _ in self.records)
        return [*(row for row in ROWS if row in found), *(row for row in found if row not in ROWS)]

    @property
    def sets(self) -> list[str]:
        """By name."""
        return sorted({name for _, name, _ in self.records})

    def splits(self, name: str) -> list[str]:
        """Those with real negatives of a set."""
        return sorted({s for _, of, s in self.records if of == name and s != USUAL})

    def versions(self) -> str:
        """The versions that made our own results."""
        ours = (record for found in self.records.values() for record in found)
        return "; ".join(sorted({version_of(each) for each in ours if "version" in each}))

    def figure(self, row: str, name: str, key: str) -> float | None:
        """A figure of the usual test, mean over seeds; of times, those that nothing disturbed."""
        found = self.records.get((row, name, USUAL), ())
        return mean(record.get(key) for record in found if key not in TIMES or _undisturbed(record))

    def kind(self, row: str, name: str, kind: str) -> float | None:
        """The AUROC of one kind in the usual test, mean over seeds."""
        found = self.records.get((row, name, USUAL), ())
        return mean(record["by_kind"].get(kind, {}).get("auroc") for record in found)

    def left_out(self, row: str, name: str, split: str) -> float | None:
        """The AUROC of the kinds that a split tests, mean over seeds.

        A row without real negatives was trained once, whatever is tested: its AUROC of some kinds
        is the mean of theirs, weighted with their pictures.
        """
        if own := self.records.get((row, name, split)):
            return mean(record["auroc"] for record in own)
        with_real = (r for (_, of, s), found in self.records.items() for r in found
                     if (of, s) == (name, split))  # fmt: skip
        tested = next((record["by_kind"] for record in with_real), {})
        found = self.records.get((row, name, USUAL), ())
        if row in ROWS and ROWS[row].real:
            return None
        return mean(_weighted(record["by_kind"], tested) for record in found)


def _undisturbed(record: dict) -> bool:
    """Whether nothing else kept the machine busy when a training began and ended."""
    machine = record["machine"]
    load = max(machine["load_before"], machine.get("load_after", 0))
    return load <= machine["cores"] + 0.5


def _weighted(by_kind: dict[str, dict], kinds: Iterable[str]) -> float | None:
    rows = [by_kind[kind] for kind in kinds if kind in by_kind]
    pictures = sum(row["n"] for row in rows)
    return sum(row["auroc"] * row["n"] for row in rows) / pictures if pictures else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean; None where a value is missing or there are none."""
    found = list(values)
    return statistics.fmean(found) if found and None not in found else None


def read(root: Path) -> Results:
    """The records below a folder; those that an older version of the training left do not count."""
    results = Results()
    for path in stored.paths(root / CELLS):
        record = stored.read(path)
        if record and counts(record):
            key = record["row"], record["set"], record["split"]
            results.records.setdefault(key, []).append(record)
    for row, name, record in _peers(root / PEERS):
        results.records.setdefault((row, name, USUAL), []).append(record)
    return results


def _peers(path: Path) -> Iterator[tuple[str, str, dict]]:
    """Row, set and record of each model of another package that was run."""
    found = list(read_json(path).values()) if path.is_file() else []
    for model, row in PEER_ROWS.items():
        for result in found:
            if result.get("model") != model or result.get("status") != "run":
                continue
            version = ".".join(result["versions"]["anomalib"].split(".")[:2])
            record = {ours: result[key] for ours, key in _PEER_KEYS.items() if key in result}
            record["machine"] = {
                "cores": result["machine"]["cores"],
                "load_before": math.inf if result["shared"] else result["load_before"][0],
            }
            counts = result["test_pictures"]
            record["by_kind"] = {
                kind: {"auroc": auroc, "n": counts[kind]}
                for kind, auroc in result["image_auroc_by_kind"].items()
            }
            yield row.format(version), result["set"], record
