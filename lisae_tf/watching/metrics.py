"""What a watcher counts, for Prometheus, on this machine alone. Without TensorFlow."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client import start_http_server as _start
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from lisae_tf.core.errors import LisaeError
from lisae_tf.watching.counts import Counts

HOST = "127.0.0.1"


class _Collector:
    """Reads the counts when it is asked."""

    def __init__(self, counts: Callable[[], Counts]):
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """The metrics of now."""
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
