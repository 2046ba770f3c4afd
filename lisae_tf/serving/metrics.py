"""What the server tells of itself: counts for Prometheus, and a log that is kept short."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from lisae_tf.exported.signatures import RequestError
from lisae_tf.serving.versions import AVAILABLE, Versions

PATH = "/monitoring/prometheus/metrics"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """One registry for one server."""

    def __init__(self, versions: Versions):
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        labels = ("entrypoint", "method")
        self._requests = Counter(
            "lisae_serving_requests", "Requests answered.", (*labels, "code"),
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "lisae_serving_request_seconds", "Time from a request's arrival to its answer.",
            labels, buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._running = Gauge(
            "lisae_serving_requests_running", "Requests not yet answered.", registry=self._registry
        )
        self._served = Gauge(
            "lisae_serving_version_available", "1 for each version that answers, else 0.",
            ("version",), registry=self._registry,
        )  # fmt: skip
        self._versions = versions

    @contextlib.contextmanager
    def request(self, entrypoint: str, method: str) -> Iterator[None]:
        """Counts and times one request; any other exception than RequestError is INTERNAL."""
        started = time.perf_counter()
        code = "INTERNAL"
        self._running.inc()
        try:
            yield
            code = "OK"
        except RequestError as error:
            code = error.code
            raise
        except asyncio.CancelledError:  # the client has gone
            code = "CANCELLED"
            raise
        finally:
            self._running.dec()
            self._requests.labels(entrypoint, method, code).inc()
            self._seconds.labels(entrypoint, method).observe(time.perf_counter() - started)

    def page(self) -> bytes:
        """The text that Prometheus collects."""
        for version, state in dict(self._versions.states).items():
            self._served.labels(str(version)).set(state.state == AVAILABLE)
        return generate_latest(self._registry)


class Throttle(logging.Filter):
    """Lets a few records of one place in the code through, and then counts them for a while.

    Args:
        most: records in that time.
        seconds: how long.
    """

    def __init__(self, most: int = 20, seconds: float = 10.0):
        super().__init__()
        self._most = most
        self._seconds = seconds
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # since when, and how many

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written; one after others that were not says how many."""
        place, now = (record.pathname, record.lineno), time.monotonic()
        since, count = self._seen.get(place, (now, 0))
        if now - since > self._seconds:
            if count > self._most:
                left_out = count - self._most
                record.msg, record.args = f"{record.getMessage()} ({left_out} more before)", None
            since, count = now, 0
        self._seen[place] = since, count + 1
        return count < self._most
