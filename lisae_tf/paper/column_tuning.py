"""Settings for a whole column of tables 1 and 2, tuned from the folder defaults.

What `tune` does for one training, here for a whole column: a setting's value is the mean over two
fixed tasks and the kinds left out of each. No test picture is read here; `tuning_table` says what
is tested afterwards.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import optuna

from lisae_tf import __version__
from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, update_json
from lisae_tf.experiments import selection, tuning
from lisae_tf.grids import cells, grid
from lisae_tf.paper import tables
from lisae_tf.paper.latents import fixed_tasks
from lisae_tf.paper.tuning_table import DEFAULTS, FOLDER, SEED, TUNED, choices_file, folder_defaults
from lisae_tf.training.sharing import SharedPhase1

TOGETHER = 6  # trials asked for before their values are known; they share phase 1
KINDS = "kinds"  # attribute of a trial: what was left out, in the order of its figures


@dataclass(frozen=True)
class Attempt:
    """One setting on one task."""

    trial: int
    config: Config

    def train(self, data_dir: Path | None, shared: SharedPhase1) -> dict:
        """The kinds left out and the held-out figures of each; the test set is not read."""
        kinds = selection.left_out(self.config, data_dir)
        figures = [selection.measure(selection.fit(left, shared), left) for left in kinds]
        return {"kinds": [left.kind for left in kinds], "figures": list(map(asdict, figures))}


def choose(
    column: str, root: Path, trials: int, data_dir: Path | None, jobs: int,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Runs the column's study up to `trials`, the first being the folder defaults.

    The settings chosen go into the file of all columns, with what they were chosen by.

    Raises:
        LisaeError: no trial succeeded.
    """
    configs = [folder_defaults(column, task) for task in fixed_tasks(tables.COLUMNS[column])]
    study, search = tuning.open_study(make_folder(root / FOLDER), column), tuning.Search(configs[0])
    # A trial that was cut off does not count, a failed one does: it would fail again.
    while (ahead := trials - len(_ended(study))) > 0:
        together = search.enqueue(study) or TOGETHER
        search.prepare(study)
        asked = [study.ask() for _ in range(min(together, ahead))]
        settings = {trial.number: search.suggest(trial) for trial in asked}
        waiting = [
            Attempt(trial.number, tuning.apply(config, settings[trial.number]))
            for trial in asked
            for config in configs
        ]
        found: dict[int, list[grid.Finished]] = {trial.number: [] for trial in asked}
        for finished in grid.run_groups(grid.groups(waiting), data_dir, jobs):
            number = finished.cell.trial
            found[number].append(finished)
            if finished.record is None:
                say(f"{column}, trial {number + 1}: failed: {finished.error}")
            # Kept as soon as its tasks are there: what is cut off later costs little.
            if len(found[number]) == len(configs):
                trial = next(trial for trial in asked if trial.number == number)
                ended = sorted(found[number], key=lambda each: waiting.index(each.cell))
                if said := _tell(study, trial, [each.record for each in ended]):
                    with_ = tuning.named(settings[number])
                    say(f"{column}, trial {number + 1}: {said} with {with_}")
    if not tuning.done(study):
        raise LisaeError(f"no setting could be trained on {column}; the reasons are above")
    best = search.best(study)
    record = {
        "version": __version__, "training_version": cells.TRAINING_VERSION, "seed": SEED,
        "date": datetime.now(UTC).date().isoformat(), "trials": len(_ended(study)),
        "left_out": best.user_attrs[KINDS],
        DEFAULTS: search.given_value(study), TUNED: best.value,
        "settings": tuning.apply(configs[0], search.settings(best)).model_dump(),
    }  # fmt: skip
    update_json(choices_file(root), column, record)


def _tell(study: optuna.Study, trial: optuna.Trial, records: list[dict | None]) -> str | None:
    """Ends a trial with the figures of its tasks, which it says; as failed where one is missing."""
    if None in records:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return None
    figures = [selection.HeldOut(**each) for record in records for each in record["figures"]]
    value, said = tuning.record(trial, figures)
    trial.set_user_attr(KINDS, [kind for record in records for kind in record["kinds"]])
    study.tell(trial, value)
    return said


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    return study.get_trials(deepcopy=False, states=states)
