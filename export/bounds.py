"""What an export may change: the bounds of the gates."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bounds:
    """What an export may change.

    Attributes:
        relative: of scores: |a - b| <= relative·|b| + 1e-7; None where scores are free. Where
            scores take both signs, |b| is at least that of a usual score: see `usual_score`.
        auroc: between Keras and the export.
        band: decisions are not compared where |b - α| <= band·|α| + 1e-7; likewise.
        agreement: share of real pictures outside the band that are decided equally.
        distinct: share of Keras' distinct scores on real pictures that must stay distinct.
    """

    relative: float | None
    auroc: float
    band: float
    agreement: float
    distinct: float


BOUNDS = {
    None: Bounds(relative=1e-4, auroc=1e-4, band=1e-4, agreement=1.0, distinct=0.99),
    "fp16": Bounds(relative=None, auroc=0.002, band=0.01, agreement=0.98, distinct=0.99),
    "int8": Bounds(relative=None, auroc=0.01, band=0.05, agreement=0.98, distinct=0.95),
}
ABSOLUTE = 1e-7


def usual_score(reference: np.ndarray) -> float:
    """What differences are measured against near 0, where scores take both signs; else 0.

    An error of 0 is a perfect picture. A logit of 0 is a score like any other, and no runtime
    keeps it to a share of itself.
    """
    return float(np.median(np.abs(reference))) if np.min(reference) < 0 else 0.0
