"""Predict, Classify and Regress on a loaded version, within the limits of one request.

REST, gRPC and the warm-up, which replays a version's own requests, all come through here.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import prediction_log_pb2

from lisae_tf.core.errors import LisaeError
from lisae_tf.data import pictures
from lisae_tf.exported.saved_model import ServedModel
from lisae_tf.exported.signatures import STRINGS, RequestError
from lisae_tf.serving.limits import Limits, decoding_bytes, named
from lisae_tf.serving.messages import examples_of, to_array

FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000


def strings(values: Sequence[bytes]) -> np.ndarray:
    """Byte strings as an object array (N,)."""
    array = np.empty(len(values), STRINGS)
    array[:] = values
    return array


def _parsed(examples: Iterable[bytes]) -> list[example_pb2.Example]:
    try:
        return [example_pb2.Example.FromString(data) for data in examples]
    except DecodeError as error:
        raise RequestError("INVALID_ARGUMENT", "an input is no tf.train.Example") from error


def _decoded_examples(examples: Iterable[bytes], model: ServedModel, limits: Limits) -> list[bytes]:
    """Serialised tf.train.Examples, whose byte strings must all be pictures."""
    parsed = _parsed(examples)
    lists = [f.bytes_list.value for each in parsed for f in each.features.feature.values()]
    sent = iter(_decoded([data for values in lists for data in values], model, limits))
    for values in lists:
        values[:] = [next(sent) for _ in values]
    return [each.SerializeToString() for each in parsed]


def _decoded(encoded: Sequence[bytes], model: ServedModel, limits: Limits) -> list[bytes]:
    """Pictures of any kind and size as PNGs of the model's own size, with the pixels of `score`.

    In the graph a large one would take twice the memory, and several would be there at a time.
    """
    limits.check_pictures(encoded)
    height, width, channels = model.shape
    made = []
    for place, data in enumerate(encoded, start=1):
        try:
            with limits.memory.held(decoding_bytes(data, pictures.header(data))):
                pixels = pictures.decode(data, (height, width), channels, depth=model.depth)
        except pictures.BadPicture as error:
            raise RequestError("INVALID_ARGUMENT", named(place, len(encoded), error)) from error
        stream = io.BytesIO()
        own = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        own.save(stream, "PNG", compress_level=1)  # nobody keeps it
        made.append(stream.getvalue())
    return made


def predict(
    model: ServedModel,
    limits: Limits,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Runs any signature.

    Args:
        model: the version that answers.
        limits: bounds of the request.
        signature: its name; empty for the default.
        inputs: arrays as the signature has them.
        outputs: names of the outputs to give; all by default.

    Raises:
        RequestError: beyond the limits, inputs that do not fit, NaN or infinity among them.
    """
    examples = model.signature(signature).method != "predict"
    given = dict(inputs)
    for name, array in inputs.items():
        limits.check_shape(name, array.shape)
        # No score is above NaN, and every score or none is above infinity.
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RequestError(
                "INVALID_ARGUMENT", f"input {name} holds NaN or infinity; send finite numbers"
            )
        if array.dtype == STRINGS:
            values = array.ravel().tolist()
            if examples:
                values = _decoded_examples(values, model, limits)
            else:
                values = _decoded(values, model, limits)
            given[name] = strings(values).reshape(array.shape)
    return model.run(signature, given, outputs)


def _run_examples(
    model: ServedModel, limits: Limits, signature: str, examples: Sequence[bytes], allowed: set[str]
) -> dict[str, np.ndarray]:
    """Runs a signature over examples whose outputs are among `allowed`."""
    chosen = model.signature(signature)
    if list(chosen.inputs) != ["inputs"] or not chosen.outputs or chosen.outputs.keys() - allowed:
        raise RequestError(
            "INVALID_ARGUMENT",
            f"the signature '{signature or 'serving_default'}' must have the one input 'inputs' "
            f"and outputs among {sorted(allowed)}; name another with signature_name",
        )
    if not examples:
        raise RequestError("INVALID_ARGUMENT", "Input is empty.")
    found = predict(model, limits, signature, {"inputs": strings(examples)})
    if any(array.shape[:1] != (len(examples),) for array in found.values()):
        raise RequestError("INVALID_ARGUMENT", "the outputs do not have the batch size given")
    return found


def classify(
    model: ServedModel, limits: Limits, signature: str, examples: Sequence[bytes]
) -> list[list[tuple[bytes, float]]]:
    """(label, score) pairs for each serialised tf.train.Example.

    Raises:
        RequestError: no classification signature, no examples, or broken ones.
    """
    found = _run_examples(model, limits, signature, examples, {"classes", "scores"})
    if any(array.ndim != 2 for array in found.values()):
        raise RequestError("INVALID_ARGUMENT", "Expected Tensor shape: [batch_size num_classes]")
    shape = next(iter(found.values())).shape
    labels = found.get("classes", np.full(shape, b"", STRINGS)).tolist()
    scores = found.get("scores", np.zeros(shape)).tolist()
    return [list(zip(*pair, strict=True)) for pair in zip(labels, scores, strict=True)]


def regress(
    model: ServedModel, limits: Limits, signature: str, examples: Sequence[bytes]
) -> list[float]:
    """One value for each serialised tf.train.Example.

    Raises:
        RequestError: no regression signature, no examples, or broken ones.
    """
    values = _run_examples(model, limits, signature, examples, {"outputs"})["outputs"]
    if values.size != len(examples):
        raise RequestError("INVALID_ARGUMENT", "Expected output Tensor shape: [batch_size]")
    return values.ravel().tolist()


def warm_up(model: ServedModel, folder: Path, limits: Limits) -> int:
    """Runs the records in `assets.extra`, or one black picture where there are none.

    Returns:
        How many requests were run.

    Raises:
        LisaeError: the file is damaged, has too many records, or one of them fails.
    """
    path = folder / FILE
    try:
        if not path.is_file():
            image = np.zeros((1, *model.shape), model.signature("").inputs["image"].dtype)
            predict(model, limits, "", {"image": image})
            return 1
        count = 0
        for count, record in enumerate(tf.data.TFRecordDataset(str(path)), start=1):
            if count > MAX_RECORDS:
                raise LisaeError(f"{path} has more than {MAX_RECORDS} records; export it again")
            _replay(model, prediction_log_pb2.PredictionLog.FromString(record.numpy()), limits)
        return count
    except (DecodeError, tf.errors.OpError, RequestError) as error:
        raise LisaeError(f"warm-up of {folder} failed ({error}); export the model again") from error


def _replay(model: ServedModel, log: prediction_log_pb2.PredictionLog, limits: Limits) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        inputs = {name: to_array(name, each, limits) for name, each in request.inputs.items()}
        predict(model, limits, request.model_spec.signature_name, inputs, request.output_filter)
    elif kind == "classify_log":
        request = log.classify_log.request
        name = request.model_spec.signature_name
        classify(model, limits, name, examples_of(request.input))
    elif kind == "regress_log":
        request = log.regress_log.request
        name = request.model_spec.signature_name
        regress(model, limits, name, examples_of(request.input))
