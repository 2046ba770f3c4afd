"""`tune`: γ, β and the latent size without a look at anomalies, by Optuna.

A trial trains without one kind of negatives, for each of two kinds in turn; its value is the mean
AUROC of held-out normals against the hardest pictures of that kind (`selection.measure`). First
every latent size is tried with γ and β as given, then γ and β with the size chosen. The best of
many trials looks better than it is, so it is trained again beside the settings given, from other
seeds, and both are measured on the half of the held-out pictures that no trial was measured on:
what is given is changed only where the gain is clear there (`is_clear`). Test pictures are never
read.
"""

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from scipy import stats

from lisae_tf.config.settings import Config, merge, resolve
from lisae_tf.config.variants import LINSEP, LOSSES, ROWS, SHAPED
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import write_text
from lisae_tf.detectors import make_detector
from lisae_tf.experiments import selection
from lisae_tf.runs.files import BEST
from lisae_tf.training.sharing import SharedPhase1

TRIALS, FIGURE = "trials.journal", "tuning.png"
LATENT_SIZES = (4, 8, 16, 32, 64, 128)
DIRECTIONS = (20, 40, 80, 120)
# By path in the settings; what is not there for a variant is not tried.
GAMMA, GAMMA_TIMES, BETA = (f"latent_shaping.{name}" for name in ("gamma", "gamma_times", "beta"))
RANGES = {GAMMA: (0.01, 1.0), GAMMA_TIMES: (1.0, 100.0), BETA: (0.1, 10.0)}
LATENT = "network.latent"
SIZES = {"lis-knn": ("lis_knn.directions", DIRECTIONS)}  # of variants whose latent does not score
STATES = optuna.trial.TrialState
AUROC, HARDEST = "auroc", "hardest"  # attributes of a trial
GAINS = "gains of trial {}"  # attribute of a study: against each kind in each round
ROUNDS, FEWEST_ROUNDS = 5, 3  # of a comparison with the settings given
SEARCHED = slice(0, None, 2)  # rows of the held-out pictures that trials are measured on
LEVEL = 0.05  # share of tunings, at most, that change settings for others that are no better


class Search:
    """What a study tries: the settings given at every size, then γ and β at one size.

    Attributes:
        size: path of the size in the settings: of the latent layer, or of what takes its place.

    Raises:
        LisaeError: the variant has no size.
    """

    def __init__(self, config: Config):
        if "network" not in ROWS[config.variant].sections:
            raise LisaeError(
                f"{config.variant} has neither a latent size nor γ to tune; name a --variant that "
                "has, such as lis"
            )
        self.size, sizes = SIZES.get(config.variant, (LATENT, LATENT_SIZES))
        relative = config.latent_shaping.gamma_times is not None
        unread = GAMMA if relative else GAMMA_TIMES
        shaped = config.variant in SHAPED
        self.ranges = {p: span for p, span in RANGES.items() if shaped and p != unread}
        self.given = {path: _at(config, path) for path in (self.size, *self.ranges)}
        self.sizes = sorted({*sizes, self.given[self.size]})
        self._seed = config.seed

    def enqueue(self, study: optuna.Study) -> int:
        """Makes every size with γ and β as given a trial, the given size first.

        A trial that was cut off is enqueued again.

        Returns:
            How many wait.
        """
        there = [
            trial.system_attrs["fixed_params"] if trial.state == STATES.WAITING else trial.params
            for trial in study.get_trials(deepcopy=False)
            if trial.state == STATES.WAITING or trial.state.is_finished()
        ]
        first = self.given[self.size]
        for size in (first, *(size for size in self.sizes if size != first)):
            setting = self.given | {self.size: size}
            if setting not in there:
                study.enqueue_trial(setting)
        return len(study.get_trials(deepcopy=False, states=(STATES.WAITING,)))

    def prepare(self, study: optuna.Study) -> None:
        """Settles the size for the trials after those of `enqueue`."""
        trials = study.get_trials(deepcopy=False)
        # A sampler that starts from the same seed again would propose the same again.
        base = optuna.samplers.TPESampler(
            seed=self._seed + len(trials), n_startup_trials=2 * len(self.sizes)
        )
        finished = done(study)
        fixed = {self.size: self._best_size(finished).params[self.size]} if finished else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.PartialFixedSampler(fixed, base)

    def suggest(self, trial: optuna.Trial) -> dict[str, float | int]:
        """One setting for each tuned path."""
        chosen: dict[str, float | int] = {
            self.size: trial.suggest_categorical(self.size, self.sizes)
        }
        for path, (low, high) in self.ranges.items():
            given = self.given[path]
            value = trial.suggest_float(path, min(low, given), max(high, given), log=True)
            chosen[path] = self._as_trained(path, value)
        return chosen

    def settings(self, trial: optuna.trial.FrozenTrial) -> dict[str, float | int]:
        """The settings of a trial, as they were trained."""
        return {path: self._as_trained(path, value) for path, value in trial.params.items()}

    def _as_trained(self, path: str, value: float | int) -> float | int:
        """A proposal with three digits; what was given stays."""
        whole = path == self.size or value == self.given[path]
        return value if whole else float(f"{value:.3g}")

    def best(self, study: optuna.Study) -> optuna.trial.FrozenTrial:
        """The best trial, if another than the given one by more than its standard error."""
        finished = done(study)
        sized = self._best_size(finished)
        size = sized.params[self.size]
        return _better(sized, [t for t in finished if t.params[self.size] == size])

    def given_value(self, study: optuna.Study) -> float | None:
        """The value of the settings given; None where their trial failed."""
        return next((t.value for t in done(study) if t.params == self.given), None)

    def _best_size(self, finished: Sequence[optuna.trial.FrozenTrial]) -> optuna.trial.FrozenTrial:
        size = self.size
        swept = [t for t in finished if t.params == self.given | {size: t.params[size]}]
        given = next((t for t in swept if t.params == self.given), None)
        return _better(given, swept or finished)


def _better(
    given: optuna.trial.FrozenTrial | None, others: Sequence[optuna.trial.FrozenTrial]
) -> optuna.trial.FrozenTrial:
    """The best of `others` where its gain exceeds its standard error, else the given trial.

    One-standard-error rule (Breiman et al. 1984, section 3.4.3), on differences paired by kind:
    what to go on with in the search. After many trials it proves nothing; see `is_clear`.
    """
    best = max(others, key=lambda trial: trial.value)
    if given is None:
        return best
    pairs = zip(best.user_attrs[HARDEST], given.user_attrs[HARDEST], strict=True)
    gains = [after - before for after, before in pairs]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return best if statistics.fmean(gains) > error else given


def is_clear(gains: np.ndarray) -> bool:
    """Whether a setting is better against every kind by more than chance allows.

    A paired t-test over the rounds for each kind, one-sided at `LEVEL`. All must succeed, so the
    whole claim is false with probability `LEVEL` at most (intersection-union test, Berger 1982),
    however many trials the setting was chosen from: rounds have seeds and pictures of their own.

    Args:
        gains: float (kinds, rounds).
    """
    count = gains.shape[1]
    error = gains.std(axis=1, ddof=1) / math.sqrt(count)
    return bool(np.all(gains.mean(axis=1) > stats.t.ppf(1 - LEVEL, count - 1) * error))


def apply(config: Config, chosen: dict[str, float | int]) -> Config:
    """The settings with those of a trial."""
    settings = config.model_dump()
    for path, value in chosen.items():
        section, name = path.split(".")
        settings = merge(settings, {section: {name: value}})
    return resolve(settings)


def _at(config: Config, path: str) -> float | int:
    section, name = path.split(".")
    return getattr(getattr(config, section), name)


def open_study(folder: Path, name: str = "tune") -> optuna.Study:
    """The study of a name in a folder, continued where there is one.

    Raises:
        LisaeError: the file of its trials is damaged, or of an earlier version.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / TRIALS
    try:
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
        finished = done(study)
    except Exception as error:  # a damaged journal raises all kinds
        raise LisaeError(f"{path} is damaged; tune in another folder") from error
    if any(HARDEST not in trial.user_attrs for trial in finished):
        raise LisaeError(f"{path} was begun by an earlier version; tune in another folder")
    return study


def tune(
    config: Config,
    left: Sequence[selection.LeftOut],
    folder: Path,
    trials: int,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[optuna.Study, optuna.trial.FrozenTrial]:
    """Runs trials until the study in `folder` has `trials` of them; the first is `config` itself.

    Args:
        config: the settings around which is tuned.
        left: training data without one kind, and pictures of that kind; for each kind.
        folder: of the study; continued.
        trials: completed ones in all.
        say: takes one line of progress.

    Returns:
        The study and the trial of the settings chosen, which are in `best.yaml` beside it.

    Raises:
        LisaeError: every trial failed.
    """
    study, search = open_study(folder), Search(config)
    shared = _Shared()

    def objective(trial: optuna.Trial) -> float:
        chosen = search.suggest(trial)
        found = []
        for place, each in enumerate(left):
            own = apply(each.config, chosen)
            try:
                detector = selection.fit(replace(each, config=own), shared.of(own, place))
            except LisaeError as error:
                say(f"trial {trial.number + 1}: failed: {error}")
                raise optuna.TrialPruned from error
            found.append(selection.measure(detector, replace(each, rows=SEARCHED)))
        value, said = record(trial, found)
        say(f"trial {trial.number + 1}: {said} with {named(chosen)}")
        return value

    for each in left:
        make_detector(config).require_negatives(each.data)
    waiting, missing = search.enqueue(study), trials - len(done(study))
    for _ in range(missing if search.ranges else min(missing, waiting)):
        search.prepare(study)
        study.optimize(objective, n_trials=1)
    if not done(study):
        raise LisaeError(
            "every trial failed, for the reasons above; change the settings with --set"
        )
    best = _confirmed(study, search, left, say)
    write_text(folder / BEST, apply(config, search.settings(best)).to_yaml())
    return study, best


class _Shared:
    """Phase 1 for each training; it depends on seed and latent size, with LinSep on negatives."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, int], SharedPhase1] = {}

    def of(self, config: Config, kind: int) -> SharedPhase1:
        """That of one training without one kind."""
        apart = kind if LOSSES.get(config.variant) == LINSEP else 0
        return self._kept.setdefault((config.seed, config.network.latent, apart), SharedPhase1())


def _confirmed(
    study: optuna.Study,
    search: Search,
    left: Sequence[selection.LeftOut],
    say: Callable[[str], None],
) -> optuna.trial.FrozenTrial:
    """The best trial where it is clearly better than the settings given, else their trial."""
    best = search.best(study)
    given = next((t for t in done(study) if t.params == search.given), None)
    if given is None or best.number == given.number:
        return best
    fewest = min(min(len(each.data.normal.stopping), len(each.pixels)) for each in left)
    rounds = min(ROUNDS, fewest // 2)  # with a picture at least that no trial was measured on
    if rounds < FEWEST_ROUNDS:
        say(f"{fewest} held-out pictures cannot prove any setting better: those given stay")
        return given
    name = GAINS.format(best.number + 1)
    if name not in study.user_attrs:
        try:
            gains = _gains(search.settings(best), search.given, left, rounds)
            study.set_user_attr(name, gains.tolist())
        except LisaeError as error:
            say(f"trial {best.number + 1} failed when trained again, so it is not taken: {error}")
            return given
    gains = np.array(study.user_attrs[name])
    clear = is_clear(gains)
    told = ", ".join(f"{mean:+.4f}" for mean in gains.mean(axis=1))
    say(
        f"trial {best.number + 1} beside the settings given, on {gains.shape[1]} new seeds and "
        f"pictures that no trial has seen: {told}; "
        + ("clearly better" if clear else "not clearly better, so the settings given stay")
    )
    return best if clear else given


def _gains(
    chosen: Mapping[str, float | int],
    given: Mapping[str, float | int],
    left: Sequence[selection.LeftOut],
    rounds: int,
) -> np.ndarray:
    """What one setting gains over another, paired: float (kinds, rounds).

    A round has a seed of its own and its share of the pictures that trials were not measured on.

    Raises:
        LisaeError: a training failed.
    """
    gains, shared = np.zeros((len(left), rounds)), _Shared()
    for kind, turn in np.ndindex(*gains.shape):
        rows = slice(2 * turn + 1, None, 2 * rounds)
        found = []
        for settings in (chosen, given):
            own = apply(left[kind].config, settings)
            own = own.model_copy(update={"seed": (own.seed + 1 + turn) % 2**31})
            each = replace(left[kind], config=own, rows=rows)
            found.append(selection.measure(selection.fit(each, shared.of(own, kind)), each).hardest)
        gains[kind, turn] = found[0] - found[1]
    return gains


def record(trial: optuna.Trial, found: Sequence[selection.HeldOut]) -> tuple[float, str]:
    """Keeps a trial's figures; its value, and the figures in words."""
    hardest = [each.hardest for each in found]
    value, whole = statistics.fmean(hardest), statistics.fmean(each.auroc for each in found)
    trial.set_user_attr(HARDEST, hardest)
    trial.set_user_attr(AUROC, whole)
    return value, f"{value:.4f} ({whole:.4f} of the whole kind)"


def named(chosen: Mapping[str, float | int]) -> str:
    """Settings in words."""
    return ", ".join(f"{path.split('.')[1]} {value:g}" for path, value in chosen.items())


def done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that have a value."""
    return study.get_trials(deepcopy=False, states=(STATES.COMPLETE,))


def draw(
    study: optuna.Study, best: optuna.trial.FrozenTrial, kinds: Sequence[str], path: Path
) -> None:
    """Every trial's value over each tuned setting, the chosen one marked."""
    from matplotlib import pyplot as plt

    from lisae_tf.core import plots

    finished = done(study)
    names = list(finished[0].params)
    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(
            1,
            len(names),
            figsize=(3.2 * len(names), 2.8),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axis, name in zip(axes[0], names, strict=True):
            tried = [(t.params[name], t.value) for t in finished]
            axis.scatter(*zip(*tried, strict=True), s=18, color=plots.NORMAL)
            axis.scatter([best.params[name]], [best.value], s=60, facecolors="none",
                         edgecolors=plots.ANOMALY, label="chosen")  # fmt: skip
            axis.set_xscale("log")
            axis.set_xlabel(name)
        axes[0][0].set_ylabel("AUROC of held-out normals")
        axes[0][0].legend(frameon=False, loc="lower right")
        figure.suptitle(f"against the hardest of {'; '.join(kinds)}", fontsize=9)
        plots.save(figure, path)
