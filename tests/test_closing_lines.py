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
