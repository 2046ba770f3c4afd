"""Codes, JSON and shapes as TensorFlow Serving has them."""

import subprocess
import sys

import numpy as np
import pytest
import serving_fixtures as toy

from lisae_tf.exported.codes import CODES, RequestError, from_http, from_number
from lisae_tf.exported.signatures import STRINGS, Signature, Tensor
from lisae_tf.serving import json_format
from lisae_tf.serving.limits import Limits


def test_the_rest_client_needs_no_tensorflow():
    code = """
import sys
from lisae_tf.serving import rest_client
assert not {"tensorflow", "keras", "grpc", "tensorflow_serving"} & sys.modules.keys()
mine = {name.removeprefix("lisae_tf.") for name in sys.modules if name.startswith("lisae_tf.")}
mine = {name for name in mine if not name.startswith("serving")}
pictures = {"data.levels", "data.pictures", "data.picture_files", "data.stored"}
core = {"core", "core.errors", "core.files", "exported", "exported.codes", "exported.signatures"}
assert mine <= {*core, "data", *pictures}, mine
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=toy.ROOT)


def test_codes_go_both_ways():
    for name, (number, http) in CODES.items():
        assert from_number(number) == name
        assert CODES[from_http(http)][1] == http or name == "UNKNOWN"
    assert from_number(99) == from_http(418) == "UNKNOWN"


IMAGE = Tensor(np.dtype(np.uint8), (None, 2, 2, 1))
ONE = Signature({"image": IMAGE}, {}, "predict")
TWO = Signature({"image": IMAGE, "threshold": Tensor(np.dtype(np.float32), None)}, {}, "predict")
TEXT = Signature({"data": Tensor(STRINGS, (None,))}, {}, "predict")
PIXELS = [[[1], [2]], [[3], [255]]]


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [PIXELS, PIXELS]},
        {"instances": [{"image": PIXELS}, {"image": PIXELS}]},
        {"inputs": [PIXELS, PIXELS]},
        {"inputs": {"image": [PIXELS, PIXELS]}},
    ],
)
def test_rows_and_columns_say_the_same(document):
    arrays, form = json_format.to_arrays(document, ONE)
    assert form in document
    assert arrays["image"].dtype == np.uint8
    assert arrays["image"].tolist() == [PIXELS, PIXELS]
    ONE.check(arrays)


def test_thresholds_may_be_scalars_or_one_for_each():
    for threshold in (0.5, [0.5], 1, float("nan")):
        document = {"inputs": {"image": [PIXELS], "threshold": threshold}}
        arrays, _ = json_format.to_arrays(document, TWO)
        assert arrays["threshold"].dtype == np.float32
        TWO.check(arrays)
    with pytest.raises(RequestError):
        TWO.check(arrays | {"threshold": np.zeros((1, 1), np.float32)})


@pytest.mark.parametrize("text", ["eHg=", "eHg", "e H\ng=", "eHg\n"])
def test_base64_as_lenient_as_tensorflow_serving(text):
    arrays, _ = json_format.to_arrays({"instances": [{"b64": text}, "é"]}, TEXT)
    assert arrays["data"].tolist() == [b"xx", "é".encode()]


def test_answers_in_both_forms():
    outputs = {"a": np.array([1.5, np.nan]), "b_bytes": np.array([b"x", b"\xff"], object)}
    rows = json_format.from_arrays(outputs, json_format.ROWS)
    assert rows["predictions"][1]["b_bytes"] == {"b64": "/w=="}
    columns = json_format.from_arrays(outputs, json_format.COLUMNS)
    assert columns["outputs"]["a"][0] == 1.5
    sole = json_format.from_arrays({"text": np.array([b"x", b"y"], object)}, json_format.ROWS)
    assert sole == {"predictions": ["x", "y"]}
    for odd in ({"a": np.float32(1)}, {"a": np.zeros(2), "b": np.zeros(3)}):
        arrays = {name: np.asarray(value) for name, value in odd.items()}
        with pytest.raises(RequestError):
            json_format.from_arrays(arrays, json_format.ROWS)


def test_limits_on_shapes():
    limits = Limits(body=1000, batch=10)
    limits.check_shape("image", (10, 100))
    for shape in ((11,), (10, 101), (-1,), (1,) * 9, (10, 2**62, 2**62)):
        with pytest.raises(RequestError):
            limits.check_shape("image", shape)
