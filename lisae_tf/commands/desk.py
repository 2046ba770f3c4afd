"""`desk`: a local page to look at scored pictures, move the threshold and mark what is wrong."""

import contextlib
import shlex
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError, install
from lisae_tf.core.quiet import start_tensorflow


@click.command("desk")
@click.argument("pictures", nargs=-1, type=shared.path)
@shared.listed_pictures
@shared.run
@shared.model
@shared.data_dir
@shared.data_root
@click.option(
    "--marks", type=shared.path,
    help="File of the marks; marks.jsonl in the run, or beside the exported model, by default.",
)  # fmt: skip
@click.option("--skip-bad", is_flag=True, help="Leave unreadable pictures out.")
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="Address to listen on; with one that other machines reach, the page's address is secret.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="A free one by default."
)  # fmt: skip
@click.option(
    "--save", type=shared.path,
    help="Write the page into one HTML file, which opens offline and is read-only, instead.",
)  # fmt: skip
@click.option("--no-browser", is_flag=True, help="Only print the page's address.")
def command(
    pictures: tuple[Path, ...], listed: Path | None, run: Path | None, model: Path | None,
    data_dir: Path | None, data_roots: tuple[str, ...], marks: Path | None, skip_bad: bool,
    host: str, port: int, save: Path | None, no_browser: bool,
):  # fmt: skip
    """Look at pictures by score, move the threshold, mark what is wrong: a local page.

    Shows a run's test pictures, or PICTURES (files, folders or .npy arrays), which are scored
    first. With --model, an ONNX or TFLite file needs no TensorFlow.
    """
    from lisae_tf.data import picture_files

    shared.refuse_both(run, model)
    if listed is not None:
        pictures += tuple(picture_files.read(listed))
    if save is not None:
        from lisae_tf.core.files import write_text
        from lisae_tf.desk import frozen

        desk = _opened(run, model, pictures, data_dir, data_roots, marks, skip_bad)
        page, lost = frozen.page(desk)
        write_text(save, page)
        if lost:
            click.echo(f"note: {lost.removesuffix('.')}", err=True)
        click.echo(f"wrote {save}")
        return
    try:
        from lisae_tf.desk import server
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise LisaeError(f"the desk needs the package 'aiohttp'; {install('desk')}") from error
    # Mistakes are said before anything is scored.
    with server.listen(host, port) as listening:
        desk = _opened(run, model, pictures, data_dir, data_roots, marks, skip_bad)

        def ready(address: str) -> None:
            click.echo(f"{len(desk.pictures)} pictures at {address} ; stop with Ctrl+C")
            if not no_browser:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        server.serve(desk, host, listening, ready)


def _opened(
    run: Path | None, model: Path | None, paths: tuple[Path, ...], data_dir: Path | None,
    data_roots: tuple[str, ...], marks: Path | None, skip_bad: bool,
):  # fmt: skip
    """The desk that the command line asks for, its pictures scored."""
    from lisae_tf.desk.desk import Desk
    from lisae_tf.desk.pictures import Cache, cache_folder
    from lisae_tf.runs.marks import place_of, read_marks

    if model is not None:
        if not paths:
            raise LisaeError("an exported model knows no pictures; name files or folders")
        from lisae_tf.exported.runtimes import open_model

        exported = open_model(model)
        marks = marks or place_of(None, exported.path)
        thresholds = _OfModel(exported)
        read_marks(marks)
        found = _scored(exported, thresholds.now(), paths, skip_bad)
        cache, refusal = Cache(cache_folder()), thresholds.refusal()
        return Desk(str(exported.path), found, exported, thresholds, marks, cache, refusal)
    folder = shared.open_run(run)
    start_tensorflow()
    from lisae_tf.detectors import load_detector

    detector = load_detector(folder)
    read_marks(marks or place_of(folder, None))
    if paths:
        found = _scored(detector, detector.threshold_.alpha, paths, skip_bad)
    else:
        from lisae_tf.desk.reported import pictures_of

        found = pictures_of(folder, detector.config, data_dir, data_roots)
    return desk_of_run(folder, detector, found, marks)


def desk_of_run(folder: Path, detector, pictures, marks: Path | None = None):
    """The desk on pictures that a run's detector has scored.

    Args:
        folder: of the run.
        detector: the run's.
        pictures: what lies on it.
        marks: file of the marks; the run's own by default.
    """
    from lisae_tf.config.settings import FOLDER
    from lisae_tf.desk.desk import Desk
    from lisae_tf.desk.pictures import Cache, cache_folder
    from lisae_tf.runs.files import CONFIG
    from lisae_tf.runs.marks import place_of

    title, marks = folder.absolute().name, marks or place_of(folder, None)
    desk = Desk(title, pictures, detector, _OfRun(folder), marks, Cache(cache_folder()))
    if detector.config.dataset == FOLDER:
        desk.training = f"--config {shlex.quote(str(folder / CONFIG))}"
    return desk


def _scored(scorer, alpha: float, paths: Sequence[Path], skip_bad: bool):
    """The pictures that were named, scored as `score` does, with a bar in a terminal."""
    from lisae_tf.commands.score import scored_rows
    from lisae_tf.data import picture_files
    from lisae_tf.desk.pictures import scored

    shared.tell_others(paths)
    picture_files.refuse_missing(paths)
    arrays = any(path.suffix.lower() == ".npy" for path in paths)
    count = None if arrays else sum(1 for _ in picture_files.files_of(paths))
    names, scores = [], []
    rows = scored_rows(scorer, alpha, tuple(paths), skip_bad)
    shown = click.progressbar(rows, count, "scoring", file=sys.stderr, show_pos=True)
    with shown if sys.stderr.isatty() else contextlib.nullcontext(rows) as bar:
        for row in bar:
            names.append(row["path"])
            scores.append(row["score"])
    return scored(names, scores, paths)


class _OfRun:
    """The threshold of a run, written as `calibrate --run` does."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._read()

    def _read(self) -> None:
        from lisae_tf.core.files import read_json
        from lisae_tf.core.thresholds import Threshold
        from lisae_tf.runs import folders as runs
        from lisae_tf.runs.files import EARLIER, SIDECAR

        self._now = Threshold.from_json(read_json(self._folder / SIDECAR)["threshold"]).alpha
        self._earlier = None
        if (self._folder / EARLIER).is_file():
            self._earlier = runs.read_earlier(self._folder)[0].alpha

    def now(self) -> float:
        return self._now

    def earlier(self) -> float | None:
        return self._earlier

    def write(self, alpha: float | None, say: Callable[[str], None]) -> None:
        from lisae_tf.commands.calibrate import calibrate_run

        shared.open_run(self._folder)
        calibrate_run(self._folder, None, None, alpha, say)
        self._read()

    def undo(self, say: Callable[[str], None]) -> None:
        self.write(None, say)

    def options(self) -> str:
        return f"--run {shlex.quote(str(self._folder))}"


class _OfModel:
    """The threshold of an exported model, written as `calibrate --model` does: a new version."""

    def __init__(self, model):
        self._model = model

    def refusal(self) -> str | None:
        """Why no next version can be written; None where it can."""
        from lisae_tf.exported import recalibration

        try:
            recalibration.next_place(self._model, None)
        except LisaeError:
            return (
                f"{self._model.path} lies in no numbered folder, so there is no next version to "
                "write; use calibrate --model with --threshold and --out"
            )
        return None

    def now(self) -> float:
        return self._model.threshold

    def earlier(self) -> float | None:
        from lisae_tf.exported import recalibration

        try:
            return recalibration.earlier(self._model)[0].alpha
        except LisaeError:
            return None

    def write(self, alpha: float | None, say: Callable[[str], None]) -> None:
        from lisae_tf.commands.calibrate import calibrate_model
        from lisae_tf.exported.runtimes import open_model

        # All scores stay the same, and so does what draws maps.
        self._model = open_model(calibrate_model(self._model.path, None, None, alpha, None, say))

    def undo(self, say: Callable[[str], None]) -> None:
        self.write(None, say)

    def options(self) -> str:
        place = " --out NEW" if self.refusal() else ""
        return f"--model {shlex.quote(str(self._model.path))}{place}"
