"""Settings for a whole column of tables 1 and 2, tuned from the folder defaults.

What `tune` does for one training, here for a whole column: a setting's value is the mean of two
fixed tasks' AUROC against the hardest of a kind left out. No test picture is read here; `tuned`
says what is tested afterwards.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import optuna

from lisae_tf import __version__, selection, tuning
from lisae_tf.config import Config
from lisae_tf.errors import LisaeError
from lisae_tf.files import make_folder, write_json, write_text
from lisae_tf.paper import cells, grid, tables
from lisae_tf.paper.latents import fixed_tasks
from lisae_tf.paper.tuned import CHOICE, DEFAULTS, SEED, TUNED, folder_defaults, settings_file
from lisae_tf.sharing import SharedPhase1

TOGETHER = 6  # trials asked for before their values are known; those of one latent share phase 1


@dataclass(frozen=True)
class Attempt:
    """One setting on one task."""

    trial: int
    config: Config

    def train(self, data_dir: Path | None, shared: SharedPhase1) -> dict:
        """The held-out figures; the test set is not read."""
        left = selection.left_out(self.config, data_dir)
        return asdict(selection.measure(selection.fit(left, shared), left))


def choose(
    column: str, root: Path, trials: int, data_dir: Path | None, jobs: int,
    say: Callable[[str], None],
) -> Path:  # fmt: skip
    """Runs the column's study up to `trials`, the first being the folder defaults.

    Returns:
        The file of the best settings; `choice.json` beside it says what they were chosen by.

    Raises:
        LisaeError: no trial succeeded.
    """
    path = settings_file(root, column)
    configs = [folder_defaults(column, task) for task in fixed_tasks(tables.COLUMNS[column])]
    study = tuning.open_study(make_folder(path.parent), SEED)
    tuning.begin_with(study, configs[0])
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    # A trial that was cut off does not count, a failed one does: it would fail again.
    missing = trials - len(study.get_trials(deepcopy=False, states=ended))
    for start in range(0, missing, TOGETHER):
        asked = [study.ask() for _ in range(min(TOGETHER, missing - start))]
        chosen = [tuning.suggest(trial, "lis") for trial in asked]
        waiting = [
            Attempt(trial.number, tuning.apply(config, setting))
            for trial, setting in zip(asked, chosen, strict=True)
            for config in configs
        ]
        values: dict[int, list[selection.HeldOut]] = {trial.number: [] for trial in asked}
        for finished in grid.run_groups(grid.groups(waiting), data_dir, jobs):
            if finished.record is None:
                say(f"{column}, trial {finished.cell.trial + 1}: failed: {finished.error}")
            else:
                values[finished.cell.trial].append(selection.HeldOut(**finished.record))
        for trial, setting in zip(asked, chosen, strict=True):
            found = values[trial.number]
            if len(found) < len(configs):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            mean = selection.HeldOut(
                statistics.fmean(each.auroc for each in found),
                statistics.fmean(each.hardest for each in found),
            )
            said = tuning.record(trial, mean)
            study.tell(trial, mean.hardest)
            say(f"{column}, trial {trial.number + 1}: {said} with {tuning.named(setting)}")
    if not tuning.done(study):
        raise LisaeError(f"no setting could be trained on {column}; the reasons are above")
    given, best = study.trials[0], study.best_trial
    record = {
        "version": __version__, "training_version": cells.TRAINING_VERSION, "seed": SEED,
        "date": datetime.now(UTC).date().isoformat(),
        "trials": len(study.get_trials(deepcopy=False, states=ended)),
        "left_out": [selection.left_out(config, data_dir).kind for config in configs],
        DEFAULTS: given.value, TUNED: best.value,
    }  # fmt: skip
    write_json(path.with_name(CHOICE), record)
    write_text(path, tuning.apply(configs[0], tuning.best_of(study)).to_yaml())
    return path
