"""Exported models behind one interface: ONNX Runtime, LiteRT, or TensorFlow for a SavedModel.

Imports a runtime only when a model needs it, and nothing of training ever. Files are checked
against their record before a runtime sees them; loading executes no code from them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lisae_tf.core.arrays import batches
from lisae_tf.core.errors import LisaeError, install
from lisae_tf.exported import model_record, onnx_file, tflite_file
from lisae_tf.exported.model_record import SAVED_MODEL, Record

BATCH_SIZE, PIXELS = 256, 2**20  # of a batch, at most


def batch_size(shape: tuple[int, ...]) -> int:
    """How many pictures of (H, W, C) go through a graph at a time."""
    return max(1, min(BATCH_SIZE, PIXELS // (shape[0] * shape[1])))


class Model(ABC):
    """An exported scoring graph.

    Attributes:
        path: the file or version folder.
        record: what is known of it.
        shape: (H, W, C) of a picture.
        depth: the bits in use of 16-bit pictures; None for all of them.
        mask_size: (H, W) of the mask of what does not count, as it was drawn; None without one.
        batch_size: pictures in one call of the runtime.
        threshold: the stored default α.
        metadata: names, data, hashes and the like, as text.
        has_maps: whether it tells where in a picture the error lies.
        highest_share: of a map's places, whose mean is the score.
    """

    def __init__(self, path: Path, record: Record):
        self.path = path
        self.record = record
        self.shape: tuple[int, int, int] = tuple(record["shape"])
        self.depth: int | None = record.get("depth")
        size = record.get("mask_size")
        self.mask_size: tuple[int, int] | None = None if size is None else (size[0], size[1])
        self.batch_size = batch_size(self.shape)
        self.threshold = model_record.threshold_of(record).alpha
        self.metadata = model_record.metadata_of(record)
        found = record.get("error_map")
        self.has_maps = found is not None
        self.highest_share: float = found["highest_share"] if found else 1.0
        self._float = record["input"]["dtype"] == "float32"

    def _check_shape(self, shape: Sequence[object]) -> None:
        """Refuses a graph of pictures, (None, H, W, C), that are not those of the record."""
        if tuple(shape[1:]) != self.shape:
            raise ValueError(f"its record names pictures of {self.shape}, the model {shape[1:]}")

    @abstractmethod
    def stored(self) -> tuple[float, dict[str, str]]:
        """The default threshold and the metadata inside the model."""

    @abstractmethod
    def _run(self, image: np.ndarray, threshold: np.float32 | None, outputs: tuple[str, ...]):
        """One batch through the graph: a list of arrays."""

    def _batches(self, images: np.ndarray, threshold: float | None, outputs: tuple[str, ...]):
        good = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4
        if not good or images.shape[1:] != self.shape:
            got = f"{getattr(images, 'dtype', type(images).__name__)} {np.shape(images)}"
            wanted = ", ".join(map(str, self.shape))
            raise LisaeError(f"pictures must be uint8 (N, {wanted}), not {got}")
        alpha = None if threshold is None else np.float32(threshold)
        for batch in batches(images, self.batch_size):
            given = batch * np.float32(1 / 255) if self._float else batch
            yield self._run(given, alpha, outputs)

    def run(self, images: np.ndarray, threshold: float | None = None) -> dict[str, np.ndarray]:
        """Scores and decisions.

        Args:
            images: uint8 (N, H, W, C), whatever the graph's own input type is.
            threshold: instead of the stored one.

        Returns:
            "score", float32 (N,), and "is_anomaly", bool (N,).

        Raises:
            LisaeError: pictures of another shape or type.
        """
        names = ("score", "is_anomaly")
        parts = [[np.empty(0, np.float32), np.empty(0, bool)]]
        parts += self._batches(images, threshold, names)
        score, is_anomaly = (np.concatenate(own) for own in zip(*parts, strict=True))
        return {"score": score, "is_anomaly": is_anomaly}

    def score(self, images: np.ndarray) -> np.ndarray:
        """One score for each picture: uint8 (N, H, W, C) -> float32 (N,)."""
        return self.run(images)["score"]

    def require_maps(self) -> None:
        """Refuses to say where errors lie for a model that cannot.

        Raises:
            LisaeError: it scores whole pictures alone, or is of a version before there were maps.
        """
        if self.has_maps:
            return
        if self.record.get("reconstruction", "error_map" not in self.record):
            raise LisaeError(
                f"{self.path} is of an earlier version, whose scores are good but which gives no "
                "maps of errors; export it again"
            )
        raise LisaeError(
            f"{self.path} scores whole pictures and has no maps of errors; leave --maps out"
        )

    def error_maps(self, images: np.ndarray) -> np.ndarray:
        """Where in each picture its error lies.

        Args:
            images: uint8 (N, H, W, C), whatever the graph's own input type is.

        Returns:
            float32 (N, h, w), which may be smaller than the pictures.

        Raises:
            LisaeError: there are no maps, or pictures of another shape or type.
        """
        self.require_maps()
        parts = [[np.empty((0, *self.record["error_map"]["shape"][1:]), np.float32)]]
        parts += self._batches(images, None, ("error_map",))
        return np.concatenate([part for (part,) in parts])


class OnnxModel(Model):
    """An `.onnx` file in ONNX Runtime.

    Attributes:
        data: the file's bytes.
    """

    def __init__(self, path: Path, record: Record):
        super().__init__(path, record)
        import onnxruntime

        self.data = path.read_bytes()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            self.data, options, providers=["CPUExecutionProvider"]
        )
        [image] = (each for each in self.session.get_inputs() if each.name == "image")
        self._check_shape(image.shape)

    def stored(self):
        return onnx_file.read(self.data)

    def _run(self, image, threshold, outputs):
        given = {} if threshold is None else {"threshold": np.asarray(threshold)}
        return self.session.run(list(outputs), {"image": image} | given)


class TFLiteModel(Model):
    """A `.tflite` file in LiteRT."""

    def __init__(self, path: Path, record: Record):
        super().__init__(path, record)
        from ai_edge_litert.interpreter import Interpreter

        from lisae_tf.core.quiet import no_stderr

        self._data = path.read_bytes()
        with no_stderr():
            # More threads wait for each other on pictures this small.
            self.interpreter = Interpreter(model_content=self._data, num_threads=1)
            names = self.interpreter.get_signature_list()
            self._signatures = {name: self.interpreter.get_signature_runner(name) for name in names}
            # The first run sets up the delegate, and says so.
            self.score(np.zeros((1, *self.shape), np.uint8))

    def stored(self):
        return tflite_file.read(self._data)

    def _run(self, image, threshold, outputs):
        if outputs == ("error_map",):
            found = self._signatures["error_map"](image=image)
        elif threshold is None:
            found = self._signatures["serving_default"](image=image)
        else:
            found = self._signatures["with_threshold"](image=image, threshold=threshold)
        return [found[name] for name in outputs]


class SavedModel(Model):
    """A SavedModel folder in TensorFlow; the same loader that serves it."""

    def __init__(self, path: Path, record: Record):
        super().__init__(path, record)
        from lisae_tf.core.quiet import start_tensorflow

        start_tensorflow()
        from lisae_tf.exported.saved_model import load

        self.loaded = load(path, path, record["name"], record["version"])
        self._check_shape(self.loaded.signature("serving_default").inputs["image"].shape or ())

    def stored(self):
        import tensorflow as tf

        variables = tf.train.load_checkpoint(str(self.path / "variables" / "variables"))
        alpha = variables.get_tensor("threshold/.ATTRIBUTES/VARIABLE_VALUE")
        return float(alpha), self.metadata

    def _run(self, image, threshold, outputs):
        signature, inputs = "serving_default", {"image": image}
        if outputs == ("error_map",):
            signature = "error_map"
        elif threshold is not None:
            signature, inputs = "with_threshold", inputs | {"threshold": np.asarray(threshold)}
        found = self.loaded.run(signature, inputs, outputs)
        return [found[name] for name in outputs]


_MODELS: dict[str, Callable[[Path, Record], Model]] = {
    "onnx": OnnxModel,
    "tflite": TFLiteModel,
    SAVED_MODEL: SavedModel,
}
_EXTRAS = {"onnx": "onnx", "tflite": "tflite", SAVED_MODEL: "train"}


def open_model(path: Path | str) -> Model:
    """An exported model, ready to score.

    Args:
        path: an `.onnx` or `.tflite` file, a SavedModel's version folder, or the folder of its
            versions (the newest is taken).

    Raises:
        LisaeError: no such model, its files are truncated or altered, thresholds disagree, or
            the package that runs it is missing.
    """
    path, kind = model_record.locate(Path(path))
    record = model_record.read_record(path, kind)
    try:
        model = _MODELS[kind](path, record)
        alpha, metadata = model.stored()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lisae_tf"):
            raise
        raise LisaeError(
            f"{path} needs the package '{error.name}'; {install(_EXTRAS[kind])}"
        ) from error
    except LisaeError:
        raise
    except Exception as error:  # each runtime has errors of its own
        reason = str(error).strip().splitlines()
        raise LisaeError(
            f"{path} cannot be loaded ({reason[0] if reason else type(error).__name__}); "
            "export it again"
        ) from error
    if alpha != model.threshold or metadata != model.metadata:
        raise LisaeError(
            f"{path} and {model_record.record_path(path).name} disagree on the threshold or other "
            "metadata; restore both, or export or calibrate again"
        )
    return model
