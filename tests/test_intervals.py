"""Intervals of shares: as SciPy has them, and the same on the desk's page."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from conftest import CHECKOUT
from scipy import stats

from lisae_tf.core.intervals import CONFIDENCE, Z, wilson

PAIRS = [(k, n) for n in (1, 2, 7, 20, 333, 50_000) for k in {0, 1, n // 3, n - 1, n}]


def test_they_are_those_of_scipy():
    for count, total in PAIRS:
        expected = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
        assert wilson(count, total) == pytest.approx(tuple(expected), abs=1e-12)
    assert wilson(0, 0) == (0, 1)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_page_counts_as_python_does():
    generator = np.random.default_rng(0)
    scores = np.round(generator.random(500), 2).astype(np.float32)  # with equal ones
    truth = generator.integers(-1, 2, 500)
    kind = generator.integers(0, 3, 500)
    alphas = np.concatenate([[-1, 2], np.unique(scores)[::7]])
    given = {
        "pairs": PAIRS, "z": Z, "scores": scores.tolist(), "truth": truth.tolist(),
        "kind": kind.tolist(), "alphas": alphas.tolist(),
    }  # fmt: skip
    script = (CHECKOUT / "lisae_tf/desk/static/counts.js").read_text() + (
        "\nconst given = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "const counts = new desk.Counts("
        "  Float32Array.from(given.scores), given.truth, given.kind, ['', 'a', 'b']);"
        "console.log(JSON.stringify({"
        "  wilson: given.pairs.map(([k, n]) => desk.wilson(k, n, given.z)),"
        "  at: given.alphas.map((alpha) => counts.at(alpha, given.z)) }));"
    )
    done = subprocess.run(
        ["node", "-e", script], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    for pair, interval in zip(PAIRS, found["wilson"], strict=True):
        assert interval == pytest.approx(wilson(*pair), abs=1e-12)
    for alpha, said in zip(alphas, found["at"], strict=True):
        above = scores > np.float32(alpha)
        for name, side in (("alarms", 0), ("finds", 1), ("unknown", -1)):
            count, total = int(above[truth == side].sum()), int((truth == side).sum())
            assert (said[name]["count"], said[name]["total"]) == (count, total)
            assert said[name]["interval"] == pytest.approx(wilson(count, total), abs=1e-12)
        for k, each in enumerate(said["kinds"]):
            assert each["count"] == int(above[(truth == 1) & (kind == k)].sum())
