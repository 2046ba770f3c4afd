"""Which negative places a detector on features trains against: none, made, real, or both.

Made negatives know where they were changed. Of real ones whose flaw nobody has marked, only the
most unusual places count. Whether real ones help with flaws that nobody has shown yet is judged
by kinds left out of the training, with the linear case in closed form (section 4.1): it takes
a moment, whatever is trained afterwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import roc_auc_score

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.regions import covered_shares
from lisae_tf.model.linear import LinearLISAE, fit_in_closed_form, principal_subspace

NONE, MADE, REAL, BOTH = "none", "made", "real", "both"
COVERED = 0.3  # of a place, from which on it counts as marked
# Gains on kinds that are known carry over to others in part only: against every kind left out,
# at most so large a share of the pairs that the usual choice puts in the wrong order may be left.
CLEARLY = 2 / 3


@dataclass(frozen=True)
class NegativeMaps:
    """Negative pictures as standardised places.

    Attributes:
        places: float32 (N, h, w, m), or (N, places, m) where not all count.
        marked: bool (N, h, w) or (N, places), where they are negative; None where nobody has said.
        kinds: str (N,); None where there is no telling.
    """

    places: np.ndarray
    marked: np.ndarray | None = None
    kinds: np.ndarray | None = None

    def of(self, chosen: np.ndarray) -> "NegativeMaps":
        """Some of the pictures: bool (N,) or indices."""
        marked = None if self.marked is None else self.marked[chosen]
        kinds = None if self.kinds is None else self.kinds[chosen]
        return NegativeMaps(self.places[chosen], marked, kinds)


@dataclass(frozen=True)
class Choice:
    """What is trained against, and why.

    Attributes:
        name: "none", "made", "real" or "both".
        why: one sentence.
        auroc: of each candidate, against each kind left out.
    """

    name: str
    why: str
    auroc: dict[str, dict[str, float]] = field(default_factory=dict)


def marked_places(masks: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Pixels' masks as places': those that a mask covers by more than `COVERED`.

    A picture whose mask covers no place so far keeps the places that it covers most.

    Args:
        masks: bool (N, H, W).
        grid: (h, w).

    Returns:
        bool (N, h, w).
    """
    found = np.empty((len(masks), *grid), bool)
    for row, mask in zip(found, masks, strict=True):
        share = covered_shares(mask, grid)
        row[:] = (share > 0) & (share >= min(COVERED, share.max()))
    return found


def rows_of(negative: NegativeMaps, guide: Callable[[np.ndarray], np.ndarray], share: float):
    """The negative places: marked ones, else of each picture the share that the guide scores high.

    Args:
        negative: pictures; those whose mark is empty count as unmarked.
        guide: rows float32 (M, m) -> scores (M,), higher where they are unusual.
        share: of a picture's places.

    Returns:
        float32 (M, m).
    """
    n, size = len(negative.places), negative.places.shape[-1]
    flat = negative.places.reshape(n, -1, size)
    chosen = np.zeros(flat.shape[:2], bool)
    if negative.marked is not None:
        chosen |= negative.marked.reshape(n, -1)
    count = max(1, round(share * flat.shape[1]))
    for k in np.flatnonzero(~chosen.any(axis=1)):
        chosen[k, np.argpartition(guide(flat[k]), -count)[-count:]] = True
    return flat[chosen]


def mixed(one: np.ndarray, other: np.ndarray, seed: int) -> np.ndarray:
    """Rows of both, equally many of either; the fewer ones are repeated."""
    most = max(len(one), len(other))
    generator = np.random.default_rng(seed)

    def filled(rows: np.ndarray) -> np.ndarray:
        extra = generator.integers(0, len(rows), most - len(rows))
        return np.concatenate([rows, rows[extra]])

    return np.concatenate([filled(one), filled(other)])


def errors_at(score: Callable[[np.ndarray], np.ndarray], places: np.ndarray) -> np.ndarray:
    """The errors of pictures' places: float32 (N, ..., m) -> float (N, places).

    Args:
        score: rows float32 (M, m) -> scores (M,).
        places: of the pictures.
    """
    return score(places.reshape(-1, places.shape[-1])).reshape(len(places), -1)


def pooled(errors: np.ndarray, highest_share: float) -> np.ndarray:
    """The mean of the highest share of each row: float (N, places) -> (N,)."""
    count = max(1, round(highest_share * errors.shape[1]))
    return np.partition(errors, -count, axis=1)[:, -count:].mean(axis=1)


@dataclass
class Chooser:
    """Judges candidates by kinds left out.

    Attributes:
        normal: standardised normal places that train, float32 (M, m).
        held_out: of normal pictures that do not, float32 (N, ..., m).
        made, real: negatives; None where there are none.
        r: latent size of the linear case.
        unusual_share: see `rows_of`.
        highest_share: of a picture's places, whose mean is its score.
        seed: of what is random.
    """

    normal: np.ndarray
    held_out: np.ndarray
    made: NegativeMaps | None
    real: NegativeMaps | None
    r: int
    unusual_share: float
    highest_share: float
    seed: int

    def __post_init__(self) -> None:
        self.u_r, self.u_c = principal_subspace(self.normal, self.r)
        self._made = rows_of(self.made, self._residual, 1.0) if self.made else None
        self._guide = self._residual
        if self._made is not None:
            self._guide = self._fitted(self._made)

    def _residual(self, rows: np.ndarray) -> np.ndarray:
        """‖c‖², the error of phase 1."""
        return np.sum(np.square(rows @ self.u_c.astype(np.float32)), axis=1)

    def _fitted(self, negative: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        model: LinearLISAE = fit_in_closed_form(self.normal, negative, self.r)
        projection = (model.u_c @ model.b).astype(np.float32)
        return lambda rows: np.sum(np.square(rows @ projection), axis=1)

    def rows(self, name: str, real: NegativeMaps | None = None) -> np.ndarray | None:
        """The negative places of a candidate; of these real pictures, or of all."""
        real = real or self.real
        if name == NONE:
            return None
        if name == MADE:
            return self._made
        found = rows_of(real, self._guide, self.unusual_share)
        return found if name == REAL else mixed(self._made, found, self.seed)

    def _auroc(self, score: Callable, kind: np.ndarray) -> float:
        pools = [
            pooled(errors_at(score, places), self.highest_share) for places in (self.held_out, kind)
        ]
        truth = np.repeat([0, 1], list(map(len, pools)))
        return float(roc_auc_score(truth, np.concatenate(pools)))

    def choose(self, candidates: Sequence[str]) -> Choice:
        """The candidate to train against.

        The usual choice is made negatives, else none. Another is taken where it is clearly better
        against every kind left out.

        Args:
            candidates: those that the variant can be trained with and that there is data for.

        Raises:
            LisaeError: no candidate.
        """
        if not candidates:
            raise LisaeError(
                "there are no negatives to train against; give --negative-dir, or leave "
                "--negatives none out so that some are made"
            )
        usual = next((name for name in (MADE, NONE) if name in candidates), candidates[0])
        others = [name for name in candidates if name != usual]
        if not others or self.real is None:
            return Choice(usual, f"negatives: {usual}, for there are no real ones")
        kinds = list(dict.fromkeys(self.real.kinds.tolist())) if self.real.kinds is not None else []
        if len(kinds) < 2:
            return Choice(
                usual,
                f"negatives: {usual}. The {len(self.real.places)} real ones are of one kind, so "
                "nothing tells whether they help against others; give each kind a folder of its "
                "own inside --negative-dir, or set features.negatives",
            )
        found: dict[str, dict[str, float]] = {name: {} for name in (usual, *others)}
        for kind in kinds:
            left = self.real.kinds == kind
            for name, auroc in found.items():
                rows = self.rows(name, self.real.of(~left))
                score = self._residual if rows is None else self._fitted(rows)
                auroc[kind] = self._auroc(score, self.real.places[left])
        better = [
            name
            for name in others
            if all(1 - found[name][k] <= CLEARLY * (1 - found[usual][k]) for k in kinds)
            and any(found[name][k] > found[usual][k] for k in kinds)
        ]
        means = {name: float(np.mean(list(values.values()))) for name, values in found.items()}
        chosen = max(better, key=means.__getitem__, default=usual)
        told = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        reason = (
            "clearly better against every kind"
            if chosen != usual
            else "no other is clearly better against every kind"
        )
        return Choice(
            chosen,
            f"negatives: {chosen}; {reason} of the {len(kinds)} left out in turn (mean AUROC "
            f"against held-out normals: {told})",
            found,
        )
