"""`tune`: choose γ, β and the latent size on held-out training data, without anomalies."""

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.quiet import start_tensorflow


@click.command("tune")
@click.option("--dataset", help="surfaces (default), or any TensorFlow Datasets image set.")
@shared.normal_dir
@shared.negative_dir
@shared.negative_mask_dir
@shared.mvtec
@click.option("--normal-class", help="Normal classes, names or numbers, comma list.")
@click.option("--negatives", help="As for train.")
@click.option("--variant", help="Detector, as in lis or linsep.")
@shared.features
@shared.group_by
@shared.config_file
@shared.assigned
@click.option("--seed", type=int, help="Seed of everything random.")
@click.option(
    "--trials", type=click.IntRange(min=1), default=30, show_default=True,
    help="Settings to try, in all.",
)  # fmt: skip
@click.option("--out", type=shared.path, help="Folder; runs/tune-... by default.")
@click.option("--resume", is_flag=True, help="Continue an interrupted study in the same folder.")
@click.option("--skip-bad", is_flag=True, help="Leave unreadable pictures out.")
@shared.data_dir
def command(
    config_file, assigned, trials, out, resume, skip_bad, data_dir, normal_class, **named
):  # fmt: skip
    """Try settings and keep the best, without anomalies.

    A trial trains without one kind of negatives, for two kinds in turn, and is measured by the
    AUROC of held-out normal pictures against the hardest tenth of that kind: first every latent
    size, then γ and β. Settings are changed for a clear gain alone. Writes best.yaml, for
    train --config.
    """
    named["normal_class"] = shared.listed(normal_class)
    from lisae_tf.experiments.settling import settle

    config, notes = settle(named, config_file, assigned)
    if config.known_dir:
        raise LisaeError("tune takes no known flaws; leave known_dir out of the settings")
    config = shared.stored(config)
    console = shared.console()
    start_tensorflow()
    from lisae_tf.commands.train import run_name
    from lisae_tf.data import folders
    from lisae_tf.experiments import selection, tuning
    from lisae_tf.runs import files as run_files
    from lisae_tf.runs import folders as runs

    config = folders.settle_folder_channels(config)
    search = tuning.Search(config)
    folder = out or runs.default_folder(f"tune-{run_name(config)}", resume=resume)
    left = selection.left_out(config, data_dir, skip_bad=skip_bad)
    for note in (*notes, *left[0].data.notes):
        console.print(f"note: {note}")
    runs.claim(folder, config.to_yaml(), resume=resume)
    kinds = [each.kind for each in left]
    console.print(f"left out of each training, in turn: {'; '.join(kinds)}")
    with run_files.writing(folder):
        study, best = tuning.tune(config, left, folder, trials, console.print)
        tuning.draw(study, best, kinds, folder / tuning.FIGURE)
    given = search.given_value(study)
    as_set = "" if given is None else f"; the settings given: {given:.4f}"
    console.print(
        f"chosen of {len(tuning.done(study))}: {best.value:.4f}, trial {best.number + 1}{as_set}"
    )
    console.print(f"the study lies in {folder} ({tuning.BEST}, {tuning.FIGURE})")
    data = f" --data-dir {data_dir}" if data_dir and config.dataset != "folder" else ""
    console.print(f"next: python cli.py train --config {folder / tuning.BEST}{data}")
