"""Any detector on rows of features, at each place of a picture: one graph from pixels to score.

A frozen backbone gives the features; the detector inside trains on places as on rows; the map of
its errors is the picture's, and the picture's score is the mean of the highest places.
"""

from dataclasses import dataclass, replace

import keras
import numpy as np

from lisae_tf.config.sections import Features
from lisae_tf.config.settings import Config, merge, resolve
from lisae_tf.config.variants import ROWS
from lisae_tf.core.arrays import Arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.detectors.base import Detector
from lisae_tf.detectors.graph import AutoencoderDetector, GraphDetector
from lisae_tf.detectors.known_flaws import FEWEST, Candidate, candidates, pick
from lisae_tf.features.negatives import (
    BOTH,
    MADE,
    NONE,
    REAL,
    Choice,
    Chooser,
    NegativeMaps,
    errors_at,
    marked_places,
    pooled,
)
from lisae_tf.features.places import PICTURES, AsMap, PlaceFeatures
from lisae_tf.model.scoring import Kept, Pool, Scorer
from lisae_tf.training.phase import TrainingOptions

CHOICES = (NONE, MADE, REAL, BOTH)
MOST_HELD_OUT, MOST_NEGATIVE = 200, 400  # pictures whose places are all kept in memory


def evenly(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` rows, spread over all."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)


@dataclass(frozen=True)
class _Seen:
    """What a training on places sees.

    Attributes:
        normal: rows of places.
        held_out: places of pictures that only judge.
        chooser: of negatives; None for variants that take none.
        there: the negatives that it may choose.
    """

    normal: Parts
    held_out: np.ndarray
    chooser: Chooser | None
    there: list[str]


class PlacesDetector(GraphDetector):
    """Trains a detector on places of pictures.

    Args:
        config: settings with a section `features`.
        make: an untrained detector of rows for some settings.

    Attributes:
        choice: what was trained against, after a fit.
    """

    batch_size = PICTURES

    def __init__(self, config: Config, make):
        super().__init__(config)
        self._make = make
        self._inner: GraphDetector = make(config)
        self.needs_negatives = self._inner.needs_negatives
        self._usual = 1.0  # error of a normal place
        self.choice: Choice | None = None

    @property
    def _settings(self) -> Features:
        return self.config.features

    @property
    def meaning(self) -> str:
        share = f"{100 * self.highest_share:g} %"
        of = "places" if self.ignored is None else "the places that count"
        return f"mean over the highest {share} of {of}: {self._inner.meaning}"

    def _make_head(self) -> keras.Model:
        """Raw features, float32 (N, h, w, m) -> {"score": (N,), "error_map": (N, h, w)}."""
        raw = keras.Input((*self._places.grid, self._places.size), name="raw")
        errors = self._inner.inference()(self._places.standardise(raw))["score"]
        relative = keras.layers.Rescaling(1 / self._usual, name="relative")(errors)
        error_map = AsMap(self._places.grid, name="error_map")(relative)
        counted = self._places.counted
        score = Pool(self.highest_share, counted, name="score")(error_map)
        if counted is not None:
            error_map = Kept(counted, name="counted")(error_map)
        return keras.Model(raw, {"score": score, "error_map": error_map}, name="head")

    def inference(self) -> keras.Model:
        x = keras.Input(self.shape, name="x")
        return keras.Model(x, self._head(self._places.network(x)))

    def _make_graph(self) -> None:
        self._head = self._make_head()
        self._run_head = Scorer(self._head, PICTURES)
        super()._make_graph()

    # The graph in two steps: the backbone is nearly all of the work, and its features may be known.

    def _score(self, images: np.ndarray) -> np.ndarray:
        return self._by_head(images, "score")

    def error_maps(self, images: np.ndarray) -> np.ndarray:
        return self._by_head(self._ready(images), "error_map")

    def _by_head(self, images: np.ndarray, output: str) -> np.ndarray:
        parts = [self._run_head(raw, output) for raw in self._places.batches(images)]
        shape = () if output == "score" else self._places.grid
        return np.concatenate(parts) if parts else np.empty((0, *shape), np.float32)

    def _prepare(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3:
            raise LisaeError("features are of pictures; leave the section features out for rows")
        self.shape = shape
        self._places = PlaceFeatures(self._settings, shape, self.ignored)

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        self.ignored = data.ignored
        self._prepare(data.shape)
        places = self._places
        places.pretrain(self._settings)
        options.say(f"features of {len(data.normal.fit)} normal pictures")
        fit = places.sample(data.normal.fit, self._settings.places, self.config.seed)
        fit = places.standardise_by(fit)
        held_out = data.normal.stopping
        held_out = places.of(held_out[evenly(len(held_out), MOST_HELD_OUT)])
        stopping = held_out.reshape(-1, places.size)
        judges = (None, [])
        if self.needs_negatives:
            judges = self._chooser(data, fit, held_out)
        seen = _Seen(Parts(fit, stopping, stopping), held_out, *judges)
        if self.needs_negatives:
            self.choice = self._choose_negatives(seen)
            options.say(self.choice.why)
        negatives = self.choice.name if self.choice else ""
        usual = Candidate(self.config.variant, negatives, self.highest_share)
        self._inner = self._fitted(usual, seen, options)
        said = []
        if self.config.choose and data.known is not None:
            said = [self._choose_with(data.known, usual, seen, options)]
        self.history, self.restart_seeds = self._inner.history, self._inner.restart_seeds
        self.notes = [*said, *([self.choice.why] if self.choice else []), *self._inner.notes]
        if self.choice:
            chosen = {"chosen": self.choice.name, "auroc": self.choice.auroc}
            self.record = self.record | {"trained_against": chosen}
        self._take_unit(stopping)
        self._make_graph()

    def _fitted(self, wanted: Candidate, seen: _Seen, options: TrainingOptions) -> GraphDetector:
        """A detector of rows, trained with these settings."""
        rows = seen.chooser.rows(wanted.negatives) if wanted.negatives else None
        plain = ROWS[wanted.variant].without if wanted.negatives == NONE else wanted.variant
        inner = self._make(replace_variant(self.config, plain))
        inner.fit_data(TrainingData(seen.normal, self._negative_parts(rows)), options)
        return inner

    def _choose_with(
        self, known: np.ndarray, usual: Candidate, seen: _Seen, options: TrainingOptions
    ) -> str:
        """Takes other settings where known flaws show that they are better; says what and why.

        Args:
            known: flaws, uint8 (N, H, W, C).
            usual: the settings that `_inner` was trained with.
            seen: what it was trained on.
            options: of the training.
        """
        flaws = self._places.of(known)
        fitted, errors, scores = {usual.trained: self._inner}, {}, {}
        enough = len(known) >= FEWEST
        tried = candidates(self.config.choose, usual, seen.there) if enough else [usual]
        for each in tried:
            if each.trained not in fitted:
                options.say(f"tried with the known flaws: {each.trained_on}")
                fitted[each.trained] = self._fitted(each, seen, options)
            if each.trained not in errors:
                score = fitted[each.trained].score
                errors[each.trained] = [errors_at(score, maps) for maps in (seen.held_out, flaws)]
            scores[each] = tuple(pooled(one, each.highest_share) for one in errors[each.trained])
        picked = pick(scores, usual)
        options.say(picked.why)
        self.record = {"known_choice": picked.record | {"why": picked.why}}
        chosen = picked.candidate
        self._inner = fitted[chosen.trained]
        changed = {"variant": chosen.variant, "choose": []}
        if chosen.highest_share != usual.highest_share:
            changed["scoring"] = {"highest_share": chosen.highest_share}
        if chosen.negatives not in ("", usual.negatives):
            changed["features"] = {"negatives": chosen.negatives}
        self.config = resolve(merge(self.config.model_dump(), changed))
        self.needs_negatives = ROWS[chosen.variant].negatives
        if chosen.trained != usual.trained:
            self.choice = Choice(chosen.negatives, picked.why) if chosen.negatives else None
        return picked.why

    def _take_unit(self, stopping: np.ndarray) -> None:
        """Makes the error of an ordinary held-out place 1, where the score is an error at all."""
        distance = not self.needs_negatives or ROWS[self.config.variant].solved
        if isinstance(self._inner, AutoencoderDetector) or distance:
            usual = float(np.mean(self._inner.score(stopping), dtype=np.float64))
            self._usual = usual if np.isfinite(usual) and usual > 0 else 1.0

    def _chooser(
        self, data: TrainingData, fit: np.ndarray, held_out: np.ndarray
    ) -> tuple[Chooser, list[str]]:
        """What chooses among negatives, and which there are."""
        both = data.made is not None
        made = data.made if both else data.negative
        masks = data.made_masks if both else data.negative_masks
        # Made ones say where they were changed; of a folder kinds are known.
        is_made = both or (data.negative_kinds is None and masks is not None)
        real = None
        if not is_made or both:
            real = self._maps(data.negative.fit, data.negative_masks, data.negative_kinds)
        chooser = Chooser(
            fit, held_out, self._made_maps(made.fit, masks) if is_made else None, real,
            min(self.config.network.latent, fit.shape[1] // 2), self._settings.unusual_share,
            self.highest_share, self.config.seed,
        )  # fmt: skip
        there = [MADE] * is_made + [REAL] * (real is not None)
        there += [BOTH] * (len(there) == 2)
        if ROWS[self.config.variant].without:
            there.append(NONE)
        return chooser, there

    def _choose_negatives(self, seen: _Seen) -> Choice:
        """Those that `features.negatives` says.

        Raises:
            LisaeError: there are none of them.
        """
        wanted = self._settings.negatives
        if wanted == "auto":
            return seen.chooser.choose(seen.there)
        if wanted in seen.there:
            return Choice(wanted, f"negatives: {wanted}, as features.negatives says")
        raise LisaeError(
            f"features.negatives={wanted}, but {self.config.variant} has only "
            f"{' and '.join(seen.there)} here; name others, or give --negative-dir"
        )

    def _negative_parts(self, rows: np.ndarray | None) -> Parts | None:
        """Negative places that train, and those that decide when to stop."""
        if rows is None:
            return None
        # Every tenth place decides when to stop.
        order = np.random.default_rng(self.config.seed).permutation(len(rows))
        stop = order[: max(1, len(rows) // 10)]
        return Parts(rows[order[len(stop) :]], rows[stop], rows[stop])

    def _made_maps(self, pictures: np.ndarray, masks: Parts | None) -> NegativeMaps:
        """Made negatives; a change too small to see is none, and what is drawn anew is all change.

        Raises:
            LisaeError: nothing was changed anywhere.
        """
        found = self._maps(pictures, masks, None)
        if masks is None:
            return replace(found, marked=np.ones(found.places.shape[:-1], bool))
        seen = found.marked.reshape(len(found.marked), -1).any(axis=1)
        if not seen.any():
            raise LisaeError(
                "the made negatives look like the normal pictures; name another generator with "
                "--negatives, or give --negative-dir"
            )
        return found.of(seen)

    def _maps(self, pictures: np.ndarray, masks: Parts | None, kinds: Parts | None) -> NegativeMaps:
        chosen = evenly(len(pictures), MOST_NEGATIVE)
        marked = None
        if masks is not None:
            marked = marked_places(masks.fit[chosen], self._places.grid)
            marked = self._places.those_counted(marked)
        return NegativeMaps(
            self._places.of(pictures[chosen]), marked, None if kinds is None else kinds.fit[chosen]
        )

    def score_phases(self, images: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        before = self.phase1_detector()
        if before is None:
            return None, self.score(images)
        heads = (before._run_head, self._run_head)
        pairs = [[run(raw) for run in heads] for raw in self._places.batches(self._ready(images))]
        if not pairs:
            return np.empty(0, np.float32), np.empty(0, np.float32)
        return tuple(np.concatenate(scores) for scores in zip(*pairs, strict=True))

    def phase1_detector(self) -> "PlacesDetector | None":
        inner = self._inner.phase1_detector()
        if inner is None:
            return None
        before = PlacesDetector(self.config, self._make)
        before.shape, before.ignored = self.shape, self.ignored
        before._places, before._inner = self._places, inner
        before._make_graph()
        return before

    @property
    def solved(self) -> bool:
        return ROWS[self.config.variant].solved

    def weights_to_continue(self) -> Arrays | None:
        return self._inner.weights_to_continue()

    def arrays(self) -> Arrays:
        inner = {f"inner:{name}": array for name, array in self._inner.arrays().items()}
        name = self.choice.name if self.choice else self._trained_against()
        about = {"usual": np.float64(self._usual), "negatives": np.int64(CHOICES.index(name))}
        features = {f"features:{name}": a for name, a in self._places.arrays().items()}
        return about | features | inner

    def _trained_against(self) -> str:
        return MADE if ROWS[self.config.variant].negatives else NONE

    def restore(self, arrays: Arrays) -> None:
        self._prepare(self.shape)
        try:
            self._usual = float(arrays["usual"])
            name = CHOICES[int(arrays["negatives"])]
            self._places.restore(_below(arrays, "features:"))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise LisaeError(
                "the stored arrays do not fit the configuration; train again"
            ) from error
        if name == NONE and self.needs_negatives:
            plain = ROWS[self.config.variant].without or self.config.variant
            self._inner = self._make(self.config.model_copy(update={"variant": plain}))
        self.choice = Choice(name, f"negatives: {name}")
        self._inner.shape = (self._places.size,)
        self._inner.restore(_below(arrays, "inner:"))
        self._make_graph()


def _below(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def make_places(config: Config, make) -> Detector:
    """A `PlacesDetector`; what is inside it knows no features, no map and no share of one."""
    rows = config.model_copy(update={"features": None, "scoring": type(config.scoring)()})

    def inner(settings: Config) -> Detector:
        return make(replace_variant(rows, settings.variant))

    return PlacesDetector(config, inner)


def replace_variant(config: Config, variant: str) -> Config:
    """The same settings for another variant."""
    return config.model_copy(update={"variant": variant})
