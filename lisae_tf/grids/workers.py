"""Groups of trainings in worker processes: cores divided, a dead worker replaced.

A group shares phase 1; each training is told of as it ends, so a killed process costs one.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.quiet import start_tensorflow
from lisae_tf.training.sharing import SharedPhase1

DECODED_BYTES = 2**30  # of pictures kept between trainings, in each process
GROUPS_PER_PROCESS = 20  # TensorFlow keeps a little of each training
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Training(Protocol):
    """What a group consists of; equal ones are the same training."""

    @property
    def config(self) -> Config:
        """Its settings."""

    def train(self, data_dir: Path | None, shared: SharedPhase1) -> dict:
        """Trains, writes what it writes, and returns its record."""


@dataclass(frozen=True)
class Finished:
    """What became of a training: a record, or one sentence on what went wrong."""

    cell: Any
    record: dict | None
    error: str | None = None


def run_group(group: Sequence[Training], data_dir: Path | None) -> Iterator[Finished]:
    """Trains one group in this process; an error becomes a sentence."""
    from lisae_tf.data import datasets

    datasets.DECODED.limit = DECODED_BYTES
    shared = SharedPhase1()
    for cell in group:
        try:
            yield Finished(cell, cell.train(data_dir, shared))
        except LisaeError as error:
            yield Finished(cell, None, str(error))
        except Exception as error:  # a full memory or a bug in one system must not end the grid
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Finished(cell, None, text)


def use_cores(threads: int) -> None:
    """Starts TensorFlow with so many threads, unless it runs already."""
    start_tensorflow()
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone, killed ones included."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)


def _work(connection: Connection, data_dir: Path | None, threads: int) -> None:
    """The worker: groups in, finished trainings out, None after each group."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_cores(threads)
    while (group := connection.recv()) is not None:
        for finished in run_group(group, data_dir):
            connection.send(finished)
        connection.send(None)


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    unfinished: list[Training] = field(default_factory=list)
    groups: int = 0

    def give(self, group: Sequence[Training]) -> None:
        self.unfinished, self.groups = list(group), self.groups + 1
        self.connection.send(group)

    def end(self) -> None:
        # In this order: a closed connection would have the worker print that it lost it.
        self.process.terminate()
        self.process.join()
        self.connection.close()


def _start(data_dir: Path | None, threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, data_dir, threads), daemon=True)
    kept = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        process.start()
    finally:
        for name, value in kept.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    theirs.close()
    return _Worker(process, ours)


def run(
    groups: Sequence[Sequence[Training]], data_dir: Path | None, jobs: int
) -> Iterator[Finished]:
    """Trains all groups in `jobs` processes and gives each training as it is finished."""
    waiting = deque(groups)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    busy: dict[Connection, _Worker] = {}

    def next_group(worker: _Worker | None) -> None:
        if not waiting:
            if worker:
                worker.end()
            return
        if worker and worker.groups >= GROUPS_PER_PROCESS:
            worker.end()
            worker = None
        worker = worker or _start(data_dir, threads)
        worker.give(waiting.popleft())
        busy[worker.connection] = worker

    try:
        for _ in range(jobs):
            next_group(None)
        while busy:
            for connection in wait(list(busy)):
                worker = busy[connection]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    del busy[connection]
                    yield from _bury(worker, waiting)
                    next_group(None)
                    continue
                if message is None:
                    del busy[connection]
                    next_group(worker)
                    continue
                worker.unfinished = [each for each in worker.unfinished if each != message.cell]
                yield message
    finally:
        for worker in busy.values():
            worker.end()


def _bury(worker: _Worker, waiting: deque) -> Iterator[Finished]:
    """Names the training that a dead worker was at; the rest of its group goes to another."""
    worker.process.join()
    code = worker.process.exitcode
    worker.end()
    if worker.unfinished:
        failed, *rest = worker.unfinished
        if rest:
            waiting.appendleft(rest)
        yield Finished(
            failed, None, f"its process ended with code {code}; run it with fewer --jobs"
        )
