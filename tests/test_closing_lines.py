"""What `train` says at its end."""

import pytest

from lisae_tf.commands.train import closing_lines

METRICS = {
    "notes": [], "dataset": "surfaces", "normal": ["brick"], "variant": "lis",
    "auroc": 0.8, "auroc_phase1": 0.8,
    "n_normal": 60, "n_anomaly": 60, "threshold": 0.01, "detection_rate": 0.5,
    "false_positive_rate": 0.05, "threshold_requested_fpr": 0.05, "by_kind": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"auroc_phase1": 0.85}, True),
        ({"auroc_phase1": 0.805}, False),
        ({"auroc_phase1": 0.7}, False),
        ({"auroc_phase1": None}, False),
        ({"auroc_phase1": 0.85, "variant": "linsep"}, True),
        ({"auroc_phase1": 0.85, "variant": "anogan"}, False),  # has other phases
    ],
)
def test_what_phase_2_lost_is_said_with_a_way_out(changed, said, tmp_path):
    text = "\n".join(closing_lines(METRICS | changed, tmp_path))
    assert ("--variant ae" in text) == said


FLAWS = {"dataset": "folder", "negatives": "synth:flaws", "variant": "linear-lis"}


@pytest.mark.parametrize(
    ("changed", "features", "first", "steps"),
    [
        ({"detection_rate": 0.9}, True,
         "verdict: finds 90.0 % of the anomalies at 5.0 % false alarms", []),
        ({"detection_rate": 0.035} | FLAWS, True, "verdict: misses more than half: finds 3.5 %",
         ["data.size", "--negative-dir", "--variant lis"]),
        ({"detection_rate": 0.31, "false_positive_rate": 0.012} | FLAWS, True,
         "verdict: misses more than half: finds 31.0 % of the anomalies at 1.2 % false alarms",
         ["calibrate --fpr 0.1", "data.size", "--negative-dir", "--variant lis"]),
        ({"detection_rate": 0.4, "auroc": 0.95} | FLAWS, False, "verdict: misses more than half",
         ["calibrate --fpr 0.1", "--features none", "data.size", "--negative-dir"]),
        ({"auroc": 0.6, "auroc_phase1": None, "n_normal": 20, "n_anomaly": 20}, False,
         "verdict: may be no better than chance", ["--negatives"]),
        ({"auroc": 0.6, "auroc_phase1": None, "n_normal": 200, "n_anomaly": 200,
          "detection_rate": 0.6}, False,
         "verdict: finds 60.0 %", []),
        ({"auroc": None, "auroc_negatives": None, "detection_rate": None} | FLAWS, True,
         "verdict: not tested on anomalies", ["--anomaly-dir"]),
    ],
)  # fmt: skip
def test_the_verdict_comes_first_and_then_what_to_try(changed, features, first, steps, tmp_path):
    lines = closing_lines(METRICS | changed | {"notes": ["later"]}, tmp_path, features=features)
    assert lines[0].startswith(first)
    tried = [line for line in lines if line.startswith("try: ")]
    assert len(tried) == len(steps)
    assert all(step in line for step, line in zip(steps, tried, strict=True))
    assert lines.index("note: later") == 1 + len(tried)
