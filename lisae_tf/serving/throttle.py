"""A log that one kind of trouble cannot fill."""

import logging
import time


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
