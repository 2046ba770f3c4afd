"""The registry of detectors: the names that `--variant` takes."""

from pathlib import Path

from lisae_tf.config import Config, read_settings, resolve
from lisae_tf.detectors.anogan import AnoGANDetector, FeatureMatchingDetector
from lisae_tf.detectors.base import CONFIG, Detector
from lisae_tf.detectors.encoders import (
    ClassifierDetector,
    DeepSADDetector,
    DeepSVDDDetector,
    HypersphereClassifierDetector,
)
from lisae_tf.detectors.isolation_forest import IsolationForestDetector
from lisae_tf.detectors.kde import KernelDensityDetector
from lisae_tf.detectors.linear_ae import LinearDetector
from lisae_tf.detectors.linear_lis import LinearLatentInsensitiveDetector
from lisae_tf.detectors.linsep_fused import FusedDetector
from lisae_tf.detectors.lisae import LatentInsensitiveDetector
from lisae_tf.detectors.mem_ae import MemoryDetector
from lisae_tf.detectors.oc_svm import OneClassSVMDetector
from lisae_tf.detectors.sig_repnn import SigmoidReplicatorDetector
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
}


def make_detector(config: Config) -> Detector:
    """An untrained detector of `config.variant`."""
    return DETECTORS[config.variant](config)


def load_detector(folder: Path) -> Detector:
    """The trained detector in a run folder.

    Raises:
        LisaeError: missing, altered or foreign files.
    """
    config = resolve(read_settings(folder / CONFIG), str(folder / CONFIG))
    return DETECTORS[config.variant].load(folder)
