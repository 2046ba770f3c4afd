"""`calibrate`: another threshold for a completed run, from normal pictures."""

from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.quiet import start_tensorflow


@click.command("calibrate")
@shared.run
@click.option("--fpr", type=float, required=True, help="False-positive rate, as in 0.01.")
@click.option(
    "--normal-dir", type=click.Path(path_type=Path),
    help="New normal pictures; the run's own calibration pictures by default.",
)  # fmt: skip
def command(run: str | None, fpr: float, normal_dir: Path | None):
    """Choose the threshold anew for a false-positive rate."""
    start_tensorflow()
    from lisae_tf import experiment, pictures, runs
    from lisae_tf.detectors import load_detector
    from lisae_tf.evaluation import evaluate
    from lisae_tf.files import write_json
    from lisae_tf.thresholds import choose_threshold

    folder = runs.find_run(run)
    detector = load_detector(folder)
    scores, test = experiment.stored_scores(folder)
    if normal_dir is not None:
        found = pictures.find(normal_dir)
        decoded = pictures.decode_all(found, detector.shape[:2], detector.shape[2])
        scores = detector.score(decoded.pixels)
    old, threshold = detector.threshold_, choose_threshold(scores, fpr)
    detector.set_threshold(threshold)
    metrics = runs.read_metrics(folder) | evaluate(test, threshold.alpha)
    metrics |= {
        "threshold": threshold.alpha,
        "threshold_guaranteed_fpr": threshold.guaranteed_fpr,
        "threshold_requested_fpr": threshold.requested_fpr,
        "n_calibration": threshold.n_calibration,
    }
    detector.save_sidecar(folder)
    write_json(folder / runs.METRICS, metrics)
    click.echo(
        f"threshold {old.alpha:.5g} -> {threshold.alpha:.5g}: a new normal picture scores above it "
        f"with probability at most {threshold.guaranteed_fpr:.4g} "
        f"({threshold.n_calibration} calibration pictures)"
    )
