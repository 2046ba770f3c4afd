"""What a watcher counts, for Prometheus, on this machine alone. Without TensorFlow."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lisae_tf.core.errors import LisaeError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

HOST = "127.0.0.1"


@dataclass
class Counts:
    """Since the start, and now.

    Attributes:
        normal: pictures at or below the threshold.
        anomaly: pictures above it.
        unreadable: pictures that have a reason and no score.
        waiting: pictures that are there and not scored.
        messages: by receiver and "sent" or "failed".
        messages_waiting: by receiver.
        paused: whether scoring waits for a receiver.
        folder_available: whether the folder can be read.
        last_look: when it was last read, in seconds since 1970.
        threshold: of the model.
        drifted: None where drift is not tested.
        statistic: of the last test, None before the first.
    """

    threshold: float
    normal: int = 0
    anomaly: int = 0
    unreadable: int = 0
    waiting: int = 0
    messages: Mapping[tuple[str, str], int] = field(default_factory=dict)
    messages_waiting: Mapping[str, int] = field(default_factory=dict)
    paused: bool = False
    folder_available: bool = True
    last_look: float = 0.0
    drifted: bool | None = None
    statistic: float | None = None

    @property
    def scored(self) -> int:
        """Pictures with a score."""
        return self.normal + self.anomaly


class _Collector:
    """Reads the counts when it is asked."""

    def __init__(self, counts: Callable[[], Counts]):
        self._counts = counts

    def collect(self) -> "Iterator[Metric]":
        """The metrics of now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        counts = self._counts()
        pictures = CounterMetricFamily(
            "lisae_watch_pictures", "Pictures since the start.", labels=["outcome"]
        )
        for outcome in ("normal", "anomaly", "unreadable"):
            pictures.add_metric([outcome], getattr(counts, outcome))
        yield pictures
        sent = CounterMetricFamily(
            "lisae_watch_messages", "Messages sent since the start.", labels=["receiver", "result"]
        )
        for labels, count in counts.messages.items():
            sent.add_metric(labels, count)
        yield sent
        waiting = GaugeMetricFamily(
            "lisae_watch_messages_waiting", "Messages not yet received.", labels=["receiver"]
        )
        for receiver, count in counts.messages_waiting.items():
            waiting.add_metric([receiver], count)
        yield waiting
        for name, what, value in (
            ("pictures_waiting", "Pictures that are there and not scored.", counts.waiting),
            ("paused", "1 while scoring waits for a receiver.", counts.paused),
            ("folder_available", "1 while the folder can be read.", counts.folder_available),
            ("last_look_timestamp_seconds", "When the folder was last read.", counts.last_look),
            ("threshold", "Of the model.", counts.threshold),
            ("drifted", "1 while the newest scores have drifted.", counts.drifted),
            ("drift_statistic", "Kolmogorov-Smirnov, of the last test.", counts.statistic),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"lisae_watch_{name}", what, value=float(value))


def serve(port: int, counts: Callable[[], Counts]) -> tuple[int, Callable[[], None]]:
    """Answers on a port of this machine alone, from a thread of its own.

    Args:
        port: 0 for any free one.
        counts: gives those of now.

    Returns:
        The port, and what ends it.

    Raises:
        LisaeError: the port is taken.
    """
    from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
    from prometheus_client import start_http_server as _start

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(_Collector(counts))
    try:
        server, thread = _start(port, HOST, registry)
    except (OSError, OverflowError) as error:
        raise LisaeError(
            f"metrics cannot listen on {HOST}:{port}; choose another --metrics-port"
        ) from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, end
