"""Sends the journal's messages, each until its receiver has it: a command, or a server over HTTP.

A message that was sent just before a kill is sent again, with the same id. No TensorFlow.
"""

import http.client
import json
import re
import shlex
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import as_utf8
from lisae_tf.watching.journal import Journal

ANOMALY, DRIFT = "anomaly", "drift"
# What a message of each kind holds.
FIELDS = {
    ANOMALY: ("id", "kind", "time", "model_sha256", "path", "score", "threshold"),
    DRIFT: ("id", "kind", "time", "model_sha256", "drifted", "statistic", "p_value", "advice"),
}
_COMMAND_SECONDS, _POST_SECONDS = 60.0, 10.0
_PLACE = re.compile(r"\{(\w+)\}")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds after failures, each twice the one before


class Failed(Exception):
    """A message was not received, and why."""


class Receiver(ABC):
    """Takes messages, one at a time.

    Attributes:
        name: by which its messages wait; that of its option.
        kinds: of the messages that it is given.
    """

    name: str
    kinds: tuple[str, ...]

    @abstractmethod
    def send(self, content: dict[str, Any]) -> None:
        """Gives it a message.

        Raises:
            Failed: it did not take it.
        """


class Command(Receiver):
    """A command that is started for each message, without a shell.

    Args:
        kind: of the messages.
        line: words as a shell splits them; `{path}` and other fields in them are filled in.

    Raises:
        LisaeError: no command, or a field that there is not.
    """

    def __init__(self, kind: str, line: str):
        self.name, self.kinds = f"--on-{kind}", (kind,)
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise LisaeError(f"{self.name} {line!r} cannot be split into words: {error}") from error
        if not self._words or shutil.which(self._words[0]) is None:
            what = self._words[0] if self._words else "an empty text"
            raise LisaeError(f"{self.name}: {what} is no command that can be run; check its path")
        unknown = {*_PLACE.findall(line)} - {*FIELDS[kind]}
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in FIELDS[kind])
            raise LisaeError(f"{self.name} knows no {{{min(unknown)}}}; it fills in {known}")

    def send(self, content):
        words = [_PLACE.sub(lambda found: str(content[found[1]]), word) for word in self._words]
        try:
            done = subprocess.run(  # noqa: S603 - the user's own command
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                timeout=_COMMAND_SECONDS, check=False,
                start_new_session=True,  # Ctrl+C is for the watcher, which lets it end
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Failed(f"not ended after {_COMMAND_SECONDS:.0f} seconds") from error
        except (OSError, ValueError) as error:
            raise Failed(str(error)) from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise Failed(f"exit code {done.returncode}" + (f": {said[-1][:200]}" if said else ""))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its message."""

    def redirect_request(self, *arguments):
        return None


class Post(Receiver):
    """A server that is sent JSON; any answer of 200 to 299 means that it has it.

    Args:
        url: http or https.

    Raises:
        LisaeError: another kind of address.
    """

    name, kinds = "--post", (ANOMALY, DRIFT)

    def __init__(self, url: str):
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good:
            raise LisaeError(f"--post {url}: give an address as http://host:port/path")
        self._url = url
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, content):
        if "path" in content:
            content = {**content, "path": as_utf8(content["path"])}
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self._url, json.dumps(content).encode(), method="POST",
            headers={"Content-Type": "application/json", "Idempotency-Key": content["id"]},
        )  # fmt: skip
        try:
            with self._opener.open(request, timeout=_POST_SECONDS) as answer:
                answer.read(2**16)
        except urllib.error.HTTPError as error:
            error.close()
            raise Failed(f"it answers {error.code}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise Failed(str(reason) or type(error).__name__) from error


class Outbox:
    """A thread for each receiver.

    Attributes:
        results: how many messages each receiver has taken, and how many tries have failed, by
            receiver and "sent" or "failed".

    Args:
        journal: where messages wait.
        receivers: who is told.
        say: takes a line for people.
    """

    def __init__(
        self,
        journal: Journal,
        receivers: Sequence[Receiver],
        say: Callable[[str], None],
    ):
        self._journal = journal
        self._receivers = receivers
        self._say = say
        self.results: Counter[tuple[str, str]] = Counter()
        self._trouble: LisaeError | None = None
        self._new = {each.name: threading.Event() for each in receivers}
        self._ending = threading.Event()
        self._deadline = float("inf")
        self._threads = [
            threading.Thread(target=self._work, args=(each,), name=each.name, daemon=True)
            for each in receivers
        ]
        for thread in self._threads:
            thread.start()
        self.notify()

    def addressed(self, kind: str) -> list[str]:
        """The receivers of messages of a kind."""
        return [each.name for each in self._receivers if kind in each.kinds]

    def notify(self) -> None:
        """There may be new messages.

        Raises:
            LisaeError: the journal could not be written.
        """
        if self._trouble is not None:
            raise self._trouble
        for event in self._new.values():
            event.set()

    def behind(self, messages: int) -> str | None:
        """A receiver for whom so many messages wait."""
        waiting = self._journal.waiting()
        return next((name for name in self._new if waiting.get(name, 0) >= messages), None)

    def close(self, seconds: float) -> None:
        """Sends what can be sent in so many seconds; the rest stays in the journal."""
        self._deadline = time.monotonic() + seconds
        self._ending.set()
        for event in self._new.values():
            event.set()
        for thread in self._threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))

    def _work(self, receiver: Receiver) -> None:
        try:
            self._send_all(receiver)
        except LisaeError as error:
            self._trouble = error

    def _send_all(self, receiver: Receiver) -> None:
        name, failures, told = receiver.name, 0, False
        while time.monotonic() < self._deadline:
            self._new[name].clear()
            message = self._journal.next_message(name)
            if message is None:
                if self._ending.is_set():
                    return
                self._new[name].wait()
                continue
            try:
                receiver.send(message.content)
            except Failed as reason:
                self._journal.failed(message)
                self.results[name, "failed"] += 1
                failures += 1
                if not (told or message.attempts):
                    told = True
                    self._say(f"{name} did not take a message ({reason}); it is sent again")
                self._pause(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures - 1, 20)))
                continue
            self._journal.sent(message)
            self.results[name, "sent"] += 1
            if told:
                self._say(f"{name} takes messages again")
            failures, told = 0, False

    def _pause(self, seconds: float) -> None:
        """Waits before the next try: not past the end, and not when that has just begun."""
        if self._ending.is_set():
            time.sleep(max(0.0, min(seconds, self._deadline - time.monotonic())))
        else:
            self._ending.wait(seconds)
