"""Every detector as a scikit-learn outlier detector, on arrays of pictures or of feature rows.

Scikit-learn's signs, where large is normal, are made of the detectors' scores here and nowhere
else.
"""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from lisae_tf.config.sections import Features
from lisae_tf.config.settings import FOLDER, Config, dataset_settings, merge, resolve
from lisae_tf.core.arrays import BATCH_SIZE
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.thresholds import Threshold
from lisae_tf.data.groups import first_rows
from lisae_tf.data.parts import Parts, TrainingData, side_indices
from lisae_tf.data.pictures import one_of_each
from lisae_tf.data.protocols import DEFAULT_FLAWS, DEFAULT_SYNTHETIC, synthetic_generators
from lisae_tf.detectors import make_detector
from lisae_tf.detectors.base import Detector
from lisae_tf.interfaces.tabular import Standardiser, synthetic_rows

NORMAL, NEGATIVE = 1, -1

# Feature rows are standardised: the mean row has an error of 1, which is γ. The check for
# networks that paint the mean picture would refuse rows that are pure noise.
_ROWS = {
    "data": {"calibration_fraction": 0.2},
    "feature_extraction": {"batch_size": 32, "warmup_steps": 100, "collapse_fraction": 0.0},
    "latent_shaping": {"batch_size": 32, "gamma": 1.0},
    "network": {"filters": [64, 32]},
}


# Parameters that stand for a setting.
_SETTINGS = {
    "latent": ("network", "latent"),
    "gamma": ("latent_shaping", "gamma"),
    "beta": ("latent_shaping", "beta"),
    "epochs": ("feature_extraction", "epochs"),
    "shaping_epochs": ("latent_shaping", "epochs"),
}


class LISAEDetector(OutlierMixin, BaseEstimator):
    """LIS-AE, or any other detector of the package, in scikit-learn's interface.

    Args:
        variant: name of a detector, as `--variant` takes it.
        features: pretrained network whose features of pictures are scored, as `--features` takes
            it, with the settings of own folders below all others; "none" for pixels and rows.
        latent: units of the latent layer; 32 for pictures, 40 on their features, half the features
            for rows (1 to 32).
        gamma: γ of equation 4, in squared error for each value: pixels from 0 to 1 (0.1 unless
            given), standardised features (2); on features of pictures relative unless given.
        beta: weight of the negatives in equation 4.
        epochs: of phase 1.
        shaping_epochs: of phase 2.
        false_positive_rate: share of normal inputs that may be called anomalies; sets the
            threshold from held-out normals.
        synthetic: generators of negatives for pictures where none are given, as in
            `--negatives synth:...`; on features some are made in any case, small flaws unless
            named, and rows have one of their own (`tabular`).
        random_state: None, an int or a RandomState.
        settings: any other settings of `--config`, nested; they win over those above.

    Attributes:
        detector_: the fitted `Detector`; `detector_.save(folder)` writes it without pickle.
        offset_: −α: `decision_function` is `score_samples` minus it.
        n_features_in_: m, for feature rows.
    """

    def __init__(
        self,
        variant: str = "lis",
        *,
        features: str = "none",
        latent: int | None = None,
        gamma: float | None = None,
        beta: float = 1.0,
        epochs: int = 15,
        shaping_epochs: int = 10,
        false_positive_rate: float = 0.05,
        synthetic: str | None = None,
        random_state: Any = 0,
        settings: Mapping[str, Any] | None = None,
    ):
        self.variant = variant
        self.features = features
        self.latent = latent
        self.gamma = gamma
        self.beta = beta
        self.epochs = epochs
        self.shaping_epochs = shaping_epochs
        self.false_positive_rate = false_positive_rate
        self.synthetic = synthetic
        self.random_state = random_state
        self.settings = settings

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        negative: ArrayLike | None = None,
        ignored: ArrayLike | None = None,
    ) -> Self:
        """Trains on the normal part of X and chooses the threshold on held-out normals.

        Args:
            X: pictures, uint8 (N, H, W, C) or (N, H, W), or feature rows (N, m).
            y: +1 for normal, −1 for negative, (N,); all are normal without it. Other labels are
                ignored with a warning, as scikit-learn's outlier detectors ignore y.
            negative: more negatives, of X's kind. Without any, a detector that needs them gets
                synthetic ones.
            ignored: which regions of all pictures do not count, bool (H, W).

        Raises:
            ValueError: arrays or settings that cannot be used (`LisaeError`).

        Warns:
            UserWarning: the held-out normals support a higher false-positive rate only than the one
                asked for, settings that the variant never reads, or labels that are ignored.
        """
        samples = self._validate(X, reset=True)
        is_negative = self._negatives_of(y, len(samples))
        sides = [samples[is_negative]]
        if negative is not None:
            sides.append(self._validate(negative, reset=False))
        normal, given = samples[~is_negative], np.concatenate(sides)
        if len(normal) < 4:
            raise LisaeError(
                f"n_samples={len(normal)} normal samples cannot be held apart for training, "
                "stopping and calibration; give at least 4"
            )
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        seed = int(seed)
        config = self._config(normal, seed)
        detector = make_detector(config)
        for path in self._unread(config, detector.needs_negatives and normal.ndim == 4):
            message = f"{path} is set, but {config.variant} does not read it"
            warnings.warn(message, UserWarning, stacklevel=2)
        data = self._divided(normal, given, config, detector.needs_negatives)
        if ignored is not None:
            data = data.ignoring(np.asarray(ignored))
        detector.fit_parts(data)
        threshold = cast(Threshold, detector.threshold_)
        if shortfall := threshold.shortfall("sample"):
            warnings.warn(shortfall, UserWarning, stacklevel=2)
        self.detector_ = detector
        self.offset_ = -threshold.alpha
        return self

    def _validate(self, X, *, reset: bool) -> np.ndarray:
        """Pictures as uint8 (N, H, W, C); anything of two dimensions as rows, float64 (N, m)."""
        if getattr(X, "ndim", 2) <= 2:
            # More than a float32 can hold is refused here, with scikit-learn's own sentence.
            checked = validate_data(self, X, dtype=np.float64, reset=reset)
            check_array(checked, dtype=np.float32)
            return checked
        pictures = np.asarray(X)
        if pictures.ndim == 3:
            pictures = pictures[..., None]
        if pictures.ndim != 4 or pictures.dtype != np.uint8:
            raise LisaeError(
                "pictures must be uint8 (N, H, W, C) or (N, H, W) from 0 to 255, not "
                f"{pictures.dtype} {np.shape(X)}; feature rows are (N, m)"
            )
        return pictures

    @staticmethod
    def _negatives_of(y, count: int) -> np.ndarray:
        if y is None:
            return np.zeros(count, bool)
        y = np.asarray(y)
        if y.shape != (count,):
            raise LisaeError(f"y must have one label for each of the {count} samples")
        if np.isin(y, (NORMAL, NEGATIVE)).all():
            return y == NEGATIVE
        if np.any(y == NEGATIVE):
            raise LisaeError("y must hold +1 for normal and -1 for negative, and nothing else")
        warnings.warn(
            "y holds labels other than +1 (normal) and -1 (negative) and is ignored: every "
            "sample is taken as normal",
            UserWarning,
            stacklevel=3,
        )
        return np.zeros(count, bool)

    def _config(self, X: np.ndarray, seed: int) -> Config:
        rows, on_features = X.ndim == 2, self.features != "none"
        if rows and on_features:
            raise LisaeError("features are of pictures; leave features out for rows")
        settings, latent = (_ROWS, int(np.clip(X.shape[1] // 2, 1, 32))) if rows else ({}, 32)
        if on_features:
            own = dataset_settings(FOLDER) or {}
            read = ("network", "feature_extraction", "latent_shaping", "scoring")
            settings = {name: own[name] for name in read if name in own}
            settings["features"] = own["features"] | {"backbone": self.features}
            latent = own["network"]["latent"]
        given = {
            "variant": self.variant,
            "seed": seed,
            "network": {"latent": self.latent or latent},
            "feature_extraction": {"epochs": self.epochs},
            "latent_shaping": {"epochs": self.shaping_epochs, "beta": float(self.beta)},
            "calibration": {"false_positive_rate": self.false_positive_rate},
        }
        if self.gamma is not None:
            gamma = {"gamma": float(self.gamma), "gamma_times": None}
            given = merge(given, {"latent_shaping": gamma})
        settings = merge(merge(settings, given), self.settings or {})
        return resolve(settings, "LISAEDetector")

    def _unread(self, config: Config, makes_pictures: bool) -> list[str]:
        """What was set and is never read."""
        chosen: dict[str, Any] = dict(self.settings or {})
        defaults = inspect.signature(type(self)).parameters
        for name, (section, setting) in _SETTINGS.items():
            if getattr(self, name) != defaults[name].default:
                chosen = merge(chosen, {section: {setting: getattr(self, name)}})
        made = [] if self.synthetic is None or makes_pictures else ["synthetic"]
        return config.unread(chosen) + made

    def _divided(
        self, normal: np.ndarray, given: np.ndarray, config: Config, needed: bool
    ) -> TrainingData:
        """Both sides in parts. Nothing is learned or made of a part for another one.

        Also sets the standardisation of rows, from those that are trained on.
        """
        parts, self._standardise = self._parts(normal, config, stream=0), None
        if normal.ndim == 2:
            self._standardise = Standardiser.of(parts.fit)
            sides = (parts.fit, parts.stopping, parts.calibration)
            parts, given = Parts(*map(self._standardise, sides)), self._standardise(given)
            if not len(given):
                given = synthetic_rows(parts.fit, config.seed)
        if not needed:
            return TrainingData(parts, None)
        if given.shape[1:] != normal.shape[1:]:
            raise LisaeError("normal and negative pictures must have the same height and channels")
        real = self._parts(given, config, stream=1) if len(given) else None
        if config.features:
            return self._with_made(parts, real, config)
        return TrainingData(parts, real or self._synthetic(parts, config.seed))

    @staticmethod
    def _parts(samples: np.ndarray, config: Config, stream: int) -> Parts:
        """One side in parts; copies stay together, and count once for the threshold.

        Near copies do so too, unless there are very many pictures.
        """
        groups = first_rows(samples)
        fit, stopping, calibration = side_indices(
            len(samples), config.data, seed=config.seed, stream=stream, groups=groups
        )
        once = calibration[one_of_each(groups[calibration], samples[calibration])]
        return Parts(samples[fit], samples[stopping], samples[once])

    def _synthetic(self, normal: Parts, seed: int) -> Parts:
        from lisae_tf.data.synthetic import synthetic_negatives

        return synthetic_negatives(self._generators(DEFAULT_SYNTHETIC), normal, seed)

    def _generators(self, usual: str) -> tuple[str, ...]:
        chosen = usual if self.synthetic is None else self.synthetic
        names = synthetic_generators(chosen)
        if not names:
            raise LisaeError(f"synthetic must be 'synth:GENERATOR+...', not '{chosen}'")
        return names

    def _with_made(self, normal: Parts, real: Parts | None, config: Config) -> TrainingData:
        """With negatives that know where they were changed."""
        from lisae_tf.data.synthetic import made_with_masks

        names = self._generators(DEFAULT_FLAWS)
        made, masks = made_with_masks(
            names, normal, config.seed, cast(Features, config.features).made
        )
        if real is None:
            return TrainingData(normal, made, negative_masks=masks)
        return TrainingData(normal, real, made=made, made_masks=masks)

    def anomaly_scores(self, X) -> np.ndarray:
        """The detector's own scores: large is anomalous. (N, ...) -> float64 (N,)."""
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        count = len(X)
        if self._standardise and X.ndim == 2:
            # Whole batches: sums are then in the same order whatever company a row is scored in.
            X = np.pad(self._standardise(X), ((0, -count % BATCH_SIZE), (0, 0)))
        return self.detector_.score(X)[:count].astype(np.float64)

    def score_samples(self, X) -> np.ndarray:
        """Minus the anomaly score of each sample: large is normal. (N, ...) -> float64 (N,)."""
        return -self.anomaly_scores(X)

    def decision_function(self, X) -> np.ndarray:
        """`score_samples` minus `offset_`: below 0 for anomalies. (N, ...) -> float64 (N,)."""
        return self.score_samples(X) - self.offset_

    def predict(self, X) -> np.ndarray:
        """+1 for normal, −1 for anomalies, int (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "detector_")

    def __getstate__(self) -> dict:
        """Parameters and plain arrays, so that joblib and copies need no live graph."""
        state = super().__getstate__().copy()
        detector: Detector | None = state.pop("detector_", None)
        if detector:
            state["_stored"] = {
                "config": detector.config.model_dump(),
                "shape": detector.shape,
                "threshold": cast(Threshold, detector.threshold_).to_json(),
                "arrays": {name: np.array(a) for name, a in detector.stored_arrays().items()},
            }
        return state

    def __setstate__(self, state: dict) -> None:
        stored = state.pop("_stored", None)
        super().__setstate__(state)
        if stored:
            detector = make_detector(resolve(stored["config"]))
            detector.shape = tuple(stored["shape"])
            detector.restore_stored(stored["arrays"])
            detector.set_threshold(Threshold.from_json(stored["threshold"]))
            self.detector_ = detector
