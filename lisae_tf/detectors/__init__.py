"""The registry of detectors: the names that `--variant` takes."""

from pathlib import Path

from lisae_tf.config.settings import Config
from lisae_tf.core.errors import LisaeError
from lisae_tf.detectors.anogan import AnoGANDetector, FeatureMatchingDetector
from lisae_tf.detectors.base import Detector
from lisae_tf.detectors.encoders import (
    ClassifierDetector,
    DeepSADDetector,
    DeepSVDDDetector,
    HypersphereClassifierDetector,
)
from lisae_tf.detectors.graph import AutoencoderDetector, GraphDetector
from lisae_tf.detectors.isolation_forest import IsolationForestDetector
from lisae_tf.detectors.kde import KernelDensityDetector
from lisae_tf.detectors.knn import NearestNeighboursDetector
from lisae_tf.detectors.linear_ae import LinearDetector
from lisae_tf.detectors.linear_lis import LinearLatentInsensitiveDetector
from lisae_tf.detectors.linsep_fused import FusedDetector
from lisae_tf.detectors.lisae import LatentInsensitiveDetector
from lisae_tf.detectors.mahalanobis import MahalanobisDetector
from lisae_tf.detectors.mem_ae import MemoryDetector
from lisae_tf.detectors.oc_svm import OneClassSVMDetector
from lisae_tf.detectors.places import make_places
from lisae_tf.detectors.sig_repnn import SigmoidReplicatorDetector
from lisae_tf.detectors.tiled import TiledAutoencoderDetector, TiledDetector
from lisae_tf.detectors.vae import VariationalDetector

DETECTORS: dict[str, type[Detector]] = {
    "ae": LatentInsensitiveDetector,
    "lis": LatentInsensitiveDetector,
    "linsep": LatentInsensitiveDetector,
    "linsep-fused": FusedDetector,
    "linear-lis": LinearLatentInsensitiveDetector,
    "kde": KernelDensityDetector,
    "if": IsolationForestDetector,
    "oc-svm": OneClassSVMDetector,
    "oc-dsvdd": DeepSVDDDetector,
    "anogan": AnoGANDetector,
    "anogan-fm": FeatureMatchingDetector,
    "linear-ae": LinearDetector,
    "vae": VariationalDetector,
    "mem-ae": MemoryDetector,
    "sig-repnn": SigmoidReplicatorDetector,
    "bce": ClassifierDetector,
    "deep-sad": DeepSADDetector,
    "hsc": HypersphereClassifierDetector,
    "mahalanobis": MahalanobisDetector,
    "knn": NearestNeighboursDetector,
}


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
