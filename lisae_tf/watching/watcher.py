"""Scores each picture of a folder once, as it arrives, and tells whom it concerns.

Runs without TensorFlow for ONNX and TFLite.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder
from lisae_tf.data import levels, pictures
from lisae_tf.exported import model_record
from lisae_tf.exported.runtimes import Model
from lisae_tf.watching import tables
from lisae_tf.watching.arrivals import Arrival, Arrivals
from lisae_tf.watching.drift import Window
from lisae_tf.watching.journal import Journal, Row
from lisae_tf.watching.metrics import Counts
from lisae_tf.watching.outbox import ANOMALY, DRIFT, Outbox, Receiver
from lisae_tf.watching.tables import Anomalies

_BATCH, _BATCH_BYTES = 64, 2**26  # pictures and encoded bytes of one transaction
_LARGEST = 2**30  # bytes of a file that is read
_NAP = 0.1  # seconds after which the end is noticed
_BUSY = 4  # looking takes at most one part in so many and one of the time


@dataclass(frozen=True)
class Settings:
    """How to watch.

    Attributes:
        settle: seconds over which a file must stay what it is.
        poll: seconds between looks; more where a look takes long.
        window: newest scores of the drift test; 0 leaves it out.
        queue: messages that may wait for one receiver before scoring waits too.
        grace: seconds to send what waits, in the end.
        parts: folder of Parquet parts.
        part_size: pictures in one.
        anomalies: folder of copies of anomalies.
        link: links in place of the copies.
        receivers: who is told.
        metrics_port: for Prometheus; 0 for any free one.
    """

    settle: float = 0.5
    poll: float = 0.5
    window: int = 500
    queue: int = 1000
    grace: float = 10.0
    parts: Path | None = None
    part_size: int = 10_000
    anomalies: Path | None = None
    link: bool = False
    receivers: Sequence[Receiver] = ()
    metrics_port: int | None = None


class Watcher:
    """Watches until it is stopped. One start of it, which ends with `run`.

    Attributes:
        stopping: set by `stop`.
        metrics_port: where Prometheus is answered, if it is.

    Args:
        folder: where pictures arrive.
        model: what scores them.
        out: the CSV; the journal lies beside it.
        settings: how to watch.
        say: takes a line for people.

    Raises:
        LisaeError: a folder is missing or cannot be written, the CSV or the parts are of another
            model or watcher, or another one writes them now.
    """

    def __init__(
        self,
        folder: Path,
        model: Model,
        out: Path,
        settings: Settings = Settings(),
        say: Callable[[str], None] = lambda line: None,
    ):
        self.stopping = False
        self.metrics_port: int | None = None
        self._model, self._settings, self._say = model, settings, say
        self._digest = model_record.digest(model.record)
        self._folder = _watched(folder, settings)
        self._counts = Counts(model.threshold)
        self._told: set[str] = set()  # files that could not be read
        self._remarked = False  # of levels that are lost
        tables.refuse_foreign(out)
        make_folder(out.parent)
        with contextlib.ExitStack() as stack:
            self._anomalies = None
            if settings.anomalies is not None:
                self._anomalies = Anomalies(settings.anomalies, model, link=settings.link)
                if not model.has_maps:
                    say("note: the model has no maps of errors; anomalies are kept without them")
            self._journal = journal = Journal(tables.journal_path(out), self._digest)
            stack.callback(journal.close)
            self._window = self._drift()
            constant = (model.threshold, self._digest)
            self._csv = tables.Csv(journal, out, *constant)
            stack.callback(self._csv.close)
            self._parts = None
            if settings.parts is not None:
                self._parts = tables.Parts(journal, settings.parts, settings.part_size, *constant)
                stack.callback(self._parts.append, smaller=True)
            self._arrivals = Arrivals(
                self._folder, settings.settle, lambda arrival: journal.knows(arrival.id)
            )
            given = {each.name for each in settings.receivers}
            for name, count in journal.waiting().items():
                if name not in given:
                    say(f"note: {count} messages wait for {name}; give it again to send them")
            self._outbox = Outbox(journal, settings.receivers, say)
            stack.callback(self._end_outbox)
            if settings.metrics_port is not None:
                from lisae_tf.watching import metrics

                self.metrics_port, end = metrics.serve(settings.metrics_port, self.counts)
                stack.callback(end)
            self._open = stack.pop_all()

    def _drift(self) -> Window | None:
        size, record = self._settings.window, self._model.record
        if not size:
            return None
        if (reason := Window.why_not(record)) is not None:
            self._say(f"note: drift is not looked for: {reason}")
            return None
        scores = self._journal.last_scores(size)
        drifted = self._journal.about("drifted", False)
        return Window(record, size, scores, drifted=drifted)

    def _end_outbox(self) -> None:
        self._outbox.close(self._settings.grace)
        self._counts.messages_waiting = self._journal.waiting()

    def stop(self) -> None:
        """Ends `run` after what it has begun; may be called from a signal's handler."""
        self.stopping = True

    @property
    def known(self) -> int:
        """Pictures that have a row, of this start and earlier ones."""
        return self._journal.last()

    def counts(self) -> Counts:
        """Those of now."""
        found, window = self._counts, self._window
        return replace(
            found,
            waiting=self._arrivals.waiting,
            messages=dict(self._outbox.results),
            messages_waiting=self._journal.waiting(),
            drifted=None if window is None else window.drifted,
            statistic=None if window is None or window.found is None else window.found.statistic,
        )

    def run(self, *, once: bool = False) -> Counts:
        """Watches until `stop`.

        Args:
            once: end when what is there has been scored; what is still being written is left.

        Returns:
            What it has done; messages that still wait are sent by the next start.

        Raises:
            LisaeError: something cannot be written; the next start goes on from there.
        """
        with self._open:
            if once:
                self._look()
                self._rest(self._settings.settle)
            while not self.stopping:
                began = time.monotonic()
                found = self._look()
                took = time.monotonic() - began
                for batch in _batches(found):
                    self._wait_for_receivers(once=once)
                    if self.stopping:
                        break
                    self._score(batch)
                self._outbox.notify()
                if once:
                    break
                self._rest(max(self._settings.poll, _BUSY * took))
            self._counts.waiting = self._arrivals.waiting
        return self._counts

    def _rest(self, seconds: float) -> None:
        # A flag and naps: what a signal's handler may do with locks and events is little.
        end = time.monotonic() + seconds
        while not self.stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _NAP))

    def _look(self) -> list[Arrival]:
        counts = self._counts
        try:
            found = self._arrivals.look()
        except OSError as error:
            if counts.folder_available:
                self._say(f"{self._folder} cannot be read ({error.strerror or error}); waiting")
            counts.folder_available = False
            return []
        if not counts.folder_available:
            self._say(f"{self._folder} can be read again")
        counts.folder_available, counts.last_look = True, time.time()
        return found

    def _wait_for_receivers(self, *, once: bool) -> None:
        """Where too many messages wait, waits until they are half as many."""
        latest, most = time.monotonic() + self._settings.grace, self._settings.queue
        while not self.stopping and (name := self._outbox.behind(most)) is not None:
            most = max(1, self._settings.queue // 2)
            if not self._counts.paused:
                self._say(
                    f"{self._settings.queue} messages wait for {name}: scoring waits for it too"
                )
                self._counts.paused = True
            if once and time.monotonic() > latest:
                raise LisaeError(
                    f"{self._settings.queue} messages wait for {name}, so the other pictures were "
                    "left for the next start; see why it takes none, or allow more with --queue"
                )
            time.sleep(_NAP)
            self._outbox.notify()
        if self._counts.paused:
            self._counts.paused = False
            self._say("scoring goes on")

    def _read(self, batch: Sequence[Arrival]) -> Iterator[tuple[Arrival, bytes]]:
        """Those that are still what was seen, with their bytes."""
        for arrival in batch:
            if arrival.size > _LARGEST:
                yield arrival, b""
                continue
            try:
                content = arrival.read()
            except OSError as error:
                if arrival.path not in self._told:
                    self._told.add(arrival.path)
                    self._say(
                        f"{arrival.path} cannot be read ({error.strerror or error}); it is tried "
                        "again"
                    )
                self._arrivals.postpone(arrival)
                continue
            if content is None:
                self._arrivals.changed(arrival)
                continue
            self._told.discard(arrival.path)
            yield arrival, content

    def _score(self, batch: Sequence[Arrival]) -> None:
        """One batch, from files to the journal and all that is written from it."""
        model, read = self._model, dict(self._read(batch))
        if not read:
            return
        decoded = pictures.decode_all(
            list(read.values()), model.shape[:2], model.shape[2],
            names=[arrival.path for arrival in read], depth=model.depth, skip_bad=True,
        )  # fmt: skip
        scores = model.score(decoded.pixels).tolist() if decoded.names else []
        found = dict(zip(decoded.names, scores, strict=True))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        rows = [self._row(arrival, found.get(arrival.path), now, decoded.bad) for arrival in read]
        anomalies = [k for k, name in enumerate(decoded.names) if found[name] > model.threshold]
        if self._anomalies is not None and anomalies:
            by_path = {arrival.path: arrival for arrival in read}
            these = [by_path[decoded.names[k]] for k in anomalies]
            self._anomalies.write(these, [read[each] for each in these], decoded.pixels[anomalies])
        messages = [
            (name, self._anomaly(row)) for row in rows if row.is_anomaly
            for name in self._outbox.addressed(ANOMALY)
        ]  # fmt: skip
        kept: dict[str, Any] = {"csv": self._csv.cursor}
        drift = None if self._window is None else self._window.add(scores)
        if drift is not None:
            kept["drifted"] = drift.drifted
            content = self._drifted(drift, now)
            messages += [(name, content) for name in self._outbox.addressed(DRIFT)]
        self._journal.add(rows, messages, **kept)
        self._csv.append()
        if self._parts is not None:
            self._parts.append()
        self._outbox.notify()
        for arrival in read:
            self._arrivals.finish(arrival)
        self._count(rows)
        if not self._remarked:
            remarks = levels.reading_remarks(decoded.names, decoded.headers, model)
            self._remarked = bool(remarks)
            for remark in remarks:
                self._say(f"note: {remark}; more like them are not named")
        for reason in decoded.bad.values():
            self._say(f"left out: {reason}")
        if drift is not None:
            self._say(f"drift: {drift.advice()}" if drift.drifted else "drift has ended")

    def _row(self, arrival: Arrival, score: float | None, now: str, bad: dict[str, str]) -> Row:
        decision = None if score is None else score > self._model.threshold
        reason = bad.get(arrival.path)
        return Row(0, arrival.id, arrival.path, score, decision, now, reason)

    def _anomaly(self, row: Row) -> dict[str, Any]:
        return {
            "id": row.id.hex(), "kind": ANOMALY, "time": row.time, "model_sha256": self._digest,
            "path": row.path, "score": row.score, "threshold": self._model.threshold,
        }  # fmt: skip

    def _drifted(self, drift: Any, now: str) -> dict[str, Any]:
        return {
            "id": secrets.token_hex(16), "kind": DRIFT, "time": now, "model_sha256": self._digest,
            "drifted": drift.drifted, "statistic": drift.statistic, "p_value": drift.p_value,
            "advice": drift.advice(),
        }  # fmt: skip

    def _count(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._counts.unreadable += row.is_anomaly is None
            self._counts.anomaly += row.is_anomaly is True
            self._counts.normal += row.is_anomaly is False


def _watched(folder: Path, settings: Settings) -> Path:
    """The whole path of the folder.

    Raises:
        LisaeError: there is none, or what is written would arrive in it.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise LisaeError(f"the folder {folder} {what}; name the one in which pictures arrive")
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise LisaeError(
            f"the folder {folder} cannot be read ({error.strerror}); check its permissions"
        ) from error
    own = settings.anomalies
    if own is not None and own.resolve().is_relative_to(folder.resolve()):
        raise LisaeError(
            f"{own} lies in the watched folder, where its pictures would be scored again; name "
            "another with --anomalies"
        )
    return folder.absolute()


def _batches(arrivals: Sequence[Arrival]) -> Iterator[list[Arrival]]:
    batch: list[Arrival] = []
    size = 0
    for arrival in arrivals:
        if batch and (len(batch) == _BATCH or size + arrival.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(arrival)
        size += arrival.size
    if batch:
        yield batch
