"""`tune`: γ, β and the latent size without a look at anomalies, by Optuna.

A trial trains without one kind of negatives; its value is the AUROC of held-out normals against
the hardest pictures of that kind (`selection.measure`). Test pictures are never read.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import optuna

from lisae_tf import selection
from lisae_tf.config import Config, merge, resolve
from lisae_tf.detectors import make_detector
from lisae_tf.errors import LisaeError
from lisae_tf.files import write_text
from lisae_tf.paper.tuned import BEST
from lisae_tf.sharing import LOSSES, SharedPhase1

TRIALS, FIGURE = "trials.journal", "tuning.png"
LATENT_SIZES = (4, 8, 16, 32, 64, 128)
# By path in the settings; what is not there for a variant is not tried.
RANGES = {"latent_shaping.gamma": (0.01, 1.0), "latent_shaping.beta": (0.1, 10.0)}
LATENT = "network.latent"
WAITING = optuna.trial.TrialState.WAITING
AUROC = "auroc"  # attribute of a trial


def suggest(trial: optuna.Trial, variant: str) -> dict[str, float | int]:
    """One setting for each tuned path."""
    chosen: dict[str, float | int] = {LATENT: trial.suggest_categorical(LATENT, LATENT_SIZES)}
    if variant in LOSSES and variant != "ae":
        for path, (low, high) in RANGES.items():
            chosen[path] = _rounded(trial.suggest_float(path, low, high, log=True))
    return chosen


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


def open_study(folder: Path, seed: int) -> optuna.Study:
    """The study in a folder, continued where there is one.

    Raises:
        LisaeError: the file of its trials is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / TRIALS
    try:
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(
            study_name="tune", storage=storage, direction="maximize", load_if_exists=True
        )
        before = len(study.trials)
    except Exception as error:  # a damaged journal raises all kinds
        raise LisaeError(f"{path} is damaged; tune in another folder") from error
    # A sampler that starts from the same seed again would propose the same again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + before, n_startup_trials=8)
    return study


def tune(
    config: Config,
    left: selection.LeftOut,
    folder: Path,
    trials: int,
    say: Callable[[str], None] = lambda line: None,
) -> optuna.Study:
    """Runs trials until the study in `folder` has `trials` of them; the first is `config` itself.

    Args:
        config: the settings around which is tuned.
        left: training data without one kind, and pictures of that kind.
        folder: of the study; continued.
        trials: completed ones in all.
        say: takes one line of progress.

    Returns:
        The study; its best settings are in `best.yaml` beside it.

    Raises:
        LisaeError: every trial failed.
    """
    study = open_study(folder, config.seed)
    begin_with(study, config)
    # Phase 1 depends on the latent size alone.
    shared: dict[int, SharedPhase1] = {}

    def objective(trial: optuna.Trial) -> float:
        chosen = suggest(trial, config.variant)
        own = apply(left.config, chosen)
        kept = shared.setdefault(own.network.latent, SharedPhase1())
        try:
            detector = selection.fit(replace(left, config=own), kept)
        except LisaeError as error:
            say(f"trial {trial.number + 1}: failed: {error}")
            raise optuna.TrialPruned from error
        found = selection.measure(detector, left)
        say(f"trial {trial.number + 1}: {record(trial, found)} with {named(chosen)}")
        return found.hardest

    make_detector(config).require_negatives(left.data)
    study.optimize(objective, n_trials=max(0, trials - len(done(study))))
    if not done(study):
        raise LisaeError(
            "every trial failed, for the reasons above; change the settings with --set"
        )
    write_text(folder / BEST, apply(config, best_of(study)).to_yaml())
    return study


def record(trial: optuna.Trial, found: selection.HeldOut) -> str:
    """Keeps the AUROC beside a trial's value, which is of the hardest; both in words."""
    trial.set_user_attr(AUROC, found.auroc)
    return f"{found.hardest:.4f} ({found.auroc:.4f} of the whole kind)"


def named(chosen: Mapping[str, float | int]) -> str:
    """Settings in words."""
    return ", ".join(f"{path.split('.')[1]} {value:g}" for path, value in chosen.items())


def begin_with(study: optuna.Study, config: Config) -> None:
    """Makes the settings as given the first trial, again where that one was cut off."""
    begun = any(t.state.is_finished() or t.state == WAITING for t in study.trials)
    if not begun and _at(config, LATENT) in LATENT_SIZES:
        study.enqueue_trial({path: _at(config, path) for path in (LATENT, *RANGES)})


def best_of(study: optuna.Study) -> dict[str, float | int]:
    """The best settings, as they were trained."""
    best = study.best_trial.params
    return {p: _rounded(v) if isinstance(v, float) else v for p, v in best.items()}


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that have a value."""
    return study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))


def draw(study: optuna.Study, kind: str, path: Path) -> None:
    """Every trial's value over each tuned setting, the best one marked."""
    from matplotlib import pyplot as plt

    from lisae_tf import plots

    finished = done(study)
    names = list(finished[0].params)
    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(
            1, len(names), figsize=(3.2 * len(names), 2.8), sharey=True, squeeze=False
        )
        for axis, name in zip(axes[0], names, strict=True):
            tried = [(t.params[name], t.value) for t in finished]
            axis.scatter(*zip(*tried, strict=True), s=18, color=plots.NORMAL)
            best = study.best_trial
            axis.scatter([best.params[name]], [best.value], s=60, facecolors="none",
                         edgecolors=plots.ANOMALY, label="best")  # fmt: skip
            axis.set_xscale("log")
            axis.set_xlabel(name)
        axes[0][0].set_ylabel("AUROC of held-out normals")
        axes[0][0].legend(frameon=False, loc="lower right")
        figure.suptitle(f"against the hardest of {kind}", fontsize=9)
        plots.save(figure, path)
