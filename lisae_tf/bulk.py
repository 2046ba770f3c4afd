"""Scores of millions of pictures in Parquet parts: `score --parts DIR`.

A part is scored whole and written whole, so that a restart scores only what is missing, and any
engine that cuts the same parts writes the same bytes. Runs without TensorFlow for ONNX and TFLite.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np

from lisae_tf import __version__
from lisae_tf.data import picture_files, picture_tables, pictures
from lisae_tf.errors import LisaeError
from lisae_tf.files import as_utf8, make_folder, read_json, replacing, sha256, write_json

PART_SIZE = 10_000
BATCH_SIZE = 256
# Names that readers of Parquet folders pass over.
MANIFEST, LISTING = "_manifest.json", "_files.jsonl"
_TABLE = picture_tables.PARQUET


@dataclass(frozen=True)
class Part:
    """Some pictures: rows of a list of files, a Parquet table, a TFRecord file or an array."""

    number: int
    source: str  # the file whose rows they are
    rows: tuple[int, int]
    begin: int = 0  # byte of a list or a TFRecord file where the first row begins

    @property
    def name(self) -> str:
        """Of its file."""
        return f"part-{self.number:06d}{_TABLE}"

    @property
    def size(self) -> int:
        """How many pictures."""
        return self.rows[1] - self.rows[0]


def _rows_of_array(path: Path) -> int:
    try:
        return len(np.lib.format.open_memmap(path, mode="r"))
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise LisaeError(f"{path} is no array of pictures; check it") from error


def _pieces(path: Path, size: int) -> Iterator[tuple[int, int, int]]:
    """As `picture_tables.pieces`, of arrays too."""
    if path.suffix.lower() != ".npy":
        yield from picture_tables.pieces(path, size)
        return
    rows = _rows_of_array(path)
    for start in range(0, rows, size):
        yield start, min(start + size, rows), 0


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".npy" or picture_tables.is_table(path)


def _write_list(
    paths: Iterable[Path], listing: Path, part_size: int
) -> Iterator[tuple[int, int, int]]:
    """Writes the path of each file, a line of JSON each; gives rows and first byte of each part."""
    with open(listing, "wb") as stream:
        first, begin, row = 0, 0, 0
        for row, file in enumerate(picture_files.files_of(paths), 1):
            stream.write(json.dumps(str(file)).encode() + b"\n")
            if row - first == part_size:
                yield first, row, begin
                first, begin = row, stream.tell()
        if row > first:
            yield first, row, begin


def _listed(part: Part) -> list[str]:
    """The paths of a part of a list."""
    with open(part.source, "rb") as stream:
        stream.seek(part.begin)
        return [json.loads(line) for line in islice(stream, part.size)]


def _batches(
    part: Part, shape: tuple[int, int, int], depth: int | None
) -> Iterator[pictures.Decoded]:
    """The part's pictures; batches begin at its first one, whoever reads it."""
    start, end = part.rows
    if Path(part.source).name == LISTING:
        names = _listed(part)
        for k in range(0, part.size, BATCH_SIZE):
            files = [Path(file) for file in names[k : k + BATCH_SIZE]]
            yield pictures.decode_all(files, shape[:2], shape[2], depth=depth, skip_bad=True)
    elif part.source.lower().endswith(".npy"):
        array = pictures.load_array(Path(part.source), shape)
        for k in range(start, end, BATCH_SIZE):
            pixels = pictures.array_to_uint8(array[k : min(k + BATCH_SIZE, end)], part.source)
            names = [f"{part.source}#{row}" for row in range(k, k + len(pixels))]
            yield pictures.Decoded(pixels, names, {})
    else:
        batch: list[bytes] = []
        first = start
        for encoded in picture_tables.encoded(Path(part.source), start, end, part.begin):
            batch.append(encoded)
            if len(batch) == BATCH_SIZE:
                yield _decoded_rows(batch, part.source, first, shape, depth)
                first, batch = first + len(batch), []
        if batch:
            yield _decoded_rows(batch, part.source, first, shape, depth)


def _decoded_rows(
    batch: list[bytes], source: str, first: int, shape: tuple[int, int, int], depth: int | None
) -> pictures.Decoded:
    names = [f"{source}#{row}" for row in range(first, first + len(batch))]
    return pictures.decode_all(batch, shape[:2], shape[2], names=names, depth=depth, skip_bad=True)


@lru_cache(maxsize=1)
def _scorer(run: str | None, model: str | None):
    """The detector of a run or an exported model, once in each process; and its threshold."""
    if model is not None:
        from lisae_tf.exported.runtimes import open_model

        opened = open_model(Path(model))
        return opened, opened.threshold
    from lisae_tf.quiet import start_tensorflow

    start_tensorflow()
    from lisae_tf.detectors import load_detector

    detector = load_detector(Path(str(run)))
    return detector, detector.threshold_.alpha


def score_part(part: Part, folder: str, run: str | None, model: str | None) -> int:
    """Scores one part and writes its file, whole; gives the number of unreadable pictures.

    Each picture has a row: path, score, threshold and is_anomaly, or the reason why there is none.
    """
    import pyarrow

    scorer, alpha = _scorer(run, model)
    columns: dict[str, list] = {"path": [], "score": [], "is_anomaly": [], "reason": []}
    unreadable = 0
    for batch in _batches(part, scorer.shape, scorer.depth):
        scores = scorer.score(batch.pixels).tolist() if batch.names else []
        missing = [None] * len(batch.bad)
        columns["path"] += map(as_utf8, [*batch.names, *batch.bad])
        columns["score"] += [*scores, *missing]
        columns["is_anomaly"] += [*(score > alpha for score in scores), *missing]
        columns["reason"] += [*([None] * len(scores)), *map(as_utf8, batch.bad.values())]
        unreadable += len(missing)
    count = len(columns["path"])
    table = pyarrow.table({
        "path": pyarrow.array(columns["path"], pyarrow.string()),
        "score": pyarrow.array(columns["score"], pyarrow.float32()),
        "threshold": pyarrow.array([alpha] * count, pyarrow.float64()),
        "is_anomaly": pyarrow.array(columns["is_anomaly"], pyarrow.bool_()),
        "reason": pyarrow.array(columns["reason"], pyarrow.string()),
    })  # fmt: skip
    with replacing(Path(folder) / part.name) as temporary:
        picture_tables.parquet().write_table(table, temporary)
    return unreadable


def _manifest(parts: Sequence[Part], listing: Path, part_size: int, model_digest: str) -> dict:
    """What must not change between a start and its restart."""
    inputs = hashlib.sha256(sha256(listing).encode())
    for part in parts:
        if Path(part.source).name != LISTING:
            inputs.update("\0".join((part.source, *map(str, part.rows))).encode())
    return {
        "version": __version__,
        "part_size": part_size,
        "parts": len(parts),
        "pictures": sum(part.size for part in parts),
        "inputs_sha256": inputs.hexdigest(),
        "model_sha256": model_digest,
    }


def _write_manifest(folder: Path, manifest: dict) -> None:
    """Makes the folder belong to this scoring, unless it is that of another one."""
    path = folder / MANIFEST
    if path.exists():
        before = read_json(path)
        for key, what in (
            ("model_sha256", "model"), ("part_size", "--part-size"), ("inputs_sha256", "list of "
             "pictures"), ("version", "version of this package"),
        ):  # fmt: skip
            if not isinstance(before, dict) or before.get(key) != manifest[key]:
                raise LisaeError(
                    f"{folder} was begun with another {what}; name another folder with --parts"
                )
    elif any(folder.glob(f"part-*{_TABLE}")):
        raise LisaeError(f"{folder} holds parts without {MANIFEST}; name another with --parts")
    else:
        write_json(path, manifest)


def claim(
    folder: Path, paths: Sequence[Path], part_size: int, model_digest: str
) -> tuple[list[Part], list[Part]]:
    """Cuts everything below `paths` into parts and makes the folder belong to this scoring.

    The paths of files go into a list in that folder, so that memory does not grow with them.

    Args:
        folder: of the parts.
        paths: files, folders (searched below), `.npy` arrays, and Parquet tables and TFRecord
            files whose column or feature "image" holds encoded pictures.
        part_size: pictures in a part; the last of each table may be smaller.
        model_digest: tells models apart.

    Returns:
        All parts, in the same order each time, and those that are still missing.

    Raises:
        LisaeError: a path is missing or of another kind, or the folder holds the parts of other
            pictures, another model or another size.
    """
    given = [path.absolute() for path in paths]  # a worker may stand in another folder
    picture_files.refuse_missing(given)
    files = [path for path in given if not _is_table(path) or path.is_dir()]
    # Tables are looked into before anything is written.
    tables = (path for path in given if path not in files)
    cut = [(str(path), piece) for path in tables for piece in _pieces(path, part_size)]
    make_folder(folder)

    listing = folder.absolute() / LISTING
    with replacing(listing) as temporary:
        listed = [(str(listing), piece) for piece in _write_list(files, temporary, part_size)]
        parts = [
            Part(number, source, (first, last), begin)
            for number, (source, (first, last, begin)) in enumerate(listed + cut)
        ]
        _write_manifest(folder, _manifest(parts, temporary, part_size, model_digest))
    return parts, [part for part in parts if not (folder / part.name).exists()]


def score(
    missing: Sequence[Part],
    folder: Path,
    *,
    run: Path | None,
    model: Path | None,
    engine: str = "local",
    address: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Scores the missing parts; gives the number of unreadable pictures in them.

    Args:
        missing: of `claim`.
        folder: where their files go.
        run: folder of a run; or
        model: an exported model.
        engine: "local", one part after the other, or "ray".
        address: of a Ray cluster.
        say: takes a line for each part.
    """
    places = [str(place.absolute()) if place else None for place in (folder, run, model)]
    work = partial(score_part, folder=places[0], run=places[1], model=places[2])
    if engine == "ray":
        from lisae_tf import ray_engine

        finished = ray_engine.run(work, missing, address)
    else:
        finished = ((part, work(part)) for part in missing)
    unreadable = 0
    for done, (part, bad) in enumerate(finished, 1):
        unreadable += bad
        say(f"[{done}/{len(missing)}] {part.name}: {part.size} pictures, {bad} unreadable")
    return unreadable
