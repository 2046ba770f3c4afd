"""Work on Ray: errors, back-pressure, and trainings that are those of one process."""

import itertools
import os

import pytest
from test_grid import small

from lisae_tf.core import ray_engine
from lisae_tf.core.errors import LisaeError
from lisae_tf.grids import grid, workers


def test_what_a_worker_refuses_arrives_as_it_is(cluster):
    def work(item):
        if item == 1:
            raise LisaeError("item 1 is no good; leave it out")
        return item

    with pytest.raises(LisaeError, match="item 1 is no good"):
        list(ray_engine.run(work, [0, 1, 2]))


def test_no_more_than_a_few_tasks_wait(cluster, tmp_path):
    """Items are taken from the list only as results come."""
    taken = []

    def items():
        for k in range(40):
            taken.append(k)
            yield k

    results = ray_engine.run(lambda item: item, items())
    next(results)
    assert len(taken) <= 2 * ray_engine.AHEAD + 1
    assert len(list(results)) == 39


# Every group is trained twice, by two processes that each import TensorFlow: the group of networks
# takes a minute, the linear case a moment.
@pytest.mark.parametrize("cells", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_cells_trained_on_ray_are_those_of_one_process(cells, tmp_path, cluster):
    def groups(name):
        found = grid.groups(small(tmp_path / name))
        return found if cells == 3 else [group for group in found if len(group) == 1]

    # One thread a worker on both sides: with more, sums may be taken in another order.
    here = list(workers.run(groups("here"), None, os.cpu_count()))
    there = list(grid.run(list(itertools.chain(*groups("there"))), None, engine="ray"))
    assert all(done.error is None and done.record == done.cell.stored() for done in there)

    def prints(finished, out):
        return {done.cell.path.relative_to(out): done.record["scores_sha256"] for done in finished}

    assert len(here) == cells
    assert prints(there, tmp_path / "there") == prints(here, tmp_path / "here")
