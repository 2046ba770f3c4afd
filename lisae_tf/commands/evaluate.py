"""`evaluate`: the test of a completed run again, from its stored weights."""

import contextlib
import json
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.quiet import start_tensorflow


@click.command("evaluate")
@shared.run
@shared.data_dir
@shared.data_root
@shared.mask_dir
@click.option("--skip-bad", is_flag=True, help="Leave unreadable pictures out.")
def command(
    run: Path | None, data_dir: Path | None, data_roots: tuple[str, ...], mask_dir: str | None,
    skip_bad: bool,
):  # fmt: skip
    """Score the run's test pictures again and print the metrics as JSON.

    Pixel figures, with masks of --mask-dir or of the run, are kept in its metrics.json.
    """
    start_tensorflow()
    from lisae_tf.config.settings import merge, resolve
    from lisae_tf.data import tasks
    from lisae_tf.data.folders import moved
    from lisae_tf.detectors import load_detector
    from lisae_tf.evaluation.metrics import folder_remarks
    from lisae_tf.experiments import experiment
    from lisae_tf.features.places import remembering
    from lisae_tf.runs import files as run_files
    from lisae_tf.runs import folders as runs

    folder = shared.open_run(run)
    detector = load_detector(folder)
    config = moved(detector.config, data_roots)
    if mask_dir is not None:
        config = resolve(merge(config.model_dump(), {"mask_dir": mask_dir}), "--mask-dir")
    opened = tasks.reopen(folder, config, data_dir, skip_bad=skip_bad)
    data, test = opened.training(), opened.test()
    said = runs.read_metrics(folder).get("notes", [])
    for line in (*opened.since, *(note for note in test.notes if note not in said)):
        click.echo(f"note: {line}", err=True)
    masks = tasks.load_masks(config, test)
    record = experiment.describe(config, data_dir)
    # What is measured with masks is kept.
    with run_files.writing(folder) if masks is not None else contextlib.nullcontext():
        with remembering(experiment.FEATURES_KEPT):
            before, after = experiment.score_test(detector, test)
            record |= experiment.measure(detector, data, before, after, test)
            if masks is not None:
                figures, why_not = experiment.localise(detector, test, masks)
        requested = record["threshold_requested_fpr"]
        for line in folder_remarks(record.get("by_folder", {}), requested):
            click.echo(f"note: {line}", err=True)
        if masks is not None:
            if mask_dir is not None and why_not:
                raise LisaeError(f"{why_not[0]}; leave --mask-dir out")
            record |= figures
            _keep(folder, figures, [*masks.notes, *why_not])
    click.echo(json.dumps(record, indent=2, sort_keys=True))


def _keep(folder: Path, figures: dict, notes: list[str]) -> None:
    """Writes pixel figures and what is to be said of them into the run's record."""
    from lisae_tf.core.files import write_json
    from lisae_tf.runs import files as run_files
    from lisae_tf.runs import folders as runs

    for note in notes:
        click.echo(f"note: {note}", err=True)
    stored = runs.read_metrics(folder)
    said = stored.get("notes", [])
    stored["notes"] = said + [note for note in notes if note not in said]
    others = {key: value for key, value in stored.items() if key not in runs.LOCALISED}
    with run_files.changing(folder) as staged:
        write_json(staged / runs.METRICS, others | figures)
