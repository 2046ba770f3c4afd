"""The gate for what only a SavedModel has: encoded pictures, Classify, Regress, method names.

The graph decodes with TensorFlow, files elsewhere are decoded with Pillow; how far the two are
apart is measured here and bounded.
"""

import io
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from export.exportable import Exportable, Samples
from export.parity import ABSOLUTE, BOUNDS, usual_score
from export.savedmodel import LABELS, METHODS, decode_pictures
from lisae_tf.data import pictures
from lisae_tf.exported.runtimes import SavedModel

COUNT = 8
# Height and width in terms of the model's.
SIZES = ((1, 1), (0.6, 0.7), (1.5, 1.3), (2, 3), (7.3, 5.1))
FORMATS = {"PNG": {}, "JPEG": {"quality": 90}}
_decode = tf.function(decode_pictures, autograph=False)
LEVELS = 2  # one for a tie in each of two passes


def check_encoded(
    model: SavedModel, exportable: Exportable, samples: Samples, failures: list[str]
) -> dict[str, Any]:
    """Compares every signature that takes encoded pictures; adds to `failures`."""
    if "score_bytes" not in model.loaded.signatures:
        return {}
    chosen = samples.real[:: max(1, len(samples.real) // COUNT)][:COUNT]
    formats = {}
    for name, options in FORMATS.items():
        measured = [_measure(model, _encode(chosen, s, name, options)) for s in SIZES]
        levels = max(each["levels"] for each in measured)
        formats[name] = {
            "worst_levels": levels,
            "pixels_differing": max(each["share"] for each in measured),
            # What so few levels do to a score depends on the model: told, not judged.
            "worst_relative": max(each["relative"] for each in measured),
        }
        if levels > LEVELS:
            failures.append(f"{name} bytes differ by {levels} of 255 levels")
        own = max(each["own"] for each in measured)
        if not own <= BOUNDS[None].relative:
            failures.append(f"{name} bytes do not score as their own pixels: {own:.1e} apart")
    if _measure(model, _encode(chosen, (1, 1), "PNG", {}))["levels"]:
        failures.append("a PNG of the model's own size is not decoded to its pixels")
    _check_examples(model, exportable, _encode(chosen, (2, 2), "PNG", {}), failures)
    sizes = [[round(h * model.shape[0]), round(w * model.shape[1])] for h, w in SIZES]
    bounds = {"levels": LEVELS}
    return {"formats": formats, "sizes": sizes, "bounds": bounds}


def _encode(images: np.ndarray, size: tuple[float, float], name: str, options) -> np.ndarray:
    """Pictures blown up or down and encoded: object (N,)."""
    height, width = (
        max(1, round(s * side)) for s, side in zip(size, images.shape[1:3], strict=True)
    )
    encoded = np.empty(len(images), object)
    for index, image in enumerate(images):
        picture = Image.fromarray(image.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        picture.save(stream, name, **options)
        encoded[index] = stream.getvalue()
    return encoded


def _measure(model: SavedModel, encoded: np.ndarray) -> dict[str, Any]:
    """The graph's decoding against Pillow's: in levels, in share of values, in scores.

    "own" is the score of the bytes against that of the pixels which the graph made of them.
    """
    height, width, channels = model.shape
    outside = pictures.decode_all(
        list(encoded), (height, width), channels, depth=model.depth
    ).pixels
    inside = _decode(tf.constant(encoded), model.shape, model.depth).numpy()
    gap = np.abs(inside.astype(int) - outside.astype(int))
    found = model.loaded.run("score_bytes", {"image_bytes": encoded}, ["score"])["score"]
    return {
        "levels": int(gap.max()),
        "share": float(np.mean(gap > 0)),
        "relative": _apart(found, model.score(outside)),
        "own": _apart(found, model.score(inside)),
    }


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of scores, relative."""
    expected = expected.astype(np.float64)
    magnitude = np.maximum(np.abs(expected), usual_score(expected))
    gap = np.maximum(np.abs(found - expected) - ABSOLUTE, 0)
    return float(np.max(gap / np.maximum(magnitude, ABSOLUTE)))


def _check_examples(
    model: SavedModel, exportable: Exportable, encoded: np.ndarray, failures: list[str]
) -> None:
    """Classify and Regress must say what `score_bytes` says, and be marked as what they are."""
    examples = np.empty(len(encoded), object)
    for index, data in enumerate(encoded):
        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
        features = tf.train.Features(feature={"image_bytes": value})
        examples[index] = tf.train.Example(features=features).SerializeToString()
    plain = model.loaded.run("score_bytes", {"image_bytes": encoded})
    regressed = model.loaded.run("regress", {"inputs": examples})["outputs"]
    classified = model.loaded.run("classify", {"inputs": examples})
    labels = np.asarray(LABELS, object)[plain["is_anomaly"].astype(int)]
    if not (
        np.allclose(regressed, plain["score"], rtol=1e-5)
        and np.allclose(classified["scores"][:, 0], plain["score"], rtol=1e-5)
        and [label.decode() for label in classified["classes"][:, 0]] == labels.tolist()
    ):
        failures.append("classify or regress disagrees with score_bytes")
    given = {name: model.loaded.definitions[name].method_name for name in METHODS}
    if given != METHODS:
        failures.append(f"methods are marked as {given}")
    image = pictures.decode_all(list(encoded), model.shape[:2], model.shape[2]).pixels
    batch = image if exportable.dtype == "uint8" else image * np.float32(1 / 255)
    each = np.full(len(image), exportable.alpha, np.float32)
    many = model.loaded.run("with_threshold", {"image": batch, "threshold": each})
    if not np.array_equal(model.run(image)["is_anomaly"], many["is_anomaly"]):
        failures.append("a threshold for each picture decides otherwise than the default")
