"""Which versions are served, what is loaded, and how a server says that it ends."""

import asyncio
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import serving_fixtures as toy
from conftest import contents

from lisae_tf.core.errors import LisaeError
from lisae_tf.exported.signatures import CODES, RequestError
from lisae_tf.serving import model_config
from lisae_tf.serving.limits import Limits
from lisae_tf.serving.versions import END, Versions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / toy.NAME
    toy.write_model(folder, 1)
    return folder


def test_the_config_file(tmp_path):
    toy.write_config(tmp_path, {"stable": 1}, newest=3)
    found = model_config.read(tmp_path / "models.config", toy.NAME)
    assert (found.newest, found.labels) == (3, {"stable": 1})
    assert found.choose([1, 2, 3, 4]) == {2, 3, 4}
    assert model_config.ModelConfig(specific=frozenset({1, 9})).choose([1, 2]) == {1}
    assert model_config.ModelConfig().choose([]) == set()
    assert model_config.ModelConfig(newest=None).choose([1, 2]) == {1, 2}
    assert model_config.find(tmp_path / toy.NAME) == tmp_path / "models.config"
    assert model_config.find(tmp_path / "a" / "b") is None
    with pytest.raises(LisaeError, match="nothing of the model"):
        model_config.read(tmp_path / "models.config", "other")
    for text in ("no config", "model_config_list {", "\x00", "x: 3"):
        (tmp_path / "models.config").write_text(text)
        with pytest.raises(LisaeError, match="no model config file"):
            model_config.read(tmp_path / "models.config", toy.NAME)


class Loader:
    """Loads folders that hold a file named `good`."""

    def __init__(self):
        self.calls = []

    def __call__(self, folder, version):
        self.calls.append(version)
        if not (folder / "good").exists():
            raise LisaeError("it is bad")
        return f"model {version}"


def version(base, number, good=True):
    (base / str(number)).mkdir()
    (base / str(number) / ("good" if good else "bad")).touch()


@pytest.fixture
def collected(monkeypatch):
    """How often garbage was collected; walking all of TensorFlow for strings takes a second."""
    calls = []
    monkeypatch.setattr("lisae_tf.serving.versions.gc.collect", lambda: calls.append(1))
    return calls


def test_a_version_that_fails_leaves_the_one_before_in_place(tmp_path, collected):
    loader = Loader()
    versions = Versions(tmp_path, "m", loader)
    versions.poll()
    assert versions.serving == []
    version(tmp_path, 1)
    versions.poll()
    assert versions.pick() == "model 1"
    version(tmp_path, 10, good=False)
    (tmp_path / "x").mkdir()
    versions.poll()
    versions.poll()
    assert (versions.serving, loader.calls) == ([1], [1, 10])
    assert versions.states[10].error == "it is bad"
    assert collected == []
    (tmp_path / "10" / "good").touch()
    versions.poll()
    assert versions.serving == [10]
    assert collected == [1]  # graphs are held in cycles
    with pytest.raises(RequestError) as caught:
        versions.pick(1)
    assert caught.value.code == "NOT_FOUND"
    shutil.rmtree(tmp_path / "10")
    versions.poll()
    assert versions.serving == [1]
    shutil.rmtree(tmp_path)
    versions.poll()
    assert versions.serving == [1]


def test_a_broken_newest_version_does_not_hide_a_good_one(tmp_path):
    version(tmp_path, 1)
    version(tmp_path, 2, good=False)
    versions = Versions(tmp_path, "m", Loader())
    versions.poll()
    assert versions.serving == [1]


def test_a_version_that_cannot_be_read_does_not_keep_others_waiting(tmp_path, collected):
    def load(folder, number):
        if not (folder / "good").exists():
            raise PermissionError(13, "Permission denied", str(folder))
        return f"model {number}"

    version(tmp_path, 1)
    version(tmp_path, 3, good=False)
    versions = Versions(tmp_path, "m", load)
    versions.poll()
    assert versions.serving == [1]
    assert versions.states[3].state == END
    assert "3 cannot be loaded (PermissionError: [Errno 13]" in versions.states[3].error
    version(tmp_path, 2)
    versions.poll()
    assert versions.serving == [2]
    (tmp_path / "3" / "good").touch()
    versions.poll()
    assert (versions.serving, versions.states[3].error) == ([3], "")


def test_a_version_is_tried_again_once_it_may_be_read(tmp_path):
    loader = Loader()
    versions = Versions(tmp_path, "m", loader)
    version(tmp_path, 1, good=False)
    for mode in (0o600, 0o600, 0o644):
        (tmp_path / "1" / "bad").chmod(mode)
        versions.poll()
        versions.poll()
    assert len(loader.calls) >= 2  # whose bytes are the same


def spoilt(number, change):
    def spoil(base):
        folder = base / str(number)
        shutil.copytree(toy.built(1), folder)
        change(folder)

    return spoil


def truncate(folder):
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:1000])


def truncate_with_record(folder):
    truncate(folder)
    toy.write_record(folder, 1)


def put_folder(folder):
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pb").mkdir()


def put_pipe(folder, name="lisae.json"):
    (folder / name).unlink()
    os.mkfifo(folder / name)


SPOILT = {
    "truncated": (truncate, "truncated"),
    "truncated with its record": (truncate_with_record, "truncated or altered"),
    "folder in place of the graph": (put_folder, "saved_model.pb is missing"),
    "pipe in place of the graph": (lambda f: put_pipe(f, "saved_model.pb"), "is missing"),
    "pipe in place of the record": (put_pipe, "lisae.json is no regular file"),
    "half copied": (lambda f: (f / "lisae.json").unlink(), "lisae.json is missing"),
    "link to itself": (lambda f: (f / "x").symlink_to("x"), "cannot be loaded"),
    "empty": (lambda f: shutil.rmtree(f) or f.mkdir(), "lisae.json is missing"),
}


@pytest.fixture
def beside(tmp_path):
    """A folder of one good version and of those that are spoilt."""
    base = tmp_path / toy.NAME
    toy.write_model(base, 1)
    for number, (change, _) in enumerate(SPOILT.values(), start=2):
        spoilt(number, change)(base)
    return base


def test_versions_that_cannot_be_loaded_are_named_and_keep_no_other_out(beside, caplog):
    from lisae_tf.serving import server

    def load(folder, number):
        return server.load(folder, beside, toy.NAME, number)

    before = contents(beside)
    versions = Versions(beside, toy.NAME, load)
    for _ in range(2):
        versions.poll()
        assert versions.serving == [1]
        for number, (_, words) in enumerate(SPOILT.values(), start=2):
            assert versions.states[number].state == END
            assert words in versions.states[number].error
    assert contents(beside) == before
    assert "Traceback" not in caplog.text


@pytest.mark.slow("a process for each of two starts; what they load is tested above")
def test_a_server_starts_beside_versions_that_cannot_be_loaded(beside):
    import requests

    base, before = beside, contents(beside)
    for _ in range(2):
        server = toy.Embedded(base)
        try:
            status = requests.get(f"http://{server.rest}/v1/models/{toy.NAME}", timeout=20).json()
        finally:
            assert server.end() == 0
        assert contents(base) == before
        found = {int(each["version"]): each for each in status["model_version_status"]}
        assert found.pop(1)["state"] == "AVAILABLE"
        for number, (_, words) in enumerate(SPOILT.values(), start=2):
            assert found[number]["state"] == "END"
            assert words in found[number]["status"]["error_message"]
        assert "Traceback" not in "".join(server.log)


def test_labels_follow_the_config_file(tmp_path):
    base = tmp_path / toy.NAME
    base.mkdir()
    for number in (1, 2, 3):
        version(base, number)
    toy.write_config(tmp_path, {"stable": 2, "old": 1})
    versions = Versions(base, toy.NAME, Loader())
    versions.poll()
    assert versions.serving == [2, 3]
    assert versions.pick(label="stable") == "model 2"
    for label, code in (("old", "NOT_FOUND"), ("canary", "INVALID_ARGUMENT")):
        with pytest.raises(RequestError) as caught:
            versions.pick(label=label)
        assert caught.value.code == code
    (tmp_path / "models.config").write_text("broken")
    versions.poll()
    assert versions.pick(label="stable") == "model 2"


@pytest.fixture
def ask(tmp_path):
    """Sends requests to the REST front of a service that is not yet or no longer quite there."""
    from aiohttp import ClientSession
    from aiohttp.test_utils import TestServer

    from lisae_tf.serving.metrics import Metrics
    from lisae_tf.serving.rest_server import RestServer
    from lisae_tf.serving.service import Service

    versions = Versions(tmp_path, "m", Loader())
    version(tmp_path, 1)
    versions.poll()

    async def answer(method, path, data, states):
        with ThreadPoolExecutor(1) as pool:
            service = Service(versions, Limits(read_seconds=0.1), Metrics(versions), pool, **states)
            front = TestServer(RestServer(service).application())
            async with front as server, ClientSession() as session:
                url = server.make_url(path)
                async with session.request(method, url, data=data) as found:
                    connection = found.headers.get("Connection", "keep-alive")
                    return found.status, connection, await found.json()

    return lambda method, path, data=None, **states: asyncio.run(answer(method, path, data, states))


def test_a_body_that_does_not_arrive_is_given_up(ask):
    async def never():
        yield b"{"
        await asyncio.sleep(60)

    status, _, answer = ask("POST", "/v1/models/m:predict", never())
    assert (status, list(answer)) == (CODES["DEADLINE_EXCEEDED"][1], ["error"])


def test_a_server_that_ends_says_so(ask):
    ready = {"ready": True, "versions": [1]}
    assert ask("GET", "/healthz") == (200, "keep-alive", ready)
    leaving = ask("GET", "/healthz", leaving=True)
    assert leaving == (503, "close", ready | {"ready": False})
    assert ask("GET", "/v1/models/m", leaving=True)[:2] == (200, "close")
    status, connection, answer = ask("GET", "/v1/models/m", leaving=True, refusing=True)
    assert (status, connection) == (503, "close")
    assert "is ending" in answer["error"]


def altered(model, tmp_path):
    folder = tmp_path / toy.NAME / "1"
    shutil.copytree(model / "1", folder)
    return folder


def load(folder):
    from lisae_tf.exported import saved_model
    from lisae_tf.serving import inference

    loaded = saved_model.load(folder, folder.parent, toy.NAME, 1)
    return inference.warm_up(loaded, folder, Limits())


def test_warm_up_runs_every_record(model):
    assert load(model / "1") == 3


def test_without_records_one_picture_is_run(model, tmp_path):
    folder = altered(model, tmp_path)
    shutil.rmtree(folder / "assets.extra")
    assert load(folder) == 1


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
def test_damaged_files_are_refused(model, tmp_path, file):
    path = altered(model, tmp_path) / file
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(LisaeError):
        load(path.parents[file.count("/")])


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: data[:-9] + b"x" * 9])
def test_damaged_warm_up_records_are_refused(model, tmp_path, damage):
    folder = altered(model, tmp_path)
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LisaeError, match="warm-up"):
        load(folder)


def test_links_out_of_the_folder_are_refused(model, tmp_path):
    folder = altered(model, tmp_path)
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pb").symlink_to(model / "1" / "saved_model.pb")
    with pytest.raises(LisaeError, match="leads out"):
        load(folder)


def test_graphs_that_open_files_are_refused(tmp_path):
    import tensorflow as tf

    class Spy(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.uint8)])
        def answer(self, image):
            data = tf.io.read_file("secrets")
            score = tf.reduce_sum(tf.cast(image, tf.float32), 1)
            return {"score": score, "is_anomaly": score > tf.strings.to_number(data)}

    spy = Spy()
    tf.saved_model.save(spy, str(tmp_path / "1"), spy.answer)
    with pytest.raises(LisaeError, match="ReadFile"):
        load(tmp_path / "1")


@pytest.mark.parametrize(
    "message",
    [
        "{{function_node f}} Invalid PNG data, size 60\n\t [[{{node map/DecodePng}}]] [Op:f]",
        "Graph execution error:\n\nDetected at node map/DecodePng defined at (most recent call "
        "last):\n<stack traces unavailable>\nInvalid PNG data, size 60\n\t [[{{node x}}]] [Op:f]",
        "Invalid PNG data, size 60",
    ],
)
def test_what_the_graph_refuses_is_said_without_the_code_around_it(message):
    import tensorflow as tf

    from lisae_tf.exported import saved_model

    error = tf.errors.InvalidArgumentError(None, None, message)
    assert saved_model.reason(error) == "Invalid PNG data, size 60"


def test_a_model_of_large_pictures_is_warmed_up_whatever_a_request_may_hold(tmp_path):
    import tensorflow as tf

    from lisae_tf.serving import server

    shape = (2400, 2400, 3)
    assert np.prod(shape) > Limits().body

    class Large(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.uint8, "image")])
        def answer(self, image):
            score = tf.reduce_mean(tf.cast(image[:, :2, :2], tf.float32), [1, 2, 3])
            return {"score": score, "is_anomaly": score > 0.5}

    large = Large()
    tf.saved_model.save(large, str(tmp_path / "1"), large.answer)
    toy.write_record(tmp_path / "1", 1)
    model = server.load(tmp_path / "1", tmp_path, toy.NAME, 1)
    assert model.run("", {"image": np.full((1, *shape), 255, np.uint8)})["score"] == 255


@pytest.mark.parametrize("shape", [(9, 40, 1), (9, 40, 3)])
def test_a_request_may_hold_one_picture_of_the_model(shape):
    whole = np.full((1, *shape), 255, np.uint8)
    for image in (whole, np.nextafter(whole / -3, 0, dtype=np.float32)):
        body = json.dumps({"signature_name": "with_threshold", "inputs": {"image": image.tolist()}})
        assert Limits(body=1).holding(shape, image.dtype.name).body > len(body)
    assert Limits().holding((64, 64, 3), "float32") == Limits()


def test_models_of_others_are_refused(tmp_path):
    import tensorflow as tf

    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.uint8)])
        def answer(self, image):
            return {"label": image[:, 0]}

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "1"), other.answer)
    with pytest.raises(LisaeError, match="serving_default"):
        load(tmp_path / "1")
