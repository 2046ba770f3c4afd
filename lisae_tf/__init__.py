"""LIS-AE: latent-insensitive autoencoders for anomaly detection (Battikh & Lenskiy, 2021).

The public names are imported when they are first asked for, so that `import lisae_tf` is light and
`open_model` needs no TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lisae_tf.config.settings import Config
    from lisae_tf.core.errors import LisaeError
    from lisae_tf.detectors import load_detector
    from lisae_tf.exported.runtimes import open_model
    from lisae_tf.interfaces.estimator import LISAEDetector

__version__ = "0.2.0"
__all__ = ["Config", "LISAEDetector", "LisaeError", "load_detector", "open_model"]

_MODULES = {
    "Config": "lisae_tf.config.settings",
    "LISAEDetector": "lisae_tf.interfaces.estimator",
    "LisaeError": "lisae_tf.core.errors",
    "load_detector": "lisae_tf.detectors",
    "open_model": "lisae_tf.exported.runtimes",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'lisae_tf' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
