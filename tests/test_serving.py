"""The clients against a server: the same tests for the embedded one and for TensorFlow Serving.

Those for TensorFlow Serving run with Docker by this line in a checkout:

    TENSORFLOW_MODEL_SERVER="docker run --rm --init --network host --volume /tmp:/tmp
    --entrypoint tensorflow_model_server tensorflow/serving" .venv/bin/python -m pytest
    tests/test_serving.py

or with TENSORFLOW_MODEL_SERVER=PATH of the binary, or against a server that runs elsewhere on
what `python tests/serving_fixtures.py FOLDER` writes, with TF_SERVING_REST=host:port and
TF_SERVING_GRPC=host:port.
"""

import numpy as np
import pytest
import serving_fixtures as toy

from lisae_tf.exported.signatures import Refused
from lisae_tf.serving.rest_client import RestClient

FRONTS = ("rest rows", "rest columns", "grpc")
INVALID = {"INVALID_ARGUMENT", "FAILED_PRECONDITION"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return toy.write_served(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module", params=["embedded", "tensorflow_model_server"])
def server(request, served):
    made = toy.Embedded(served / toy.NAME) if request.param == "embedded" else toy.Real(served)
    yield made
    made.end()


@pytest.fixture(params=FRONTS)
def connect(request, server):
    """Makes clients of one front, with the options given."""
    from lisae_tf.serving.grpc_client import GrpcClient

    clients = []

    def make(model=toy.NAME, **options):
        if request.param == "grpc":
            clients.append(GrpcClient(model, server.grpc, **options))
        else:
            form = request.param.split()[1]
            clients.append(RestClient(model, server.rest, form=form, **options))
        return clients[-1]

    make().wait()
    yield make
    for client in clients:
        client.close()


def refusal(call, *arguments) -> str:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert "Traceback" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("count", [1, 2, 7, 64, 150])
def test_scores_of_any_batch(connect, count):
    images = toy.pictures(count, seed=count)
    found = connect().score(images)
    np.testing.assert_allclose(found.score, toy.expected(images, 2), rtol=1e-5)
    assert found.score.dtype == np.float32
    assert found.is_anomaly.tolist() == (found.score > toy.ALPHA).tolist()


def test_no_pictures_give_no_scores(connect):
    assert len(connect().score(toy.pictures(0)).score) == 0


def test_the_threshold_can_be_given_with_the_call(connect):
    images = toy.pictures(20)
    found = connect().score(images, threshold=0.15)
    assert found.is_anomaly.tolist() == (found.score > 0.15).tolist()
    assert 0 < found.is_anomaly.sum() < 20


def test_maps_come_on_request_alone(connect):
    images = toy.pictures(70)
    found = connect().error_maps(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, toy.expected_maps(images, 2), rtol=1e-5)
    assert connect().predict({"image": images}).keys() == {"score", "is_anomaly"}


def test_encoded_pictures(connect):
    images = toy.pictures(5)
    found = connect().score_encoded([toy.png(image) for image in images])
    np.testing.assert_allclose(found.score, toy.expected(images, 2), rtol=1e-5)


def test_versions_and_labels(connect):
    images = toy.pictures(3)
    for option, version in (
        ({"version": 1}, 1),
        ({"version": 2}, 2),
        ({"label": "stable"}, 1),
        ({"label": "canary"}, 2),
        ({}, 2),
    ):
        found = connect(**option).score(images)
        np.testing.assert_allclose(found.score, toy.expected(images, version), rtol=1e-5)


def test_classify_and_regress(connect):
    images = toy.pictures(6)
    examples = [{"image_bytes": toy.png(image)} for image in images]
    want = toy.expected(images, 2)
    np.testing.assert_allclose(connect().regress(examples), want, rtol=1e-5)
    found = connect().classify(examples)
    assert [pairs[0][0] for pairs in found] == [
        "anomaly" if score > toy.ALPHA else "normal" for score in want
    ]
    np.testing.assert_allclose([pairs[0][1] for pairs in found], want, rtol=1e-5)


def test_status(connect):
    assert {(each.version, each.state) for each in connect().status()} == {
        (1, "AVAILABLE"),
        (2, "AVAILABLE"),
    }
    assert [each.version for each in connect(version=1).status()] == [1]
    assert refusal(connect(version=9).status) == "NOT_FOUND"


def test_metadata(connect):
    found = connect().metadata()
    assert found["serving_default"]["inputs"]["image"]["dtype"] == "DT_UINT8"
    assert found["classify"]["method_name"] == "tensorflow/serving/classify"
    assert found["regress"]["method_name"] == "tensorflow/serving/regress"
    assert {"score_bytes", "with_threshold"} <= found.keys()


def test_refusals(connect):
    images = toy.pictures(2)
    assert refusal(connect("nobody").score, images) == "NOT_FOUND"
    assert refusal(connect(version=9).score, images) == "NOT_FOUND"
    assert refusal(connect(label="nightly").score, images) in INVALID
    assert refusal(connect().score, images[:, :3]) in INVALID
    assert refusal(connect().score_encoded, [b"no picture"]) in INVALID
    assert refusal(connect().score_encoded, [toy.png(images[0])[:40]]) in INVALID
    assert refusal(connect().predict, {"image": images}, "missing") in INVALID
    assert refusal(connect().predict, {"picture": images}) in INVALID
    assert refusal(connect().classify, [{"image_bytes": b"x"}], "serving_default") in INVALID
