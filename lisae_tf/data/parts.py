"""What training may see and what the test holds, as arrays; and how pictures are held out."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lisae_tf.config.sections import Data
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.regions import covered


def full_scale(images: np.ndarray) -> int:
    """What 1 on the scale of errors is: 255 for pictures, uint8; 1 for feature rows, float."""
    return 255 if images.dtype == np.uint8 else 1


@dataclass(frozen=True)
class Parts:
    """One side of the training data, disjoint: uint8 (N, H, W, C), or float32 (N, m).

    What is known of each picture of a side comes in parts of its own, row by row.
    """

    fit: np.ndarray
    stopping: np.ndarray  # decides when to stop
    calibration: np.ndarray  # normal: sets α; negative: `auroc_negatives`; used for nothing else

    def rows(self, chosen: Sequence[np.ndarray]) -> "Parts":
        """Some rows of each part.

        Args:
            chosen: of the fit, stopping and calibration parts: bool (N,) or indices, each.
        """
        parts = (self.fit, self.stopping, self.calibration)
        return Parts(*(part[rows] for part, rows in zip(parts, chosen, strict=True)))

    def followed_by(self, value: object) -> "Parts":
        """As many rows again behind each part, all of one value."""
        parts = (self.fit, self.stopping, self.calibration)
        return Parts(*(np.concatenate([part, np.full(part.shape, value)]) for part in parts))


@dataclass(frozen=True)
class TrainingData:
    """All that training and calibration may see."""

    normal: Parts
    negative: Parts | None
    augment: bool = False  # whether negatives are augmented
    notes: tuple[str, ...] = ()  # what the user should know
    # Of negatives from a folder, else None. Kinds, str (N,): the first folder below it, "" at its
    # top, "synth:…" of made ones that join them.
    negative_kinds: Parts | None = None
    # Where masks are given: what they mark, bool (N, H, W); nothing in pictures without a mask.
    negative_masks: Parts | None = None
    # Beside real negatives, those made of the normal pictures, and where these were changed. What
    # works place by place keeps the two apart, for only one of them says where it is negative.
    made: Parts | None = None
    made_masks: Parts | None = None
    # Which regions of all pictures do not count, bool (H, W); None where all do.
    ignored: np.ndarray | None = None
    # Known flaws that choose settings, uint8 (N, H, W, C); no test has them.
    known: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """H, W, C of pictures; m of feature rows."""
        return self.normal.fit.shape[1:]

    def with_negatives(self, chosen: Sequence[np.ndarray]) -> "TrainingData":
        """The same with some of the negatives alone.

        Args:
            chosen: which of the fit, stopping and calibration parts: bool (N,) or indices, each.
        """

        def some(side: Parts | None) -> Parts | None:
            return side and side.rows(chosen)

        return replace(
            self,
            negative=some(self.negative),
            negative_kinds=some(self.negative_kinds),
            negative_masks=some(self.negative_masks),
        )

    def ignoring(self, ignored: np.ndarray) -> "TrainingData":
        """The same, of pictures of which some regions do not count: nothing is marked there.

        Args:
            ignored: bool (H, W).

        Raises:
            LisaeError: another shape or type, nothing is left, or no negative is, for all their
                marks lie there.
        """
        if ignored.dtype != bool or ignored.shape != self.shape[:-1] or ignored.all():
            raise LisaeError(
                f"what does not count must be bool {self.shape[:-1]} and leave something of the "
                f"pictures, not {ignored.dtype} {ignored.shape}"
            )

        def kept(masks: Parts | None) -> Parts | None:
            return masks and Parts(
                *(each & ~ignored for each in (masks.fit, masks.stopping, masks.calibration))
            )

        found = replace(
            self,
            ignored=ignored,
            negative_masks=kept(self.negative_masks),
            made_masks=kept(self.made_masks),
        )
        if self.negative_masks is None:
            return found
        # A picture that is marked nowhere else is not negative; one without marks may be.
        chosen = []
        for name in ("fit", "stopping", "calibration"):
            before, after = (
                getattr(each.negative_masks, name).any(axis=(1, 2)) for each in (self, found)
            )
            chosen.append(after | ~before)
        if not chosen[0].any():
            raise LisaeError(
                "the flaws of all negatives lie where nothing counts; make the white of the mask "
                "smaller, or give other negatives"
            )
        # Of the few that are held out some must stay.
        return found.with_negatives([each if each.any() else ~each for each in chosen])

    def covered(self) -> "TrainingData":
        """The same with the pictures of both sides covered where nothing counts."""
        if self.ignored is None:
            return self

        def of(side: Parts | None) -> Parts | None:
            parts = side and (side.fit, side.stopping, side.calibration)
            return parts and Parts(*(covered(each, self.ignored) for each in parts))

        return replace(self, normal=of(self.normal), negative=of(self.negative))


def mirrored(data: TrainingData) -> TrainingData:
    """The fit parts of both sides with each picture mirrored left to right behind the originals."""

    def both(parts: Parts | None) -> Parts | None:
        if parts is None:
            return None
        parts = replace(parts, fit=np.asarray(parts.fit))
        # Kinds, (N,), have no left and right.
        turned = parts.fit[:, :, ::-1] if parts.fit.ndim > 1 else parts.fit
        return replace(parts, fit=np.concatenate([parts.fit, turned]))

    return replace(
        data,
        normal=both(data.normal),
        negative=both(data.negative),
        negative_kinds=both(data.negative_kinds),
        negative_masks=both(data.negative_masks),
        made=both(data.made),
        made_masks=both(data.made_masks),
    )


@dataclass(frozen=True)
class TestData:
    """Test pictures; `is_anomaly` is read by evaluation alone."""

    __test__ = False  # no test class, whatever pytest thinks

    pixels: np.ndarray  # uint8 (N, H, W, C)
    is_anomaly: np.ndarray  # bool (N,)
    labels: list[str] = field(default_factory=list)  # class or file of each
    notes: tuple[str, ...] = ()  # what the user should know
    normal_counts: tuple[int, ...] = ()  # normal pictures of each of the user's folders, in order
    kinds: tuple[str, ...] = ()  # of each, from folders: the kind of anomaly, "" of normal ones
    # Of pictures that a run was tested on: where each stands among the run's test scores, int (N,).
    rows: np.ndarray | None = None
    # Of each, from folders: the group of copies or of --group-by, "" of one that stands alone.
    groups: tuple[str, ...] = ()


def split(
    count: int,
    shares: Sequence[float],
    *,
    groups: np.ndarray | None = None,
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """Sorted, disjoint indices: the rest first, then a part for each share.

    Args:
        count: number of pictures.
        shares: of the held-out parts, each at least one picture.
        groups: (count,); a group is never divided between parts.
        generator: decides who goes where.

    Raises:
        LisaeError: too few pictures or groups to leave some for training.
    """
    keys = np.arange(count) if groups is None else groups
    names, sizes = np.unique(keys, return_counts=True)
    order = generator.permutation(len(names))
    ends = np.cumsum(sizes[order])
    parts, taken = [], 0
    for share in shares:
        wanted = sizes[order[:taken]].sum() + max(1, round(share * count))
        upto = max(taken + 1, int(np.searchsorted(ends, wanted, side="left")) + 1)
        parts.append(np.flatnonzero(np.isin(keys, names[order[taken:upto]])))
        taken = upto
    if taken >= len(names):
        raise LisaeError(
            f"{count} picture{'s' * (count != 1)} ({len(names)} different or independent) cannot "
            "be held apart for training, stopping, calibration and test; give more of them or "
            "lower data.stopping_fraction, calibration_fraction and test_fraction"
        )
    return [np.flatnonzero(np.isin(keys, names[order[taken:]])), *parts]


def halves(
    kinds: Sequence[str], *, groups: np.ndarray, generator: np.random.Generator
) -> list[np.ndarray]:
    """Sorted, disjoint indices of two halves, each with about half of every kind.

    Args:
        kinds: of each picture, (N,); a group goes with the kind of its first picture.
        groups: int (N,); a group is never divided.
        generator: decides who goes where.
    """
    firsts, sizes = np.unique(groups, return_index=True, return_counts=True)[1:]
    kind_of = [kinds[row] for row in firsts]
    half_of, taken = np.zeros(len(firsts), int), np.zeros(2, int)
    order = generator.permutation(len(firsts))
    for kind in sorted(set(kind_of)):
        own = np.zeros(2, int)
        for k in order:
            if kind_of[k] == kind:
                # A kind of one picture goes to the side that has fewer so far.
                half_of[k] = min((0, 1), key=lambda half: (own[half], taken[half]))
                own[half_of[k]] += sizes[k]
                taken[half_of[k]] += sizes[k]
    by_group = dict(zip(groups[firsts], half_of, strict=True))
    half = np.array([by_group[number] for number in groups], int)
    return [np.flatnonzero(half == side) for side in (0, 1)]


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream])


def side_indices(
    count: int,
    data: Data,
    *,
    seed: int,
    stream: int,
    groups: np.ndarray | None = None,
    with_test: bool = False,
) -> list[np.ndarray]:
    """The indices of the fit, stopping and calibration parts of a side, and of a test part.

    Raises:
        LisaeError: see `split`.
    """
    shares = [data.stopping_fraction, data.calibration_fraction]
    if with_test:
        shares.append(data.test_fraction)
    return split(count, shares, groups=groups, generator=_rng(seed, stream))


def split_side(
    pixels: np.ndarray,
    data: Data,
    *,
    seed: int,
    stream: int,
    groups: np.ndarray | None = None,
    with_test: bool = False,
) -> tuple[Parts, np.ndarray]:
    """Fit, stopping and calibration parts, and the indices of a test part (empty without)."""
    fit, stopping, calibration, *test = side_indices(
        len(pixels), data, seed=seed, stream=stream, groups=groups, with_test=with_test
    )
    parts = Parts(pixels[fit], pixels[stopping], pixels[calibration])
    return parts, test[0] if test else np.empty(0, np.int64)
