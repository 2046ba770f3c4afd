"""Which pictures an export is calibrated and checked on: the run's own data, and made-up ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lisae_tf.data.folders import moved
from lisae_tf.data.tasks import reopen
from lisae_tf.detectors.base import Detector

MAX_REAL = 1000  # of normal pictures, and of anomalies
MAX_REPRESENTATIVE = 200  # likewise
MADE_UP = 64
TEST_ANOMALIES = "test anomalies"
# Of so many pixels together, at most: large pictures say as much in smaller numbers.
REPRESENTATIVE_PIXELS, MADE_UP_PIXELS = 2**22, 2**20


@dataclass(frozen=True)
class Samples:
    """Pictures of the shape that the model takes, uint8 (N, H, W, C).

    Attributes:
        real: the run's test pictures.
        is_anomaly: bool (N,), which of `real` count as anomalies.
        anomalies: what these are.
        representative: training pictures, normal and negative, for choosing int8 ranges.
        calibration: the run's calibration pictures, as far as they are still there.
    """

    real: np.ndarray
    is_anomaly: np.ndarray
    anomalies: str
    representative: np.ndarray
    calibration: np.ndarray

    @property
    def is_test(self) -> np.ndarray:
        """Which of `real` are of the run's test: without test anomalies the normal ones alone."""
        return ~self.is_anomaly | (self.anomalies == TEST_ANOMALIES)

    @property
    def kinds(self) -> dict[str, np.ndarray]:
        """What the gate compares on."""
        count = _affordable(MADE_UP, MADE_UP_PIXELS, self.real.shape[1:])
        shape = (count, *self.real.shape[1:])
        return {
            "real": self.real,
            "noise": noise(shape),
            "black": np.zeros(shape, np.uint8),
            "white": np.full(shape, 255, np.uint8),
        }


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Uniform noise, uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8, endpoint=False)


def _affordable(most: int, pixels: int, shape: tuple[int, ...]) -> int:
    """At most so many pictures of a shape, and so many pixels in all of them; at least 8."""
    return min(most, max(8, pixels // (shape[0] * shape[1])))


def _evenly(pictures: np.ndarray, count: int) -> np.ndarray:
    """At most `count` pictures, spread over all."""
    if len(pictures) <= count:
        return np.asarray(pictures)
    return np.asarray(pictures[np.linspace(0, len(pictures) - 1, count).astype(int)])


def load_samples(
    detector: Detector, run: Path, data_dir: Path | None, data_roots: Sequence[str] = ()
) -> Samples:
    """The pictures for one run.

    Without test anomalies, held-out negatives take their place; without those, noise.

    Raises:
        LisaeError: the run's data is missing.
    """
    opened = reopen(run, moved(detector.config, data_roots), data_dir, skip_bad=True)
    training, test = opened.training(), opened.test()
    normal = _evenly(test.pixels[~test.is_anomaly], MAX_REAL)
    anomalies, what = _evenly(test.pixels[test.is_anomaly], MAX_REAL), TEST_ANOMALIES
    count = _affordable(MAX_REPRESENTATIVE, REPRESENTATIVE_PIXELS, detector.shape)
    made_up = noise((count, *detector.shape), seed=1)
    negatives = made_up if training.negative is None else training.negative.fit
    if not len(anomalies) and training.negative is not None:
        anomalies = _evenly(training.negative.calibration, MAX_REAL)
        what = "held-out negatives"
    elif not len(anomalies):
        anomalies, what = made_up, "noise"
    representative = [_evenly(each, count) for each in (training.normal.fit, negatives)]
    return Samples(
        np.concatenate([normal, anomalies]),
        np.arange(len(normal) + len(anomalies)) >= len(normal),
        what,
        np.concatenate(representative),
        training.normal.calibration,
    )
