"""`monitor`: have the scores in production drifted away from the calibration scores?"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError

if TYPE_CHECKING:
    import numpy as np

DRIFTED = 3  # exit code


@click.command("monitor")
@click.option(
    "--scores", type=shared.path, required=True,
    help="New scores as score or watch writes them: CSV, JSON lines, or the folder of --parts.",
)  # fmt: skip
@shared.run
@shared.model
@click.option("--last", type=click.IntRange(min=1), help="Only the last N scores of the file.")
@click.option(
    "--significance", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.01,
    show_default=True, help="Largest p-value that counts as drift.",
)  # fmt: skip
@click.option(
    "--smallest", type=click.FloatRange(0, 1), default=0.1, show_default=True,
    help="Smallest difference of the distributions (Kolmogorov-Smirnov) that counts.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    scores: Path, run: Path | None, model: Path | None, last: int | None,
    significance, smallest, as_json,
):  # fmt: skip
    """Compare new scores with the calibration scores of a run or exported model.

    Name what gave the scores: a float16 or int8 file scores otherwise than its run.

    Exit code 0: no drift; 3: drift, the threshold should be looked at; 1: something was wrong.
    """
    from lisae_tf.exported import monitoring, score_files

    shared.refuse_both(run, model)
    calibration, alpha, expected = _of_run(run) if model is None else _of_model(model)
    window = score_files.read(scores)
    drift = monitoring.compare(
        calibration, window[-last:] if last else window,
        alpha=alpha, expected_rate=expected, significance=significance, smallest=smallest,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(drift.as_json() | {"advice": drift.advice()}, indent=1))
    else:
        click.echo(
            f"{drift.n_window} new scores against {drift.n_calibration} calibration scores: "
            f"Kolmogorov-Smirnov {drift.statistic:.3f} (p = {drift.p_value:.2g}), median "
            f"{drift.median_calibration:.4g} -> {drift.median_window:.4g}"
        )
        click.echo(
            f"{100 * drift.flagged_rate:.1f} % lie above the threshold; of normal pictures "
            f"{100 * drift.expected_rate:.1f} % would"
        )
        click.echo(drift.advice())
    if drift.drifted:
        sys.exit(DRIFTED)


def _of_run(given: Path | None) -> tuple["np.ndarray", float, float | None]:
    """Calibration scores of a run, its threshold and the rate that this guarantees."""
    from lisae_tf.runs import folders as runs

    folder = shared.open_run(given)
    metrics = runs.read_metrics(folder)
    try:
        alpha, expected = metrics["threshold"], metrics["threshold_guaranteed_fpr"]
    except KeyError as error:
        raise LisaeError(f"the run in {folder} has no threshold; calibrate it first") from error
    return runs.read_scores(folder)["calibration"], alpha, expected


def _of_model(given: Path) -> tuple["np.ndarray", float, float | None]:
    """The same of an exported model, from its record: no runtime is needed.

    Raises:
        LisaeError: it keeps no scores of its own.
    """
    from lisae_tf.exported import model_record, monitoring

    path, kind = model_record.locate(given)
    found = monitoring.of_record(model_record.read_record(path, kind))
    if found is None:
        raise LisaeError(
            f"{path} keeps no calibration scores of its own to compare with; choose its threshold "
            "with calibrate --model FILE --normal-dir DIR --fpr RATE, or export it again"
        )
    return found
