"""Rows of features in a scikit-learn pipeline: handwritten digits, 0 to 4 known, 5 to 9 unknown.

    python examples/sklearn_pipeline.py

Zeros are normal and ones to fours are negatives. The anomalies, fives to nines, are never trained
on.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from lisae_tf import LISAEDetector


def main(epochs: int = 15) -> float:
    """Prints and gives the AUROC of zeros against fives to nines."""
    rows, digits = load_digits(return_X_y=True)
    normal, held_out = train_test_split(rows[digits == 0], test_size=0.3, random_state=0)
    negative = rows[(digits > 0) & (digits < 5)]
    anomalies = rows[digits > 4]

    pipeline = make_pipeline(
        PCA(32, random_state=0),
        LISAEDetector("lis", epochs=epochs, shaping_epochs=epochs, false_positive_rate=0.1),
    )
    # Negatives come with y = -1, so that every step of the pipeline sees them.
    X, y = np.concatenate([normal, negative]), np.repeat([1, -1], [len(normal), len(negative)])
    pipeline.fit(X, y)

    is_normal = np.repeat([1, 0], [len(held_out), len(anomalies)])
    found = roc_auc_score(is_normal, pipeline.score_samples(np.concatenate([held_out, anomalies])))
    print(f"AUROC {found:.3f}")
    print(f"of the anomalies {np.mean(pipeline.predict(anomalies) == -1):.0%} are found")
    return float(found)


if __name__ == "__main__":
    main()
