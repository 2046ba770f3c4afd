"""What users do wrong, and the words of the one sentence that answers: tables, a line a mistake.

A command that refuses leaves every file as it was.
"""

import io
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_sentence, contents, copied
from test_protocols import TEN, roles

from lisae_tf.config.sections import LatentShaping
from lisae_tf.config.settings import assignments, parse_yaml, read_settings, resolve
from lisae_tf.config.tiling import Tiling
from lisae_tf.config.variants import PICTURES_ONLY
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.thresholds import choose_threshold
from lisae_tf.data import picture_files, pictures
from lisae_tf.data.protocols import class_numbers
from lisae_tf.experiments.settling import settle
from lisae_tf.exported.runtimes import open_model
from lisae_tf.runs import folders as runs
from lisae_tf.serving.rest_client import RestClient
from lisae_tf.training.latent_shaping import resolve_gamma

# Commands, in a working folder with a run and the places that `spoil_places` makes.

RUN = "runs/normal-lis-seed0"
NORMAL = "train --normal-dir normal"
BOTH = f"{NORMAL} --negative-dir negative"
COMMANDS = [
    ("train --normal-dir nowhere", "nowhere does not exist"),
    (f"{NORMAL} --negative-dir nowhere", "nowhere does not exist"),
    (f"{BOTH} --anomaly-dir nowhere", "nowhere does not exist"),
    ("train --normal-dir empty", "empty holds no PNG, JPEG, BMP, TIFF or WebP"),
    ("train --normal-dir corrupt --negative-dir negative", "corrupt/031.jpg is damaged"),
    ("train --normal-dir single --negative-dir negative", "holds 1 usable normal picture"),
    (f"{NORMAL} --negative-dir normal", "holds the same picture as"),
    (f"{NORMAL} --negative-dir copies", "copies/copy.png (negative) holds the same"),
    (f"{BOTH} --anomaly-dir negative", "the same picture as"),
    (f"{NORMAL} --negatives other-half",
     "take --negative-dir or --negatives strokes|synth:GENERATOR|none, not"),
    ("train --normal-dir same --negative-dir negative", "30 pictures (1 different"),
    *((f"{NORMAL} --features none --variant {name}", name, "works on features, not on pixels")
      for name in ("knn", "mahalanobis")),
    (f"{NORMAL} --negatives none", "use --variant ae"),
    (f"{BOTH} --dataset mnist", "exclude each other"),
    ("train --dataset mnits", "there is no dataset called 'mnits'"),
    ("train --normal-class gravle", "did you mean 'gravel'?"),
    ("train --anomaly-class brik", "did you mean 'brick'?"),
    ("train --normal-class 10", "a number from 0 to 9"),
    ("train --negatives surfaces:brick", "tested on"),
    ("train --set latent_shaping.gama=1", "did you mean 'gamma'?"),
    ("train --set seed=x", "valid integer"),
    ("train --variant lise", "did you mean 'lis'?"),
    ("train --protocol one_class", "did you mean 'one-class'?"),
    ("train --config key.yaml", "key.yaml: unknown setting 'sed'"),
    ("train --config broken.yaml", "broken.yaml: broken YAML in line 2"),
    ("train --config no.yaml", "no.yaml cannot be read"),
    ("train --negative-dir some", "go with --normal-dir"),
    ("train --anomaly-dir some", "go with --normal-dir"),
    ("train --test-dir some", "go with --normal-dir"),
    ("train --group-by x", "--normal-dir"),
    (f"{NORMAL} --group-by '('", "group_by must be a regular expression"),
    ("train --mvtec part --normal-dir x", "--mvtec and --normal-dir exclude each other"),
    ("train --mvtec part --mask-dir x", "--mvtec and --mask-dir exclude each other"),
    ("train --mvtec part --dataset mnist", "--dataset and --mvtec exclude each other"),
    (f"{NORMAL} --test-dir x --anomaly-dir y", "leave it or --anomaly-dir out"),
    (f"{NORMAL} --mask-dir x", "masks need anomalies"),
    (f"{NORMAL} --negative-mask-dir x", "need negatives; name"),
    (f"{NORMAL} --test-dir x", "x does not exist; check the"),
    (f"{NORMAL} --data-root /nowhere", "--continue or --resume"),
    (f"{NORMAL} --data-root /nowhere=/there", "--continue or --resume"),
    (f"{NORMAL} --set data.size=[12,12]", "pictures of 12x12 (width x height) are too small for"),
    ("score nan.npy", "nan.npy holds NaN or infinite values"),
    ("score size.npy", "(3, 12, 13, 3), but the model takes (N, 12, 12, 3)"),
    ("score channels.npy", "(3, 12, 12, 1), but the model takes (N, 12, 12, 3)"),
    ("score grey.npy", "(3, 12, 12), but the model takes"),
    ("score range.npy", "outside 0-1"),
    ("score objects.npy", "not a plain NumPy array"),
    ("score normal no.png", "no.png does not exist"),
    ("score empty", "empty holds no PNG"),
    ("score key.yaml", "key.yaml is not a readable PNG, JPEG, BMP, TIFF or WebP"),
    ("score corrupt", "corrupt/031.jpg is damaged"),
    ("score --list gone.txt", "2 of the 3 files in gone.txt"),
    ("score --list blank.txt", "blank.txt lists no file"),
    ("score --list columns.csv", "columns.csv has no column of paths"),
    ("score --list blank.csv", "blank.csv has no column of paths"),
    ("score --list no.txt", "no.txt is no file that lists pictures"),
    ("score normal --run no", "the run folder no does not exist"),
    ("score normal --run normal", "the run in normal is not complete"),
    ("score normal --out no/a.csv", "cannot write no/a.csv"),
    ("score normal --out empty", "empty is no regular file"),
    ("calibrate --fpr 0.01", "20 calibration pictures support a false-positive rate of 0.0476",
     "at least 99 normal pictures"),
    ("calibrate --fpr 0", "must lie between 0 and 1"),
    ("calibrate --fpr nan", "must lie between 0 and 1"),
    ("calibrate --fpr 0.1 --normal-dir no", "no does not exist"),
    ("calibrate --fpr 0.1 --normal-dir normal", "a threshold from them would be too low"),
    ("calibrate --fpr 0.1 --run no", "no does not exist"),
    ("calibrate --undo", "there is nothing to undo"),
    ("calibrate --undo --fpr 0.1", "give it alone"),
    ("calibrate --threshold nan", "the threshold must be a number like the scores"),
    ("calibrate --threshold inf", "the threshold must be a number like the scores"),
    ("calibrate --threshold -0.1", "which begin at 0, not -0.1"),
    ("calibrate --threshold 0.1 --fpr 0.1", "give it alone"),
    ("calibrate --threshold 0.1 --undo", "give it alone"),
    ("calibrate --threshold 0.1 --normal-dir normal", "give it alone"),
    ("calibrate --threshold 0.1 --model m.onnx", "m.onnx does not exist"),
    ("evaluate --data-root /nowhere", "write OLD=NEW"),
    ("evaluate --data-root /nowhere=/there", "no folder of the run lies in /nowhere"),
    ("data check --normal-dir normal/000.png", "normal/000.png", "is no folder of pictures",
     ".txt, .csv"),
    ("data check --normal-dir list.txt", "1 of the 1 files in list.txt does not exist: no.png"),
    ("runs list normal", "normal holds no run"),
    (f"runs compare {RUN}", "name two or more"),
    (f"runs compare {RUN} no", "no does not exist"),
]  # fmt: skip
WRITTEN = {"train": "--out new --quiet", "score": "--out scores.csv"}
# These show the usage before their sentence.
USAGE = ["trian", "train --no-such", "score", "calibrate", "score a --format x"]


@pytest.fixture(scope="module")
def spoilt(trained, tmp_path_factory, picture_folder, spoil_places):
    base = spoil_places(copied(trained, tmp_path_factory.mktemp("spoilt"), RUN))
    grey = np.zeros((3, 12, 12, 3), np.float32)
    grey[1, 2, 3] = np.nan
    for name, array in {
        "nan": grey,
        "size": np.zeros((3, 12, 13, 3), np.uint8),
        "channels": np.zeros((3, 12, 12, 1), np.uint8),
        "grey": np.zeros((3, 12, 12), np.uint8),
        "range": np.full((3, 12, 12, 3), 1.5),
        "objects": np.array([{}]),
    }.items():
        np.save(base / f"{name}.npy", array)
    for name in ("train/good", "test/hole"):
        picture_folder(base / "part" / name, 1)
    (base / "same").mkdir()
    for index in range(30):
        shutil.copy(base / "single" / "000.png", base / "same" / f"{index}.png")
    for name, text in {
        "list.txt": "no.png\n",
        "gone.txt": "single/gone.png\nsingle/000.png\nelse.png\n",
        "blank.txt": "\n",
        "columns.csv": "a,b\n1,2\n",
        "blank.csv": "",
    }.items():
        (base / name).write_text(text)
    return base


@pytest.fixture(scope="module")
def untouched(spoilt):
    """What `spoilt` holds, before and after every command."""
    return contents(spoilt)


@pytest.mark.parametrize(("line", "words"), [(row[0], row[1:]) for row in COMMANDS])
def test_a_wrong_command_is_one_sentence_and_changes_no_file(
    line, words, spoilt, untouched, cli, monkeypatch
):
    monkeypatch.chdir(spoilt)
    if "--out" not in line:
        line = f"{line} {WRITTEN.get(line.split()[0], '')}"
    assert_one_sentence(cli(*shlex.split(line)), *words)
    assert contents(spoilt) == untouched
    assert not Path("new").exists()


@pytest.mark.parametrize("line", USAGE)
def test_a_wrong_command_line_ends_with_its_error(line, cli):
    result = cli(*line.split())
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")


# Calls: a function, what it is given, the words. Where `place` is given, it is a folder.


def assigned(*items):
    return settle({}, None, items)


def own(*items, **given):
    return settle({"normal_dir": "good"} | given, None, items)


def in_file(content):
    def read(place):
        (place / "mine.yaml").write_bytes(content)
        return settle({}, place / "mine.yaml", [])

    return read


def begun(*names, text="", **how):
    """A run that begins in a folder with these files."""

    def claim(place):
        for name in names:
            (place / name).write_text(text)
        try:
            runs.claim(place, "seed: 0\nvariant: ae\n", **how)
        finally:
            assert contents(place).keys() == set(names)

    return claim


def of_class(wrong):
    return class_numbers([wrong], ["brick", "gravel", "moon"])


def nested(path):
    *section, key = path.split(".")
    return (f"{section[0]}:\n  {key}: 1\n" if section else f"{key}: 1\n").encode()


def stored_array(content):
    """An array, or the bytes of its file, for a model of pictures of 4x4."""

    def read(place):
        if isinstance(content, bytes):
            (place / "a.npy").write_bytes(content)
        else:
            np.save(place / "a.npy", content)
        return pictures.load_array(place / "a.npy", (4, 4, 1))

    return read


def archive():
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros((2, 4, 4, 1)))
    return stream.getvalue()


def levels(value, dtype):
    """Pictures of which one pixel has this value."""
    array = np.zeros((3, 4, 4, 1), dtype)
    array[2, 1, 1, 0] = value
    return pictures.array_to_uint8(array, "mine")


def model(name):
    def load(place):
        (place / "empty").mkdir()
        for file in ("model.h5", "model.pkl"):
            (place / file).write_bytes(b"\x80\x04.")
        return open_model(place / name)

    return load


UNKNOWN = {
    "varient": "variant", "seeds": "seed", "latent_shapin": "latent_shaping",
    "gamma": "latent_shaping.gamma", "latent_shaping.gama": "gamma", "network.latnet": "latent",
    "calibration.false_positive": "false_positive_rate",
}  # fmt: skip
CHOICES = {
    "variant=lin-sep": "'linsep'", "protocol=half": "'halves'", "data.channels=4": "'3'",
    "latent_shaping.hinge=squared": "'squared-hinge'",
}  # fmt: skip
VALUES = {
    "seed=abc": "integer", "seed=1.5": "integer", "seed=true": "integer",
    "seed=-1": "greater than or equal to 0", "seed=2147483648": "less than 2147483648",
    "network.filters=[8]": "at least 2 items", "network.latent=0": "or equal to 1",
    "network=3": "dictionary", "network=": "dictionary", "data.size=[4, 4]": "equal to 8",
    "normal_class=8": "valid list", "normal_class=[]": "at least 1 item",
    "latent_shaping.gamma=0": "greater than 0", "latent_shaping.gamma=.inf": "finite",
    "latent_shaping.closed_form=yes please": "boolean", "dataset=5": "string",
    "data.test_fraction=0.5": "less than 0.5",
    "calibration.false_positive_rate=1": "less than 1",
    "scoring.highest_share=0.0": "greater than 0", "scoring.highest_share=-0.1": "greater than 0",
    "scoring.highest_share=1.01": "equal to 1", "scoring.highest_share=.nan": "equal to 1",
}  # fmt: skip
CALLS = [
    *((assigned, (f"{path}=1",), f"settings: unknown setting '{path}'; did you mean '{right}'?")
      for path, right in UNKNOWN.items()),
    *((in_file(nested(path)), "place", f"mine.yaml: unknown setting '{path}'; did you mean "
       f"'{right}'?") for path, right in UNKNOWN.items()),
    *((assigned, (item,), "settings: {} cannot be".format(item.partition("=")[0]),
       f"did you mean {right}") for item, right in CHOICES.items()),
    *((assigned, (item,), "settings: {}".format(item.partition("=")[0]), reason, "(given: ")
      for item, reason in VALUES.items()),
    *((assignments, ([item],), f"--set {item}: write it as path=value")
      for item in ("gamma", "=3", "seed")),
    (in_file(b"seed: 1\nnetwork: [1\n"), "place", "mine.yaml: broken YAML in line 3: "),
    (in_file(b"a: 1\n\n\tb: 2"), "place", "mine.yaml: broken YAML in line 3: "),
    (in_file(b"seed: 'x\n"), "place", "mine.yaml: broken YAML in line 2: "),
    (in_file(b"a: !!x y"), "place", "mine.yaml: broken YAML in line 1: "),
    *((in_file(content), "place", "mine.yaml")
      for content in (b"- a\n", b"", b"text", b"\xff\xfe\x00")),
    *((parse_yaml, (text, "it"), "it: broken YAML")
      for text in ("a: 2024-13-45", "a: \x07", "a: !!int x", "a: " + 5000 * "1", 5000 * "[")),
    (lambda place: read_settings(place / "no.yaml"), "place", "no.yaml cannot be read"),
    (lambda: own(dataset="mnist"), (), "--dataset and --normal-dir exclude"),
    (own, ("dataset=mnist",), "exclude each other"),
    (settle, ({"negative_dir": "bad"}, None, []), "exclude each other"),
    (settle, ({"dataset": "folder"}, None, []), "needs --normal-dir"),
    (resolve, ({"latent_shaping": {"cache_features": False, "bank": 3}},), "unknown setting"),
    (own, ("features.tap=[a]",), "unknown setting 'features.tap'; did you mean 'taps'?"),
    (own, ("unusual_share=0.1",), "'unusual_share'; did you mean 'features.unusual_share'?"),
    (lambda: own(features="resnet"), (), "features.backbone cannot be 'resnet'; did you mean 'res"),
    (own, ("features.local_mean=4",), "features.local_mean cannot be 4; did you mean"),
    (own, ("features.unusual_share=0",), "features.unusual_share input should be greater than 0"),
    (own, ("features.taps=[]",), "features.taps list should have at least 1 item"),
    (own, ("features=3",), "features input should be"),
    *((lambda name=name: own(variant=name, features="efficientnet_lite0"), (),
       f"{name} does not work on features; give --features") for name in PICTURES_ONLY),
    # Folders of runs
    (begun("config.yaml", resume=False), "place", "is not empty; name another folder or add"),
    (begun("config.yaml", "metrics.json", resume=False), "place",
     "holds a complete run; name another folder with --out"),
    (begun("notes.txt", resume=False), "place", "is not empty; name another folder with --out"),
    (begun("config.yaml", text="seed: 1\nvariant: ae\n", resume=True), "place",
     "other settings (first difference: 'seed: 0'"),
    (begun("config.yaml", text="seed: 0\n", resume=True), "place",
     "other settings (first difference: 'its length'"),
    (begun("notes.txt", resume=True), "place", "holds no run to resume"),
    # Pictures and tiles
    (lambda place: pictures.decode(place / "no.png"), "place", "no.png does not exist; check the"),
    (lambda place: picture_files.find(place / "no"), "place", "no does not exist"),
    (picture_files.find, "place", "holds no PNG"),
    *((stored_array(np.zeros(shape)), "place", words, "but the model takes (N, 4, 4, 1)")
      for shape, words in (((2, 5, 4, 1), "(2, 5, 4, 1)"), ((2, 4, 4, 3), "(2, 4, 4, 3)"),
                           ((4, 4), "(4, 4)"))),
    (stored_array(np.zeros((0, 4, 4, 1))), "place", "without any picture"),
    (stored_array(np.zeros((2, 4, 4, 1), bool)), "place", "holds bool"),
    (stored_array(np.zeros((2, 4, 4, 1), complex)), "place", "holds complex128"),
    *((stored_array(content), "place", "a.npy is not a plain NumPy array file")
      for content in (np.array([{"a": 1}]), archive(), b"", b"PK\x03\x04", b"\x80\x04.",
                      b"\x93NUMPY\x01\x00\x04\x00{[( ")),
    (pictures.load_array, (Path("b.npy"), (4, 4, 1)), "b.npy does not exist"),
    *((levels, given, "mine holds ", words) for given, words in (
        ((np.nan, float), "NaN"), ((np.inf, float), "NaN or infinite"),
        ((1.01, float), "outside 0-1"), ((-0.01, float), "outside 0-1"),
        ((256, int), "outside 0-255"), ((-1, int), "outside 0-255"))),
    (Tiling, ((64, 64, 1), 32, 33), "leaves gaps"),
    (Tiling, ((64, 60, 1), 32, 16), "do not fill a width of 60; give 48 or 64"),
    (Tiling, ((16, 64, 1), 32, 16), "do not fill a height of 16; give 32 or 48"),
    # Models, γ and clients
    (model("nothing.onnx"), "place", "does not exist"),
    (model("model.h5"), "place", "is no exported model"),
    (model("model.pkl"), "place", "is no exported model"),
    (model("empty"), "place", "holds no SavedModel"),
    (resolve_gamma, (LatentShaping(gamma_times=10.0), 0.0), "set latent_shaping.gamma instead"),
    (lambda: RestClient("toy", version=1, label="stable"), (), "exclude"),
    # Thresholds
    *((lambda rate=rate: choose_threshold(np.arange(100), rate, nearest=True), (),
       "must lie between 0 and 1") for rate in (0, 1, -0.1, 2, np.nan)),
    *((choose_threshold, (scores, 0.1), "at least one normal picture, with finite scores")
      for scores in ([], [1, np.nan], [1, np.inf])),
    # Classes: negatives that are tested on or normal
    (of_class, ("gravle",), "no class 'gravle'; did you mean 'gravel'"),
    (of_class, ("Moon",), "no class 'Moon'; did you mean 'moon'"),
    *((of_class, (wrong,), f"no class '{wrong}'", "a number from 0 to 2")
      for wrong in (3, "3", -1, "1.0", "")),
    (roles, ("one-class", [8], "next-class"), "normal or tested on as anomalies (class j)"),
    (roles, ("one-class", [8], "other-half"), "normal or tested on"),
    (roles, ("one-class", [8], "toy"), "normal or tested on"),
    (roles, ("one-class", [8], "toy:8"), "(class i)"),
    (roles, ("one-class", [8], "toy:class b"), "(class b)"),
    (roles, ("two-class", [0], "toy:1"), "(class b)"),
    (roles, ("halves", [1], "next-class"), "(class c)"),
    (roles, ("halves", [1], "toy:4,5"), "(class e)"),
    (roles, ("halves", [1], "other-half", [5]), "(class f)"),
    (roles, ("halves", [1], "toy/with:3"), "(class d)"),
    # Tasks that make no sense
    (roles, ("two-class", [0, 2], "none"), "takes a pair such as 0,1"),
    (roles, ("two-class", [1, 2], "none"), "takes a pair such as 0,1"),
    (roles, ("next-class", [0, 1], "none"), "takes one normal class"),
    (roles, ("halves", [4, 5], "none"), "normal classes of one half"),
    (roles, ("halves", [*range(5)], "none"), "leaves no anomaly class"),
    (roles, ("one-class", [*range(10)], "none"), "leaves no anomaly class"),
    (roles, ("one-class", [1], "none", [1, 2]), "both normal and anomaly"),
    *((roles, (protocol, [n - 1], "none", None, TEN[:n]), "protocol") for protocol, n in
      (("two-class", 1), ("two-class", 3), ("next-class", 2), ("halves", 2))),
    # Classes of another set, and what is made
    (roles, ("one-class", [8], "foreign:one"), "give the classes of foreign by number"),
    *((roles, ("halves", [1], f"{spec}+synth:elastic"), "pictures of their own before +synth:")
      for spec in ("none", "strokes", "synth:flip")),
    (roles, ("halves", [1], "other-half+synth:blur"), "there is no generator 'blur'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "given", "words"), [(row[0], row[1], row[2:]) for row in CALLS],
    ids=[f"{index} {row[2][:40]}" for index, row in enumerate(CALLS)],
)  # fmt: skip
def test_a_wrong_call_is_one_sentence(call, given, words, tmp_path):
    with pytest.raises(LisaeError) as refused:
        call(tmp_path) if given == "place" else call(*given)
    said = str(refused.value)
    assert "\n" not in said
    for word in words:
        assert word in said
