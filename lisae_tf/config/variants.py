"""The detectors that `--variant` takes, one row each: all that tells them apart before they run."""

from dataclasses import dataclass

# What phase 1 minimises where several variants may share it.
PLAIN, LINSEP, ADVERSARIAL = "plain", "linsep", "adversarial"


@dataclass(frozen=True)
class Row:
    """A variant.

    Attributes:
        detector: module and class below `lisae_tf.detectors`.
        sections: settings that it reads and others may not.
        loss: of phase 1, where others have the same one.
        negatives: whether it needs any.
        without: the same without negatives, where there is such a variant.
        graph: whether it has one, to be exported and run on features or tiles.
        features: whether it works on them: convolutions and pairs of pictures do not.
        solved: whether its fit is a formula; on features `--continue` fits it to all pictures anew.
    """

    detector: str
    sections: tuple[str, ...]
    loss: str | None = None
    negatives: bool = False
    without: str | None = None
    graph: bool = True
    features: bool = True
    solved: bool = False


_TRAINED = ("network", "feature_extraction")
_DECODED = (*_TRAINED, "scoring")
_SHAPED = (*_DECODED, "latent_shaping")
_HEAD = (*_TRAINED, "hypersphere")
_PIXELS = {"graph": False, "features": False}
_LIS = "lisae.LatentInsensitiveDetector"

ROWS: dict[str, Row] = {
    "ae": Row(_LIS, _DECODED, PLAIN),
    "lis": Row(_LIS, _SHAPED, PLAIN, negatives=True, without="ae"),
    "linsep": Row(_LIS, _SHAPED, LINSEP, negatives=True, without="ae"),
    "linsep-fused": Row(
        "linsep_fused.FusedDetector", (*_SHAPED, "fusion"), LINSEP, negatives=True, without="ae"
    ),
    "linear-lis": Row(
        "linear.LinearLatentInsensitiveDetector", ("network", "latent_shaping", "scoring"),
        negatives=True, without="linear-ae", solved=True,
    ),
    "kde": Row("kde.KernelDensityDetector", ("kde",), **_PIXELS),
    "if": Row("isolation_forest.IsolationForestDetector", ("isolation_forest",), **_PIXELS),
    "oc-svm": Row("oc_svm.OneClassSVMDetector", ("oc_svm",), **_PIXELS),
    "oc-dsvdd": Row("encoders.DeepSVDDDetector", _HEAD),
    "anogan": Row("anogan.AnoGANDetector", (*_DECODED, "anogan"), ADVERSARIAL, features=False),
    "anogan-fm": Row(
        "anogan.FeatureMatchingDetector", (*_DECODED, "anogan"), ADVERSARIAL, features=False
    ),
    "linear-ae": Row("linear.LinearDetector", ("network", "scoring"), solved=True),
    "vae": Row("latent_layers.VariationalDetector", (*_DECODED, "vae")),
    "mem-ae": Row("latent_layers.MemoryDetector", (*_DECODED, "memory")),
    "sig-repnn": Row("latent_layers.SigmoidReplicatorDetector", (*_DECODED, "sig_repnn")),
    "bce": Row("encoders.ClassifierDetector", _HEAD, negatives=True),
    "deep-sad": Row("encoders.DeepSADDetector", _HEAD, negatives=True),
    "hsc": Row("encoders.HypersphereClassifierDetector", _HEAD, negatives=True),
    "mahalanobis": Row("mahalanobis.MahalanobisDetector", (), solved=True),
    "knn": Row("knn.NearestNeighboursDetector", ("knn",), solved=True),
    # The linear case, which has a latent size, judges its negatives; without any it is `knn`.
    "lis-knn": Row(
        "knn.ShapedNeighboursDetector", ("network", "knn", "lis_knn"), negatives=True,
        without="knn", solved=True,
    ),
}  # fmt: skip
VARIANTS = tuple(ROWS)
ONE_CLASS = tuple(name for name, row in ROWS.items() if not row.negatives)
GRAPHLESS = tuple(name for name, row in ROWS.items() if not row.graph)
PICTURES_ONLY = tuple(name for name, row in ROWS.items() if not row.features)
# Those of LIS-AE, by what their phase 1 minimises, and of them those with a second phase.
LOSSES = {name: row.loss for name, row in ROWS.items() if row.loss in (PLAIN, LINSEP)}
SHAPED = tuple(name for name in LOSSES if ROWS[name].negatives)
# Sections that only some variants read.
SECTIONS = frozenset(section for row in ROWS.values() for section in row.sections)
