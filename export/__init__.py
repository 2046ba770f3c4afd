"""Exporters of the scoring graph: they look in from outside, nothing of a format enters a model."""

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lisae_tf.core.errors import LisaeError, install
from lisae_tf.core.files import make_folder, staging
from lisae_tf.exported.model_record import numbered, write_record

# What `--format` takes, and the module whose `write` makes it.
FORMATS = {
    "savedmodel": "export.savedmodel",
    "onnx": "export.onnx_format",
    "tflite": "export.tflite",
}
QUANTIZATIONS = ("fp16", "int8")


@dataclass(frozen=True)
class Exported:
    """One finished export.

    Attributes:
        path: the file, or the version folder of a SavedModel.
        parity: the record of the gate, as in `parity.json`.
    """

    path: Path
    parity: dict


def export_run(
    run: Path,
    formats: Sequence[str],
    out: Path,
    *,
    name: str | None = None,
    quantize: str | None = None,
    dtype: str = "uint8",
    data_dir: Path | None = None,
    data_roots: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> list[Exported]:
    """Exports the detector of a completed run; all formats pass the gate or none is kept.

    Each lands in `<out>/<format>/<name>/<next free version>/`, written elsewhere first and
    renamed, so that nobody ever sees half of it.

    Args:
        run: folder of the run.
        formats: of `FORMATS`.
        out: folder of all exports.
        name: of the model; that of the run folder by default.
        quantize: None, "fp16" or "int8"; TFLite only.
        dtype: of the graph's input, "uint8" (0-255) or "float32" (0-1).
        data_dir: of TensorFlow Datasets, for the pictures of the gate.
        data_roots: folders of the run's pictures that have moved, each "OLD=NEW".
        say: takes the lines of the gate's table.

    Raises:
        LisaeError: a detector without a graph, missing data or packages, or a gate that failed.
    """
    from export.exportable import load_samples, make_exportable
    from export.serving_files import stable_versions, write_serving_files
    from lisae_tf.detectors import load_detector
    from lisae_tf.experiments.experiment import FEATURES_KEPT
    from lisae_tf.features.places import remembering
    from lisae_tf.runs import folders as runs

    if "savedmodel" in formats:  # what could not be brought up to date is refused first
        stable_versions(out / "savedmodel")
    if quantize and "tflite" not in formats:
        raise LisaeError("--quantize concerns TFLite alone; add --format tflite or all")
    detector = load_detector(run)
    exportable = make_exportable(detector, run, name=name, dtype=dtype)
    samples = load_samples(detector, run, data_dir, data_roots)
    stored = runs.read_scores(run)["calibration"] if quantize else None
    make_folder(out)
    with staging(out, ".export-") as apart:
        staged = []
        for kind in formats:
            chosen = quantize if kind == "tflite" else None
            place = out / kind / (exportable.name + (f"-{chosen}" if chosen else ""))
            with remembering(FEATURES_KEPT):  # the gate asks for the same scores again and again
                of = (exportable, samples, stored, kind, chosen)
                staged.append(_stage(*of, place, apart / kind, say))
        exported = [_publish(*each) for each in staged]
    if "savedmodel" in formats:
        write_serving_files(out / "savedmodel")
    return exported


def _stage(
    exportable, samples, stored, kind, quantize, place, apart, say
) -> tuple[Path, Path, str, dict]:
    """Writes one format below `apart` and puts it through the gate."""
    from export.model_card import write_model_card
    from export.parity import check_parity

    version = max(numbered(place), default=0) + 1
    folder = apart / place.name / str(version)
    folder.mkdir(parents=True)
    labelled = exportable.labelled(kind, place.name, version, quantize)
    try:
        writer = importlib.import_module(FORMATS[kind])
        model = writer.write(labelled, folder, samples)
        if quantize:
            from export.tflite import with_own_threshold

            labelled = with_own_threshold(model, labelled, samples.calibration, stored, say)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("lisae_tf", "export")):
            raise
        raise LisaeError(
            f"exporting to {kind} needs the package '{error.name}'; {install('export')}"
        ) from error
    record = write_record(model, labelled.record)
    parity = check_parity(model, labelled, samples, say)
    if quantize:  # the run's figures are those of other scores
        record = write_record(model, labelled.record | {"metrics": parity["measured"]})
    write_model_card(folder, record, parity)
    return folder, place / str(version), model.relative_to(folder).as_posix(), parity


def _publish(folder: Path, place: Path, model: str, parity: dict) -> Exported:
    """Renames a version folder to where it belongs."""
    make_folder(place.parent)
    try:
        os.rename(folder, place)
    except OSError as error:
        raise LisaeError(f"cannot write {place}: {error.strerror}; export again") from error
    return Exported(place / model if model != "." else place, parity)
