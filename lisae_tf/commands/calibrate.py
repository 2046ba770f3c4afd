"""`calibrate`: another threshold for a completed run or an exported model, from normal pictures."""

from collections.abc import Callable
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.quiet import start_tensorflow


@click.command("calibrate")
@shared.run
@click.option("--fpr", type=float, help="False-positive rate, as in 0.01.")
@click.option("--threshold", type=float, help="Set the threshold by hand; guarantees nothing.")
@shared.model
@click.option(
    "--normal-dir", type=shared.path,
    help="New normal pictures, which --fpr needs with --model; a run has scores of its own.",
)  # fmt: skip
@click.option(
    "--out", type=shared.path,
    help="With --model: the new model; the next version by default.",
)  # fmt: skip
@click.option("--undo", is_flag=True, help="Back to the threshold before the last calibration.")
def command(
    run: Path | None, model: Path | None, fpr: float | None, threshold: float | None,
    normal_dir: Path | None, out: Path | None, undo: bool,
):  # fmt: skip
    """Choose the threshold anew for a false-positive rate."""
    if undo and not (fpr is threshold is normal_dir is None):
        raise LisaeError(
            "--undo takes back the last calibration of a run or model; give it alone, without "
            "--fpr, --threshold and --normal-dir"
        )
    if threshold is not None and not (fpr is normal_dir is None):
        raise LisaeError(
            "--threshold sets the threshold of a run or model by hand; give it alone, without "
            "--fpr and --normal-dir"
        )
    if not undo and fpr is None and threshold is None:
        raise click.UsageError("name the false-positive rate with --fpr, as in --fpr 0.01")
    if model is not None:
        shared.refuse_both(run, model)
        if fpr is not None and normal_dir is None:
            raise LisaeError("--fpr with --model needs new normal pictures: add --normal-dir DIR")
        calibrate_model(model, fpr, normal_dir, threshold, out)
        return
    if out is not None:
        raise LisaeError("--out goes with --model; a run keeps its folder")
    start_tensorflow()
    calibrate_run(shared.open_run(run), fpr, normal_dir, threshold)


def calibrate_run(
    folder: Path, fpr: float | None, normal_dir: Path | None, alpha: float | None,
    say: Callable[[str], object] = click.echo,
) -> None:  # fmt: skip
    """Gives a run another threshold.

    Args:
        folder: of the run.
        fpr: what the threshold is chosen for.
        normal_dir: with `fpr`, of new normal pictures instead of the run's own.
        alpha: the threshold, by hand. With neither it is that of before the last calibration.
        say: takes a line of what has changed.
    """
    from lisae_tf.core.thresholds import choose_threshold, set_by_hand
    from lisae_tf.detectors import load_detector
    from lisae_tf.runs import files as run_files
    from lisae_tf.runs import folders as runs

    with run_files.writing(folder):
        detector = load_detector(folder)
        stored = runs.read_scores(folder)
        scores = stored["calibration"]
        if fpr is not None:
            if normal_dir is not None:
                scores = _new_scores(detector, folder, normal_dir)
            chosen = choose_threshold(scores, fpr)
        elif alpha is not None:
            chosen = set_by_hand(alpha, stored["test"])
        else:
            chosen, scores = runs.read_earlier(folder)
        _write(folder, detector, stored, chosen, scores, say)


def _new_scores(detector, folder: Path, normal_dir: Path):
    """Scores of normal pictures that the run was not trained on, each picture once.

    Raises:
        LisaeError: some were trained on.
    """
    import numpy as np

    from lisae_tf.data import manifest, picture_files, pictures

    found = picture_files.find(normal_dir)
    shared.tell_others([normal_dir])
    kept = manifest.read(folder)
    known = kept.digests(manifest.FITTED) if kept else set()
    digests = manifest.digests(found) if known else []
    _refuse_seen(
        [digest in known for digest in digests],
        found,
        normal_dir,
        "run",
        ", or leave --normal-dir out",
    )
    decoded = pictures.decode_all(
        found, detector.shape[:2], detector.shape[2], depth=detector.depth
    )
    shared.tell_reading(decoded, detector)
    pixels = _once(decoded, normal_dir, detector.config.data.group_by)
    return np.asarray(detector.score(pixels))


def _refuse_seen(seen, found, normal_dir: Path, what: str, otherwise: str = "") -> None:
    """Refuses pictures that a run or model was trained on; `seen` is bool for each, or empty."""
    from lisae_tf.data import picture_files

    named = [str(path) for path, was in zip(found, seen, strict=False) if was]
    if named:
        raise LisaeError(
            f"the {what} was trained on {len(named)} of the {len(found)} pictures of {normal_dir} "
            f"({picture_files.few(named)}): a threshold from them would be too low; give normal "
            f"pictures that it has not seen{otherwise}"
        )


def _once(decoded, folder: Path, pattern: str | None = None):
    """One picture of each group: copies and near copies of one say nothing more about new ones.

    Args:
        decoded: the pictures.
        folder: of them.
        pattern: by which names group them, see `groups.named`.
    """
    import numpy as np

    from lisae_tf.data.manifest import NORMAL
    from lisae_tf.data.picture_files import below
    from lisae_tf.data.pictures import content_hashes, one_of_each

    paths = [below(Path(name), folder).as_posix() for name in decoded.names]
    try:
        from lisae_tf.data.groups import group

        remedy = "name these as the pictures that the run was trained on, whose pattern it is"
        groups = group(decoded, paths, pattern, NORMAL, remedy)
        numbers = groups.numbers
        if not (groups.near or groups.by_name):  # too alike to be told apart
            click.echo("".join(f"note: {note}\n" for note in groups.notes), err=True, nl=False)
    except ModuleNotFoundError as error:  # beside a runtime alone
        if (error.name or "").partition(".")[0] not in ("scipy", "sklearn"):
            raise
        numbers = np.unique(content_hashes(decoded.pixels), return_inverse=True)[1]
        click.echo(
            "note: near copies are not sought, for scikit-learn is not installed; leave out all "
            "but one of them yourself, for each picture counts",
            err=True,
        )
    chosen = one_of_each(numbers, decoded.pixels)
    if len(chosen) < len(paths):
        click.echo(
            f"note: {len(paths) - len(chosen)} copies, near copies or pictures of one group do not "
            "count",
            err=True,
        )
    return decoded.pixels[chosen]


def _write(folder: Path, detector, stored: dict, threshold, scores, say) -> None:
    """The run with another threshold; the one before is kept for --undo."""
    import numpy as np

    from lisae_tf.core.arrays import save_arrays
    from lisae_tf.core.files import write_json
    from lisae_tf.data import manifest
    from lisae_tf.data.folders import here
    from lisae_tf.evaluation.metrics import (
        Scored,
        by_folder,
        by_kind,
        chance_at_rate,
        evaluate,
        independent,
        known_found,
    )
    from lisae_tf.report import figures
    from lisae_tf.runs import folders as runs
    from lisae_tf.runs.files import FIGURES, METRICS, REPORT, SCORES, changing

    old, test = detector.threshold_, Scored(stored["test"], stored["is_anomaly"])
    before = runs.read_metrics(folder)
    metrics = before | evaluate(test, threshold.alpha)
    n_normal, _ = independent(metrics)
    metrics |= {
        "threshold": threshold.alpha,
        "threshold_guaranteed_fpr": threshold.guaranteed_fpr,
        "threshold_requested_fpr": threshold.requested_fpr,
        "n_calibration": threshold.n_calibration,
        "chance_of_false_alarms": chance_at_rate(
            threshold, metrics["false_positive_rate"], n_normal
        ),
    }
    if kept := manifest.read(folder):
        counts = dict(zip(here(detector.config).normal_dirs, kept.tested_normals(), strict=False))
        share = n_normal / max(1, len(test.normal))
        if found := by_folder(test, counts, threshold, share):
            metrics["by_folder"] = found
    if "known" in stored:
        metrics["known"] = known_found(stored["known"], threshold, np.asarray(scores))
    if "kind" in stored:
        metrics["by_kind"] = by_kind(test, stored["kind"], threshold.alpha)
    phase1 = stored.get("test_phase1")
    earlier = None if phase1 is None else Scored(phase1, test.is_anomaly)
    detector.set_threshold(threshold)
    with changing(folder) as staged:
        runs.keep_earlier(staged, old, stored["calibration"])
        detector.save_sidecar(folder, staged)
        # What `monitor` compares with is what the threshold rests on.
        save_arrays(staged / SCORES, stored | {"calibration": np.asarray(scores)})
        write_json(staged / METRICS, metrics)
        figures.draw_threshold(earlier, test, threshold.alpha, staged / FIGURES)
    say(summary(old.alpha, threshold))
    for name, words in (
        ("false_positive_rate", "normal test pictures above it"),
        ("detection_rate", "anomalies found"),
    ):
        if metrics[name] is not None:
            say(f"{words}: {100 * before[name]:.1f} % -> {100 * metrics[name]:.1f} %")
    if (folder / REPORT).is_file():
        say(f"note: {folder / REPORT} is by the threshold before; report writes it anew")


def summary(old: float, threshold) -> str:
    """One line on what has changed."""
    moved = f"threshold {old:.5g} -> {threshold.alpha:.5g}"
    if threshold.by_hand:
        return f"{moved}: set by hand, which guarantees nothing of new pictures"
    return (
        f"{moved}: a new normal picture scores above it "
        f"with probability at most {threshold.guaranteed_fpr:.4g} "
        f"({threshold.n_calibration} calibration pictures)"
    )


def calibrate_model(
    path: Path, fpr: float | None, normal_dir: Path | None, alpha: float | None, out: Path | None,
    say: Callable[[str], object] = click.echo,
) -> Path:  # fmt: skip
    """The same for an exported model, which is written anew; needs no run.

    Args:
        path: of the model.
        fpr: with `normal_dir`, what the threshold is chosen for.
        normal_dir: of new normal pictures.
        alpha: the threshold, by hand. With neither it is that of before the last calibration.
        out: the new model; the next version by default.
        say: takes a line of what has changed.

    Returns:
        The new model.
    """
    import numpy as np

    from export.model_card import write_model_card
    from export.serving_files import MODELS, stable_versions, write_serving_files
    from lisae_tf.core.thresholds import choose_threshold, set_by_hand
    from lisae_tf.exported import model_record, packed, recalibration
    from lisae_tf.exported.runtimes import open_model

    model = open_model(path)
    place = recalibration.next_place(model, out)
    models = place.parent.parent
    serves = path.is_dir() and (models / MODELS).is_file()
    if serves:  # what could not be brought up to date is refused before anything is written
        stable_versions(models)
    normal = recalibration.noise(model)
    if fpr is not None:
        normal = _new_pictures(model, normal_dir)
        scores = model.score(normal)
        threshold, kept = choose_threshold(scores, fpr), packed.pack_scores(scores)
    elif alpha is not None:
        with np.errstate(over="ignore"):  # then it is infinite, and refused
            alpha = float(np.float32(alpha))
        threshold = set_by_hand(alpha, model.score(normal))
        kept = model.record.get("calibration_scores")
    else:
        threshold, kept = recalibration.earlier(model)
    recalibration.recalibrate(model, threshold, normal, place, kept)
    record = model_record.read_record(place, model.record["kind"])
    if out is None or place.is_dir():
        write_model_card(place if place.is_dir() else place.parent, record, None)
    if serves:
        write_serving_files(models)
    say(summary(model.threshold, threshold))
    say(f"wrote {place}; {model.path} is as it was, and all scores are the same")
    return place


def _new_pictures(model, normal_dir: Path):
    """Normal pictures that an exported model was not trained on, each once.

    Raises:
        LisaeError: some were trained on.
    """
    from lisae_tf.data import manifest, picture_files, pictures
    from lisae_tf.exported import packed

    shared.tell_others([normal_dir])
    found = picture_files.find(normal_dir)
    if listed := model.record.get("trained_on"):
        _refuse_seen(packed.which_seen(listed, manifest.digests(found)), found, normal_dir, "model")
    decoded = pictures.decode_all(found, model.shape[:2], model.shape[2], depth=model.depth)
    shared.tell_reading(decoded, model)
    return _once(decoded, normal_dir)
