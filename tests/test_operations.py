"""SavedModels hold the operations that exports write; others are refused before they are loaded."""

import shutil
from pathlib import Path

import export_fixtures
import numpy as np
import pytest
import serving_fixtures as toy
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from training_fixtures import tiny_config

from export.exportable import Exportable
from export.savedmodel import signatures
from lisae_tf.config.variants import GRAPHLESS, PICTURES_ONLY
from lisae_tf.core.errors import LisaeError
from lisae_tf.detectors import DETECTORS, make_detector
from lisae_tf.exported import operations
from lisae_tf.exported.runtimes import open_model
from lisae_tf.features.backbones import BACKBONES
from lisae_tf.model.scoring import scoring_graph

run, models = export_fixtures.run, export_fixtures.models

raw = tf.raw_ops


def _table(place):
    table = raw.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
    raw.InitializeTableFromTextFileV2(
        table_handle=table, filename=place, key_index=-2, value_index=-1
    )


def _summary(place):
    writer = raw.SummaryWriter()
    raw.CreateSummaryFileWriter(
        writer=writer, logdir=place, max_queue=1, flush_millis=1, filename_suffix=""
    )


def _lines(place):
    files = raw.TextLineDataset(filenames=place, compression_type="", buffer_size=0)
    raw.DatasetCardinality(input_dataset=files)


ATTACKS = {
    "SaveV2": lambda place: raw.SaveV2(
        prefix=place, tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(1)]
    ),
    "Save": lambda place: raw.Save(filename=place, tensor_names=["a"], data=[tf.constant(1)]),
    "CreateSummaryFileWriter": _summary,
    "MergeV2Checkpoints": lambda place: raw.MergeV2Checkpoints(
        checkpoint_prefixes=[place], destination_prefix=place, allow_missing_files=True
    ),
    "RestoreV2": lambda place: raw.RestoreV2(
        prefix=place, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.int32]
    ),
    "InitializeTableFromTextFileV2": _table,
    "TextLineDataset": _lines,
    "ReadFile": tf.io.read_file,
    "WriteFile": lambda place: tf.io.write_file(place, "x"),
    "PyFunc": lambda place: tf.numpy_function(lambda: np.int64(1), [], tf.int64),
    "PrintV2": lambda place: tf.print("x", output_stream=f"file://{place}"),
}


def write_spy(folder: Path, attack) -> Path:
    """A version folder with a valid record whose signature does something else as well."""

    class Spy(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, *toy.SHAPE), tf.uint8)])
        def answer(self, image):
            # Inside a branch, and so in a function of a function.
            tf.cond(tf.shape(image)[0] > 0, lambda: [attack(), 1][1], lambda: 0)
            score = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2, 3]) + self.threshold
            return {"score": score, "is_anomaly": score > self.threshold}

    spy = Spy()
    spy.threshold = tf.Variable(toy.ALPHA)
    tf.saved_model.save(spy, str(folder), spy.answer)
    toy.write_record(folder, 1)
    return folder


@pytest.mark.parametrize("operation", ATTACKS)
def test_a_graph_that_reaches_outside_is_refused_before_it_is_loaded(
    operation, tmp_path, monkeypatch
):
    folder = write_spy(tmp_path / "1", lambda: ATTACKS[operation](str(tmp_path / "x")))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(tf.saved_model, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(LisaeError, match=rf"\b{operation}\b.*export the model again"):
        open_model(folder).score(np.zeros((2, *toy.SHAPE), np.uint8))
    assert sorted(tmp_path.rglob("*")) == before


def saver_called(meta, name):
    """A signature that calls the saver's function."""
    for function in meta.graph_def.library.function:
        for node in function.node_def:
            if node.op.endswith("PartitionedCall") and node.attr["f"].func.name != name:
                node.attr["f"].func.name = name
                return


def saver_among_branches(meta, name):
    first = meta.graph_def.library.function[0].node_def[0]
    first.attr["branches"].list.func.add(name=name)


def saver_as_operation(meta, name):
    meta.graph_def.library.function[0].node_def[0].op = name


def saver_in_the_main_graph(meta, name):
    node = meta.graph_def.node.add(name="another", op="StatefulPartitionedCall")
    node.attr["f"].func.name = name


def saver_as_signature(meta, name):
    meta.signature_def["serving_default"].outputs["score"].name = meta.saver_def.save_tensor_name


def saver_as_object(meta, name):
    node = meta.object_graph_def.nodes.add()
    node.bare_concrete_function.concrete_function_name = name


def saver_in_place_of_another(meta, name):
    for function in meta.graph_def.library.function:
        if function.signature.name == name:
            function.attr["api_implements"].s = b"x"


def altered(tmp_path, change) -> Path:
    """The toy's version folder, changed, with a record that fits it."""
    folder = tmp_path / "1"
    shutil.copytree(toy.built(1), folder)
    path = folder / "saved_model.pb"
    stored = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(stored)
    path.write_bytes(stored.SerializeToString())
    toy.write_record(folder, 1)
    return folder


@pytest.mark.parametrize(
    "change",
    [saver_called, saver_among_branches, saver_as_operation, saver_in_the_main_graph,
     saver_as_signature, saver_as_object, saver_in_place_of_another],
)  # fmt: skip
def test_the_savers_own_functions_serve_the_saver_alone(change, tmp_path):
    def changed(stored):
        (meta,) = stored.meta_graphs
        names = [function.signature.name for function in meta.graph_def.library.function]
        change(meta, next(name for name in names if "traced_save" in name))

    with pytest.raises(LisaeError, match="SaveV2"):
        open_model(altered(tmp_path, changed))


def as_table(stored):
    stored.meta_graphs[0].object_graph_def.nodes[0].user_object.identifier = "static_hash_table"


def as_file(stored):
    stored.meta_graphs[0].object_graph_def.nodes.add().asset.asset_file_def_index = 0


def with_a_saver(stored):
    node = stored.meta_graphs[0].object_graph_def.nodes[0]
    node.saveable_objects["x"].restore_function = 1


@pytest.mark.parametrize("change", [as_table, as_file, with_a_saver])
def test_objects_that_run_something_when_they_are_loaded_are_refused(change, tmp_path):
    with pytest.raises(LisaeError, match=r"object .*export the model again"):
        open_model(altered(tmp_path, change))


def twice(stored):
    stored.meta_graphs.add().CopyFrom(stored.meta_graphs[0])


def without_objects(stored):
    stored.meta_graphs[0].ClearField("object_graph_def")


@pytest.mark.parametrize("change", [twice, without_objects])
def test_files_that_are_loaded_by_older_rules_are_refused(change, tmp_path):
    with pytest.raises(LisaeError, match="truncated or altered"):
        open_model(altered(tmp_path, change))


def test_an_export_is_loaded(models):
    path = export_fixtures.path_of(models, "savedmodel")
    assert open_model(path).score(np.zeros((1, 32, 32, 1), np.uint8)).shape == (1,)


def operations_of(*functions) -> set[str]:
    """Those of traced functions and of all functions that they call."""
    graphs = [each.graph.as_graph_def() for each in functions]
    parts = [graph.node for graph in graphs]
    parts += [each.node_def for graph in graphs for each in graph.library.function]
    return {node.op for part in parts for node in part}


SMALL = {
    "feature_extraction": {"epochs": 1},
    "latent_shaping": {"epochs": 1},
    "hypersphere": {"epochs": 1},
    "anogan": {"epochs": 1, "encoder_epochs": 1, "critic_steps": 1},
    "knn": {"bank": 50},
    "lis_knn": {"bank": 50},
}
OF_ROWS = ("mahalanobis", "knn", "lis-knn")  # they work on no pixels
POOLED = {"scoring": {"highest_share": 0.05}}
# Settings and shapes of pictures: a backbone's features, colours that are cropped, tiles.
KINDS = {
    "grey": ({}, (32, 32, 1)),
    "colour": ({"network": {"latent": 8, "filters": [4, 8]}}, (30, 30, 3)),
    "pooled": (POOLED, (32, 32, 1)),
    "tiles": ({"data": {"size": [32, 48], "tile": 16, "stride": 8}}, (32, 48, 1)),
    "features": ({"features": {"places": 1000, "made": 20}} | POOLED, (64, 64, 3)),
    "tiles of features": (
        {
            "features": {"places": 1000, "made": 20},
            "data": {"size": [96, 96], "tile": 64, "stride": 32},
        },
        (96, 96, 3),
    ),
}


@pytest.mark.slow("a training of every variant, and a trace of all its signatures")
@pytest.mark.parametrize(
    "variant, kind",
    [(name, kind) for name in DETECTORS if name not in GRAPHLESS for kind in KINDS
     if name not in (PICTURES_ONLY if "features" in kind else OF_ROWS)],
)  # fmt: skip
def test_every_operation_of_every_export_is_on_the_list(variant, kind):
    settings, shape = KINDS[kind]
    detector = make_detector(tiny_config(variant=variant, **SMALL | settings))
    random = np.random.default_rng(0)
    normal, negative = random.integers(0, 256, (2, 64, *shape)).astype(np.uint8)
    detector.fit(normal, negative if detector.needs_negatives else None)
    for dtype in ("uint8", "float32"):
        graph = scoring_graph(detector.inference(), error_map=detector.has_maps, dtype=dtype)
        made = signatures(Exportable(detector, graph, "m", dtype, {})).values()
        found = operations_of(*(each.get_concrete_function() for each in made))
        assert len(found) > 5
        assert found <= operations.OPERATIONS, found - operations.OPERATIONS


@pytest.mark.slow("builds backbones of up to 24 million weights")
@pytest.mark.parametrize("name", BACKBONES)
def test_every_operation_of_every_backbone_is_on_the_list(name):
    net = BACKBONES[name].network((64, 64, 3))
    function = tf.function(lambda x: net(x, training=False), autograph=False)
    image = tf.TensorSpec((None, 64, 64, 3), tf.float32)
    found = operations_of(function.get_concrete_function(image))
    assert len(found) > 5
    assert found <= operations.OPERATIONS, found - operations.OPERATIONS
