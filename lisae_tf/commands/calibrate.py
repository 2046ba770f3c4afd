"""`calibrate`: another threshold for a completed run or an exported model, from normal pictures."""

from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.errors import LisaeError
from lisae_tf.quiet import start_tensorflow


@click.command("calibrate")
@shared.run
@click.option("--fpr", type=float, required=True, help="False-positive rate, as in 0.01.")
@shared.model
@click.option(
    "--normal-dir", type=click.Path(path_type=Path),
    help="New normal pictures; by default the scores that the threshold rests on now.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="With --model: the new model; the next version by default.",
)  # fmt: skip
def command(
    run: str | None, model: Path | None, fpr: float, normal_dir: Path | None, out: Path | None
):
    """Choose the threshold anew for a false-positive rate."""
    if model is not None:
        if run is not None or normal_dir is None:
            raise LisaeError("--model takes no --run, and needs normal pictures: --normal-dir DIR")
        calibrate_model(model, fpr, normal_dir, out)
        return
    if out is not None:
        raise LisaeError("--out goes with --model; a run keeps its folder")
    start_tensorflow()
    import numpy as np

    from lisae_tf import experiment, runs
    from lisae_tf.arrays import save_arrays
    from lisae_tf.data import picture_files, pictures
    from lisae_tf.detectors import load_detector
    from lisae_tf.evaluation import by_kind, evaluate
    from lisae_tf.files import write_json
    from lisae_tf.thresholds import choose_threshold

    folder = runs.find_run(run)
    detector = load_detector(folder)
    scores, test = experiment.stored_scores(folder)
    if normal_dir is not None:
        found = picture_files.find(normal_dir)
        shared.tell_others([normal_dir])
        decoded = pictures.decode_all(
            found, detector.shape[:2], detector.shape[2], depth=detector.depth
        )
        shared.tell_depth(decoded, detector.depth)
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
    # What `monitor` compares with is what the threshold rests on.
    stored = runs.read_scores(folder)
    if "kind" in stored:
        metrics["by_kind"] = by_kind(test, stored["kind"], threshold.alpha)
    detector.save_sidecar(folder)
    save_arrays(folder / runs.SCORES, stored | {"calibration": np.asarray(scores)})
    write_json(folder / runs.METRICS, metrics)
    click.echo(summary(old.alpha, threshold))


def summary(old: float, threshold) -> str:
    """One line on what has changed."""
    return (
        f"threshold {old:.5g} -> {threshold.alpha:.5g}: a new normal picture scores above it "
        f"with probability at most {threshold.guaranteed_fpr:.4g} "
        f"({threshold.n_calibration} calibration pictures)"
    )


def calibrate_model(path: Path, fpr: float, normal_dir: Path, out: Path | None) -> None:
    """The same for an exported model, which is written anew; needs no run."""
    from export.model_card import write_model_card
    from export.serving_files import MODELS, write_serving_files
    from lisae_tf.data import picture_files, pictures
    from lisae_tf.exported import artefacts
    from lisae_tf.exported.recalibration import next_place, recalibrate
    from lisae_tf.exported.runtimes import open_model
    from lisae_tf.thresholds import choose_threshold

    model = open_model(path)
    place = next_place(model, out)
    shared.tell_others([normal_dir])
    decoded = pictures.decode_all(
        picture_files.find(normal_dir), model.shape[:2], model.shape[2], depth=model.depth
    )
    shared.tell_depth(decoded, model.depth)
    normal = decoded.pixels
    threshold = choose_threshold(model.score(normal), fpr)
    recalibrate(model, threshold, normal, place)
    record = artefacts.read_record(place, model.record["kind"])
    if out is None or place.is_dir():
        write_model_card(place if place.is_dir() else place.parent, record, None)
    models = place.parent.parent
    if place.is_dir() and (models / MODELS).is_file():
        write_serving_files(models)
    click.echo(summary(model.threshold, threshold))
    click.echo(f"wrote {place}; {model.path} is as it was, and all scores are the same")
