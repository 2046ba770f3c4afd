"""The drift test of `monitor` over a sliding window of the newest scores. Without TensorFlow."""

from collections import deque
from collections.abc import Iterable

import numpy as np

from lisae_tf.core.errors import LisaeError, install
from lisae_tf.exported import monitoring
from lisae_tf.exported.model_record import Record

# A test that is made again and again must be stricter than one that is made once.
SIGNIFICANCE = 1e-4
_TESTS = 10  # in the time that a window takes to be another


class Window:
    """The newest scores, and whether they have drifted.

    Attributes:
        drifted: what was said last.
        found: the last test, None before the first.

    Args:
        record: of the model, whose calibration scores they are compared with.
        size: of the window; the test begins when it is full.
        scores: those that are already known.
        drifted: what was said of them.

    Raises:
        LisaeError: the window is too small for the test, or SciPy is missing.
    """

    def __init__(
        self, record: Record, size: int, scores: Iterable[float] = (), *, drifted: bool = False
    ):
        if size < monitoring.MIN_SCORES:
            raise LisaeError(
                f"--window {size} is too small for the drift test; give at least "
                f"{monitoring.MIN_SCORES}, or 0 to leave it out"
            )
        try:
            import scipy.stats  # noqa: F401
        except ModuleNotFoundError as error:
            raise LisaeError(
                f"the drift test needs the package 'scipy'; {install('watch')}, or leave the test "
                "out with --window 0"
            ) from error
        self._calibration, self._alpha, self._expected = monitoring.of_record(record)
        self._scores = deque(scores, maxlen=size)
        self._since = size  # scores since the last test
        self.drifted = drifted
        self.found: monitoring.Drift | None = None

    @staticmethod
    def why_not(record: Record) -> str | None:
        """Why scores of this model cannot be compared; None where they can."""
        found = monitoring.of_record(record)
        if found is None:
            return "the model keeps no calibration scores of its own"
        if len(found[0]) < monitoring.MIN_SCORES:
            return (
                f"the model keeps {len(found[0])} calibration scores, and a comparison needs "
                f"{monitoring.MIN_SCORES}"
            )
        return None

    def add(self, scores: Iterable[float]) -> monitoring.Drift | None:
        """Takes new scores; gives the test when it says another thing than the last one did."""
        said, size = None, self._scores.maxlen
        for score in scores:
            self._scores.append(score)
            self._since += 1
            if len(self._scores) == size and self._since >= size / _TESTS:
                self._since = 0
                self.found = monitoring.compare(
                    self._calibration, np.array(self._scores), alpha=self._alpha,
                    expected_rate=self._expected, significance=SIGNIFICANCE,
                )  # fmt: skip
                if self.found.drifted != self.drifted:
                    self.drifted, said = self.found.drifted, self.found
        return said
