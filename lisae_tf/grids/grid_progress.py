"""Tells how a grid goes: a bar over its cells in a terminal, plain lines otherwise."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class CellProgress:
    """One bar over the cells of a grid; each cell is a line above it."""

    def __init__(self, console: Console, total: int):
        self.total, self.done = total, 0
        self.console = console
        self._bar = Progress(
            TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=console, disable=not (console.is_terminal and total),
        )  # fmt: skip
        self._task = self._bar.add_task("cells", total=total)

    def __enter__(self) -> "CellProgress":
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()

    def step(self, line: str) -> None:
        """One more cell has ended."""
        self.done += 1
        self._bar.advance(self._task)
        self._bar.console.print(f"[{self.done}/{self.total}] {line}")
