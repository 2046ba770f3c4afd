"""Settings chosen with known flaws: others than the usual ones where they are clearly better.

What is measured is which share of held-out normal pictures scores below each known flaw: its mean
is the AUROC of these pictures. Neither calibration nor test pictures are looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from lisae_tf.config.variants import ROWS
from lisae_tf.features.negatives import NONE

# Variants that are solved, not trained, so that trying them costs little.
CLOSED = ("lis-knn", "linear-lis", "knn", "mahalanobis")
SHARES = (0.005, 0.1, 1.0)  # of a map's places, which are tried beside the usual one
# Of all candidates together, as if they had nothing in common. They are alike, so that chance alone
# seems better in about a twentieth of all cases, which is also the level of few candidates.
LEVEL, ALONE = 0.2, 0.05
FEWEST = 3  # flaws below which nothing can be shown


@dataclass(frozen=True)
class Candidate:
    """Settings that may be trained with; `negatives` is "" of a variant that takes none."""

    variant: str
    negatives: str
    highest_share: float

    @property
    def trained(self) -> tuple[str, str]:
        """What a training depends on: the share belongs to the score alone."""
        return self.variant, self.negatives

    @property
    def trained_on(self) -> str:
        """The same in words."""
        return f"{self.variant} ({self.negatives} negatives)" if self.negatives else self.variant

    def __str__(self) -> str:
        return f"{self.trained_on}, highest {100 * self.highest_share:g} % of places"


@dataclass(frozen=True)
class Picked:
    """What is trained with.

    Attributes:
        candidate: the settings.
        why: one sentence.
        record: the same in numbers, for `metrics.json`.
    """

    candidate: Candidate
    why: str
    record: dict[str, object]


def candidates(choose: Sequence[str], usual: Candidate, there: Sequence[str]) -> list[Candidate]:
    """The settings that known flaws choose among, the usual ones first.

    Args:
        choose: the settings that are free, see `config.settings.CHOSEN`.
        usual: what is trained without known flaws.
        there: the negatives that there are.
    """
    negatives = [usual.negatives] if usual.negatives else []
    if "features.negatives" in choose:
        negatives += [name for name in there if name not in negatives]
    pairs = [usual.trained]
    # A network takes minutes: it is trained once, where the user names it.
    variants = CLOSED if "variant" in choose else {usual.variant} & set(CLOSED)
    for variant in variants:
        pairs += [(variant, name) for name in (negatives if ROWS[variant].negatives else [""])]
    # Without negatives a variant is another one, which may be among them by its own name.
    pairs = [pair for pair in pairs if pair[1] != NONE or ROWS[pair[0]].without not in variants]
    shares = [usual.highest_share]
    if "scoring.highest_share" in choose:
        shares += SHARES
    found = (Candidate(*pair, share) for pair in pairs for share in shares)
    return list(dict.fromkeys(found))


def order(normal: np.ndarray, flaws: np.ndarray) -> np.ndarray:
    """1 where a flaw scores above a normal picture, ½ where as high: float (flaws, normal)."""
    difference = flaws[:, None] - normal[None]
    return (np.sign(difference) + 1) / 2


def gain_of(own: np.ndarray, usual: np.ndarray) -> tuple[float, float]:
    """The mean gain over the usual settings and its standard error.

    The error is over flaws and, because few normal pictures are a sample too, over these: that of
    the difference of two AUROCs (DeLong et al. 1988).

    Args:
        own: of the other settings, see `order`; two flaws or more, two normal pictures or more.
        usual: of the usual ones.
    """
    gain = own - usual
    variance = sum(np.var(gain.mean(axis=1 - k), ddof=1) / gain.shape[k] for k in (0, 1))
    return float(gain.mean()), float(np.sqrt(variance))


def factor_of(flaws: int, others: int) -> float:
    """How many standard errors a gain must exceed.

    Student's t for so many flaws, at `LEVEL` divided by the number of candidates (Bonferroni), or
    at `ALONE` where that is less.
    """
    return float(stats.t.ppf(1 - min(ALONE, LEVEL / others), flaws - 1))


def pick(scores: Mapping[Candidate, tuple[np.ndarray, np.ndarray]], usual: Candidate) -> Picked:
    """The candidate with the highest gain of those that are better beyond chance, else the usual.

    Args:
        scores: of held-out normal pictures, float (N,), and of known flaws, float (M,).
        usual: the settings without known flaws; one of the candidates.
    """
    orders = {name: order(*pair) for name, pair in scores.items()}
    flaws, normal = orders[usual].shape
    below = {name: float(each.mean()) for name, each in orders.items()}
    record: dict[str, object] = {
        "n_choosing": flaws, "n_held_out": normal, "usual": asdict(usual),
    }  # fmt: skip
    others = [name for name in orders if name != usual]
    chosen, best = usual, None
    if others and flaws >= FEWEST and normal > 1:
        factor = factor_of(flaws, len(others))
        gains = {name: gain_of(orders[name], orders[usual]) for name in others}
        better = [name for name, (gain, error) in gains.items() if gain > factor * error]
        best = max(better or others, key=lambda name: gains[name][0])
        chosen = best if better else usual
        gain, error = gains[best]
        record |= {"gain": gain, "standard_error": error, "factor": factor}
    record |= {
        "chosen": asdict(chosen),
        "candidates": [asdict(name) | {"normals_below": below[name]} for name in orders],
    }
    return Picked(chosen, _why(chosen, usual, best, below, record, len(others)), record)


def _why(
    chosen: Candidate,
    usual: Candidate,
    best: Candidate | None,
    below: Mapping[Candidate, float],
    record: Mapping[str, object],
    others: int,
) -> str:
    flaws, normal = record["n_choosing"], record["n_held_out"]
    if flaws >= FEWEST and not others:
        return f"known flaws chose nothing: all settings were set by hand ({usual})"
    if best is None:
        return (
            f"known flaws chose nothing: {flaws} of them and {normal} held-out normal pictures "
            f"cannot show that other settings are better than {usual}; from {2 * FEWEST} in "
            "--known-dir on, some can"
        )
    if record["gain"] <= 0:
        return (
            f"known flaws changed nothing: none of the {others} other settings puts them higher "
            f"than {usual}, with which {100 * below[usual]:.1f} % of {normal} held-out normal "
            f"pictures score below one of {flaws} flaws on average"
        )
    asked = record["factor"] * record["standard_error"]
    measured = (
        f"of {normal} held-out normal pictures {100 * below[best]:.1f} % score below a known flaw "
        f"on average, {100 * below[usual]:.1f} % with {{}}; a gain above {100 * asked:.1f} points "
        f"is beyond chance with {flaws} flaws and {others} other settings"
    )
    if chosen != usual:
        return f"known flaws chose {chosen}: {measured.format(f'the usual {usual}')}"
    return f"known flaws changed nothing: with the best others, {best}, {measured.format(usual)}"
