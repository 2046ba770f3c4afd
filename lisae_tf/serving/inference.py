"""Predict, Classify and Regress on a loaded version, within the limits of one request.

REST, gRPC and the warm-up all come through here.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2

from lisae_tf.data import pictures
from lisae_tf.serving.codes import RequestError
from lisae_tf.serving.limits import Limits, named
from lisae_tf.serving.saved_model import ServedModel
from lisae_tf.serving.signatures import STRINGS


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


def _portable_examples(examples: Iterable[bytes], limits: Limits) -> list[bytes]:
    """Serialised tf.train.Examples, whose byte strings must all be pictures."""
    parsed = _parsed(examples)
    lists = [f.bytes_list.value for each in parsed for f in each.features.feature.values()]
    encoded = [data for values in lists for data in values]
    limits.check_pictures(encoded)
    sent = iter(_portable(encoded))
    for values in lists:
        values[:] = [next(sent) for _ in values]
    return [each.SerializeToString() for each in parsed]


def _portable(encoded: Sequence[bytes]) -> list[bytes]:
    """Pictures as the graph reads them, which knows fewer kinds of files."""
    made = []
    for place, data in enumerate(encoded, start=1):
        try:
            made.append(pictures.portable(data))
        except pictures.BadPicture as error:
            raise RequestError("INVALID_ARGUMENT", named(place, len(encoded), error)) from error
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
                values = _portable_examples(values, limits)
            else:
                limits.check_pictures(values)
                values = _portable(values)
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
