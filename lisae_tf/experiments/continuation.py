"""A later normal class: a run trained on, on its old normal pictures and on new ones.

Both phases begin with the old run's weights; what was held out of the old pictures stays held out,
so what the old normals lost is measured on pictures that neither training saw.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lisae_tf.config.settings import FOLDER, Config, read_settings, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import manifest
from lisae_tf.data.folders import absolute, moved
from lisae_tf.data.manifest import Manifest
from lisae_tf.data.parts import TestData
from lisae_tf.evaluation.metrics import auroc
from lisae_tf.runs.folders import CONFIG

if TYPE_CHECKING:  # reading a run's settings needs no TensorFlow
    from lisae_tf.detectors.base import Detector

# What the weights and the held-out parts rest on.
_KEPT = (
    "variant", "seed", "data", "network", "test_dir",
    "ignore_mask", "ignore_mask_sha256", "ignore_mask_size",
)  # fmt: skip


def _settings(run: Path, data_roots: Sequence[str] = ()) -> Config:
    settings = resolve(read_settings(run / CONFIG), str(run / CONFIG))
    return moved(absolute(settings), data_roots)


def with_added(
    run: Path, normal: Sequence[str], known: Sequence[str] = ()
) -> dict[str, Sequence[str]]:
    """The folders of normal pictures and of known flaws: those of the continued run, then new ones.

    Args:
        run: that is continued.
        normal: new folders.
        known: likewise.

    Returns:
        The settings `normal_dir` and, where there are known flaws, `known_dir`.

    Raises:
        LisaeError: no run on folders, no new folder, or one that is normal already.
    """
    old = _settings(run)
    if old.dataset != FOLDER:
        raise LisaeError(
            f"--continue takes a run on folders of pictures; {run} was trained on {old.dataset}"
        )
    if not (normal or known):
        raise LisaeError("--continue needs the new normal pictures; name them with --normal-dir")
    before = {Path(folder).resolve() for folder in old.normal_dirs}
    for folder in normal:
        if Path(folder).expanduser().resolve() in before:
            raise LisaeError(f"{folder} is normal in {run} already; name new pictures")
    found = {"normal_dir": (*old.normal_dirs, *normal)}
    if known:
        found["known_dir"] = [*old.known_dirs, *known]
    return found


@dataclass(frozen=True)
class Before:
    """The run that is continued."""

    run: Path
    detector: "Detector"
    old_folders: int  # how many of the folders of normal pictures are its own

    def compare(self, detector: "Detector", test: TestData, now: np.ndarray) -> dict[str, object]:
        """What the old normals lost and the new ones gained, each detector by its own threshold.

        Args:
            detector: after the continued training.
            test: its test; normal pictures in the order of their folders.
            now: its test scores.

        Returns:
            {"run": …, "threshold": its own, "old_normals": {…}, "new_normals": {…}}: counts, mean
            scores, false-positive rates and, with anomalies, AUROC, before and after. Normal test
            pictures that were given are old ones; there are no new ones then.
        """
        then = self.detector.score(test.pixels)
        owner = np.repeat(np.arange(len(test.normal_counts)), test.normal_counts)
        is_old = owner < self.old_folders
        found: dict[str, object] = {
            "run": str(self.run), "threshold": detector.threshold_.alpha,
        }  # fmt: skip
        for name, chosen in (("old_normals", is_old), ("new_normals", ~is_old)):
            if not chosen.any():
                continue
            rows: dict[str, float | int | None] = {"n": int(chosen.sum())}
            for when, scores, scorer in (
                ("before", then, self.detector),
                ("after", now, detector),
            ):
                normal = scores[~test.is_anomaly][chosen]
                anomaly = scores[test.is_anomaly]
                rows[f"mean_score_{when}"] = float(normal.mean())
                rows[f"false_positive_rate_{when}"] = float(
                    np.mean(normal > scorer.threshold_.alpha)
                )
                rows[f"auroc_{when}"] = auroc(normal, anomaly) if len(anomaly) else None
            found[name] = rows
        return found


def kept(run: Path, config: Config, data_roots: Sequence[str] = ()) -> Manifest | None:
    """The pictures of a run that keep their parts when it is continued with these settings.

    Args:
        run: its folder.
        config: settings, with whole paths.
        data_roots: folders that have moved since, see `folders.moved`.

    Raises:
        LisaeError: its list of pictures is damaged.
    """
    old, found = _settings(run, data_roots), manifest.read(run)
    if found is None:
        return None
    folders = [(manifest.NORMAL, number) for number in range(len(old.normal_dirs))]
    if old.negative_dir == config.negative_dir:
        folders.append((manifest.NEGATIVE, 0))
    folders += [(manifest.KNOWN, number) for number in range(len(old.known_dirs))]
    if (old.test_dir, old.anomaly_dir) == (config.test_dir, config.anomaly_dir):
        folders += [(manifest.NORMAL_TEST, 0), (manifest.ANOMALY, 0)]
    return found.only(folders)


def load(run: Path, config: Config, data_roots: Sequence[str] = ()) -> Before:
    """The run to continue with these settings; the rest as in `kept`.

    Raises:
        LisaeError: settings that its weights or held-out parts rest on have changed, or a detector
            that is not trained by the two phases.
    """
    from lisae_tf.detectors import load_detector

    detector = load_detector(run)
    old = _settings(run, data_roots)
    for name in _KEPT:
        if getattr(old, name) != getattr(config, name):
            raise LisaeError(
                f"--continue keeps {', '.join(_KEPT)} of {run}; {name} differs, so train anew "
                "without --continue"
            )
    if detector.weights_to_continue() is None and not detector.solved:
        raise LisaeError(
            f"--continue trains autoencoders on, and {old.variant} is not one; train it anew on "
            "all folders, with --normal-dir for each"
        )
    return Before(run, detector, len(old.normal_dirs))
