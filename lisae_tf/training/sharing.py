"""Phase 1 trained once for all runs that would train the very same one (section 3.3).

Owns which settings phase 1 sees. Plain phase 1 sees no negatives, so LIS-AE shares it over
negative sets; LinSep's term sees them, so there the negative set is part of the key.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lisae_tf.config.settings import Config
from lisae_tf.config.variants import PLAIN, ROWS

if TYPE_CHECKING:  # keys are asked for where TensorFlow is not
    from lisae_tf.training.convergence import ResumePoint

# Settings of a run that phase 1 never looks at.
_UNSEEN = ("variant", "latent_shaping", "scoring", "calibration", "anomaly_dir", "mask_dir")
_NEGATIVE = ("negatives", "negative_dir", "negative_mask_dir", "anomaly_class", "protocol")


def phase1_settings(config: Config) -> dict[str, Any]:
    """The settings that decide the weights which phase 1 ends with."""
    loss = ROWS[config.variant].loss
    seen: dict[str, Any] = config.model_dump()
    if loss is None:
        return seen
    for name in _UNSEEN:
        seen.pop(name, None)  # what is at its default may be left out of the record
    if loss == PLAIN:
        for name in _NEGATIVE:
            seen.pop(name, None)
        del seen["feature_extraction"]["linsep_weight"]
        seen["pairs"] = config.protocol == "two-class"  # the pair around the class is normal
    return seen | {"loss": loss}


def phase1_key(config: Config) -> str:
    """The hex SHA-256 of `phase1_settings`: equal keys, equal phase 1."""
    return hashlib.sha256(json.dumps(phase1_settings(config), sort_keys=True).encode()).hexdigest()


class SharedPhase1:
    """What the last phase 1 ended with.

    Holds one key at a time, so that a grid ordered by `phase1_key` needs little memory.
    """

    def __init__(self) -> None:
        self._key: str | None = None
        self._point: ResumePoint | None = None

    def find(self, config: Config, path: Path | None) -> "ResumePoint | None":
        """The beginning of phase 2 after the same phase 1; None where none is kept."""
        if self._point is None or phase1_key(config) != self._key:
            return None
        return replace(self._point, path=path)

    def keep(self, config: Config, point: "ResumePoint") -> None:
        """Remembers the beginning of phase 2, as plain arrays, instead of what was there."""
        self._key, self._point = phase1_key(config), point
