"""Settings for a whole column of tables 1 and 2, tuned from the folder defaults.

What `tune` does for one training, here for a whole column: a setting's value is the mean over two
fixed tasks and the kinds left out of each. No test picture is read here; `tuned` says what is
tested afterwards.
"""

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

TOGETHER = 6  # trials asked for before their values are known; they share phase 1
KINDS = "kinds"  # attribute of a trial: what was left out, in the order of its figures


@dataclass(frozen=True)
class Attempt:
    """One setting on one task."""

    trial: int
    config: Config

    def train(self, data_dir: Path | None, shared: SharedPhase1) -> dict:
        """The held-out figures by kind left out; the test set is not read."""
        return {
            left.kind: asdict(selection.measure(selection.fit(left, shared), left))
            for left in selection.left_out(self.config, data_dir)
        }


def choose(
    column: str, root: Path, trials: int, data_dir: Path | None, jobs: int,
    say: Callable[[str], None],
) -> Path:  # fmt: skip
    """Runs the column's study up to `trials`, the first being the folder defaults.

    Returns:
        The file of the settings chosen; `choice.json` beside it says what they were chosen by.

    Raises:
        LisaeError: no trial succeeded.
    """
    path = settings_file(root, column)
    configs = [folder_defaults(column, task) for task in fixed_tasks(tables.COLUMNS[column])]
    study, search = tuning.open_study(make_folder(path.parent)), tuning.Search(configs[0])
    # A trial that was cut off does not count, a failed one does: it would fail again.
    while (ahead := trials - len(_ended(study))) > 0:
        together = search.enqueue(study) or TOGETHER
        search.prepare(study)
        asked = [study.ask() for _ in range(min(together, ahead))]
        settings = [search.suggest(trial) for trial in asked]
        attempts = [
            [Attempt(trial.number, tuning.apply(config, setting)) for config in configs]
            for trial, setting in zip(asked, settings, strict=True)
        ]
        waiting = [attempt for of_trial in attempts for attempt in of_trial]
        found: dict[int, dict] = {}
        for finished in grid.run_groups(grid.groups(waiting), data_dir, jobs):
            attempt = finished.cell
            if finished.record is None:
                say(f"{column}, trial {attempt.trial + 1}: failed: {finished.error}")
            else:
                found[waiting.index(attempt)] = finished.record
        for trial, setting, of_trial in zip(asked, settings, attempts, strict=True):
            figures = [found.get(waiting.index(attempt)) for attempt in of_trial]
            if None in figures:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            kinds = [(kind, each) for by_kind in figures for kind, each in by_kind.items()]
            value, said = tuning.record(trial, [selection.HeldOut(**each) for _, each in kinds])
            trial.set_user_attr(KINDS, [kind for kind, _ in kinds])
            study.tell(trial, value)
            say(f"{column}, trial {trial.number + 1}: {said} with {tuning.named(setting)}")
    if not tuning.done(study):
        raise LisaeError(f"no setting could be trained on {column}; the reasons are above")
    best = search.best(study)
    record = {
        "version": __version__, "training_version": cells.TRAINING_VERSION, "seed": SEED,
        "date": datetime.now(UTC).date().isoformat(), "trials": len(_ended(study)),
        "left_out": best.user_attrs[KINDS],
        DEFAULTS: search.given_value(study), TUNED: best.value,
    }  # fmt: skip
    write_json(path.with_name(CHOICE), record)
    write_text(path, tuning.apply(configs[0], search.settings(best)).to_yaml())
    return path


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    return study.get_trials(deepcopy=False, states=states)
