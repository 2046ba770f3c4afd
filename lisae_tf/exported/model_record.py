"""What lies beside an exported model: its record, with sizes and hashes, checked before use.

An artefact is a file (ONNX, TFLite) with `<file>.json` beside it, or a version folder (SavedModel)
with `lisae.json` in it. Runs without TensorFlow.
"""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import refuse_special, sha256, stamp, write_json
from lisae_tf.core.thresholds import Threshold
from lisae_tf.exported import packed

FORMAT = 1
SUFFIXES = {".onnx": "onnx", ".tflite": "tflite"}
SAVED_MODEL, GRAPH = "savedmodel", "saved_model.pb"
DTYPES = ("uint8", "float32")
SIGNATURES = ("serving_default", "with_threshold", "error_map")  # the last where there is one
_FOLDER_RECORD = "lisae.json"
_RUN = "detector.json"  # what a run's folder has
_OWN = "sha256"  # of the record itself, without this; earlier versions have none
CARD, PARITY = "README.md", "parity.json"  # for people; no loader reads them
_MAX_RECORD = 2**21  # bytes, of which a list of many pictures is half
_MAX_MODEL = 2**31 - 1
# First bytes of each kind of file: where, and what.
_MAGIC = {"onnx": (0, b"\x08"), "tflite": (4, b"TFL3"), SAVED_MODEL: (0, b"\x08\x01")}

Record = dict[str, Any]


def locate(path: Path) -> tuple[Path, str]:
    """The artefact that a user means, and its format.

    Args:
        path: a file, a version folder, or the folder of its versions (the newest is taken).

    Raises:
        LisaeError: there is none.
    """
    if path.is_dir():
        if (path / GRAPH).is_file():
            return path, SAVED_MODEL
        versions = [v for v in numbered(path) if (path / str(v) / GRAPH).is_file()]
        if versions:
            return path / str(max(versions)), SAVED_MODEL
        if (path / _RUN).is_file():
            raise LisaeError(
                f"{path} is a run and no exported model; make one of it with export --run {path}"
            )
        raise LisaeError(f"{path} holds no SavedModel; name the folder that export wrote")
    if not path.exists():
        raise LisaeError(f"{path} does not exist; check the path")
    refuse_special(path)
    if path.suffix not in SUFFIXES:
        raise LisaeError(f"{path} is no exported model; give an .onnx or .tflite file or a folder")
    return path, SUFFIXES[path.suffix]


def numbered(folder: Path) -> list[int]:
    """The versions in a folder: its sub-folders whose names are whole numbers, sorted."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
    except OSError:  # no folder, or nobody may look into it
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def record_path(artefact: Path) -> Path:
    """Where the record of an artefact lies."""
    if artefact.is_dir():
        return artefact / _FOLDER_RECORD
    return artefact.with_name(artefact.name + ".json")


def write_record(artefact: Path, record: Record) -> Record:
    """Completes the record with hashes of the artefact's files and of itself, and writes it."""
    files = {}
    for path in _model_files(artefact):
        name = path.relative_to(artefact).as_posix() if artefact.is_dir() else path.name
        files[name] = stamp(path)
    record = sealed(record | {"format": FORMAT, "files": files})
    write_json(record_path(artefact), record)
    return record


def sealed(record: Record) -> Record:
    """The record with its own SHA-256, by which a change to any part of it is noticed."""
    rest = {key: value for key, value in record.items() if key != _OWN}
    text = json.dumps(rest, sort_keys=True)
    return rest | {_OWN: hashlib.sha256(text.encode()).hexdigest()}


def _model_files(artefact: Path) -> list[Path]:
    """The files that make up the model: in a folder all that TensorFlow might look at."""
    if not artefact.is_dir():
        return [artefact]
    about = {artefact / name for name in (_FOLDER_RECORD, CARD, PARITY)}
    parts = {path for path in artefact.rglob("[!.]*") if path.is_file()}
    return sorted(parts - about)


def digest(record: Record) -> str:
    """One SHA-256 for the whole artefact: that of its file, or over those of its files."""
    hashes = {name: each["sha256"] for name, each in record["files"].items()}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def threshold_of(record: Record) -> Threshold:
    """The record's threshold."""
    return Threshold.from_json(record["threshold"])


def depth_of(artefact: Path) -> int | None:
    """The bits in use of 16-bit pictures; None for all of them, as without a record.

    Raises:
        LisaeError: the record is unreadable.
    """
    path = record_path(artefact)
    return _parsed(path).get("depth") if path.exists() else None


def read_record(artefact: Path, kind: str) -> Record:
    """The record of an artefact whose files are as it says: first bytes, sizes and hashes.

    Nothing of the model is parsed here.

    Raises:
        LisaeError: the record or a file is missing, unreadable, truncated or altered.
    """
    try:
        return _checked_record(artefact, kind)
    except OSError as error:
        raise LisaeError(
            f"{error.filename or artefact} cannot be read ({error.strerror or error}); make it "
            "readable or copy the model again"
        ) from error


def _checked_record(artefact: Path, kind: str) -> Record:
    path = record_path(artefact)
    record = _parsed(path)
    if record["kind"] != kind:
        raise LisaeError(f"{path} belongs to another kind of model; restore it")
    folder = artefact if artefact.is_dir() else artefact.parent
    if not artefact.is_dir():
        # The pair may have been renamed together.
        record["files"] = {artefact.name: next(iter(record["files"].values()))}
    elif {p.relative_to(artefact).as_posix() for p in _model_files(artefact)} - {*record["files"]}:
        raise LisaeError(
            f"{artefact} holds files that its record does not name; restore it or export again"
        )
    for name, stored in record["files"].items():
        _check_file(folder / name, stored)
    offset, magic = _MAGIC[kind]
    main = artefact / GRAPH if artefact.is_dir() else artefact
    if not main.is_file():  # the record may not name it
        raise LisaeError(f"{main} is missing; copy it along or export the model again")
    with open(main, "rb") as stream:
        if stream.read(offset + len(magic))[offset:] != magic:
            raise LisaeError(f"{main} is no {kind} model; restore it or export it again")
    return record


def _check_file(path: Path, stored: Record) -> None:
    if not path.is_file():
        raise LisaeError(f"{path} is missing; copy it along or export the model again")
    size = path.stat().st_size
    if size < stored["size"]:
        raise LisaeError(
            f"{path} is truncated ({size:,} of {stored['size']:,} bytes); copy it again"
        )
    if size != stored["size"] or size > _MAX_MODEL or sha256(path) != stored["sha256"]:
        raise LisaeError(f"{path} is not the file that was exported; restore it or export again")


def _parsed(path: Path) -> Record:
    """The record in `path`, with everything in it that is relied on."""
    refuse_special(path)
    try:
        if path.stat().st_size > _MAX_RECORD:
            raise ValueError("too large")
        record = json.loads(path.read_text(encoding="utf-8"))
        threshold_of(record)
        known = (
            record["format"] == FORMAT
            and len(record["shape"]) == 3
            and all(type(side) is int and 1 <= side <= 4096 for side in record["shape"])
            and record["input"]["dtype"] in DTYPES
            and record["files"]
            and all(_is_plain(name) for name in record["files"])
            and all(type(each["size"]) is int for each in record["files"].values())
            and all(isinstance(each["sha256"], str) for each in record["files"].values())
            and all(isinstance(record[key], str) for key in ("kind", "name"))
            and type(record["version"]) is int
            and all(isinstance(text, str) for text in record["metadata"].values())
            and _is_map(record.get("error_map"))
            and _is_depth(record.get("depth"))
            and _is_size(record.get("mask_size"))
            and _is_list(record.get("trained_on"))
            and _is_baseline(record)
            and _is_earlier(record.get("earlier"))
        )
    except FileNotFoundError as error:
        raise LisaeError(
            f"{path} is missing; it belongs to the model and is copied with it"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LisaeError(f"{path} is no record of an exported model; restore it") from error
    if not known:
        raise LisaeError(f"{path} is of another format than this version reads")
    if record.get(_OWN) not in (None, sealed(record)[_OWN]):
        raise LisaeError(f"{path} is not the record that was written; restore it or export again")
    return record


def _is_map(stored: Any) -> bool:
    """Whether a record's word on maps can be relied on; earlier versions have none."""
    if stored is None:
        return True
    sides = stored["shape"][1:]
    known = len(sides) == 2 and all(type(side) is int and 1 <= side <= 4096 for side in sides)
    return known and 0 < stored["highest_share"] <= 1


def _is_depth(stored: Any) -> bool:
    """Whether the bits in use of 16-bit pictures are such; most models have none."""
    return stored is None or (type(stored) is int and 8 <= stored <= 16)


def _is_size(stored: Any) -> bool:
    """Whether height and width of a mask are such; most models have none."""
    if stored is None:
        return True
    return len(stored) == 2 and all(type(side) is int and side > 0 for side in stored)


def _is_list(stored: Any) -> bool:
    """Whether a list of pictures trained on is one; of named data and earlier versions is none."""
    return stored is None or packed.unpack_digests(stored) is not None


def _is_baseline(stored: Record) -> bool:
    """Whether calibration scores are such; earlier versions have none."""
    text = stored.get("calibration_scores")
    return text is None or packed.unpack_scores(text) is not None


def _is_earlier(stored: Any) -> bool:
    """Whether what a calibration replaced can be brought back; models of an export have none."""
    if stored is None:
        return True
    Threshold.from_json(stored["threshold"])
    return _is_baseline(stored)


def _is_plain(name: str) -> bool:
    """Whether a stored file name stays inside the artefact."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def metadata_of(record: Record) -> dict[str, str]:
    """What an ONNX or TFLite file carries inside: the record's texts and the threshold."""
    threshold = threshold_of(record)
    nothing = "not promised" if record.get("quantization") else "set by hand"
    return record["metadata"] | {
        "version": str(record["version"]),
        "threshold": repr(threshold.alpha),
        "threshold_false_positive_rate": (
            nothing if threshold.by_hand else repr(threshold.guaranteed_fpr)
        ),
    }
