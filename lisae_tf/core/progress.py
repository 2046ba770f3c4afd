"""Tells how training goes: a bar in a terminal, one plain line an epoch otherwise."""

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

NAMES = {"feature-extraction": "phase 1", "latent-shaping": "phase 2"}


def summary(logs: dict) -> str:
    """What a line says of an epoch: held-out errors where there are any, a loss otherwise."""
    if "val_loss" not in logs:
        return f"loss {logs['loss']:.4f}"
    if "val_normal_error" not in logs:
        return f"held-out loss {logs['val_loss']:.4f}"
    errors = f"held-out error: normal {logs['val_normal_error']:.4f}"
    if "val_negative_error" in logs:
        errors += f"  negative {logs['val_negative_error']:.4f}"
    return errors


class TrainingProgress(keras.callbacks.Callback):
    """One bar a phase, over its steps, with the last epoch's errors beside it."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console
        self._bar: Progress | None = None

    def on_train_begin(self, logs=None):
        if not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[errors]}"), console=self.console,
        )  # fmt: skip
        self._bar.start()
        total = self.params["epochs"] * self.params["steps"]
        self._task = self._bar.add_task(
            NAMES.get(self.model.phase, self.model.phase), total=total, errors=""
        )

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self._bar:
            self._bar.update(self._task, completed=self._epoch * self.params["steps"] + batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        found = summary(logs)
        if self._bar:
            self._bar.update(self._task, errors=found)
        else:
            phase = NAMES.get(self.model.phase, self.model.phase)
            self.console.print(f"{phase}  epoch {epoch + 1}/{self.params['epochs']}  {found}")

    def on_train_end(self, logs=None):
        if self._bar:
            self._bar.update(self._task, total=self._bar.tasks[0].completed)
            self._bar.stop()
            self._bar = None
