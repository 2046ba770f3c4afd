"""Held-out parts: disjoint, exhaustive, no group divided; false alarms of each folder."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lisae_tf.config.sections import Data
from lisae_tf.config.settings import resolve
from lisae_tf.core.arrays import load_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json
from lisae_tf.core.thresholds import choose_threshold, wilson
from lisae_tf.data import checks, datasets, groups, manifest, parts
from lisae_tf.data.opened_folders import Folders
from lisae_tf.data.parts import split
from lisae_tf.data.tasks import load_test, load_training
from lisae_tf.evaluation.metrics import (
    Scored,
    auroc_interval,
    by_folder,
    chance_at_rate,
    chance_of_alarms,
    folder_remarks,
    independent,
)
from lisae_tf.report.run_report import metrics_of


@st.composite
def to_split(draw):
    groups = np.array(draw(st.lists(st.integers(0, 12), max_size=60)), np.int64)
    shares = draw(st.lists(st.floats(0.01, 0.5, exclude_max=True), min_size=1, max_size=3))
    return groups, shares, draw(st.integers(0, 99)), draw(st.booleans())


@given(case=to_split())
def test_parts_are_disjoint_exhaustive_and_divide_no_group(case):
    groups, shares, seed, grouped = case
    arguments = {"groups": groups if grouped else None}

    def parts():
        return split(len(groups), shares, **arguments, generator=np.random.default_rng(seed))

    try:
        first = parts()
    except LisaeError as error:
        assert f"{len(groups)} picture" in str(error)
        # Each part takes the pictures of its share and the rest of the group that goes beyond.
        sizes = np.unique(groups, return_counts=True)[1] if grouped else np.ones(len(groups))
        wanted = sum(max(1, round(share * len(groups))) for share in shares)
        assert wanted + len(shares) * (max(sizes, default=1) - 1) >= len(groups)
        return
    assert len(first) == 1 + len(shares)
    assert all(len(part) for part in first)
    assert sorted(np.concatenate(first)) == list(range(len(groups)))
    assert all(np.array_equal(a, b) for a, b in zip(first, parts(), strict=True))
    if grouped:
        kinds = [set(groups[part]) for part in first]
        assert sum(map(len, kinds)) == len(set(groups))


@given(count=st.integers(0, 200), seed=st.integers(0, 99))
def test_parts_have_the_size_of_their_share(count, seed):
    shares = [0.1, 0.2]
    wanted = [max(1, round(share * count)) for share in shares]
    if count <= sum(wanted):
        with pytest.raises(LisaeError, match="cannot be held apart for training"):
            split(count, shares, generator=np.random.default_rng(seed))
        return
    _, *held_out = split(count, shares, generator=np.random.default_rng(seed))
    assert [len(part) for part in held_out] == wanted


def test_seed_and_stream_decide_who_goes_where():
    pixels = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1)

    def fit(**options):
        return parts.split_side(pixels, Data(), **options)[0].fit.tolist()

    assert fit(seed=1, stream=0) == fit(seed=1, stream=0)
    assert fit(seed=1, stream=0) != fit(seed=1, stream=1)
    assert fit(seed=1, stream=0) != fit(seed=2, stream=0)


# The embedded photographs


@pytest.mark.parametrize("name", datasets.PHOTOGRAPHS)
def test_no_column_of_a_photograph_is_in_two_parts(name, monkeypatch):
    shape = datasets.photograph(name).shape
    columns = np.broadcast_to(np.arange(shape[1])[:, None], shape)  # each pixel says where it is
    monkeypatch.setattr(datasets, "photograph", lambda _: columns)
    used = [
        set(np.unique(datasets.patches(name, part)))
        for part in ("train", "stopping", "calibration", "test")
    ]
    assert all(len(part) >= datasets.PATCH for part in used)
    assert len(set.union(*used)) == sum(map(len, used))


def test_surfaces_are_read_part_by_part():
    config = resolve({"normal_class": ["gravel"]})
    data, test = load_training(config), load_test(config)
    for part in ("stopping", "calibration"):
        np.testing.assert_array_equal(getattr(data.normal, part), datasets.patches("gravel", part))
    np.testing.assert_array_equal(data.normal.fit, datasets.patches("gravel", "train"))
    np.testing.assert_array_equal(test.pixels[~test.is_anomaly], datasets.patches("gravel", "test"))
    assert set(test.labels) == {"gravel", "brick", "grass", "moon", "cell"}
    assert (data.shape, data.augment, data.notes) == ((32, 32, 1), False, ())


SIDE = 96


def scene(seed: int) -> np.ndarray:
    """A smooth picture of its own for each seed."""
    small = np.random.default_rng(seed).integers(0, 200, (6, 6)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def recompressed(picture: np.ndarray, gain: float = 1.0) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray((picture * gain).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream))


def write(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / name)
    return folder


def twice(count: int = 30, first: int = 0) -> dict[str, np.ndarray]:
    """Different pictures, each with a recompressed or brighter copy."""
    found = {}
    for k in range(count):
        found[f"{k:02d}_a.png"] = scene(first + k)
        found[f"{k:02d}_b.png"] = recompressed(scene(first + k), 1 + 0.05 * (k % 2))
    return found


def with_copies(part: str) -> set[str]:
    """What pictures of a group may be: all but one that calibrates are unused."""
    return {"calibration", "unused"} if part in ("calibration", "unused") else {part}


def settings(*normal: Path, **data):
    return resolve(
        {
            "dataset": "folder", "normal_dir": [str(each) for each in normal], "variant": "ae",
            "negatives": "none", "data": {"size": [32, 32], "channels": 1, **data},
        }
    )  # fmt: skip


def parts_of(opened: Folders) -> dict[str, str]:
    return {each.path: each.part for each in opened.manifest().entries}


@pytest.mark.parametrize("seed", range(3))
def test_near_copies_stay_in_one_part(tmp_path, seed):
    folder = write(tmp_path / "normal", twice())
    config = settings(folder).model_copy(update={"seed": seed})
    opened = Folders(config)
    part = parts_of(opened)
    for k in range(30):
        pair = [part[f"{k:02d}_a.png"], part[f"{k:02d}_b.png"]]
        assert set(pair) == with_copies(pair[0])
    counts = Counter(part.values())
    assert set(counts) == {*manifest.TRAINED_ON, "test", "unused"}
    assert counts["calibration"] == counts["unused"]
    assert [each.group for each in opened.manifest().entries][:4] == [
        "00_a.png", "00_a.png", "01_a.png", "01_a.png",
    ]  # fmt: skip
    assert opened.normals[0].notes == [
        "60 normal pictures are in 30 groups of copies and near copies, each kept in one part, "
        "where it counts once for the threshold"
    ]


def test_without_near_copies_a_folder_is_divided_as_it_always_was(tmp_path):
    pictures = {f"{k:02d}.png": scene(k) for k in range(40)}
    opened = Folders(settings(write(tmp_path / "normal", pictures)))
    digests = [each.sha256 for each in opened.manifest().entries]
    part = parts_of(opened)
    assert len(set(digests)) == 40
    # By the ranks of the pictures' contents, seed 0, stream 0.
    from lisae_tf.data.parts import side_indices
    from lisae_tf.data.pictures import content_hashes

    found = opened.normals[0].found
    ranks = np.unique(content_hashes(found.pixels), return_inverse=True)[1]
    wanted = side_indices(
        40, opened.config.data, seed=0, stream=0, groups=ranks, with_test=True
    )  # fmt: skip
    for name, rows in zip(("fit", "stopping", "calibration", "test"), wanted, strict=True):
        assert {path for path, own in part.items() if own == name} == {
            f"{row:02d}.png" for row in rows
        }


def test_parts_that_look_alike_under_one_camera_are_no_single_group(tmp_path):
    noise = np.random.default_rng(0)
    pictures = {
        f"{k:02d}.png": scene(0) // 2 + noise.integers(0, 5, (SIDE, SIDE), np.uint8)
        for k in range(40)
    }  # fmt: skip
    opened = Folders(settings(write(tmp_path / "normal", pictures)))
    assert set(parts_of(opened).values()) == {"fit", "stopping", "calibration", "test"}
    (note,) = opened.normals[0].notes
    assert "only exact copies are kept in one part" in note and "--group-by" in note


def test_a_later_folder_follows_the_parts_of_its_near_copies(tmp_path):
    first = write(tmp_path / "first", {f"{k:02d}.png": scene(k) for k in range(40)})
    later = {f"{k:02d}.png": recompressed(scene(k)) for k in range(20)}
    later |= {f"{k:02d}.png": scene(100 + k) for k in range(20, 40)}
    second = write(tmp_path / "second", later)
    alone = parts_of(Folders(settings(first)))
    entries = Folders(settings(first, second)).manifest().entries
    part = {(each.number, each.path): each.part for each in entries}
    for k in range(40):
        assert part[0, f"{k:02d}.png"] == alone[f"{k:02d}.png"]
    for k in range(20):
        # The copy of a picture that calibrates says nothing more.
        own = alone[f"{k:02d}.png"]
        assert part[1, f"{k:02d}.png"] == ("unused" if own == "calibration" else own)


def test_names_group_pictures_across_folders(tmp_path):
    def views(name: str, start: int) -> dict[str, np.ndarray]:
        return {
            f"part{k:02d}_{name}{v}.png": scene(start + 3 * k + v)
            for k in range(20) for v in range(3)
        }  # fmt: skip

    first = write(tmp_path / "first", views("front", 0))
    second = write(tmp_path / "second", views("back", 1000))
    opened = Folders(settings(first, second, group_by="^(part[0-9]+)_"))
    entries = opened.manifest().entries
    assert {each.group for each in entries} == {f"part{k:02d}" for k in range(20)}
    by_group = {}
    for each in entries:
        by_group.setdefault(each.group, set()).add(each.part)
    for found in by_group.values():
        assert found == with_copies(min(found))
    calibrating = Counter(each.group for each in entries if each.part == "calibration")
    assert len(calibrating) > 1 and set(calibrating.values()) == {1}
    assert opened.normals[0].notes == [
        "60 normal pictures are in 20 groups by name (--group-by), each kept in one part, where it "
        "counts once for the threshold"
    ]


@pytest.mark.parametrize("seed", range(3))
def test_a_threshold_rests_on_one_picture_of_each_group_whatever_its_name(tmp_path, seed):
    named = {f"{k:02d}_{v}.png": scene(3 * k + v) for k in range(40) for v in range(3)}
    folder = write(tmp_path / "normal", named)
    config = settings(folder, group_by="^([0-9]+)_", calibration_fraction=0.4)
    opened = Folders(config.model_copy(update={"seed": seed}))
    calibrating = [path for path, part in parts_of(opened).items() if part == "calibration"]
    assert len({path[:2] for path in calibrating}) == len(calibrating) >= 10
    # Names tell one view from another, and a new picture may be any of them.
    assert len({path[3] for path in calibrating}) == 3
    assert len(opened.normals[0].indices[2]) == len(calibrating)


def test_the_first_group_or_the_whole_match_names_a_group():
    paths = ["a/1.png", "a/2.png", "b/1.png"]
    assert groups.named(paths, "^(.*?)/", "normal") == ["a", "a", "b"]
    assert groups.named(paths, r"\d", "normal") == ["1", "2", "1"]
    with pytest.raises(LisaeError, match=r"1 normal file does not match --group-by 'a': b/1.png"):
        groups.named(paths, "a", "normal")
    assert groups.named(paths, "^(a)|.*", "normal") == ["a", "a", "b/1.png"]


def test_near_copies_are_those_of_other_quality_and_brightness():
    base = scene(0)
    pictures = np.stack([base, recompressed(base), recompressed(base, 1.05), scene(1),
                         np.roll(base, 4, axis=1), recompressed(base, 0.6)])[..., None]  # fmt: skip
    assert checks.near_groups(pictures).tolist() == [0, 0, 0, 3, 4, 5]


# `train` options under which a run has nothing to train.
SOLVED = (
    *("--variant", "linear-ae", "--features", "none", "--set", "network.latent=4"),
    *("--set", "data.size=[12, 12]", "--set", "data.calibration_fraction=0.4"),
)


@pytest.mark.parametrize("by", [(), ("--group-by", r"^\d+")], ids=["near copies", "names"])
def test_intervals_of_a_test_count_each_group_once(workplace, cli, by):
    """Views of one part, or frames of one video, are no pictures more."""
    pictures = twice(30) if not by else {f"{k:02d}_{v}.png": scene(2 * k + v) for k in range(30)
                                         for v in range(2)}  # fmt: skip
    write(Path("views"), pictures)
    bad = {f"{name[:2]}x{name[2:]}": pixels[::-1] for name, pixels in [*pictures.items()][:16]}
    write(Path("bad"), bad)
    options = ("--normal-dir", "views", "--anomaly-dir", "bad", *SOLVED, *by)
    result = cli("train", *options, "--out", "run")
    assert result.exit_code == 0, result.stderr
    found = read_json(Path("run/metrics.json"))
    normal, alone = found["n_normal"], found["n_normal_groups"]
    assert 2 * alone == normal >= 6
    assert found["n_anomaly"] == 2 * found["n_anomaly_groups"] == 16
    low, high = auroc_interval(found["auroc"], alone, 8)
    assert f"(95 %: {low:.3f} to {high:.3f}; {normal} normal, 16 anomalies)" in result.output
    note = (
        f"note: {alone + 8} of the {normal + 16} test pictures are copies or near copies of "
        "others there, or of one group: intervals and chances count each group once"
    )
    assert note in result.output
    assert cli("calibrate", "--run", "run", "--threshold", "0").exit_code == 0
    stored = load_arrays(Path("run/scores.npz"))[0]
    test = Scored(stored["test"], stored["is_anomaly"])
    rows = {row.name: (row.low, row.high) for row in metrics_of(test, 0.0, independent(found))}
    assert rows["AUROC"] == pytest.approx((low, high))
    assert rows["false alarms at the threshold"] == pytest.approx(wilson(alone, alone))
    threshold = choose_threshold(stored["calibration"], 0.5)
    assert chance_at_rate(threshold, 0.5, alone) == chance_of_alarms(
        threshold, round(alone / 2), alone
    )


def test_train_stores_groups_and_says_how_many(workplace, cli):
    write(Path("views"), twice(20))
    result = cli(
        "train", "--normal-dir", "views", *SOLVED, "--out", "grouped", "--group-by", r"^\d+"
    )
    assert result.exit_code == 0, result.stderr
    assert "40 normal pictures are in 20 groups by name (--group-by)" in result.output
    lines = (Path("grouped") / manifest.FILE).read_text().splitlines()
    assert {json.loads(line)["group"] for line in lines} == {f"{k:02d}" for k in range(20)}
    assert "group_by: ^\\d+" in (Path("grouped") / "config.yaml").read_text()


def test_a_manifest_of_an_earlier_version_has_no_groups(workplace):
    path = Path("runs/normal-lis-seed0") / manifest.FILE
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row.pop("group")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert {each.group for each in manifest.read(path.parent).entries} == {""}


def scored(*normal: np.ndarray) -> Scored:
    scores = np.concatenate([*normal, [9.0]])
    return Scored(scores, np.arange(len(scores)) == len(scores) - 1)


def test_a_folder_of_which_every_picture_is_flagged_is_told():
    random = np.random.default_rng(0)
    threshold = choose_threshold(random.random(240), 0.2)
    test = scored(random.random(200), 5 + random.random(40))
    found = by_folder(test, {"good": 200, "odd": 40}, threshold)
    assert (found["odd"]["n"], found["odd"]["alarms"]) == (40, 40)
    assert found["odd"]["false_positive_rate"] == 1
    assert found["good"]["false_positive_rate"] < 0.3
    (said,) = folder_remarks(found, 0.2)
    assert said.startswith("40 of the 40 normal test pictures of odd are called anomalous, more")
    assert "20 % are asked for" in said


def test_within_chance_nothing_is_said():
    random = np.random.default_rng(1)
    threshold = choose_threshold(random.random(200), 0.2)
    found = by_folder(scored(*random.random((2, 50))), {"a": 50, "b": 50}, threshold)
    assert folder_remarks(found, 0.2) == []


@pytest.mark.parametrize("counts", [{"a": 20}, {"a": 20, "b": 0}, {"a": 5, "b": 5}])
def test_one_folder_or_counts_of_other_pictures_say_nothing(counts):
    threshold = choose_threshold(np.arange(40.0), 0.2)
    assert by_folder(scored(np.arange(20.0)), counts, threshold) == {}


def test_train_evaluate_and_calibrate_tell_each_folder(workplace, picture_folder, cli):
    picture_folder(Path("other"), 30, level=190)
    sides = ("--normal-dir", "normal", "--normal-dir", "other", "--anomaly-dir", "anomaly")
    result = cli("train", *sides, *SOLVED, "--out", "two")
    assert result.exit_code == 0, result.stderr
    found = read_json(Path("two/metrics.json"))["by_folder"]
    assert {name: row["n"] for name, row in found.items()} == {"normal": 5, "other": 3}
    assert " % of 3 normal test pictures called anomalous" in result.stdout
    again = cli("evaluate", "--run", "two")
    assert json.loads(again.stdout)["by_folder"] == found
    assert cli("calibrate", "--run", "two", "--fpr", "0.9").exit_code == 0
    lowered = read_json(Path("two/metrics.json"))["by_folder"]
    assert sum(row["alarms"] for row in lowered.values()) > 0
    assert lowered != found
    # From a threshold that was set by hand nothing follows, not even that it is exceeded too often.
    assert cli("calibrate", "--run", "two", "--threshold", "1e-6").exit_code == 0
    result = cli("evaluate", "--run", "two")
    assert result.exit_code == 0 and "more than chance" not in result.stderr
    by_folder = json.loads(result.stdout)["by_folder"]
    assert by_folder.keys() == found.keys()
    assert all(row["alarms"] == row["n"] for row in by_folder.values())
