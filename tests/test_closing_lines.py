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


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"normal_error_times": 4.2}, True),
        ({"normal_error_times": 4.2, "auroc": None, "auroc_negatives": None}, True),
        ({"normal_error_times": 1.3}, False),
        ({"normal_error_times": None}, False),
        ({}, False),  # of an earlier version
        ({"normal_error_times": 4.2, "variant": "anogan"}, False),
    ],
)
def test_normal_pictures_that_phase_2_spoiled_are_told(changed, said, tmp_path):
    text = "\n".join(closing_lines(METRICS | changed, tmp_path))
    word = "phase 2 raised the error of held-out normal pictures 4.2-fold"
    assert (word in text) == said


def test_an_auroc_comes_with_its_interval(tmp_path):
    few = METRICS | {"auroc": 1.0, "n_normal": 2, "n_anomaly": 9}
    text = "\n".join(closing_lines(few, tmp_path))
    assert "1.000 at the end (95 %: 0.540 to 1.000; 2 normal, 9 anomalies)" in text


FLAWS = {"dataset": "folder", "negatives": "synth:flaws", "variant": "linear-lis"}


@pytest.mark.parametrize(
    ("changed", "features", "first", "steps"),
    [
        ({"detection_rate": 0.9}, True,
         "verdict: finds 90.0 % of the anomalies at 5.0 % false alarms", []),
        ({"detection_rate": 0.035} | FLAWS, True, "verdict: misses more than half: finds 3.5 %",
         ["--variant lis-knn", "data.size", "--negative-dir"]),
        ({"detection_rate": 0.31, "false_positive_rate": 0.012} | FLAWS, True,
         "verdict: misses more than half: finds 31.0 % of the anomalies at 1.2 % false alarms",
         ["calibrate --fpr 0.1", "--variant lis-knn", "data.size", "--negative-dir"]),
        ({"detection_rate": 0.035} | FLAWS | {"variant": "lis-knn"}, True,
         "verdict: misses more than half: finds 3.5 %", ["data.size", "--negative-dir"]),
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
