"""The threshold of a quantised file: chosen anew, from the file's own scores.

Rounding moves scores, and with them the share of normal pictures above a threshold that float
scores gave. A rate is promised only of the scores that the threshold was chosen from.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.exportable import Exportable
from export.parity import usual_score
from lisae_tf.core.arrays import in_batches
from lisae_tf.core.thresholds import Threshold, choose_threshold
from lisae_tf.detectors.base import Detector
from lisae_tf.exported import baseline, tflite_file
from lisae_tf.exported.model_record import write_record
from lisae_tf.exported.runtimes import open_model

SAME = 1e-3  # relative: scores of one picture on other devices


def with_own_threshold(
    path: Path,
    exportable: Exportable,
    pictures: np.ndarray,
    stored: np.ndarray,
    say: Callable[[str], None],
) -> Exportable:
    """The exportable with the threshold of its quantised file, which the file gets as well.

    Args:
        path: a TFLite file with the threshold of the float scores.
        exportable: what it was written from.
        pictures: the run's calibration pictures, as far as they are there, uint8 (N, H, W, C).
        stored: the scores that the run keeps with its threshold, (M,).
        say: takes a line on what has become of the threshold.
    """
    given, own_scores = exportable.detector.threshold_, None
    if rests_on_these(exportable.detector, pictures, stored):
        write_record(path, exportable.record)
        model = open_model(path)
        scores = in_batches(model.score, pictures, model.batch_size)
        threshold = choose_threshold(scores, given.requested_fpr, nearest=True)
        own_scores = baseline.pack(scores)
        say(
            f"threshold {given.alpha:.5g} -> {threshold.alpha:.5g}, from this file's own scores of "
            f"{threshold.n_calibration} calibration pictures: a new normal picture scores above it "
            f"with probability at most {threshold.guaranteed_fpr:.4g}"
        )
    else:
        threshold = Threshold(given.alpha, None, None, 0)
        say(
            "the threshold does not rest on calibration pictures in the run's folders: this file "
            "keeps that of the trained model, whose scores are others, and promises no false-alarm "
            "rate; set it with calibrate --model FILE --normal-dir DIR --fpr RATE"
        )
    changed = {"threshold": threshold.to_json(), "calibration_scores": own_scores}
    own = replace(exportable, record=exportable.record | changed)
    path.write_bytes(tflite_file.replace(path.read_bytes(), threshold.alpha, own.metadata))
    return own


def rests_on_these(detector: Detector, pictures: np.ndarray, stored: np.ndarray) -> bool:
    """Whether the threshold rests on these pictures, and on no others but some that are gone.

    Args:
        detector: with its threshold.
        pictures: the run's calibration pictures, as far as they are there, uint8 (N, H, W, C).
        stored: the scores that the run keeps with its threshold, (M,).
    """
    stored, given = np.sort(stored), detector.threshold_
    if given.by_hand or not 0 < len(pictures) <= len(stored):
        return False
    rests = choose_threshold(stored, given.requested_fpr, nearest=True)
    if not np.isclose(rests.alpha, given.alpha, rtol=1e-6, atol=0):
        return False  # it was set by other means
    found = detector.score(pictures)
    above = np.minimum(np.searchsorted(stored, found), len(stored) - 1)
    gap = np.minimum(*(np.abs(found - stored[at]) for at in (above, np.maximum(above - 1, 0))))
    return bool(np.all(gap <= SAME * np.maximum(np.abs(found), usual_score(found))))
