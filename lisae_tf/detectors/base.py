"""The one interface of every anomaly detector: fit, score, threshold, save, load."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lisae_tf import __version__
from lisae_tf.config.settings import Config, read_settings, resolve
from lisae_tf.core.arrays import Arrays, load_arrays, save_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, read_json, sha256, write_json, write_text
from lisae_tf.core.thresholds import Threshold, choose_threshold
from lisae_tf.data.parts import TrainingData, mirrored, split_side
from lisae_tf.data.stored import StoredPictures
from lisae_tf.runs.files import CONFIG, SIDECAR, WEIGHTS, check
from lisae_tf.training.phase import TrainingOptions

FORMAT = 1
IGNORED = "ignored"  # the array of what does not count
# Pictures, and feature rows, which a caller brings to a common scale first.
_KINDS = ((np.dtype(np.uint8), 4), (np.dtype(np.float32), 2))


class Detector(ABC):
    """Normal pictures in, a score for each new picture out; higher is more anomalous.

    A subclass gives `fit_data`, `_score`, `arrays` and `restore`; what all share is here.
    """

    needs_negatives = False
    has_maps = False  # of errors, which tell where in a picture the anomaly is

    def __init__(self, config: Config | None = None):
        self.config = config or Config()
        self.shape: tuple[int, ...] | None = None  # H, W, C, or m; known once fitted
        self.threshold_: Threshold | None = None
        # Which regions of all pictures do not count, bool (H, W); None where all do.
        self.ignored: np.ndarray | None = None
        # Of the last fit: a row for each epoch, what the user should know, seeds after a collapse.
        self.history: list[dict] = []
        self.notes: list[str] = []
        self.restart_seeds: list[int] = []
        self.record: dict[str, object] = {}  # what else `metrics.json` should hold

    @abstractmethod
    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        """Trains on `data`; sees no calibration pictures and no anomalies."""

    @abstractmethod
    def _score(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C), or float32 (N, m) -> float32 (N,)."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """Everything learned, as plain arrays."""

    @abstractmethod
    def restore(self, arrays: Arrays) -> None:
        """Builds the detector again from its configuration, `shape` and `arrays`."""

    def phase1_detector(self) -> "Detector | None":
        """The detector as phase 1 left it; None where there are no two phases."""
        return None

    def score_phases(self, images: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """Scores as phase 1 left the detector, where there are two phases, and as it is."""
        before = self.phase1_detector()
        return None if before is None else before.score(images), self.score(images)

    @property
    def depth(self) -> int | None:
        """The bits in use of the 16-bit pictures that it was trained on; see `pictures.decode`."""
        return self.config.data.depth

    @property
    def mask_size(self) -> tuple[int, int] | None:
        """(H, W) of the mask of what does not count, as it was drawn; None without such a file."""
        size = self.config.ignore_mask_size
        return size and (size[0], size[1])

    @property
    def solved(self) -> bool:
        """Whether a fit on more pictures needs nothing of the one before."""
        return False

    def weights_to_continue(self) -> Arrays | None:
        """What phase 1 of a continued training begins with; None where there is no such thing."""
        return None

    def require_negatives(self, data: TrainingData) -> None:
        """Refuses to train without negatives where they are needed.

        Raises:
            LisaeError: the variant needs negatives and there are none.
        """
        if self.needs_negatives and data.negative is None:
            raise LisaeError(
                f"--variant {self.config.variant} needs negative pictures; name some with "
                "--negatives or --negative-dir, or use --variant ae"
            )

    def require_maps(self) -> None:
        """Refuses to say where errors lie for a detector that scores whole pictures alone.

        Raises:
            LisaeError: there are no maps.
        """
        if not self.has_maps:
            raise LisaeError(
                f"{self.config.variant} scores whole pictures and has no maps of errors; leave "
                "--maps and --mask-dir out"
            )

    def set_threshold(self, threshold: Threshold) -> None:
        """Takes over a threshold."""
        self.threshold_ = threshold

    def fit(
        self,
        normal: np.ndarray,
        negative: np.ndarray | None = None,
        ignored: np.ndarray | None = None,
    ) -> "Detector":
        """Holds out stopping and calibration parts, trains, and chooses α.

        Args:
            normal: x⁺, uint8 pictures (N, H, W, C), or standardised feature rows, float32 (N, m).
            negative: x⁻, likewise, (M, ...).
            ignored: which regions of all pictures do not count, bool (H, W).

        Returns:
            self.

        Raises:
            LisaeError: wrong arrays, or no negatives for a detector that needs them.
        """
        seed = self.config.seed
        sides = []
        for stream, pixels in enumerate((normal, negative)):
            if pixels is None:
                sides.append(None)
                continue
            self._check(pixels, None)
            sides.append(split_side(pixels, self.config.data, seed=seed, stream=stream)[0])
        data = TrainingData(*sides)
        if data.negative is not None and data.negative.fit.shape[1:] != data.shape:
            raise LisaeError("normal and negative pictures must have the same height and channels")
        return self.fit_parts(data if ignored is None else data.ignoring(ignored))

    def fit_parts(self, data: TrainingData) -> "Detector":
        """Trains on sides that are divided already, and chooses α.

        Raises:
            LisaeError: no negatives for a detector that needs them, or regions that do not count
                for one that cannot leave any out.
        """
        self.require_negatives(data)
        if data.ignored is not None and (reason := self.config.cannot_ignore):
            raise LisaeError(reason)
        self.fit_data(mirrored(data) if self.config.data.mirror else data, TrainingOptions())
        scores = self.score(data.normal.calibration)
        fpr = self.config.calibration.false_positive_rate
        self.set_threshold(choose_threshold(scores, fpr, nearest=True))
        return self

    def _check(self, images: np.ndarray, shape: tuple[int, ...] | None) -> None:
        known = isinstance(images, np.ndarray | StoredPictures)
        kind = (images.dtype, images.ndim) if known else None
        if kind not in _KINDS or (shape is not None and images.shape[1:] != shape):
            got = f"{getattr(images, 'dtype', type(images).__name__)} {np.shape(images)}"
            if shape is not None and len(shape) == 1:
                raise LisaeError(f"feature rows must be float32 (N, {shape[0]}), not {got}")
            wanted = f"(N, {shape[0]}, {shape[1]}, {shape[2]})" if shape else "(N, H, W, C)"
            raise LisaeError(f"pictures must be uint8 {wanted}, not {got}")

    def _ready(self, images: np.ndarray) -> np.ndarray:
        """The pictures, if they are such as it was fitted on."""
        if self.shape is None:
            raise LisaeError("this detector has not been trained; call fit or load first")
        self._check(images, self.shape)
        return images

    def score(self, images: np.ndarray) -> np.ndarray:
        """One score for each picture.

        Args:
            images: (N, ...) of the type and shape it was fitted on.

        Returns:
            float32 (N,).

        Raises:
            LisaeError: not fitted, or pictures of another shape or type.
        """
        return self._score(self._ready(images))

    def stored_arrays(self) -> Arrays:
        """All that `restore_stored` needs: `arrays`, and what does not count."""
        return self.arrays() | ({} if self.ignored is None else {IGNORED: self.ignored})

    def restore_stored(self, arrays: Arrays) -> None:
        """Builds the detector again from its configuration, `shape` and `stored_arrays`.

        Raises:
            LisaeError: they do not fit.
        """
        self.ignored = arrays.get(IGNORED)
        if self.ignored is not None and (
            self.config.cannot_ignore
            or self.ignored.dtype != bool
            or len(self.shape) != 3
            or self.ignored.shape != self.shape[:2]
            or self.ignored.all()
        ):
            raise LisaeError("the stored arrays do not fit the configuration; train again")
        self.restore({name: array for name, array in arrays.items() if name != IGNORED})

    def save(self, folder: Path) -> None:
        """Writes configuration, arrays and a sidecar with threshold and hashes; no pickle."""
        make_folder(folder)
        write_text(folder / CONFIG, self.config.to_yaml())
        save_arrays(folder / WEIGHTS, self.stored_arrays())
        self.save_sidecar(folder)

    def save_sidecar(self, folder: Path, place: Path | None = None) -> None:
        """Writes shape, threshold and the hashes of the other files, in one step.

        Args:
            folder: of the other files.
            place: the folder to write to; that of the others by default.
        """
        write_json(
            (place or folder) / SIDECAR,
            {
                "format": FORMAT,
                "version": __version__,
                "variant": self.config.variant,
                "shape": list(self.shape),
                "threshold": self.threshold_.to_json() if self.threshold_ else None,
                "sha256": {name: sha256(folder / name) for name in (CONFIG, WEIGHTS)},
            },
        )

    @classmethod
    def load(cls, folder: Path, make: Callable[[Config], "Detector"] | None = None) -> "Detector":
        """What `save` wrote; hashes are checked before anything is parsed.

        Args:
            folder: where it was saved.
            make: an untrained detector of these settings; the class itself unless given.

        Raises:
            LisaeError: missing, altered or foreign files.
        """
        check(folder, (SIDECAR, CONFIG, WEIGHTS))
        sidecar = read_json(folder / SIDECAR)
        try:
            known = sidecar["format"] == FORMAT
            shape = tuple(sidecar["shape"])
            hashes = {name: sidecar["sha256"][name] for name in (CONFIG, WEIGHTS)}
            given = sidecar["threshold"]
            threshold = None if given is None else Threshold.from_json(given)
        except (KeyError, TypeError, ValueError) as error:
            raise LisaeError(
                f"{folder / SIDECAR} is not a detector's record; restore it"
            ) from error
        whole = all(type(side) is int and 1 <= side <= 4096 for side in shape)
        if not known or len(shape) not in (1, 3) or not whole:
            raise LisaeError(f"{folder / SIDECAR} is of another format than this version reads")
        for name, digest in hashes.items():
            path = folder / name
            if not path.is_file() or sha256(path) != digest:
                raise LisaeError(f"{path} is missing or has been altered; restore it")
        detector = (make or cls)(resolve(read_settings(folder / CONFIG), str(folder / CONFIG)))
        detector.shape = shape
        detector.restore_stored(load_arrays(folder / WEIGHTS)[0])
        if threshold:
            detector.set_threshold(threshold)
        return detector
