"""What a watcher has done, on disk: the rows of scores, and the messages that are still to be sent.

One SQLite file beside the table of scores. A batch of pictures is one transaction, so it is known
whole or not at all, whatever ends the process; tables are written after it and from it. Runs
without TensorFlow.
"""

import contextlib
import functools
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lisae_tf.core.errors import LisaeError

FORMAT = 1
_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, path BLOB NOT NULL, score REAL,
    is_anomaly INTEGER, time TEXT NOT NULL, reason TEXT
);
CREATE TABLE messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, receiver TEXT NOT NULL, content TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX turn ON messages (receiver, attempts, number);
"""


class Row(NamedTuple):
    """A picture: scored, or with the reason why it is not."""

    number: int
    id: bytes
    path: str
    score: float | None
    is_anomaly: bool | None
    time: str  # ISO 8601, UTC
    reason: str | None


class Message(NamedTuple):
    """What a receiver is to be told."""

    number: int
    content: dict[str, Any]
    attempts: int


def _guarded(method):
    """Errors of the database as one sentence; one thread at a time."""

    @functools.wraps(method)
    def call(self, *arguments, **options):
        with self._lock:
            try:
                return method(self, *arguments, **options)
            except sqlite3.Error as error:
                raise _trouble(self.path, error) from error

    return call


def _trouble(path: Path, error: sqlite3.Error) -> LisaeError:
    if "locked" in str(error):
        return LisaeError(
            f"another watcher writes to {path}; wait until it has ended, or name another file with "
            "--out"
        )
    if isinstance(error, sqlite3.OperationalError):  # the disk is full, the folder read-only
        return LisaeError(
            f"cannot write {path}: {error}; make that possible and start again, nothing is lost"
        )
    return LisaeError(
        f"{path} is damaged or no journal of watch ({error}); restore it, or name another file "
        "with --out"
    )


class Journal:
    """The journal at `path`, which belongs to this process until it is closed.

    Args:
        path: the file, made where there is none.
        model_sha256: the digest of the model.

    Raises:
        LisaeError: another watcher has it, it is of another model, or it cannot be read or written.
    """

    def __init__(self, path: Path, model_sha256: str):
        self.path = path
        self._lock = threading.RLock()
        fresh = not path.exists()
        try:
            self._base = sqlite3.connect(
                os.fspath(path), timeout=0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise _trouble(path, error) from error
        try:
            self._open(model_sha256)
        except BaseException:
            self._base.close()
            if fresh:
                with contextlib.suppress(OSError):
                    path.unlink()
            raise

    @_guarded
    def _open(self, model_sha256: str) -> None:
        for pragma in (
            "locking_mode = EXCLUSIVE",  # first: the lock stays, and no memory is shared
            "journal_mode = WAL",
            "synchronous = FULL",
            "trusted_schema = OFF",
        ):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.execute("BEGIN EXCLUSIVE")
        if not self._base.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in filter(str.strip, _TABLES.split(";")):
                self._base.execute(statement)
            self._set(format=FORMAT, id=secrets.token_hex(8), model_sha256=model_sha256)
        self._base.execute("COMMIT")
        if self.about("format") != FORMAT:
            raise LisaeError(
                f"{self.path} is of another format than this version reads; name another file with "
                "--out"
            )
        if not self.last():
            self.keep(model_sha256=model_sha256)
        if self.about("model_sha256") != model_sha256:
            raise LisaeError(
                f"{self.path} was begun with another model or threshold; name another file with "
                "--out, or give that model"
            )

    @_guarded
    def about(self, key: str, default: Any = None) -> Any:
        """A value that was kept."""
        found = self._base.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return json.loads(found[0]) if found else default

    def _set(self, **values: Any) -> None:
        self._base.executemany(
            "INSERT OR REPLACE INTO about VALUES (?, ?)",
            [(key, json.dumps(value)) for key, value in values.items()],
        )

    @_guarded
    def keep(self, **values: Any) -> None:
        """Keeps some values, all or none."""
        self._together(lambda: self._set(**values))

    def _together(self, work: Callable[[], None]) -> None:
        self._base.execute("BEGIN")
        try:
            work()
            self._base.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # some errors have already undone it
                self._base.execute("ROLLBACK")
            raise

    @_guarded
    def add(
        self, rows: Iterable[Row], messages: Iterable[tuple[str, dict[str, Any]]], **values: Any
    ) -> None:
        """Keeps rows, messages (receiver and content) and values, all or none.

        The rows' own numbers are not looked at.
        """

        def work() -> None:
            self._base.executemany(
                "INSERT INTO rows (id, path, score, is_anomaly, time, reason) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [(row.id, os.fsencode(row.path), *row[3:]) for row in rows],
            )
            self._base.executemany(
                "INSERT INTO messages (receiver, content) VALUES (?, ?)",
                [(receiver, json.dumps(content)) for receiver, content in messages],
            )
            self._set(**values)

        self._together(work)

    @_guarded
    def knows(self, id_: bytes) -> bool:
        """Whether a picture has a row."""
        return bool(self._base.execute("SELECT 1 FROM rows WHERE id = ?", (id_,)).fetchone())

    @_guarded
    def last(self) -> int:
        """The number of the newest row; 0 without any."""
        return self._base.execute("SELECT coalesce(max(number), 0) FROM rows").fetchone()[0]

    @_guarded
    def after(self, number: int, most: int) -> list[Row]:
        """The rows behind one, in order, at most so many."""
        found = self._base.execute(
            "SELECT number, id, path, score, is_anomaly, time, reason FROM rows WHERE number > ? "
            "ORDER BY number LIMIT ?",
            (number, most),
        ).fetchall()
        decision = {None: None, 0: False, 1: True}
        return [
            Row(each[0], each[1], os.fsdecode(each[2]), each[3], decision[each[4]], *each[5:])
            for each in found
        ]

    @_guarded
    def last_scores(self, most: int) -> list[float]:
        """The newest scores, in order, at most so many."""
        found = self._base.execute(
            "SELECT score FROM rows WHERE score IS NOT NULL ORDER BY number DESC LIMIT ?", (most,)
        ).fetchall()
        return [score for (score,) in reversed(found)]

    @_guarded
    def next_message(self, receiver: str) -> Message | None:
        """The oldest of those that were tried least."""
        found = self._base.execute(
            "SELECT number, content, attempts FROM messages WHERE receiver = ? "
            "ORDER BY attempts, number LIMIT 1",
            (receiver,),
        ).fetchone()
        return found and Message(found[0], json.loads(found[1]), found[2])

    @_guarded
    def sent(self, message: Message) -> None:
        """A message has been received."""
        self._soon("DELETE FROM messages WHERE number = ?", message.number)

    @_guarded
    def failed(self, message: Message) -> None:
        """A message has not been received; it comes again behind the others."""
        self._soon("UPDATE messages SET attempts = attempts + 1 WHERE number = ?", message.number)

    def _soon(self, statement: str, number: int) -> None:
        """Is on the disk after the next transaction; lost with the power, a message is repeated."""
        self._base.execute("PRAGMA synchronous = NORMAL")
        try:
            self._base.execute(statement, (number,))
        finally:
            self._base.execute("PRAGMA synchronous = FULL")

    @_guarded
    def waiting(self) -> dict[str, int]:
        """How many messages wait for each receiver that has any."""
        return dict(self._base.execute("SELECT receiver, count(*) FROM messages GROUP BY receiver"))

    @_guarded
    def close(self) -> None:
        """Gives the file back."""
        self._base.close()
