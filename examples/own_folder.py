"""A folder of normal pictures to scores of new ones, without the command line.

    python examples/own_folder.py good/ new_pictures/

The pictures are those of `train --normal-dir`, and so is the detector.
"""

import sys
from pathlib import Path

import numpy as np

from lisae_tf import LISAEDetector
from lisae_tf.data import picture_files
from lisae_tf.data.pictures import decode_all

SIZE = (256, 256)  # height and width that the pictures get


def main(good: str, new: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Trains on one folder and scores another; gives the scores, float64 (N,)."""
    normal = decode_all(picture_files.find(Path(good)), size, 3).pixels
    paths = picture_files.find(Path(new))
    pictures = decode_all(paths, size, 3).pixels

    # What `train --normal-dir` does: small flaws are drawn into normal pictures as negatives.
    detector = LISAEDetector("lis-knn", features="efficientnet_lite0")
    detector.fit(np.asarray(normal))

    scores = detector.anomaly_scores(np.asarray(pictures))
    for path, score in zip(paths, scores, strict=True):
        print(f"{path}  {score:.3f}  {'anomaly' if score > -detector.offset_ else 'normal'}")
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:3])
