"""Options that several commands share, and how options become settings."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lisae_tf.core.errors import LisaeError

if TYPE_CHECKING:  # slow to import
    from rich.console import Console

    from lisae_tf.data.pictures import Decoded


class PathType(click.Path):
    """A path, with `~` for the home folder wherever the shell has left it: `--out=~/runs`."""

    def convert(self, value, param, ctx):
        """The path of what was typed."""
        return Path(os.path.expanduser(super().convert(value, param, ctx)))


path = PathType()
data_dir = click.option(
    "--data-dir", type=path, envvar="TFDS_DATA_DIR",
    help="Folder of TensorFlow Datasets (or TFDS_DATA_DIR).",
)  # fmt: skip
normal_dir = click.option(
    "--normal-dir", multiple=True,
    help="Folder of normal pictures, or a list of them (.txt: a path a line; .csv: a column "
    "'path'); may be given again for more.",
)  # fmt: skip
negative_dir = click.option(
    "--negative-dir", help="Folder, or list, of other pictures that are not normal."
)
anomaly_dir = click.option(
    "--anomaly-dir", help="Folder, or list, of anomalies, for the final evaluation only."
)
test_dir = click.option(
    "--test-dir",
    help="Folder of the final test: a folder for each kind of anomaly and, unless normal test "
    "pictures are to be held out, good/.",
)
known_dir = click.option(
    "--known-dir",
    help="Own folders, on features: folder, or list, of a few known flaws, in folders of their "
    "kinds or not. Half of them choose settings, half join the test.",
)
mask_dir = click.option(
    "--mask-dir",
    help="Masks of the anomalies, white on black, in folders as the anomalies are, named as they "
    "are or with _mask behind: adds pixel AUROC and PRO.",
)
negative_mask_dir = click.option(
    "--negative-mask-dir", help="Masks of the negatives, likewise: what in them is not normal."
)
ignore_mask = click.option(
    "--ignore-mask", metavar="FILE",
    help="Own folders: a picture with the proportions of the others, white on black: what is white "
    "does not count in any picture (a moving edge, a printed date).",
)  # fmt: skip
mvtec = click.option(
    "--mvtec", metavar="DIR",
    help="Folder in MVTec's layout instead: train/good, test/good, test/KIND, ground_truth/KIND.",
)  # fmt: skip
features = click.option(
    "--features", metavar="NAME",
    help="Pretrained network whose features are scored (own folders: efficientnet_lite0), or none.",
)  # fmt: skip
data_root = click.option(
    "--data-root", "data_roots", multiple=True, metavar="OLD=NEW",
    help="Pictures of the run have moved: what lay in the folder OLD lies in NEW.",
)  # fmt: skip
group_by = click.option(
    "--group-by", metavar="REGEX",
    help="Own folders: pictures whose paths give the same first group of this expression stay in "
    "one part (frames of a video, views of a part), as '^(.*)_view'.",
)  # fmt: skip
config_file = click.option("--config", "config_file", type=path, help="YAML file of settings.")
assigned = click.option(
    "--set", "assigned", multiple=True, metavar="PATH=VALUE", help="Change one setting."
)
run = click.option(
    "--run", metavar="RUN", type=path, help="Run folder; the last completed run by default."
)

_TILES = (
    click.option("--tile", type=int, help="Cut pictures into square tiles of so many pixels."),
    click.option("--stride", type=int, help="Pixels from tile to tile; --tile by default."),
    click.option(
        "--input-size", help="Height,width that pictures get before they are cut, as 256,256."
    ),
)

listed_pictures = click.option(
    "--list", "listed", type=path,
    help="File that lists pictures: a path a line, or a CSV with a column path.",
)  # fmt: skip
model = click.option(
    "--model", type=path,
    help="An exported model instead: an .onnx or .tflite file, or the folder of a SavedModel.",
)  # fmt: skip


def engine(command):
    """The options --engine and --address."""
    for option in (
        click.option("--address", help="Of a running Ray cluster; one is started here without."),
        click.option(
            "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
            help="Ray works on all cores, or on a cluster that shares the folders.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def refuse_both(run: Path | None, model: Path | None) -> None:
    """A run and an exported model are two things.

    Raises:
        LisaeError: both are given.
    """
    if run is not None and model is not None:
        raise LisaeError("--run and --model exclude each other; give one of them")


def refuse_address(engine: str, address: str | None) -> None:
    """An address without Ray is a mistake.

    Raises:
        LisaeError: it is one.
    """
    if address and engine != "ray":
        raise LisaeError("--address belongs to --engine ray; add it, or leave the address out")


def tiles(command):
    """The options --tile, --stride and --input-size."""
    for option in reversed(_TILES):
        command = option(command)
    return command


def tile_settings(
    tile: int | None, stride: int | None, input_size: str | None
) -> dict[str, Any] | None:
    """The options about tiles as settings in `data`.

    Raises:
        LisaeError: an input size that is no height and width.
    """
    given: dict[str, Any] = {"tile": tile, "stride": stride}
    if input_size is not None:
        sides = input_size.replace("x", ",").split(",")
        if len(sides) not in (1, 2) or not all(side.strip().isdecimal() for side in sides):
            raise LisaeError(f"--input-size {input_size}: write height,width, as in 256,256")
        given["size"] = [int(sides[0]), int(sides[-1])]
    return {name: value for name, value in given.items() if value is not None} or None


def tell_others(paths: Iterable[Path]) -> None:
    """Names files in the folders among `paths` that are left out as no pictures, on stderr."""
    from lisae_tf.data import picture_files

    found = (other for path in paths if path.is_dir() for other in picture_files.others(path))
    for remark in picture_files.remark(found):
        click.echo(f"note: {remark}", err=True)


def tell_reading(decoded: "Decoded", scorer) -> None:
    """Names pictures that have lost levels, or fit no mask of what does not count, on stderr."""
    from lisae_tf.data.levels import reading_remarks

    for remark in reading_remarks(decoded.names, decoded.headers, scorer):
        click.echo(f"note: {remark}", err=True)


def console() -> "Console":
    """Standard output through rich, which writes text as it is: file names may hold anything."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


def stored(config):
    """Settings as a run keeps them: folders of pictures with whole paths."""
    from lisae_tf.data.folders import absolute

    return absolute(config)


def open_run(given: Path | None) -> Path:
    """The run folder that was given, or the last completed one, its files as they were written.

    Raises:
        LisaeError: no such run, it is not complete, or a file of it was altered.
    """
    from lisae_tf.runs import files as run_files
    from lisae_tf.runs import folders as runs

    folder = runs.find_run(given)
    if not run_files.check(folder):
        click.echo(
            f"note: {folder} was made by a version that kept no digests of its files: whether they "
            "are still the same cannot be told",
            err=True,
        )
    return folder


def listed(value: str | None) -> list[str] | None:
    """A comma list."""
    return None if value is None else [part.strip() for part in value.split(",") if part.strip()]
