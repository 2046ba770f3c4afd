"""Tells how training goes: bars in a terminal, one plain line an epoch otherwise."""

import os
import time
from pathlib import Path

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

NAMES = {"feature-extraction": "phase 1", "latent-shaping": "phase 2"}
_STATM = Path("/proc/self/statm")


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


def duration(seconds: float) -> str:
    """A time in the two largest units that it has: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, of_hour = divmod(minutes, 60)
    return f"{hours} h {of_hour} min" if hours else f"{minutes} min {rest} s"


def resident() -> str:
    """The memory that this process holds now, as in "812 MiB"; "" where the system has no /proc."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return ""
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f} MiB"


def pace(seconds: float, left: int) -> str:
    """The time of an epoch, what is left at most (a phase may stop early), and memory.

    Args:
        seconds: of the last epoch.
        left: epochs that may follow.
    """
    said = [duration(seconds), f"at most {duration(seconds * left)} left" if left else ""]
    return ", ".join(filter(None, [*said, resident()]))


class TrainingProgress(keras.callbacks.Callback):
    """One bar a phase, over its steps, with the last epoch's errors and pace beside it."""

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
        self._epoch, self._began = epoch, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if self._bar:
            self._bar.update(self._task, completed=self._epoch * self.params["steps"] + batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        left = self.params["epochs"] - epoch - 1
        found = f"{summary(logs)}  ({pace(time.perf_counter() - self._began, left)})"
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


class PictureProgress:
    """A bar over pictures that go through a backbone, with the time left; it vanishes at the end.

    For terminals alone: in a file it would be a line for each batch.
    """

    def __init__(self, console: Console):
        self._console = console
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        """So many of a set are done."""
        if self._bar is None:
            self._bar = Progress(
                TextColumn("features"), BarColumn(), MofNCompleteColumn(), TextColumn("pictures"),
                TimeRemainingColumn(), TextColumn("left  {task.fields[memory]}"),
                console=self._console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("features", total=total, memory="")
        self._bar.update(self._task, completed=done, memory=resident())
        if done >= total:
            self.stop()

    def stop(self) -> None:
        """Takes the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None
