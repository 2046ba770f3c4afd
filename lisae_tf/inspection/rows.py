"""The rows of the tables: detectors, what they see, and which negatives they train against.

Runs without TensorFlow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lisae_tf.core.errors import LisaeError

MADE, REAL, BOTH, AUTO = "made", "real", "both", "auto"
WITH_REAL = (REAL, BOTH, AUTO)  # without real negatives they are made ones alone


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        variant: as `--variant` takes it.
        negatives: as `features.negatives`; None for one that trains on normal pictures alone.
        pixels: sees the pixels themselves, not pretrained features.
        chance: whether another seed trains another model of the same pictures.
    """

    variant: str
    negatives: str | None = None
    pixels: bool = False
    chance: bool = True

    @property
    def name(self) -> str:
        """In tables and for `--rows`."""
        words = [self.variant, self.negatives, "pixels" if self.pixels else None]
        return " ".join(word for word in words if word)

    @property
    def real(self) -> bool:
        """Whether it asks for real negatives."""
        return self.negatives in WITH_REAL


# In the order in which they run: what takes a moment first. A variant without negatives is
# `ae`, or `linear-ae` in the linear case: those are the rows "none".
_ROWS = (
    Row("linear-ae", chance=False),
    Row("linear-lis", MADE),
    Row("mahalanobis", chance=False),
    Row("knn"),
    Row("lis-knn", MADE),
    Row("linear-lis", REAL),
    Row("linear-lis", BOTH),
    Row("linear-lis", AUTO),
    Row("lis-knn", REAL),
    Row("lis-knn", AUTO),
    Row("ae"),
    Row("lis", MADE),
    Row("lis", REAL),
    Row("bce", MADE),
    Row("bce", REAL),
    Row("deep-sad", MADE),
    Row("deep-sad", REAL),
    Row("linsep", MADE),
    Row("linsep-fused", MADE),
    Row("ae", pixels=True),
    Row("lis", MADE, pixels=True),
)
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}


def chosen(names: Sequence[str] | None) -> list[Row]:
    """Rows by name, in the order above; all where None.

    Raises:
        LisaeError: an unknown one.
    """
    unknown = [name for name in names or () if name not in ROWS]
    if unknown:
        raise LisaeError(f"there is no row '{unknown[0]}'; there are {', '.join(ROWS)}")
    return [row for name, row in ROWS.items() if names is None or name in names]
