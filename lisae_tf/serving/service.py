"""What both fronts of a server share: the versions, the limits, the counts, and how it ends.

To end without a lost answer a server first *leaves* (it answers, says so to health checks, and asks
REST clients for new connections), then *refuses* (new requests are answered UNAVAILABLE), and is
closed once nobody has come for a moment. Closing at once would cut off whoever has just connected.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lisae_tf.exported.saved_model import ServedModel
from lisae_tf.exported.signatures import RequestError
from lisae_tf.serving.admission import Admission
from lisae_tf.serving.limits import Limits
from lisae_tf.serving.metrics import Metrics
from lisae_tf.serving.versions import Versions


@dataclass
class Service:
    """One served model.

    Attributes:
        versions: its versions.
        limits: bounds of a request.
        metrics: what is counted.
        pool: the threads in which requests are read and run, over REST and gRPC together.
        leaving: the server is about to end; clients are asked to go elsewhere.
        refusing: it takes no new requests.
    """

    versions: Versions
    limits: Limits
    metrics: Metrics
    pool: ThreadPoolExecutor
    leaving: bool = False
    refusing: bool = False

    def __post_init__(self):
        self._lock = threading.Lock()
        self._running = 0
        self._last = time.monotonic()

    @contextlib.contextmanager
    def request(self, entrypoint: str, method: str) -> Iterator[None]:
        """Counts one request from its arrival to its answer.

        Raises:
            RequestError: UNAVAILABLE, the server is ending.
        """
        with self.metrics.request(entrypoint, method):
            with self._lock:
                self._running += 1
                self._last = time.monotonic()
            try:
                if self.refusing:
                    raise RequestError("UNAVAILABLE", "the server is ending; ask another one")
                yield
            finally:
                with self._lock:
                    self._running -= 1

    def admission(self) -> Admission:
        """What lets requests in, for one front."""
        limits = self.limits
        return Admission(
            limits.requests,
            limits.read_seconds,
            limits.stalled_seconds,
            limits.read_rate,
            max(limits.memory.size, limits.body),
        )

    def idle_seconds(self) -> float:
        """Time since the last request came; 0 while one is running."""
        with self._lock:
            return 0.0 if self._running else time.monotonic() - self._last

    def check_name(self, name: str) -> None:
        """Refuses requests for another model.

        Raises:
            RequestError: NOT_FOUND, or INVALID_ARGUMENT without a name.
        """
        if not name:
            raise RequestError("INVALID_ARGUMENT", "ModelSpec has no name specified.")
        if name != self.versions.name:
            raise RequestError("NOT_FOUND", f"Servable not found for request: Latest({name})")

    def pick(self, name: str, version: int | None, label: str | None) -> ServedModel:
        """The version that answers.

        Raises:
            RequestError: another model, version or label than is served.
        """
        self.check_name(name)
        return self.versions.pick(version, label)
