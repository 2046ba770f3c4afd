"""Worker processes that die, and worker processes whose parent dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lisae_tf.grids import workers

ENDLESS = """
import os, sys, time
from pathlib import Path
from lisae_tf.grids import workers

class Endless:
    def train(self, data_dir, shared):
        Path("worker").write_text(str(os.getpid()))
        time.sleep(3600)

if __name__ == "__main__":
    next(workers.run([[Endless()]], None, 1))
"""


def test_a_dead_worker_costs_one_cell():
    cell, *rest = "abc"

    class Dead:
        exitcode = -9
        join = terminate = close = lambda self: None

    worker = workers._Worker(Dead(), Dead(), unfinished=[cell, *rest])
    waiting = workers.deque()
    (finished,) = workers._bury(worker, waiting)
    assert finished.cell is cell
    assert "-9" in finished.error
    assert list(waiting) == [rest]


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        # One that has ended but that nobody waited for has no command line any more.
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except (ProcessLookupError, FileNotFoundError):
        return False


# Each starts two processes, of which one imports TensorFlow; the second signal is the harder one.
@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_worker_ends_with_a_parent_that_is_killed(how, tmp_path):
    script, told = tmp_path / "endless.py", tmp_path / "worker"
    script.write_text(ENDLESS)
    parent = subprocess.Popen(
        [sys.executable, script], cwd=tmp_path, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    while not (told.is_file() and told.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    worker = int(told.read_text())
    assert alive(worker)
    parent.send_signal(how)
    parent.wait()
    for _ in range(600):
        if not alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")
