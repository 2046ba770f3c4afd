"""`evaluate`: the test of a completed run again, from its stored weights."""

import json
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.quiet import start_tensorflow


@click.command("evaluate")
@shared.run
@shared.data_dir
@click.option(
    "--mask-dir", type=click.Path(path_type=Path),
    help="Masks of the anomalies, white on black, named as they are: adds pixel AUROC and PRO.",
)  # fmt: skip
@click.option("--skip-bad", is_flag=True, help="Leave unreadable pictures out.")
def command(run: str | None, data_dir: Path | None, mask_dir: Path | None, skip_bad: bool):
    """Score the run's test pictures again and print the metrics as JSON."""
    start_tensorflow()
    from lisae_tf import experiment, runs
    from lisae_tf.data import tasks
    from lisae_tf.detectors import load_detector

    folder = runs.find_run(run)
    detector = load_detector(folder)
    data = tasks.load_training(detector.config, data_dir, skip_bad=skip_bad)
    test = tasks.load_test(detector.config, data_dir, skip_bad=skip_bad)
    before, after = experiment.score_test(detector, test)
    record = experiment.describe(detector.config, data_dir)
    record |= experiment.measure(detector, data, before, after)
    if mask_dir is not None:
        record |= experiment.localise(detector, test, mask_dir)
    click.echo(json.dumps(record, indent=2, sort_keys=True))
