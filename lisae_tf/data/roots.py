"""Where the folders of pictures that settings name lie: stored absolute, moved, shown short.

Runs without TensorFlow.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError

FOLDERS = (
    "normal_dir", "negative_dir", "anomaly_dir", "test_dir", "mask_dir", "negative_mask_dir",
    "known_dir",
)  # fmt: skip
PATHS = (*FOLDERS, "ignore_mask")  # a run has a copy of what the last one says


def folders_of(config: Config) -> list[str]:
    """All folders of pictures that the settings name."""
    lists = ("normal_dir", "known_dir")
    others = (getattr(config, name) for name in FOLDERS if name not in lists)
    return [*config.normal_dirs, *config.known_dirs, *filter(None, others)]


def _changed(config: Config, change: Callable[[str], str]) -> Config:
    found = {}
    for name in PATHS:
        given = getattr(config, name)
        if given:
            found[name] = change(given) if isinstance(given, str) else [change(f) for f in given]
    return config.model_copy(update=found)


def absolute(config: Config) -> Config:
    """The same with whole paths, as a run keeps them: it is found from any working folder."""
    return _changed(config, lambda folder: os.path.abspath(os.path.expanduser(folder)))


def here(config: Config) -> Config:
    """The same with what lies in the working folder named from there on: shorter in messages."""
    now = Path.cwd()

    def near(folder: str) -> str:
        path = Path(os.path.expanduser(folder))
        return str(path.relative_to(now) if path.is_relative_to(now) else path)

    return _changed(config, near)


def moved(config: Config, roots: Sequence[str]) -> Config:
    """The same with folders that have moved.

    Args:
        config: settings.
        roots: each "OLD=NEW": what lay in the folder OLD lies in NEW now.

    Raises:
        LisaeError: another form, or no folder lies in OLD.
    """
    for root in roots:
        old, equals, new = root.partition("=")
        if not (old and equals and new):
            raise LisaeError(f"--data-root {root}: write OLD=NEW, as in /data/old=/data/new")
        old, new = (os.path.abspath(os.path.expanduser(each)) for each in (old, new))
        config = absolute(config)
        known = [*folders_of(config), *filter(None, [config.ignore_mask])]
        if not any(Path(folder).is_relative_to(old) for folder in known):
            raise LisaeError(
                f"--data-root {root}: no folder of the run lies in {old}; it has "
                f"{', '.join(known) or 'none'}"
            )

        def change(folder: str, old: str = old, new: str = new) -> str:
            path = Path(folder)
            return str(Path(new) / path.relative_to(old)) if path.is_relative_to(old) else folder

        config = _changed(config, change)
    return config


def moved_back(config: Config, roots: Sequence[str]) -> Config:
    """What `moved` has made this of."""
    return moved(config, ["=".join(reversed(root.split("=", 1))) for root in reversed(roots)])


def refuse_missing(config: Config, run: Path) -> None:
    """Raises unless the folders of a completed run are there; says how they are named anew."""
    for folder in folders_of(config):
        if not os.path.exists(folder):
            raise LisaeError(
                f"the folder {folder} of the run {run} does not exist; put it back, or say where "
                f"it lies with --data-root {folder}=NEW"
            )
