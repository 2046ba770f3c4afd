"""What is exported, whatever the format: the scoring graph as functions, its record, and samples.

Each exporter wraps `answer` and `error_map` in its own signatures; none computes anything.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from lisae_tf import __version__
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import manifest
from lisae_tf.data.folders import moved
from lisae_tf.data.tasks import reopen
from lisae_tf.detectors.base import Detector
from lisae_tf.detectors.graph import GraphDetector
from lisae_tf.exported import packed
from lisae_tf.exported.model_record import Record, metadata_of
from lisae_tf.model.scoring import scoring_graph, set_threshold
from lisae_tf.runs import folders as runs

PAPER = "Battikh and Lenskiy (2021), Latent-Insensitive Autoencoders for Anomaly Detection"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_REAL = 1000  # of normal pictures, and of anomalies
MAX_REPRESENTATIVE = 200  # likewise
MADE_UP = 64
TEST_ANOMALIES = "test anomalies"
# Of so many pixels together, at most: large pictures say as much in smaller numbers.
REPRESENTATIVE_PIXELS, MADE_UP_PIXELS = 2**22, 2**20


@dataclass(frozen=True)
class Exportable:
    """The scoring graph of a run, on its way out.

    Attributes:
        detector: the reference that the gate compares with.
        graph: "image" -> "score", "is_anomaly", and "error_map" where there is one.
        name: of the model.
        dtype: of "image": uint8 0-255 or float32 0-1.
        record: what the sidecar says, but for sizes and hashes.
    """

    detector: GraphDetector
    graph: keras.Model
    name: str
    dtype: str
    record: Record

    @property
    def alpha(self) -> float:
        """The default threshold."""
        return self.detector.threshold_.alpha

    @property
    def has_maps(self) -> bool:
        """Whether there is a map of errors to ask for."""
        return self.detector.has_maps

    @property
    def metadata(self) -> dict[str, str]:
        """What a model file carries inside."""
        return metadata_of(self.record)

    def image(self) -> tf.TensorSpec:
        """The input: (N, H, W, C) with N free."""
        return tf.TensorSpec((None, *self.detector.shape), self.dtype, "image")

    def answer(self, image: tf.Tensor, threshold: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Score and decision of each picture, by the default threshold or the one given."""
        found = self.graph(image, training=False)
        decision = found["is_anomaly"]
        if threshold is not None:
            decision = self.graph.get_layer("is_anomaly")(found["score"], threshold)
        return {"score": found["score"], "is_anomaly": decision}

    def error_map(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Where in each picture its error lies, float32 (N, h, w)."""
        return {"error_map": self.graph(image, training=False)["error_map"]}

    @staticmethod
    def function(
        body: Callable, *inputs: tf.TensorSpec
    ) -> tf.types.experimental.PolymorphicFunction:
        """`body` as a signature; none has Python control flow to translate."""
        return tf.function(body, inputs, autograph=False)

    def labelled(self, kind: str, name: str, version: int, quantize: str | None) -> "Exportable":
        """The same graph as one version of one format."""
        details = {"kind": kind, "name": name, "version": version, "quantization": quantize}
        metadata = self.record["metadata"] | {"name": name, "quantization": quantize or "none"}
        record = self.record | details | {"metadata": metadata}
        return replace(self, name=name, record=record)


def make_exportable(
    detector: Detector, run: Path, *, name: str | None = None, dtype: str = "uint8"
) -> Exportable:
    """The scoring graph of a trained detector.

    Args:
        detector: a Keras detector with a threshold.
        run: its run folder, which gives metrics and the default name.
        name: of the model: letters, digits, '.', '_' and '-'.
        dtype: of the graph's input.

    Raises:
        LisaeError: a detector without a graph or a threshold, or an impossible name.
    """
    if not isinstance(detector, GraphDetector):
        raise LisaeError(
            f"a {type(detector).__name__} has no Keras graph and cannot be exported; train "
            "another variant, such as lis or linsep"
        )
    if detector.threshold_ is None:
        raise LisaeError("this detector has no threshold yet; run calibrate first")
    if name is None:
        cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", run.resolve().name).lstrip("._-")[:56]
        name = (cleaned or "lisae") + ("-float32" if dtype == "float32" else "")
    if not _NAME.fullmatch(name):
        raise LisaeError(f"the name '{name}' must consist of letters, digits, '.', '_' and '-'")
    # Scores are float32, and so is the threshold inside a graph.
    alpha = float(np.float32(detector.threshold_.alpha))
    detector.set_threshold(replace(detector.threshold_, alpha=alpha))
    graph = scoring_graph(detector.inference(), error_map=detector.has_maps, dtype=dtype)
    set_threshold(graph, alpha)
    record = _record(detector, graph, runs.read_metrics(run), dtype)
    record["calibration_scores"] = packed.pack_scores(runs.read_scores(run)["calibration"])
    if kept := manifest.read(run):
        record["trained_on"] = packed.pack_digests(kept.digests(manifest.FITTED))
    return Exportable(detector, graph, name, dtype, record)


def _record(detector: GraphDetector, graph: keras.Model, metrics: dict, dtype: str) -> Record:
    """What is known of a run, without its folders' whereabouts."""
    height, width, channels = detector.shape
    # Of own folders the last name alone: a published model tells no paths of this machine.
    data = {
        "dataset": metrics["dataset"],
        "normal": [Path(str(each)).name for each in metrics["normal"]],
        "negatives": Path(str(metrics["negatives"])).name,
        "protocol": metrics["protocol"],
    }
    picture = {
        "name": "image",
        "dtype": dtype,
        "shape": ["batch", height, width, channels],
        "range": [0, 255] if dtype == "uint8" else [0, 1],
        "channels": {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels"),
    }
    error_map = None
    if detector.has_maps:
        error_map = {
            "shape": ["batch", *graph.output["error_map"].shape[1:]],
            "highest_share": detector.highest_share,
        }
    meaning = detector.meaning
    if detector.ignored is not None:
        meaning += f"; {100 * detector.ignored.mean():.1f} % of each picture does not count"
    # Left out where it says nothing, as in the settings.
    depth = {} if detector.depth is None else {"depth": detector.depth}
    own = depth if detector.mask_size is None else depth | {"mask_size": list(detector.mask_size)}
    return own | {
        "lisae_tf": __version__,
        "variant": metrics["variant"],
        "seed": metrics["seed"],
        "shape": list(detector.shape),
        "input": picture,
        "outputs": {"score": "float32 [batch]", "is_anomaly": "bool [batch]"},
        "error_map": error_map,
        "threshold": detector.threshold_.to_json(),
        "data": data,
        "metrics": {key: metrics.get(key) for key in runs.MEASURED},
        "config_hash": metrics["config_hash"],
        "parent": None,
        "metadata": {
            "description": f"anomaly score: {meaning}",
            "paper": PAPER,
            "lisae_tf": __version__,
            "variant": metrics["variant"],
            "input": f"{dtype} [batch, {height}, {width}, {channels}]",
            "input_range": "-".join(map(str, picture["range"])),
            "channel_order": picture["channels"],
            "layout": "NHWC",
            "dataset": data["dataset"],
            "normal": ", ".join(data["normal"]),
            "negatives": data["negatives"],
            "protocol": data["protocol"],
            "config_hash": metrics["config_hash"],
            **{name: str(value) for name, value in depth.items()},
        },
    }


@dataclass(frozen=True)
class Samples:
    """Pictures of the shape that the model takes, uint8 (N, H, W, C).

    Attributes:
        real: the run's test pictures.
        is_anomaly: bool (N,), which of `real` count as anomalies.
        anomalies: what these are.
        representative: training pictures, normal and negative, for choosing int8 ranges.
        calibration: the run's calibration pictures, as far as they are still there.
    """

    real: np.ndarray
    is_anomaly: np.ndarray
    anomalies: str
    representative: np.ndarray
    calibration: np.ndarray

    @property
    def is_test(self) -> np.ndarray:
        """Which of `real` are of the run's test: without test anomalies the normal ones alone."""
        return ~self.is_anomaly | (self.anomalies == TEST_ANOMALIES)

    @property
    def kinds(self) -> dict[str, np.ndarray]:
        """What the gate compares on."""
        count = _affordable(MADE_UP, MADE_UP_PIXELS, self.real.shape[1:])
        shape = (count, *self.real.shape[1:])
        return {
            "real": self.real,
            "noise": noise(shape),
            "black": np.zeros(shape, np.uint8),
            "white": np.full(shape, 255, np.uint8),
        }


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Uniform noise, uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8, endpoint=False)


def _affordable(most: int, pixels: int, shape: tuple[int, ...]) -> int:
    """At most so many pictures of a shape, and so many pixels in all of them; at least 8."""
    return min(most, max(8, pixels // (shape[0] * shape[1])))


def _evenly(pictures: np.ndarray, count: int) -> np.ndarray:
    """At most `count` pictures, spread over all."""
    if len(pictures) <= count:
        return np.asarray(pictures)
    return np.asarray(pictures[np.linspace(0, len(pictures) - 1, count).astype(int)])


def load_samples(
    detector: Detector, run: Path, data_dir: Path | None, data_roots: Sequence[str] = ()
) -> Samples:
    """The pictures for one run.

    Without test anomalies, held-out negatives take their place; without those, noise.

    Raises:
        LisaeError: the run's data is missing.
    """
    opened = reopen(run, moved(detector.config, data_roots), data_dir, skip_bad=True)
    training, test = opened.training(), opened.test()
    normal = _evenly(test.pixels[~test.is_anomaly], MAX_REAL)
    anomalies, what = _evenly(test.pixels[test.is_anomaly], MAX_REAL), TEST_ANOMALIES
    count = _affordable(MAX_REPRESENTATIVE, REPRESENTATIVE_PIXELS, detector.shape)
    made_up = noise((count, *detector.shape), seed=1)
    negatives = made_up if training.negative is None else training.negative.fit
    if not len(anomalies) and training.negative is not None:
        anomalies = _evenly(training.negative.calibration, MAX_REAL)
        what = "held-out negatives"
    elif not len(anomalies):
        anomalies, what = made_up, "noise"
    representative = [_evenly(each, count) for each in (training.normal.fit, negatives)]
    return Samples(
        np.concatenate([normal, anomalies]),
        np.arange(len(normal) + len(anomalies)) >= len(normal),
        what,
        np.concatenate(representative),
        training.normal.calibration,
    )
