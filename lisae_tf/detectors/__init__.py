"""The registry of detectors: the names that `--variant` takes."""

from importlib import import_module
from pathlib import Path

from lisae_tf.config.settings import Config
from lisae_tf.config.variants import ROWS
from lisae_tf.core.errors import LisaeError
from lisae_tf.detectors.base import Detector
from lisae_tf.detectors.graph import AutoencoderDetector, GraphDetector
from lisae_tf.detectors.places import make_places
from lisae_tf.detectors.tiled import TiledAutoencoderDetector, TiledDetector


def _class(name: str) -> type[Detector]:
    module, _, found = name.partition(".")
    return getattr(import_module(f"{__name__}.{module}"), found)


DETECTORS: dict[str, type[Detector]] = {name: _class(row.detector) for name, row in ROWS.items()}


def _plain(config: Config) -> Detector:
    """On pictures or rows as they are."""
    return DETECTORS[config.variant](config)


def make_detector(config: Config) -> Detector:
    """An untrained detector of `config.variant`.

    On features where `config.features` is set, on tiles where `config.data.tile` is.

    Raises:
        LisaeError: tiles for a detector that has no graph.
    """
    detector = make_places(config, _plain) if config.features else _plain(config)
    if config.data.tile is None:
        return detector
    if not isinstance(detector, GraphDetector):
        raise LisaeError(
            f"tiles are scored and pooled in a graph, and {config.variant} has none; leave "
            "data.tile out or use another variant"
        )
    kind = TiledDetector
    if isinstance(detector, AutoencoderDetector):
        kind = TiledAutoencoderDetector
    return kind(config, detector)


def load_detector(folder: Path) -> Detector:
    """The trained detector in a run folder.

    Raises:
        LisaeError: missing, altered or foreign files.
    """
    return Detector.load(folder, make_detector)
