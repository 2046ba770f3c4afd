"""Run folders: where they lie, which is the last, and whether one may be written to.

A run folder holds the detector's files, `metrics.json` (its presence says that the run is
complete), `history.json`, `scores.npz` and figures; `files` keeps them together. Runs without
TensorFlow.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lisae_tf.core.arrays import load_arrays, save_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, read_json, write_text
from lisae_tf.core.thresholds import Threshold
from lisae_tf.data.manifest import FILE as MANIFEST
from lisae_tf.data.manifest import Manifest
from lisae_tf.runs import files as run_files
from lisae_tf.runs.files import CONFIG, DIGESTS, EARLIER, METRICS, SCORES

RUNS = Path("runs")
LAST = "last"
FAILED = "failed.txt"  # why a run stopped that can be resumed
# What an export tells of a run, besides its threshold.
_TEXTS = ("config_hash", "dataset", "protocol", "variant")
MEASURED = (
    "auroc", "auroc_phase1", "average_precision", "fpr_at_95_tpr", "false_positive_rate",
    "detection_rate", "n_normal", "n_anomaly", "auroc_negatives",
)  # fmt: skip
GROUPS = ("n_normal_groups", "n_anomaly_groups")  # where there are copies in the test
LOCALISED = ("pixel_auroc", "per_region_overlap", "n_masks")  # where there are masks
BY_KIND = ("auroc", "detection_rate", "n")
_HUGE = 1e18  # more than any of these can be; NaN is not below it


def default_folder(name: str, *, resume: bool) -> Path:
    """`runs/<name>`, with a number behind it where that is taken; to resume, the last interrupted.

    Where none was interrupted there is nothing to resume, and it is `runs/<name>`.
    """
    folder, number, interrupted = RUNS / name, 1, None
    while folder.exists() and any(folder.iterdir()):
        if not (folder / METRICS).is_file():
            interrupted = folder
        number += 1
        folder = RUNS / f"{name}-{number}"
    return interrupted or RUNS / name if resume else folder


def check_free(folder: Path, config_yaml: str, *, resume: bool) -> None:
    """Whether a run with these settings may be written to `folder`.

    Raises:
        LisaeError: it holds something else, a finished run, or a run with other settings; files of
            the run to resume were altered; or another command is writing to it.
    """
    if folder.exists() and not folder.is_dir():
        raise LisaeError(f"{folder} is a file; name a folder with --out")
    if folder.is_dir():
        run_files.refuse_busy(folder)
        run_files.settle(folder)
    stored = folder / CONFIG
    if folder.is_dir() and any(folder.iterdir()):
        if not resume:
            if stored.is_file() and not (folder / METRICS).is_file():
                raise LisaeError(f"{folder} is not empty; name another folder or add --resume")
            held = "holds a complete run" if stored.is_file() else "is not empty"
            raise LisaeError(f"{folder} {held}; name another folder with --out")
        if not stored.is_file():
            raise LisaeError(f"{folder} holds no run to resume; name another folder with --out")
        if (folder / METRICS).is_file():
            raise LisaeError(
                f"the run in {folder} is complete, so there is nothing to resume; leave --resume "
                "out, or train more with --continue"
            )
        old, new = stored.read_text(encoding="utf-8").splitlines(), config_yaml.splitlines()
        if old != new:
            differing = next((b for a, b in zip(old, new, strict=False) if a != b), "its length")
            raise LisaeError(
                f"the run in {folder} has other settings (first difference: "
                f"'{differing.strip()}'); resume with the same ones or name another folder"
            )
        run_files.check(folder)


def claim(folder: Path, config_yaml: str, *, resume: bool) -> None:
    """Makes `folder` the place of a run with these settings.

    Raises:
        LisaeError: see `check_free`; or it cannot be written.
    """
    check_free(folder, config_yaml, resume=resume)
    fresh = not folder.exists()
    make_folder(folder)
    try:
        write_text(folder / CONFIG, config_yaml)
    except LisaeError:
        if fresh:
            folder.rmdir()
        raise
    (folder / FAILED).unlink(missing_ok=True)


@contextlib.contextmanager
def training(
    folder: Path, config_yaml: str, pictures: Manifest | None, *, resume: bool
) -> Iterator[None]:
    """Keeps `folder` for one training; one that fails leaves a run to resume, or nothing.

    Args:
        folder: of the run.
        config_yaml: its settings.
        pictures: what it is made of, where it is made of folders.
        resume: whether it may hold an interrupted run with these settings.

    Raises:
        LisaeError: see `check_free`; or it cannot be written.
    """
    claim(folder, config_yaml, resume=resume)
    with run_files.writing(folder):
        try:
            if pictures:
                pictures.write(folder)
            run_files.record(folder)
            yield
        except Exception as error:
            abandon(folder, str(error))
            raise


def abandon(folder: Path, reason: str) -> None:
    """Removes the folder of a run that failed, unless it can be resumed; then it says why."""
    begun = (CONFIG, MANIFEST, DIGESTS)
    if {path.name for path in folder.iterdir()} <= set(begun):
        for name in begun:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
        return
    with contextlib.suppress(LisaeError):  # a full disk may be the reason
        write_text(folder / FAILED, f"{reason}\n")


def remember(folder: Path) -> None:
    """Makes `folder` the run that commands without `--run` use."""
    # A working folder that cannot be written to only costs this convenience.
    with contextlib.suppress(LisaeError):
        make_folder(RUNS)
        write_text(RUNS / LAST, os.path.relpath(folder) + "\n")


def keep_earlier(folder: Path, threshold: Threshold, calibration: np.ndarray) -> None:
    """Keeps a run's threshold, and the scores that it rests on, for `read_earlier`."""
    save_arrays(folder / EARLIER, {"calibration": calibration}, threshold.to_json())


def read_earlier(folder: Path) -> tuple[Threshold, np.ndarray]:
    """The threshold before the last calibration, and the scores that it rests on.

    Raises:
        LisaeError: the run was never calibrated anew, or the file is damaged.
    """
    path = folder / EARLIER
    if not path.is_file():
        raise LisaeError(f"{folder} has the threshold of its training; there is nothing to undo")
    arrays, record = load_arrays(path)
    try:
        return Threshold.from_json(record), arrays["calibration"]
    except (TypeError, ValueError, KeyError) as error:
        raise LisaeError(f"{path} is damaged ({error}); calibrate with --fpr instead") from error


def find_run(given: Path | str | None) -> Path:
    """The run folder that was given, or the last completed one.

    Raises:
        LisaeError: no such run, or it is not complete.
    """
    if given is None:
        pointer = RUNS / LAST
        if not pointer.is_file():
            raise LisaeError("there is no completed run yet; train first or name one with --run")
        given = pointer.read_text(encoding="utf-8", errors="replace").strip()
    folder = Path(given)
    if not os.path.isdir(folder):  # says no to impossible names, too
        raise LisaeError(f"the run folder {folder} does not exist; name one with --run")
    run_files.settle(folder)
    if not (folder / METRICS).is_file():
        run_files.check(folder)  # it may have been there
        raise LisaeError(
            f"the run in {folder} is not complete; repeat the command that began it, with "
            f"--resume --out {folder}"
        )
    return folder


def read_metrics(folder: Path) -> dict:
    """The record in `metrics.json`.

    Raises:
        LisaeError: missing, damaged or foreign.
    """
    path = folder / METRICS
    metrics = read_json(path)
    try:
        known = (
            all(isinstance(metrics[key], str) for key in _TEXTS)
            and isinstance(metrics["normal"], list)
            and type(metrics["seed"]) is int
            and "negatives" in metrics
            and all(-_HUGE < (metrics.get(key) or 0) < _HUGE for key in (*MEASURED, *LOCALISED))
            and all(type(metrics.get(key, 1)) is int and metrics.get(key, 1) >= 0 for key in GROUPS)
            and all(
                -_HUGE < row[key] < _HUGE
                for row in metrics.get("by_kind", {}).values()
                for key in BY_KIND
            )
        )
    except (KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise LisaeError(f"{path} is not the record of a run; restore it or train again")
    return metrics


def read_scores(folder: Path) -> dict[str, np.ndarray]:
    """Scores in `scores.npz`: "calibration", "test", bool "is_anomaly", maybe "test_phase1".

    Raises:
        LisaeError: missing, damaged or foreign.
    """
    path = folder / SCORES
    arrays, _ = load_arrays(path)
    if not arrays.keys() >= {"calibration", "test", "is_anomaly"}:
        raise LisaeError(f"{path} holds no scores of a run; restore it or train again")
    return arrays
