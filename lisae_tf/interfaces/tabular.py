"""Plain feature rows as detectors take them: on one scale, and negatives made of the normals."""

from dataclasses import dataclass

import numpy as np

WIDENED = 0.5  # of a feature's range, beyond each of its ends


@dataclass(frozen=True)
class Standardiser:
    """(x − mean) / std of each feature of the normal rows; a constant feature is only centred."""

    mean: np.ndarray  # float64 (m,)
    std: np.ndarray  # float64 (m,)

    @classmethod
    def of(cls, normal: np.ndarray) -> "Standardiser":
        """From the normal rows that are trained on, float (N, m)."""
        std = normal.std(axis=0, dtype=np.float64)
        return cls(normal.mean(axis=0, dtype=np.float64), np.where(std > 0, std, 1.0))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Float (N, m) -> float32 (N, m)."""
        return ((rows - self.mean) / self.std).astype(np.float32)


def synthetic_rows(normal: np.ndarray, seed: int) -> np.ndarray:
    """As many negatives as normals, from the normals alone.

    Half have each feature from another row, which keeps every feature's distribution and undoes
    what binds them (Breiman's unsupervised forest, 2001); half are uniform over the features'
    ranges, widened by `WIDENED` on either side.

    Args:
        normal: float32 (N, m).
        seed: same seed, same rows.

    Returns:
        float32 (N, m).
    """
    generator = np.random.default_rng([seed, 3])
    mixed = generator.permuted(normal, axis=0)
    low, high = normal.min(axis=0), normal.max(axis=0)
    margin = WIDENED * (high - low)
    uniform = generator.uniform(low - margin, high + margin, normal.shape)
    half = generator.permutation(len(normal)) < len(normal) // 2
    return np.where(half[:, None], mixed, uniform).astype(np.float32)
