"""What lies beside an exported SavedModel for TensorFlow Serving."""

import re
import shutil

import export_fixtures
import yaml
from conftest import assert_one_sentence
from export_fixtures import path_of, strings

from lisae_tf.core.files import read_json, write_json

run, models, opened = export_fixtures.run, export_fixtures.models, export_fixtures.opened
detector, samples = export_fixtures.detector, export_fixtures.samples


def test_warm_up_requests_are_what_tensorflow_serving_replays(models, opened):
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    path = path_of(models, "savedmodel") / "assets.extra" / "tf_serving_warmup_requests"
    seen = {}
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = getattr(log, log.WhichOneof("log_type")).request
        assert request.model_spec.name == "tiny"
        signature = request.model_spec.signature_name
        if log.HasField("predict_log"):
            inputs = {key: tf.make_ndarray(each) for key, each in request.inputs.items()}
        else:
            examples = request.input.example_list.examples
            inputs = {"inputs": strings(*(each.SerializeToString() for each in examples))}
        seen.setdefault(signature, []).append(len(next(iter(inputs.values()))))
        opened["savedmodel"].loaded.run(signature, inputs)
    assert set(seen) == set(opened["savedmodel"].loaded.signatures)
    assert all(sizes == [1, 2, 4, 8, 16, 32, 64] for sizes in seen.values())


def message_class(name, fields):
    """A message of tensorflow.serving that the published stubs leave out."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto", package="tensorflow.serving", syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )  # fmt: skip
    for message, entries in fields.items():
        made = file.message_type.add(name=message)
        for number, (key, (kind, label, type_name)) in enumerate(entries, start=1):
            entry = made.field.add(name=key, number=number, type=kind, label=label)
            if type_name:
                entry.type_name = type_name
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))


def test_serving_files_are_valid_text_protocol_buffers(models):
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2 as stubs

    folder = models / "savedmodel"
    parsed = stubs.ModelServerConfig()
    text_format.Parse((folder / "models.config").read_text(), parsed)
    [entry] = parsed.model_config_list.config
    assert (entry.name, entry.base_path) == ("tiny", "/models/tiny")
    assert entry.model_version_policy.latest.num_versions == 2
    assert dict(entry.version_labels) == {"stable": 1, "canary": 1}

    wrapped, one, many = (11, 1, ".google.protobuf.Int64Value"), 1, 3
    batching = message_class(
        "BatchingParameters",
        {
            "BatchingParameters": [
                ("max_batch_size", wrapped), ("batch_timeout_micros", wrapped),
                ("max_enqueued_batches", wrapped), ("num_batch_threads", wrapped),
                ("thread_pool_name", (11, one, ".google.protobuf.StringValue")),
                ("allowed_batch_sizes", (3, many, "")),
            ]
        },
    )()  # fmt: skip
    text_format.Parse((folder / "batching.config").read_text(), batching)
    assert list(batching.allowed_batch_sizes)[-1] == batching.max_batch_size.value == 64

    monitoring = message_class(
        "MonitoringConfig",
        {
            "MonitoringConfig": [
                ("prometheus_config", (11, one, ".tensorflow.serving.PrometheusConfig"))
            ],
            "PrometheusConfig": [("enable", (8, one, "")), ("path", (9, one, ""))],
        },
    )()
    text_format.Parse((folder / "monitoring.config").read_text(), monitoring)
    assert monitoring.prometheus_config.enable

    compose = yaml.safe_load((folder / "docker-compose.yml").read_text())
    service = compose["services"]["serving"]
    assert len(service["ports"]) == 2
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    named = [option.rpartition("/models/")[2] for option in service["command"]
             if "/models/" in option]  # fmt: skip
    assert len(named) > 2 and all((folder / name).is_file() for name in named)


def test_batches_are_no_larger_than_large_pictures_allow(models, tmp_path):
    from export.serving_files import write_serving_files

    sizes = []
    for name, side in (("small", 64), ("large", 512), ("medium", 200)):
        version = shutil.copytree(path_of(models, "savedmodel"), tmp_path / name / "1")
        record = read_json(version / "lisae.json") | {"shape": [side, side, 3]}
        write_json(version / "lisae.json", record)
        write_serving_files(tmp_path)
        text = (tmp_path / "batching.config").read_text()
        sizes.append([int(line.split()[1]) for line in text.splitlines() if "allowed" in line])
        assert f"max_batch_size {{ value: {sizes[-1][-1]} }}" in text
    assert sizes == [[1, 2, 4, 8, 16, 32, 64], [1, 2, 4], [1, 2, 4]]


def test_stable_stays_until_somebody_moves_it(models, tmp_path):
    from export.serving_files import write_serving_files
    from lisae_tf.serving import model_config

    def config():
        write_serving_files(tmp_path)
        return model_config.read(tmp_path / "models.config", "tiny")

    for version in ("1", "2"):
        shutil.copytree(path_of(models, "savedmodel"), tmp_path / "tiny" / version)
        assert config().labels == {"stable": 1, "canary": int(version)}
    text = (tmp_path / "models.config").read_text()
    promoted = re.sub(r'(key: "stable"\s+value:) 1', r"\1 2", text)
    assert promoted != text
    (tmp_path / "models.config").write_text(promoted)
    (tmp_path / "batching.config").write_text("max_batch_size { value: 8 }\n")
    shutil.copytree(path_of(models, "savedmodel"), tmp_path / "tiny" / "3")
    assert config().newest == 3
    assert "value: 8" in (tmp_path / "batching.config").read_text()
    shutil.rmtree(tmp_path / "tiny" / "2")
    assert config().labels["stable"] == 3


def test_a_config_that_is_none_is_refused_before_anything_is_written(models, tmp_path, cli, run):
    shutil.copytree(path_of(models, "savedmodel"), tmp_path / "savedmodel" / "tiny" / "1")
    (tmp_path / "savedmodel" / "models.config").write_text("model_config_list {")
    before = sorted(tmp_path.rglob("*"))
    result = cli("export", "--run", run, "--format", "savedmodel", "--out", tmp_path)
    assert_one_sentence(result, "models.config is no model config file")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_version_that_is_copied_in_is_served(models, tmp_path):
    from export.serving_files import write_serving_files
    from lisae_tf.serving import model_config

    def copy(version):
        shutil.copytree(path_of(models, "savedmodel"), tmp_path / "tiny" / str(version))

    served = []
    for version in range(1, 7):
        copy(version)
        write_serving_files(tmp_path)
        config = model_config.read(tmp_path / "models.config", "tiny")
        assert config.labels == {"stable": 1, "canary": version}
        there = range(1, version + 1)
        assert config.choose(there) >= {1, version}
        served.append(config.choose([*there, version + 1]))  # the next one by hand
    assert served == [{1, 2}, {1, 2, 3}, {1, 2, 3, 4}, {1, 4}, {1, 5}, {1, 6}]
