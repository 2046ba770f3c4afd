"""Another threshold for an exported model, without its run: a new version, the old one untouched.

Only the threshold changes, and that is proven: putting the parent's threshold and metadata back
gives the parent's bytes, and in the artefact's own runtime every score is the parent's, bit for
bit.
"""

import os
import shutil
from pathlib import Path

import numpy as np

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, sha256, staging
from lisae_tf.core.thresholds import Threshold
from lisae_tf.exported import model_record, onnx_file, tflite_file
from lisae_tf.exported.model_record import Record
from lisae_tf.exported.runtimes import Model, open_model

_FILES = {"onnx": onnx_file, "tflite": tflite_file}
_EXPORT = "calibrate the run instead, and export it again"
_VARIABLE = "threshold/.ATTRIBUTES/VARIABLE_VALUE"
_VARIABLES = Path("variables", "variables")


def next_place(model: Model, out: Path | None) -> Path:
    """Where the new version goes: `out`, or the next number beside the model's own.

    Raises:
        LisaeError: there is something already, or no number to count on from.
    """
    path = model.path
    folder = path if path.is_dir() else path.parent
    if out is None:
        if not folder.name.isdigit():
            raise LisaeError(
                f"{path} lies in no numbered folder; name the new model's place with --out"
            )
        version = folder.parent / str(max(model_record.numbered(folder.parent)) + 1)
        return version if path.is_dir() else version / path.name
    if out.exists():
        raise LisaeError(f"{out} exists; name another place with --out")
    if not path.is_dir() and out.suffix != path.suffix:
        raise LisaeError(f"{out} must end in {path.suffix}, as {path.name} does")
    return out


def noise(model: Model) -> np.ndarray:
    """Pictures of random values, uint8 (64, H, W, C): what a model says of anything at all."""
    return np.random.default_rng(0).integers(0, 256, (64, *model.shape)).astype(np.uint8)


def earlier(model: Model) -> tuple[Threshold, str | None]:
    """The threshold before the last calibration, and the scores that it rests on, packed.

    Raises:
        LisaeError: the model has the threshold of its export, or an earlier version calibrated it.
    """
    kept, parent = model.record.get("earlier"), model.record["parent"]
    if kept is not None:
        return Threshold.from_json(kept["threshold"]), kept.get("calibration_scores")
    if parent is None:
        raise LisaeError(f"{model.path} has the threshold of its export; there is nothing to undo")
    raise LisaeError(
        f"{model.path} was calibrated by a version that kept no earlier threshold; use the model "
        f"that it was made of, version {parent['version']}"
    )


def recalibrate(
    model: Model,
    threshold: Threshold,
    pictures: np.ndarray,
    out: Path,
    scores: str | None = None,
) -> Path:
    """Writes the model anew with another default threshold.

    Args:
        model: the parent.
        threshold: the new one.
        pictures: uint8 (N, H, W, C), on which the scores are compared, besides noise.
        out: the new file or version folder; see `next_place`.
        scores: those that `monitor` compares with from now on, packed; None where there are none.

    Returns:
        `out`.

    Raises:
        LisaeError: it cannot be written, or more than the threshold has changed.
    """
    folder = out if model.path.is_dir() else out.parent
    make_folder(folder.parent)
    # A folder that is there may be a file system of its own, over whose edge nothing is renamed.
    beside = folder if folder.exists() else folder.parent
    try:
        with staging(beside, ".calibrate-") as apart:
            staged = apart / folder.name / out.relative_to(folder)
            record = _record(model, threshold, scores, folder)
            if model.path.is_dir():
                _copy_saved_model(model.path, staged, threshold.alpha)
            else:
                staged.parent.mkdir()
                data, metadata = model.path.read_bytes(), model_record.metadata_of(record)
                staged.write_bytes(_FILES[record["kind"]].replace(data, threshold.alpha, metadata))
            model_record.write_record(staged, record)
            _check(model, open_model(staged), pictures)
            if folder.exists():
                os.replace(model_record.record_path(staged), model_record.record_path(out))
                os.replace(staged, out)
            else:
                os.rename(apart / folder.name, folder)
    except OSError as error:
        raise LisaeError(
            f"cannot write {out}: {error.strerror or error}; name another place with --out"
        ) from error
    return out


def _record(model: Model, threshold: Threshold, scores: str | None, folder: Path) -> Record:
    parent = model_record.digest(model.record)
    version = int(folder.name) if folder.name.isdigit() else model.record["version"] + 1
    changed = {
        "version": version,
        "threshold": threshold.to_json(),
        "calibration_scores": scores,
        "earlier": {key: model.record.get(key) for key in ("threshold", "calibration_scores")},
        "parent": {"sha256": parent, "version": model.record["version"]},
        "metadata": model.record["metadata"] | {"parent_sha256": parent},
    }
    return model.record | changed


def _check(parent: Model, child: Model, pictures: np.ndarray) -> None:
    """Refuses a child that differs from its parent in more than the threshold."""
    for each in (pictures, noise(parent)):
        before, after = parent.score(each), child.run(each)
        if before.tobytes() != after["score"].tobytes():
            raise LisaeError(
                f"the new model scores otherwise than the old, so nothing was written; {_EXPORT}"
            )
        if not np.array_equal(after["is_anomaly"], before > np.float32(child.threshold)):
            raise LisaeError(
                f"the new threshold does not take effect, so nothing was written; {_EXPORT}"
            )
    if parent.path.is_dir():
        same = _same_but_threshold(parent.path, child.path)
    else:
        files = _FILES[parent.record["kind"]]
        back = files.replace(child.path.read_bytes(), parent.threshold, parent.metadata)
        same = back == parent.path.read_bytes()
    if not same:
        raise LisaeError(f"more than the threshold would change, so nothing was written; {_EXPORT}")


def _copy_saved_model(parent: Path, folder: Path, alpha: float) -> None:
    """The same graph, and the same variables but for one."""
    about_parent = shutil.ignore_patterns("variables", model_record.PARITY, model_record.CARD)
    shutil.copytree(parent, folder, ignore=about_parent)
    (folder / "variables").mkdir()
    import tensorflow as tf

    stored = tf.train.load_checkpoint(str(parent / _VARIABLES))
    names = sorted(stored.get_variable_to_shape_map())
    values = [stored.get_tensor(name) for name in names]
    values[names.index(_VARIABLE)] = np.float32(alpha)
    types = [stored.get_variable_to_dtype_map()[name] for name in names]
    tensors = [tf.constant(value, dtype) for value, dtype in zip(values, types, strict=True)]
    tf.raw_ops.SaveV2(
        prefix=str(folder / _VARIABLES),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=tensors,
    )


def _same_but_threshold(parent: Path, child: Path) -> bool:
    import tensorflow as tf

    stored = [tf.train.load_checkpoint(str(path / _VARIABLES)) for path in (parent, child)]
    names = set(stored[0].get_variable_to_shape_map())
    same_graph = sha256(parent / model_record.GRAPH) == sha256(child / model_record.GRAPH)
    return (
        same_graph
        and names == set(stored[1].get_variable_to_shape_map())
        and all(
            np.array_equal(stored[0].get_tensor(name), stored[1].get_tensor(name))
            for name in names - {_VARIABLE}
        )
    )
