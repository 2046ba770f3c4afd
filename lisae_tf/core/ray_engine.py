"""Work spread by Ray over the cores of one machine or of a cluster: `--engine ray`.

A task whose worker dies is done again elsewhere; at most `AHEAD` tasks a core wait in Ray, so that
neither arguments nor results pile up. Folders must be shared between the machines.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from lisae_tf.core.errors import LisaeError, install

AHEAD = 2  # tasks in flight for each core
RETRIES = 3  # after a worker died

Item, Result = TypeVar("Item"), TypeVar("Result")


def _import_ray():
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns without a GPU
    try:
        import ray
    except ModuleNotFoundError as error:
        raise LisaeError(f"--engine ray needs the package 'ray'; {install('ray')}") from error
    return ray


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected; a cluster that was started here ends here."""
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    options = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(
            address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        place = f"at {address}" if address else "here"
        raise LisaeError(f"Ray cannot be reached {place} ({error}); check --address") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def run(
    work: Callable[[Item], Result], items: Sequence[Item], address: str | None = None
) -> Iterator[tuple[Item, Result]]:
    """Does `work` on every item, and gives each with its result as it is finished.

    Args:
        work: a function of a module, or `functools.partial` of one.
        items: what it is done on.
        address: of a running cluster; without it one is started on this machine.

    Raises:
        LisaeError: what `work` raised, no cluster, or a task whose worker dies again and again.
    """
    with _cluster(address) as ray:

        def task_of(item):  # a partial has no name for Ray to show
            return work(item)

        task = ray.remote(task_of).options(num_cpus=1, max_retries=RETRIES)
        limit = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        flying: dict[Any, Item] = {}
        waiting = iter(items)
        while True:
            while len(flying) < limit and (item := next(waiting, None)) is not None:
                flying[task.remote(item)] = item
            if not flying:
                return
            (ready,), _ = ray.wait(list(flying), num_returns=1)
            item = flying.pop(ready)
            try:
                yield item, ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, LisaeError):
                    raise error.cause from None
                raise
            except ray.exceptions.WorkerCrashedError as error:
                raise LisaeError(
                    f"a Ray worker died {RETRIES + 1} times at the same task; give it more memory "
                    "or start again, what is finished is kept"
                ) from error
