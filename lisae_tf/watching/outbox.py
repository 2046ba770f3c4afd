"""Sends the journal's messages, each until its receiver has it. Without TensorFlow.

A message leaves the journal after it was received, so one that was sent just before a kill is sent
again, with the same id.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from lisae_tf.core.errors import LisaeError
from lisae_tf.watching.journal import Journal
from lisae_tf.watching.receivers import Failed, Receiver

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds after failures, each twice the one before


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
