"""What a watcher has done and how it stands. Without TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass, field


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
