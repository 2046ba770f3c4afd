"""Runs beside one another: what each is, how well it tested, and where two of them differ.

Runs without TensorFlow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lisae_tf.config.settings import FOLDER, Config, leaves, read_settings, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import manifest
from lisae_tf.data.folders import here
from lisae_tf.evaluation.verdict import interval
from lisae_tf.runs import files as run_files
from lisae_tf.runs import folders as runs

COMPLETE, WRITING, FAILED, INTERRUPTED = "complete", "being written", "failed", "interrupted"
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Listed:
    """One run in a list.

    Attributes:
        folder: of the run.
        date: when its settings were written, ISO, in minutes.
        data: the dataset, or the folders of normal pictures.
        variant: of the detector.
        state: "complete", "being written", "failed", "interrupted" or "unreadable".
        why: a sentence where it failed or cannot be read.
        metrics: of a complete run, as in `metrics.json`.
    """

    folder: Path
    date: str
    data: str
    variant: str
    state: str
    why: str = ""
    metrics: dict[str, Any] | None = None

    def row(self) -> tuple[str, ...]:
        """What a table says of it, as `TITLES` has it."""
        auroc = threshold = "-"
        if self.metrics:
            threshold = f"{self.metrics['threshold']:.5g}"
            if self.metrics["auroc"] is not None:
                auroc = f"{self.metrics['auroc']:.3f} ({interval(self.metrics)})"
        state = f"{self.state}: {self.why}" if self.why else self.state
        return (self.folder.name, self.date, self.data, self.variant, auroc, threshold, state)


TITLES = ("run", "date", "data", "variant", "AUROC", "threshold", "state")


def settings_of(folder: Path) -> Config:
    """The settings of a run."""
    return resolve(read_settings(folder / runs.CONFIG), str(folder / runs.CONFIG))


def list_runs(base: Path) -> list[Listed]:
    """The runs in a folder, the oldest first."""
    found = [path.parent for path in base.glob(f"*/{runs.CONFIG}") if path.is_file()]
    return sorted((_listed(folder) for folder in found), key=lambda each: (each.date, each.folder))


def _listed(folder: Path) -> Listed:
    began = datetime.fromtimestamp((folder / runs.CONFIG).stat().st_mtime)
    date = began.isoformat(" ", "minutes")
    try:
        config = settings_of(folder)
        data = config.dataset
        if data == FOLDER:
            data = ", ".join(here(config).normal_dirs)
        known = (folder, date, data, config.variant)
        if (folder / runs.METRICS).is_file():
            run_files.check(folder)
            return Listed(*known, COMPLETE, metrics=runs.read_metrics(folder))
    except LisaeError as error:
        return Listed(folder, date, "-", "-", UNREADABLE, str(error))
    try:
        run_files.refuse_busy(folder)
    except LisaeError:
        return Listed(*known, WRITING)
    failed = folder / runs.FAILED
    if failed.is_file():
        return Listed(*known, FAILED, failed.read_text(encoding="utf-8", errors="replace").strip())
    return Listed(*known, INTERRUPTED)


def differing_settings(folders: Sequence[Path]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs, by path: the value of each; None where unset."""
    settings = [dict(leaves(settings_of(folder).model_dump())) for folder in folders]
    paths = dict.fromkeys(path for each in settings for path in each)
    values = {path: [each.get(path) for each in settings] for path in paths}
    return {path: each for path, each in values.items() if any(v != each[0] for v in each)}


def figures(folders: Sequence[Path]) -> dict[str, list[Any]]:
    """The figures of complete runs by name, the threshold first; those that none has are left out.

    Raises:
        LisaeError: no complete run, or a damaged one.
    """
    found = [runs.read_metrics(folder) for folder in folders]
    names = ("threshold", *runs.MEASURED, *runs.LOCALISED)
    rows = {name: [each.get(name) for each in found] for name in names}
    return {name: row for name, row in rows.items() if any(each is not None for each in row)}


def pictures_note(folders: Sequence[Path]) -> str:
    """What is to be known of the test pictures before figures are compared; "" if they are alike.

    Of folders by the pictures' content, of named data by what chooses them.
    """
    tested = [_tested(folder) for folder in folders]
    if None in tested:
        return (
            "a run keeps no list of its pictures: whether they were tested on the same is unknown"
        )
    if all(each == tested[0] for each in tested):
        return ""
    return "they were not tested on the same pictures: their figures do not compare"


def _tested(folder: Path) -> object:
    config, listed = settings_of(folder), manifest.read(folder)
    if config.dataset != FOLDER:
        return (
            config.dataset, config.protocol, config.normal_class, config.anomaly_class,
            config.data.size, config.data.channels,
        )  # fmt: skip
    if listed is None:
        return None
    return frozenset(
        (each.role in (manifest.ANOMALY, manifest.KNOWN), each.sha256)
        for each in listed.entries
        if each.part == manifest.TEST
    )
