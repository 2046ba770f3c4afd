"""A small SavedModel with the signatures that every export has, and servers to put it behind.

Its score is known in closed form, so that any answer can be checked without TensorFlow:
`weight · mean((x/255 − ½)²)`, another weight for each version; its map has each pixel's part in it.
"""

import atexit
import io
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from lisae_tf.exported import model_record

NAME = "toy"
SHAPE = (6, 5, 3)
ALPHA = 0.09
ROOT = Path(__file__).parents[1]
_scratch = TemporaryDirectory(prefix="served")


def expected(images: np.ndarray, version: int = 1) -> np.ndarray:
    """The score that version `version` must give, float64 (N,)."""
    return version * np.mean((images / 255 - 0.5) ** 2, axis=(1, 2, 3))


def expected_maps(images: np.ndarray, version: int = 1) -> np.ndarray:
    """The maps that version `version` must give, float64 (N, H, W)."""
    return version * np.mean((images / 255 - 0.5) ** 2, axis=3)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Noise of varying contrast, so that scores lie on both sides of the threshold."""
    random = np.random.default_rng(seed)
    noise = random.uniform(-1, 1, (count, *SHAPE)) * random.uniform(0.2, 1, (count, 1, 1, 1))
    return np.rint(127.5 + 127.5 * noise).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    """One picture as PNG bytes."""
    stream = io.BytesIO()
    Image.fromarray(image.squeeze()).save(stream, "PNG")
    return stream.getvalue()


def write_model(folder: Path, version: int = 1) -> Path:
    """Writes `<folder>/<version>` under another name and renames it, as an export does."""
    folder.mkdir(parents=True, exist_ok=True)
    hidden = folder / f".{version}"
    shutil.copytree(built(version), hidden)
    return hidden.rename(folder / str(version))


@cache
def built(version: int) -> Path:
    """A version folder that is built once for all tests."""
    folder = Path(_scratch.name, str(version))
    from lisae_tf.core.quiet import start_tensorflow

    start_tensorflow()
    import keras
    import tensorflow as tf

    from export.savedmodel import decode_pictures

    image = keras.Input(SHAPE, dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 255, -0.5)(image)
    x = keras.layers.Flatten()(keras.ops.square(x))
    mean = keras.initializers.Constant(version / np.prod(SHAPE))
    net = keras.Model(image, keras.layers.Dense(1, use_bias=False, kernel_initializer=mean)(x))
    module = tf.Module()
    module.weights = [weight.value for weight in net.weights]
    module.alpha = tf.Variable(ALPHA)
    tensor = tf.TensorSpec((None, *SHAPE), tf.uint8, "image")
    strings = tf.TensorSpec((None,), tf.string)

    def answer(images, alpha):
        score = tf.squeeze(net(images, training=False), -1)
        return {"score": score, "is_anomaly": score > alpha}

    def answer_at(image, threshold):
        return answer(image, threshold)

    def error_map(image):
        errors = tf.square(tf.cast(image, tf.float32) / 255 - 0.5)
        return {"error_map": version * tf.reduce_mean(errors, axis=3)}

    def parse(examples):
        feature = {"image_bytes": tf.io.FixedLenFeature((), tf.string)}
        return answer(
            decode_pictures(tf.io.parse_example(examples, feature)["image_bytes"], SHAPE),
            module.alpha,
        )

    def classify(inputs):
        found = parse(inputs)
        labels = tf.gather(["normal", "anomaly"], tf.cast(found["is_anomaly"], tf.int32))
        return {"classes": labels[:, None], "scores": found["score"][:, None]}

    signatures = {
        "serving_default": tf.function(lambda image: answer(image, module.alpha), [tensor]),
        "score_bytes": tf.function(
            lambda image_bytes: answer(decode_pictures(image_bytes, SHAPE), module.alpha),
            [tf.TensorSpec((None,), tf.string, "image_bytes")],
        ),
        "with_threshold": tf.function(
            answer_at,
            [tensor, tf.TensorSpec(None, tf.float32, "threshold")],
        ),
        "error_map": tf.function(error_map, [tensor]),
        "classify": tf.function(classify, [strings]),
        "regress": tf.function(lambda inputs: {"outputs": parse(inputs)["score"]}, [strings]),
    }
    tf.saved_model.save(module, str(folder), signatures)
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    for name in ("classify", "regress"):
        updater.replace_method_name(name, f"tensorflow/serving/{name}")
    updater.save()
    write_warm_up(folder)
    write_record(folder, version)
    return folder


def write_record(folder: Path, version: int) -> None:
    """Sizes and hashes of the files, as beside every export."""
    threshold = {"alpha": ALPHA, "guaranteed_fpr": 0.1, "requested_fpr": 0.1, "n_calibration": 9}
    record = {"kind": "savedmodel", "name": NAME, "version": version, "shape": SHAPE}
    record |= {"input": {"dtype": "uint8"}, "threshold": threshold, "metadata": {}}
    model_record.write_record(folder, record)


def write_warm_up(folder: Path) -> None:
    """Records for `serving_default` at two batch sizes and for `classify`."""
    import tensorflow as tf
    from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2

    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in (1, 4):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = NAME
            request.inputs["image"].CopyFrom(tf.make_tensor_proto(pictures(size)))
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = NAME
        request.model_spec.signature_name = "classify"
        example = request.input.example_list.examples.add()
        example.features.feature["image_bytes"].bytes_list.value.append(png(pictures(1)[0]))
        log = prediction_log_pb2.ClassifyLog(request=request)
        writer.write(prediction_log_pb2.PredictionLog(classify_log=log).SerializeToString())


def write_config(base: Path, labels: dict[str, int], newest: int = 2) -> None:
    """The model config file beside the model; `base_path` is where a real server finds it."""
    lines = [
        "model_config_list { config {",
        f"name: '{NAME}' base_path: '{base / NAME}' model_platform: 'tensorflow'",
        f"model_version_policy {{ latest {{ num_versions: {newest} }} }}",
        *(f"version_labels {{ key: '{key}' value: {value} }}" for key, value in labels.items()),
        "} }",
    ]
    (base / "models.config").write_text("\n".join(lines) + "\n")


def write_served(base: Path) -> Path:
    """Versions 1 and 2 and their labels, as both kinds of server want them."""
    for version in (1, 2):
        write_model(base / NAME, version)
    write_config(base, {"stable": 1, "canary": 2})
    return base


# Imports TensorFlow once for all servers: each is a copy of that process, there in a second.
_copies = multiprocessing.get_context("forkserver")
_copies.set_forkserver_preload(["lisae_tf.serving.server"])


def _serve(arguments: list[str], outputs) -> None:
    """`cli.py serve` in this process, which gets these for its standard output and error."""
    for number, output in enumerate(outputs, start=1):
        os.dup2(output.fileno(), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
    os.chdir(ROOT)
    from lisae_tf.cli import main

    main(["serve", *arguments])


class Embedded:
    """`serve` in a process of its own on free loopback ports."""

    def __init__(self, model: Path, *options: str):
        arguments = ["--model", str(model), *options]
        arguments += ["--rest-port", "0", "--grpc-port", "0", "--poll", "0.2"]
        self._start(arguments)
        atexit.register(self.process.kill)  # a test that fails may leave it behind
        line = self._stdout.readline()
        found = re.search(r"at http://(\S+) \(REST\) and (\S+) \(gRPC\)", line)
        if not found:
            raise RuntimeError(line + self._stderr.read())
        self.rest, self.grpc = found.groups()
        self.log: list[str] = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self._stderr), daemon=True)
        self._reader.start()

    def _start(self, arguments: list[str]) -> None:
        pipes = [_copies.Pipe(duplex=False) for _ in ("output", "error")]
        theirs = [theirs for _, theirs in pipes]
        self.process = _copies.Process(target=_serve, args=(arguments, theirs), daemon=True)
        self.process.start()
        for each in theirs:
            each.close()
        self._stdout, self._stderr = (os.fdopen(os.dup(own.fileno())) for own, _ in pipes)

    def _running(self) -> bool:
        return self.process.is_alive()

    def _wait(self) -> int:
        self.process.join(60)
        assert self.process.exitcode is not None, "the server does not end"
        return self.process.exitcode

    def terminate(self) -> None:
        """Asks it to end, as a service manager does."""
        os.kill(self.process.pid, signal.SIGTERM)

    def end(self) -> int:
        """Ends it if it has not, and gives its exit code."""
        if self._running():
            self.terminate()
        code = self._wait()
        self._reader.join()
        self._stdout.close()
        self._stderr.close()
        return code


class Started(Embedded):
    """`cli.py serve` as a user starts it: by a Python of its own."""

    def _start(self, arguments: list[str]) -> None:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(
            [sys.executable, "cli.py", "serve", *arguments], cwd=ROOT, **pipes
        )
        self._stdout, self._stderr = self.process.stdout, self.process.stderr

    def _running(self) -> bool:
        return self.process.poll() is None

    def _wait(self) -> int:
        return self.process.wait(60)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Real:
    """TensorFlow Serving, at given addresses or started from a given command."""

    def __init__(self, base: Path):
        self.process = None
        self.rest = os.environ.get("TF_SERVING_REST")
        self.grpc = os.environ.get("TF_SERVING_GRPC")
        command = os.environ.get("TENSORFLOW_MODEL_SERVER")
        if self.rest and self.grpc:
            return
        if not command:
            pytest.skip("set TENSORFLOW_MODEL_SERVER, or TF_SERVING_REST and TF_SERVING_GRPC")
        rest, grpc = free_port(), free_port()
        self.process = subprocess.Popen(
            [
                *shlex.split(command),
                f"--port={grpc}",
                f"--rest_api_port={rest}",
                f"--model_config_file={base / 'models.config'}",
                "--allow_version_labels_for_unavailable_models=true",
            ]
        )
        self.rest, self.grpc = f"127.0.0.1:{rest}", f"127.0.0.1:{grpc}"

    def end(self) -> None:
        """Ends what was started."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)


if __name__ == "__main__":
    print(write_served(Path(sys.argv[1]).resolve()))
