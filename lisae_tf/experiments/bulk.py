"""Scores of millions of pictures in Parquet parts: `score --parts DIR`.

A part is scored whole and written whole, so that a restart scores only what is missing, and any
engine that cuts the same parts writes the same bytes. Each says which model, which threshold and
which pictures, by their content, its scores are of; where one of them is another now, it is scored
again. Runs without TensorFlow for ONNX and TFLite.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from lisae_tf import __version__
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, read_json, replacing, sha256, write_json
from lisae_tf.core.thresholds import Threshold
from lisae_tf.data import picture_files, picture_tables
from lisae_tf.experiments import bulk_rows
from lisae_tf.experiments.bulk_rows import LISTING, Part
from lisae_tf.exported import model_record, score_files

MANIFEST = "_manifest.json"  # readers of Parquet folders pass over such a name
_TABLE = picture_tables.PARQUET
_SIDECAR = "detector.json"  # of a run; holds the threshold and the hashes of all else


@dataclass(frozen=True)
class Scorer:
    """A run or an exported model in the state that it had when the scoring began."""

    place: str
    is_run: bool
    sha256: str
    threshold: float


def scorer_of(run: Path | None, model: Path | None) -> Scorer:
    """The run, or else the exported model, as it is now; loads neither.

    Raises:
        LisaeError: it is missing, damaged or altered.
    """
    if model is not None:
        place, kind = model_record.locate(model.absolute())
        record = model_record.read_record(place, kind)
        alpha = model_record.threshold_of(record).alpha
        return Scorer(str(place), False, model_record.digest(record), alpha)
    sidecar = Path(str(run)).absolute() / _SIDECAR
    try:
        alpha = Threshold.from_json(read_json(sidecar)["threshold"]).alpha
    except (KeyError, TypeError, ValueError) as error:
        raise LisaeError(f"{sidecar} is not a detector's record; restore it") from error
    return Scorer(str(sidecar.parent), True, sha256(sidecar), alpha)


@lru_cache(maxsize=1)
def _loaded(scorer: Scorer):
    """The detector or model, once in each process while it stays what it was.

    Raises:
        LisaeError: it has been changed since the scoring began.
    """
    place = Path(scorer.place)
    if scorer.is_run:
        from lisae_tf.core.quiet import start_tensorflow

        start_tensorflow()
        from lisae_tf.detectors import load_detector

        loaded, now = load_detector(place), scorer_of(place, None)
    else:
        from lisae_tf.exported.runtimes import open_model

        loaded, now = open_model(place), scorer_of(None, place)
    if now != scorer:
        raise LisaeError(
            f"{place} was changed while it scored; score with --parts into another folder"
        )
    return loaded


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes:
        stored: it was there, of this model, this threshold and these very pictures.
        outdated: it was there, but of others.
        unreadable: pictures that could not be read just now.
    """

    stored: bool = False
    outdated: bool = False
    unreadable: int = 0


def score_part(part: Part, folder: str, scorer: Scorer) -> Outcome:
    """Scores one part and writes its file, whole, unless it is stored.

    Each picture has a row: path, score, threshold and is_anomaly, or the reason why there is none.
    """
    path = Path(folder) / part.name
    told = {"model_sha256": scorer.sha256, "threshold": repr(scorer.threshold)}
    there = score_files.about_part(path)
    if there.items() >= told.items():
        now = bulk_rows.digest(bulk_rows.batches(part))
        if there.get("pictures_sha256") == now:
            return Outcome(stored=True)
    model, alpha = _loaded(scorer), scorer.threshold
    columns: dict[str, list] = {"path": [], "score": [], "is_anomaly": [], "reason": []}
    unreadable, pictures = 0, hashlib.sha256()
    for batch in bulk_rows.batches(part, model.shape):
        pictures.update(batch.digest())
        decoded = batch.decoded(model.shape, model.depth)
        scores = model.score(decoded.pixels).tolist() if decoded.names else []
        missing = [None] * len(decoded.bad)
        columns["path"] += [*decoded.names, *decoded.bad]
        columns["score"] += [*scores, *missing]
        columns["is_anomaly"] += [*(score > alpha for score in scores), *missing]
        columns["reason"] += [*([None] * len(scores)), *decoded.bad.values()]
        unreadable += len(missing)
    told |= {"pictures_sha256": pictures.hexdigest()}
    outdated = path.exists()
    score_files.write_part(path, columns, alpha, told)
    return Outcome(outdated=outdated, unreadable=unreadable)


def _manifest(parts: Sequence[Part], listing: Path, part_size: int, scorer: Scorer) -> dict:
    """What must not change between a start and its restart."""
    inputs = hashlib.sha256(sha256(listing).encode())
    for part in parts:
        if not part.listed:
            inputs.update("\0".join((part.source, *map(str, part.rows))).encode())
    return {
        "version": __version__,
        "part_size": part_size,
        "parts": len(parts),
        "pictures": sum(part.size for part in parts),
        "inputs_sha256": inputs.hexdigest(),
        "model_sha256": scorer.sha256,
        "threshold": scorer.threshold,
    }


def _write_manifest(folder: Path, manifest: dict) -> None:
    """Makes the folder belong to this scoring, unless it is that of another one."""
    path = folder / MANIFEST
    if path.exists():
        before = read_json(path)
        for key, what in (
            ("model_sha256", "model or threshold"), ("threshold", "model or threshold"),
            ("part_size", "--part-size"), ("inputs_sha256", "list of pictures"),
            ("version", "version of this package"),
        ):  # fmt: skip
            if not isinstance(before, dict) or before.get(key) != manifest[key]:
                raise LisaeError(
                    f"{folder} was begun with another {what}; name another folder with --parts"
                )
    elif any(folder.glob(f"part-*{_TABLE}")):
        raise LisaeError(f"{folder} holds parts without {MANIFEST}; name another with --parts")
    else:
        write_json(path, manifest)


def claim(folder: Path, paths: Sequence[Path], part_size: int, scorer: Scorer) -> list[Part]:
    """Cuts everything below `paths` into parts and makes the folder belong to this scoring.

    The paths of files go into a list in that folder, so that memory does not grow with them.

    Args:
        folder: of the parts.
        paths: files, folders (searched below), `.npy` arrays, and Parquet tables and TFRecord
            files whose column or feature "image" holds encoded pictures.
        part_size: pictures in a part; the last of each table may be smaller.
        scorer: what they are scored by.

    Returns:
        All parts, in the same order each time.

    Raises:
        LisaeError: a path is missing or of another kind, or the folder holds the parts of other
            paths, another model, another threshold or another size.
    """
    given = [path.absolute() for path in paths]  # a worker may stand in another folder
    picture_files.refuse_missing(given)
    files = [path for path in given if not bulk_rows.is_table(path) or path.is_dir()]
    # Tables are looked into before anything is written.
    tables = (path for path in given if path not in files)
    cut = [(str(path), piece) for path in tables for piece in bulk_rows.pieces(path, part_size)]
    make_folder(folder, "--parts")

    listing = folder.absolute() / LISTING
    with replacing(listing) as temporary:
        listed = bulk_rows.write_list(files, temporary, part_size)
        parts = [
            Part(number, source, (first, last), begin)
            for number, (source, (first, last, begin)) in enumerate(
                [*((str(listing), piece) for piece in listed), *cut]
            )
        ]
        _write_manifest(folder, _manifest(parts, temporary, part_size, scorer))
    return parts


def score(
    parts: Sequence[Part],
    folder: Path,
    scorer: Scorer,
    *,
    engine: str = "local",
    address: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Scores the parts that are not stored.

    Args:
        parts: of `claim`.
        folder: where their files go.
        scorer: the run or model that `claim` was given.
        engine: "local", one part after the other, or "ray".
        address: of a Ray cluster.
        say: takes a line for each part.

    Returns:
        What became of each, as they were finished.
    """
    work = partial(score_part, folder=str(folder.absolute()), scorer=scorer)
    if engine == "ray":
        from lisae_tf.core import ray_engine

        finished = ray_engine.run(work, parts, address)
    else:
        finished = ((part, work(part)) for part in parts)
    outcomes = []
    for done, (part, outcome) in enumerate(finished, 1):
        outcomes.append(outcome)
        what = f"{part.size} pictures, {outcome.unreadable} unreadable"
        if outcome.stored:
            what = "stored"
        elif outcome.outdated:
            what += "; scored again, for the stored part is of other pictures or damaged"
        say(f"[{done}/{len(parts)}] {part.name}: {what}")
    return outcomes
