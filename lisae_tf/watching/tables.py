"""What a watcher writes: tables of scores, and copies of anomalies with their errors in red.

Without TensorFlow.
"""

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import cannot_write, make_folder, refuse_special
from lisae_tf.data.pictures import decode
from lisae_tf.exported import score_files
from lisae_tf.exported.runtimes import Model
from lisae_tf.report.error_maps import overlay
from lisae_tf.watching.arrivals import Arrival
from lisae_tf.watching.journal import Journal, Row

FIELDS = (*score_files.FIELDS, "reason", "time", "model_sha256")
_ALL = 2**62
_PART = "part-*.parquet"
_LONGEST = 50  # characters of a picture's own name, so that no system refuses the whole


def journal_path(out: Path) -> Path:
    """Where the journal of a CSV lies."""
    return out.with_name(out.name + ".journal")


def refuse_foreign(out: Path) -> None:
    """Looks at what is there before anything is made.

    Raises:
        LisaeError: a file that no watcher began.
    """
    refuse_special(out)
    if out.is_dir():
        raise LisaeError(f"{out} is a folder; name a CSV file with --out")
    if out.exists() and out.stat().st_size and not journal_path(out).exists():
        raise LisaeError(
            f"{out} was not begun by watch, or {journal_path(out).name} beside it is gone; name "
            "another file with --out"
        )


class Csv:
    """The CSV. A line that was torn is completed; nothing that a reader has seen is taken back.

    Raises:
        LisaeError: it is not as it was left, or cannot be written.
    """

    def __init__(self, journal: Journal, path: Path, threshold: float, model_sha256: str):
        self.path = path
        self._journal = journal
        self._constant = {"threshold": threshold, "model_sha256": model_sha256}
        self._rows, self._bytes = journal.about("csv", (0, 0))
        try:
            # One that was moved away is begun anew, with what has not been written.
            self._stream = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            if self._stream.tell() == 0:
                self._bytes = 0
            self._complete()
        except BaseException as error:
            self._stream.close()
            if isinstance(error, OSError):
                raise cannot_write(path, error) from error
            raise

    @property
    def cursor(self) -> tuple[int, int]:
        """The last row that is in the file, and how many bytes that has."""
        return self._rows, self._bytes

    def _lines(self, rows: list[Row]) -> bytes:
        text = io.TextIOWrapper(io.BytesIO(), **score_files.TEXT)
        given = ({**self._constant, **row._asdict()} for row in rows)
        picked = ({name: row[name] for name in FIELDS} for row in given)
        score_files.write_csv(picked, text, FIELDS, header=not self._bytes)
        text.flush()
        return text.buffer.getvalue()

    def _complete(self) -> None:
        rows = self._journal.after(self._rows, _ALL)
        expected = self._lines(rows)
        with open(self.path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            short = stream.tell() < self._bytes
            stream.seek(self._bytes)
            there = stream.read(len(expected) + 1)
        if short or not expected.startswith(there):
            raise LisaeError(
                f"{self.path} is not as watch left it; restore it, or move it away: the next start "
                "begins a new one"
            )
        self._write(expected[len(there) :], len(there))
        self._rows = rows[-1].number if rows else self._rows

    def _write(self, data: bytes, there: int = 0) -> None:
        left = memoryview(data)
        while left:
            left = left[self._stream.write(left) :]
        os.fsync(self._stream.fileno())
        self._bytes += there + len(data)

    def append(self) -> None:
        """Writes what is new in the journal."""
        rows = self._journal.after(self._rows, _ALL)
        if rows:
            try:
                self._write(self._lines(rows))
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self._rows = rows[-1].number

    def close(self) -> None:
        """Gives the file back, complete."""
        self._journal.keep(csv=self.cursor)
        self._stream.close()


class Parts:
    """Parquet parts of `size` pictures in a folder; the last one of each start may be smaller.

    Raises:
        LisaeError: the folder holds parts of others, or cannot be written.
    """

    def __init__(
        self, journal: Journal, folder: Path, size: int, threshold: float, model_sha256: str
    ):
        self._journal = journal
        self._folder = make_folder(folder, "--parts")
        self._size = size
        self._threshold = threshold
        self._about = {
            "model_sha256": model_sha256,
            "threshold": repr(threshold),
            "watch": journal.about("id"),
        }
        self._rows, self._count = journal.about("parts", (0, 0))
        for path in sorted(folder.glob(_PART)):
            self._refuse_other(path)

    def _refuse_other(self, path: Path) -> None:
        if path.exists() and score_files.about_part(path).get("watch") != self._about["watch"]:
            raise LisaeError(f"{path} is no part of this watcher; name another folder with --parts")

    def append(self, *, smaller: bool = False) -> None:
        """Writes the parts that are full, or all that is left."""
        while (left := self._journal.last() - self._rows) >= self._size or (smaller and left):
            rows = self._journal.after(self._rows, self._size)
            path = self._folder / score_files.part_name(self._count)
            self._refuse_other(path)
            columns = {
                name: [getattr(row, name) for row in rows]
                for name in ("path", "score", "is_anomaly", "reason", "time")
            }
            score_files.write_part(path, columns, self._threshold, self._about)
            self._rows, self._count = rows[-1].number, self._count + 1
            self._journal.keep(parts=(self._rows, self._count))


class Anomalies:
    """The folder, `NAME-ID.SUFFIX` and, of a model with maps, `NAME-ID-errors.png` in it.

    The same picture has the same names, so that one that is scored again after a kill is no second.

    Args:
        folder: where they go.
        model: what scores.
        link: make links in place of copies: hard ones, or symbolic ones to another file system.

    Raises:
        LisaeError: the folder cannot be written.
    """

    def __init__(self, folder: Path, model: Model, *, link: bool):
        self._folder = make_folder(folder, "--anomalies")
        self._model = model
        self._link = link

    def write(
        self, arrivals: Sequence[Arrival], contents: Sequence[bytes], pixels: np.ndarray
    ) -> None:
        """Writes some.

        Args:
            arrivals: the files.
            contents: their bytes, as they were scored.
            pixels: uint8 (N, H, W, C), as the model takes them.

        Raises:
            LisaeError: they cannot be written.
        """
        model = self._model
        maps = model.error_maps(pixels) if model.has_maps and len(pixels) else [None] * len(pixels)
        for arrival, content, error in zip(arrivals, contents, maps, strict=True):
            own = Path(arrival.path)
            name = f"{own.stem[:_LONGEST]}-{arrival.id.hex()[:8]}"
            self._picture(arrival, content, self._folder / (name + own.suffix))
            if error is None:
                continue
            with _whole(self._folder / f"{name}-errors.png") as temporary:
                drawn = overlay(
                    decode(content, depth=model.depth), error, model.threshold, model.highest_share
                )
                Image.fromarray(drawn).save(temporary)

    def _picture(self, arrival: Arrival, content: bytes, place: Path) -> None:
        if self._link and _linked(arrival, place):
            return
        with _whole(place) as temporary:
            temporary.write_bytes(content)


@contextlib.contextmanager
def _whole(place: Path) -> Iterator[Path]:
    """As `replacing`, for many files: whole after a kill; the last ones may go with the power."""
    temporary = place.with_name(f".{place.name}")
    try:
        yield temporary
        os.replace(temporary, place)
    except OSError as error:
        raise cannot_write(place, error, "--anomalies") from error


def _linked(arrival: Arrival, place: Path) -> bool:
    """Whether there is a link now; a file that has gone, or is another, is copied instead."""
    with contextlib.suppress(FileNotFoundError):
        place.unlink()
    for make in (os.link, os.symlink):
        try:
            make(arrival.path, place)
            found = os.stat(place)
            if (found.st_size, found.st_mtime_ns) == (arrival.size, arrival.mtime_ns):
                return True
            place.unlink()
        except OSError:  # another file system, or one without such links
            with contextlib.suppress(OSError):
                place.unlink()
    return False
