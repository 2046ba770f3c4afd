"""`train`: both phases, threshold, test, figures; a run folder and a few lines at the end."""

import contextlib
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.config.variants import VARIANTS
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.quiet import start_tensorflow


@click.command("train")
@click.option("--dataset", help="surfaces (default), or any TensorFlow Datasets image set.")
@shared.normal_dir
@shared.negative_dir
@shared.negative_mask_dir
@shared.ignore_mask
@shared.anomaly_dir
@shared.test_dir
@shared.mask_dir
@shared.known_dir
@shared.mvtec
@click.option("--normal-class", help="Normal classes, names or numbers, comma list.")
@click.option("--protocol", help="one-class, two-class, next-class or halves.")
@click.option("--anomaly-class", help="Test anomalies, instead of the protocol's; comma list.")
@click.option(
    "--negatives",
    help="strokes, synth:elastic (made of the normal pictures), next-class, other-half, "
    "supervised, none, a dataset NAME, or NAME:3,4; NAME+synth:elastic joins two.",
)
@click.option("--variant", help=f"Detector: {', '.join(VARIANTS)}.")
@shared.features
@shared.group_by
@shared.tiles
@shared.config_file
@shared.assigned
@click.option("--seed", type=int, help="Seed of everything random.")
@click.option("--out", type=shared.path, help="Run folder; runs/... by default.")
@click.option(
    "--continue", "continued", metavar="RUN", type=shared.path,
    help="Train this run on: the pictures of --normal-dir become normal as well.",
)  # fmt: skip
@click.option(
    "--marks", type=shared.path,
    help="With --continue: a file of marks. Pictures marked normal become normal; of those marked "
    "anomaly half join the known flaws, half the test.",
)  # fmt: skip
@click.option(
    "--distribute", type=click.Choice(["mirrored", "workers"]),
    help="Over all GPUs of this machine, or over the workers that TF_CONFIG names.",
)  # fmt: skip
@shared.data_root
@click.option("--resume", is_flag=True, help="Continue an interrupted run in the same folder.")
@click.option("--skip-bad", is_flag=True, help="Leave unreadable pictures out.")
@click.option("--quiet", is_flag=True, help="Print the last lines only.")
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard logs to the run folder.")
@shared.data_dir
def command(
    tile, stride, input_size, config_file, assigned, out, continued, marks, resume, skip_bad, quiet,
    tensorboard, distribute, data_dir, data_roots, normal_class, anomaly_class, **named,
):  # fmt: skip
    """Train a detector, choose its threshold and test it.

    Without options: LIS-AE on the embedded photographs, gravel against other surfaces.
    """
    named |= {
        "normal_class": shared.listed(normal_class),
        "anomaly_class": shared.listed(anomaly_class),
    }
    named["data"] = shared.tile_settings(tile, stride, input_size)
    if data_roots and not (continued or resume):
        raise LisaeError("--data-root belongs to --continue or --resume; name the folders as now")
    if marks and not continued:
        raise LisaeError("--marks belongs to --continue; name the run that the pictures go to")
    if continued:
        continued = shared.open_run(continued)
    config, notes = _settings(named, config_file, assigned, continued, marks, data_roots)

    console = shared.console()
    say = (lambda line: None) if quiet else console.print
    start_tensorflow()
    from lisae_tf.data import folders
    from lisae_tf.experiments import continuation, experiment
    from lisae_tf.runs import folders as runs
    from lisae_tf.training import distribution

    strategy = _strategy(distribute, config, out)
    chief = strategy is None or distribution.is_chief(strategy)
    quiet |= not chief
    config = folders.settle_folder_channels(config, settled=bool(continued))
    before = continuation.load(continued, config, data_roots) if continued else None
    folder = out or runs.default_folder(run_name(config), resume=resume)
    if resume and not folder.exists():
        notes.append(f"no interrupted run has these settings; {folder} begins from the start")
    if chief:  # before pictures are read, which may take minutes
        claimed = _claimed(config, folder, data_roots if resume else ())
        runs.check_free(folder, claimed, resume=resume)
    say(f"the run goes to {folder}")
    for note in notes:
        say(f"note: {note}")
    say(config.to_yaml(read=True).rstrip())
    kept = _kept(folder if resume else None, continued, config, data_roots)
    ignored = before.detector.ignored if before else None
    loaded = experiment.load(config, data_dir, skip_bad=skip_bad, kept=kept, ignored=ignored)
    if resume and loaded.since:
        raise LisaeError(
            f"the pictures are no longer those that {folder} began with ({loaded.since[0]}); put "
            "them back, or train anew in another --out"
        )
    callbacks = _callbacks(console, folder, quiet=quiet, tensorboard=tensorboard, chief=chief)
    own = runs.training(folder, claimed, loaded.manifest, resume=resume) if chief else None
    try:
        with own or contextlib.nullcontext(), _pictures_told(console, quiet=quiet):
            outcome = experiment.run(
                config, loaded, folder, callbacks=callbacks, say=say, before=before,
                strategy=strategy,
            )  # fmt: skip
    except (KeyboardInterrupt, SystemExit):
        if chief:
            click.echo(f"stopped; the same command with --resume --out {folder} goes on", err=True)
        raise
    if not chief:
        return
    runs.remember(folder)
    for line in closing_lines(outcome.metrics, folder, features=config.features is not None):
        console.print(line)


def _settings(
    named: dict, config_file: Path | None, assigned, continued: Path | None, marks: Path | None,
    data_roots,
):  # fmt: skip
    """The resolved settings, on those of the continued run, and remarks on them."""
    said: list[str] = []
    if continued:
        if config_file:
            raise LisaeError("--continue takes the settings of its run; leave --config out")
        from lisae_tf.experiments import continuation

        if named["known_dir"]:
            raise LisaeError(
                "--continue keeps the known flaws of its run, which chose its settings; leave "
                "--known-dir out, or train anew without --continue"
            )
        added = [*named["normal_dir"]], []
        if marks:
            from lisae_tf.experiments import marked

            found = marked.lists_of(marks, continued)
            said = found.notes
            added = [*added[0], *found.normal], found.known
        named |= continuation.with_added(continued, *added)
        config_file = continued / "config.yaml"
    from lisae_tf.experiments.settling import settle

    config, notes = settle(named, config_file, assigned)
    config = shared.stored(config)
    if continued:
        from lisae_tf.data.folders import moved

        config = moved(config, data_roots)
    return config, [*said, *notes]


def _claimed(config, folder: Path, data_roots: tuple[str, ...]) -> str:
    """The settings as an interrupted run has them, whose folders may have moved since."""
    from lisae_tf.data.folders import moved_back
    from lisae_tf.runs.folders import CONFIG

    settings, stored = config.to_yaml(), folder / CONFIG
    if not data_roots or not stored.is_file() or stored.read_text(encoding="utf-8") == settings:
        return settings
    return moved_back(config, data_roots).to_yaml()


def _kept(resumed: Path | None, continued: Path | None, config, data_roots):
    """The pictures that keep the parts they have: of an interrupted run, or of a continued one."""
    from lisae_tf.data import manifest
    from lisae_tf.experiments import continuation

    if resumed and (found := manifest.read(resumed)):
        return found
    return continuation.kept(continued, config, data_roots) if continued else None


def _strategy(kind: str | None, config, out: Path | None):
    """The strategy that was asked for; only the autoencoders of the paper take one."""
    if kind is None:
        return None
    from lisae_tf.config.variants import LOSSES
    from lisae_tf.training import distribution

    if config.variant not in LOSSES:
        raise LisaeError(f"--distribute trains {', '.join(LOSSES)}, not {config.variant}")
    if kind == "workers" and out is None:
        raise LisaeError(
            "--distribute workers needs a folder that all workers share; name it with --out"
        )
    return distribution.make_strategy(kind)


def run_name(config) -> str:
    """A folder name that says what the run is about."""
    if config.dataset == "folder":
        from lisae_tf.data.layout import subject as subject_of

        subject = "-".join(map(subject_of, config.normal_dirs))
    else:
        classes = "-".join(str(c) for c in config.normal_class or [0])
        subject = f"{config.dataset}-{classes}".replace("/", "-")
    variant = "known" if "variant" in config.choose else config.variant
    # The settings name the folders, and two of one name are not one.
    return f"{subject[:80]}-{variant}-seed{config.seed}-{config.digest()[:6]}"


def _callbacks(console, folder: Path, *, quiet: bool, tensorboard: bool, chief: bool) -> tuple:
    """What is told of epochs; only the chief among workers writes."""
    import keras

    from lisae_tf.core.progress import TrainingProgress

    chosen = [] if quiet else [TrainingProgress(console)]
    if tensorboard and chief:
        chosen.append(keras.callbacks.TensorBoard(str(folder / "tensorboard")))
    return tuple(chosen)


@contextlib.contextmanager
def _pictures_told(console, *, quiet: bool):
    """Shows in a terminal how many pictures have gone through a backbone."""
    if quiet or not console.is_terminal:
        yield
        return
    from lisae_tf.core.progress import PictureProgress
    from lisae_tf.features.places import telling

    progress = PictureProgress(console)
    try:
        with telling(progress):
            yield
    finally:
        progress.stop()


def closing_lines(metrics: dict, folder: Path, *, features: bool = False) -> list[str]:
    """Whether it is any good, what happened, where it lies, what to type next."""
    from lisae_tf.evaluation.verdict import interval, known_line, rate_to_type, verdict

    lines = [*verdict(metrics, features=features)]
    lines += [f"note: {note}" for note in metrics["notes"]]
    normal = ", ".join(map(str, metrics["normal"]))
    if metrics["auroc"] is not None:
        before = metrics["auroc_phase1"]
        auroc = f"{metrics['auroc']:.3f}"
        if before is not None:
            auroc = f"{before:.3f} after phase 1, {auroc} at the end"
        lines.append(
            f"{normal} ({metrics['variant']}): AUROC {auroc} "
            f"({interval(metrics)}; {metrics['n_normal']} normal, {metrics['n_anomaly']} anomalies)"
        )
        lines.append(
            f"threshold {metrics['threshold']:.5g}: finds {100 * metrics['detection_rate']:.1f} % "
            f"of the anomalies, calls {100 * metrics['false_positive_rate']:.1f} % of the normal "
            f"pictures anomalous (asked for: {100 * metrics['threshold_requested_fpr']:g} %)"
        )
        for kind, found in metrics["by_kind"].items():
            lines.append(
                f"{kind or 'in no folder of their kind'}: AUROC {found['auroc']:.3f}, finds "
                f"{100 * found['detection_rate']:.1f} % of {found['n']}"
            )
        if "pixel_auroc" in metrics:
            lines.append(
                f"where the anomalies are: pixel AUROC {metrics['pixel_auroc']:.3f}, per-region "
                f"overlap {metrics['per_region_overlap']:.3f} ({metrics['n_masks']} masks)"
            )
    else:
        lines.append(
            f"{normal} ({metrics['variant']}): no anomalies to test on. Threshold "
            f"{metrics['threshold']:.5g} calls {100 * metrics['false_positive_rate']:.1f} % of "
            f"{metrics['n_normal']} held-out normal pictures anomalous"
        )
        if metrics["auroc_negatives"] is not None:
            lines.append(
                f"held-out negatives against held-out normals: AUROC "
                f"{metrics['auroc_negatives']:.3f} (no measure of anomalies)"
            )
    if "ignored_share" in metrics:
        lines.append(f"{100 * metrics['ignored_share']:.1f} % of each picture does not count")
    if known := metrics.get("known"):
        lines.append(f"{known_line(known)}{rate_to_type(known)}")
    for folder_name, found in metrics.get("by_folder", {}).items():
        lines.append(
            f"{folder_name}: {100 * found['false_positive_rate']:.1f} % of {found['n']} normal "
            "test pictures called anomalous"
        )
    for name, found in (metrics.get("continued") or {}).items():
        if name in ("run", "threshold"):
            continue
        auroc = ""
        if found["auroc_before"] is not None:
            auroc = f"; AUROC {found['auroc_before']:.3f} before, {found['auroc_after']:.3f} now"
        lines.append(
            f"{name.replace('_', ' ')}: {100 * found['false_positive_rate_before']:.1f} % of "
            f"{found['n']} held-out ones called anomalous before, "
            f"{100 * found['false_positive_rate_after']:.1f} % now{auroc}"
        )
    lines.append(f"the run lies in {folder} (metrics.json, figures/)")
    lines.append(f"next: python cli.py score --run {folder} YOUR_PICTURES")
    return lines
