"""Folders as inspection sets come: MVTec's layout, kinds, masks, and masks among pictures."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    QUICK,
    assert_one_sentence,
    copied,
    load_folder_test,
    load_folder_training,
)
from PIL import Image

from lisae_tf.config.settings import read_settings, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import manifest, masks, pictures
from lisae_tf.data.layout import PictureSet, kind_of, mvtec_settings, subject
from lisae_tf.data.layout import test_sets as sets_of
from lisae_tf.data.parts import mirrored
from lisae_tf.data.tasks import load_masks
from lisae_tf.experiments import continuation
from lisae_tf.training.sharing import phase1_key

SIDE = 16
# `train` options as QUICK, without a network.
SOLVED = (
    *("--variant", "linear-lis", "--features", "none", "--set", "network.latent=4"),
    *("--set", "data.size=[12, 12]", "--set", "data.calibration_fraction=0.4"),
)
MASKS = ("scratch", "hole")  # kinds with masks; `dent` has none


def write_pictures(folder, count, seed, name="{:03d}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng([seed, index]).integers(40, 200, (SIDE, SIDE))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name.format(index))
    return folder


def write_mask(path, left=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:8, left : left + 4] = 255
    Image.fromarray(mask).save(path)


def write_mvtec(root):
    """A set in MVTec's layout."""
    write_pictures(root / "train/good", 40, seed=1)
    write_pictures(root / "test/good", 6, seed=2)
    for seed, (kind, count) in enumerate((("scratch", 3), ("hole", 2), ("dent", 4)), start=3):
        write_pictures(root / "test" / kind, count, seed)
        for index in range(count if kind in MASKS else 0):
            write_mask(root / "ground_truth" / kind / f"{index:03d}_mask.png")
    return root


@pytest.fixture
def mvtec(tmp_path, monkeypatch):
    """`part/` in MVTec's layout, as the working folder sees it."""
    monkeypatch.chdir(tmp_path)
    return write_mvtec(Path("part"))


def folder_config(root, **over):
    data = {"size": [SIDE, SIDE], "channels": 1}
    settings = {**mvtec_settings(root), "dataset": "folder", "negatives": "none", "data": data}
    return resolve(settings | over)


# Layout


def test_the_layout_is_ordinary_settings(mvtec):
    assert mvtec_settings(mvtec) == {
        "normal_dir": "part/train/good",
        "test_dir": "part/test",
        "mask_dir": "part/ground_truth",
    }
    for path in (mvtec / "ground_truth").rglob("*.png"):
        path.unlink()
    assert "mask_dir" not in mvtec_settings(mvtec)


def test_given_test_pictures_are_the_test_and_nothing_is_held_out_for_it(mvtec):
    config = folder_config(mvtec)
    data, test = (load(config, skip_bad=False) for load in (load_folder_training, load_folder_test))
    assert sum(map(len, (data.normal.fit, data.normal.stopping, data.normal.calibration))) == 40
    assert test.normal_counts == (6,)
    assert all("test/good" in label for label in test.labels[:6])
    kinds = ("",) * 6 + ("dent",) * 4 + ("hole",) * 2 + ("scratch",) * 3
    assert test.kinds == kinds
    np.testing.assert_array_equal(test.is_anomaly, np.array(kinds) != "")
    marked = load_masks(config, test)
    assert marked.known.tolist() == [False] * 4 + [True] * 5
    assert marked.notes == (
        "the anomaly pictures of the kind dent (4) have no masks; they do not count in the pixel "
        "figures",
    )


def test_without_good_the_test_is_as_with_anomalies_alone(mvtec):
    """Held-out normal pictures are the same ones, and so are the parts."""
    (mvtec / "test/good").rename(mvtec / "elsewhere")
    one = folder_config(mvtec)
    other = folder_config(mvtec, test_dir=None, anomaly_dir="part/test")
    for load in (load_folder_training, load_folder_test):
        first, second = (load(config, skip_bad=False) for config in (one, other))
        assert first.notes == second.notes
        if load is load_folder_training:
            np.testing.assert_array_equal(first.normal.fit, second.normal.fit)
            assert len(first.normal.fit) == 28
        else:
            assert first.labels == second.labels
            assert first.kinds == second.kinds
            assert first.normal_counts == (4,)


def test_what_stops_and_calibrates_does_not_depend_on_the_test(mvtec):
    given = load_folder_training(folder_config(mvtec), skip_bad=False).normal
    (mvtec / "test/good").rename(mvtec / "elsewhere")
    held_out = load_folder_training(folder_config(mvtec), skip_bad=False).normal
    np.testing.assert_array_equal(given.stopping, held_out.stopping)
    np.testing.assert_array_equal(given.calibration, held_out.calibration)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "train/good").rename(root / "x"), "it holds no train/good; name its"),
        (lambda root: (root / "test").rename(root / "x"), "it holds no test; name its folders"),
        (
            lambda root: (root / "test/odd").mkdir(),
            "test/odd holds no PNG, JPEG, BMP",
        ),
        (
            lambda root: (root / "test/hole/000.png").rename(root / "test/000.png"),
            "part/test/000.png lies in no folder of part/test; move it to part/test/good or",
        ),
        (
            lambda root: (root / "ground_truth/hole/001_mask.png").unlink(),
            "holds no mask hole/001.png or hole/001_mask.png for part/test/hole/001.png; add it",
        ),
        (
            lambda root: (root / "test/hole/001.png").unlink(),
            "part/ground_truth/hole/001_mask.png belongs to no picture in part/test; give a mask",
        ),
        (
            lambda root: write_mask(root / "ground_truth/hole/001.bmp"),
            "001.bmp and part/ground_truth/hole/001_mask.png are masks of one picture; keep one",
        ),
        (
            lambda root: write_mask(root / "test/good/002_mask.png"),
            "test/good/002_mask.png looks like a mask of part/test/good/002.png; move masks",
        ),
    ],
)
def test_what_is_laid_out_otherwise_is_said_by_training_and_check_alike(spoil, said, mvtec, cli):
    spoil(mvtec)
    # A variant for which no negatives are made before the test is looked at.
    given = ("--mvtec", "part", "--variant", "linear-ae", *SOLVED[2:])
    assert_one_sentence(cli("train", *given, "--quiet"), said)
    result = cli("data", "check", "--mvtec", "part")
    assert result.exit_code == 1
    assert said in result.stderr
    assert not Path("runs").exists()


def test_the_folder_of_many_sets_is_no_set(mvtec):
    with pytest.raises(LisaeError, match=r"holds no train/good; name one of the sets in it, as in"):
        mvtec_settings(Path("."))
    with pytest.raises(LisaeError, match=r"nowhere does not exist; check the path"):
        mvtec_settings(Path("nowhere"))


def test_kinds_and_subjects():
    assert kind_of(Path("a/b/c.png"), Path("a")) == "b"
    assert kind_of(Path("a/b/c/d.png"), Path("a")) == "b"
    assert kind_of(Path("a/c.png"), Path("a")) == ""
    assert subject("sets/bolt/train/good") == "bolt"
    assert subject("mine/good") == "good"
    assert sets_of(None, None) == (None, None)


def test_good_alone_is_a_test_without_anomalies(mvtec):
    for kind in ("scratch", "hole", "dent"):
        (mvtec / "test" / kind).rename(mvtec / kind)
    assert sets_of("part/test", None) == (PictureSet(Path("part/test/good")), None)
    test = load_folder_test(folder_config(mvtec, mask_dir=None), skip_bad=False)
    assert (len(test.pixels), test.is_anomaly.any()) == (6, False)


def test_what_training_knows_is_no_test(mvtec, cli):
    """Simple subjects come out alike; anomalies among the normal pictures are a mistake."""
    known = mvtec / "test/good/known.png"
    known.write_bytes((mvtec / "train/good/003.png").read_bytes())
    test = load_folder_test(folder_config(mvtec), skip_bad=False)
    assert test.normal_counts == (6,)
    note = "1 normal test picture lies among the normal ones and is left out of the test: "
    assert [n for n in test.notes if n.startswith(note + str(known))]
    result = cli("data", "check", "--mvtec", "part")
    assert result.exit_code == 0, result.output
    assert note in result.output
    for path in sorted((mvtec / "test/good").iterdir())[:-1]:
        path.rename(mvtec / f"left {path.name}")
    with pytest.raises(LisaeError, match=r"good holds 0 usable normal test pictures; training"):
        load_folder_test(folder_config(mvtec), skip_bad=False)
    assert_one_sentence(cli("data", "check", "--mvtec", "part"), "all normal test pictures lie")
    for path in mvtec.glob("left *"):
        path.rename(mvtec / "test/good" / path.name.removeprefix("left "))
    known.rename(mvtec / "test/dent/known.png")
    with pytest.raises(LisaeError, match=r"known.png \(anomaly\) holds the same picture as"):
        load_folder_test(folder_config(mvtec), skip_bad=False)
    assert cli("data", "check", "--mvtec", "part").exit_code == 1
    (mvtec / "test/dent/known.png").write_bytes((mvtec / "test/good/001.png").read_bytes())
    with pytest.raises(LisaeError, match=r"\(anomaly\) holds the same picture as .*normal test"):
        load_folder_test(folder_config(mvtec), skip_bad=False)


def test_unset_folders_leave_no_trace_in_the_record(mvtec):
    new = {"test_dir", "mask_dir", "negative_mask_dir"}
    plain = resolve({"dataset": "folder", "normal_dir": "a", "anomaly_dir": "b"})
    assert not new & plain.model_dump().keys()
    config = folder_config(mvtec)
    assert new & config.model_dump().keys() == {"test_dir", "mask_dir"}
    assert config.digest() != folder_config(mvtec, mask_dir=None).digest()
    # Masks do not change what phase 1 learns; normal pictures held out for a test do.
    assert phase1_key(config) == phase1_key(folder_config(mvtec, mask_dir=None))
    assert phase1_key(config) != phase1_key(folder_config(mvtec, mask_dir=None, test_dir=None))


# Commands


RUN = Path("runs/part")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SOLVED, id="linear-lis"),
        pytest.param(QUICK, id="lis", marks=pytest.mark.slow("networks; solved runs say the same")),
    ],
)
def trained_once(tmp_path_factory, cli, request):
    """A working folder with `part/` and a run on it, and what was said."""
    base = tmp_path_factory.mktemp("mvtec")
    write_mvtec(base / "part")
    with contextlib.chdir(base):
        result = cli("train", "--mvtec", "part", *request.param, "--quiet", "--out", RUN)
    assert result.exit_code == 0, result.stderr
    return base, result.stdout


@pytest.fixture
def run(trained_once, tmp_path, monkeypatch):
    """The record of a run on `part/`, and what was said; a copy is the working folder."""
    base, said = trained_once
    copied(base, tmp_path, RUN)
    monkeypatch.chdir(tmp_path)
    return json.loads((RUN / "metrics.json").read_text()), said


def test_a_run_has_figures_for_each_kind_and_of_pixels(run, cli):
    record, said = run
    assert (record["n_normal"], record["n_anomaly"]) == (6, 9)
    by_kind = record["by_kind"]
    assert {kind: found["n"] for kind, found in by_kind.items()} == {
        "dent": 4, "hole": 2, "scratch": 3,
    }  # fmt: skip
    for name in ("auroc", "detection_rate"):
        mean = sum(found[name] * found["n"] for found in by_kind.values()) / 9
        assert mean == pytest.approx(record[name])
    assert record["n_masks"] == 5
    assert 0 <= record["per_region_overlap"] <= 1
    assert any("the kind dent (4) have no masks" in note for note in record["notes"])
    dent = by_kind["dent"]
    line = f"dent: AUROC {dent['auroc']:.3f}, finds {100 * dent['detection_rate']:.1f} % of 4"
    assert line in said
    assert "pixel AUROC" in said
    again = cli("evaluate")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    for key in ("by_kind", "pixel_auroc", "per_region_overlap", "n_masks", "auroc"):
        assert found[key] == pytest.approx(record[key]) if key != "by_kind" else True
    assert found["by_kind"] == by_kind
    # The note is there once, whoever says it again.
    assert json.loads((RUN / "metrics.json").read_text())["notes"] == record["notes"]


def test_other_commands_find_the_same_pictures(run, cli):
    record, _ = run
    assert cli("calibrate", "--fpr", "0.4").exit_code == 0
    new = json.loads((RUN / "metrics.json").read_text())
    rates = [found["detection_rate"] * found["n"] for found in new["by_kind"].values()]
    assert sum(rates) / 9 == pytest.approx(new["detection_rate"])
    assert new["by_kind"]["dent"]["auroc"] == record["by_kind"]["dent"]["auroc"]
    assert cli("report", "--out", "report.html").exit_code == 0
    text = " ".join(Path("report.html").read_text().split())
    assert "Kinds of anomalies" in text and '<th scope="row">scratch</th>' in text
    assert f"With 5 masks, pixel AUROC is {record['pixel_auroc']:.4f}" in text
    write_pictures(Path("later"), 30, seed=9)
    # A run that is continued keeps the pictures of its test where that stays the same.
    config = resolve(read_settings(RUN / "config.yaml"))
    kept_there = continuation.kept(RUN, config)
    assert len(kept_there.of(manifest.NORMAL_TEST)) == 6
    without = resolve(read_settings(RUN / "config.yaml") | {"test_dir": None, "mask_dir": None})
    assert not continuation.kept(RUN, without).of(manifest.NORMAL_TEST)
    assert_other_test_is_refused(cli)


def assert_other_test_is_refused(cli):
    held = ("--set", "test_dir=null", "--set", "mask_dir=null")
    result = cli("train", "--continue", RUN, "--normal-dir", "later", *held, "--quiet")
    assert_one_sentence(result, "test_dir differs, so train anew")


@pytest.mark.slow("two trainings of networks; what is kept of the test is seen above")
@pytest.mark.parametrize("trained_once", [QUICK], indirect=True, ids=["lis"])
def test_a_run_goes_on_with_the_same_test(run, cli):
    write_pictures(Path("later"), 30, seed=9)
    result = cli("train", "--continue", RUN, "--normal-dir", "later", "--quiet")
    assert result.exit_code == 0, result.output
    (later,) = Path("runs").glob("part-later-*")
    continued = json.loads((later / "metrics.json").read_text())
    assert continued["n_normal"] == 6
    assert continued["continued"]["old_normals"]["n"] == 6
    assert "new_normals" not in continued["continued"]
    assert cli("report", "--out", "report.html").exit_code == 0
    assert_other_test_is_refused(cli)


def test_sub_folders_of_anomalies_are_kinds_and_masks_go_with_them(mvtec, cli):
    (mvtec / "test/good").rename(mvtec / "elsewhere")
    given = ("--normal-dir", "part/train/good", "--anomaly-dir", "part/test")
    result = cli("train", *given, "--mask-dir", "part/ground_truth", *SOLVED, "--out", "run")
    assert result.exit_code == 0, result.output
    record = json.loads(Path("run/metrics.json").read_text())
    assert set(record["by_kind"]) == {"dent", "hole", "scratch"}
    assert record["n_masks"] == 5


def test_a_detector_without_maps_says_so_and_goes_on(mvtec, cli):
    result = cli("train", "--mvtec", "part", "--variant", "kde", "--out", "run", "--quiet")
    assert result.exit_code == 0, result.output
    record = json.loads(Path("run/metrics.json").read_text())
    assert "pixel_auroc" not in record
    assert any(note.startswith("no pixel figures: kde") for note in record["notes"])
    result = cli("evaluate", "--run", "run", "--mask-dir", "part/ground_truth")
    assert result.exit_code == 1
    assert "kde scores whole pictures and has no maps of errors; leave" in result.stderr


def test_the_check_reports_on_the_test_as_well(mvtec, cli):
    result = cli("data", "check", "--mvtec", "part", "--json", "check.json")
    assert result.exit_code == 0, result.output
    assert "kinds of anomaly pictures: dent 4, hole 2, scratch 3" in result.output
    report = json.loads(Path("check.json").read_text())
    usable = {name: found["usable"] for name, found in report["sets"].items()}
    assert usable == {"normal": 40, "normal test": 6, "anomaly": 9}
    assert report["sets"]["anomaly"]["by_kind"] == {"dent": 4, "hole": 2, "scratch": 3}
    assert report["errors"] == []
    assert any("the kind dent (4) have no masks" in line for line in report["warnings"])
    Image.new("L", (SIDE, SIDE)).save(mvtec / "ground_truth/hole/000_mask.png")
    result = cli("data", "check", "--mvtec", "part")
    assert result.exit_code == 0, result.output
    assert "1 mask of anomaly pictures marks nothing" in " ".join(result.output.split())


def test_tuning_keeps_the_test_out_and_in_the_settings(mvtec, cli):
    write_pictures(mvtec / "other", 90, seed=20)
    sides = ("--mvtec", "part", "--negative-dir", "part/other")
    result = cli("tune", *sides, *SOLVED, "--trials", 1, "--out", "study")
    assert result.exit_code == 0, result.output
    assert f"test_dir: {Path.cwd()}/part/test" in Path("study/best.yaml").read_text()


# Masks


def read(folder, root, files):
    return masks.read_masks(folder, files, files, root, (SIDE, SIDE), what="anomaly", so="rest")


def test_a_mask_is_named_as_its_picture_or_with_mask_behind(tmp_path):
    root, folder = write_pictures(tmp_path / "p/kind", 3, seed=0).parent, tmp_path / "m"
    files = PictureSet(root).files()
    write_mask(folder / "kind/000.png", 0)
    write_mask(folder / "kind/001_mask.bmp", 4)
    write_mask(folder / "kind/002_mask.PNG", 8)
    found = read(folder, root, files).marked
    assert [np.flatnonzero(each.any(axis=0))[0] for each in found] == [0, 4, 8]
    # A picture may itself be named so; the plain name comes first.
    write_pictures(root / "kind", 1, seed=5, name="000_mask.png")
    write_mask(folder / "kind/000_mask.png", 12)
    found = read(folder, root, PictureSet(root).files()).marked
    assert [np.flatnonzero(each.any(axis=0))[0] for each in found] == [0, 12, 4, 8]


def test_masks_of_good_pictures_are_no_mistake(mvtec):
    for index in range(6):
        path = mvtec / f"ground_truth/good/{index:03d}_mask.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (SIDE, SIDE)).save(path)
    config = folder_config(mvtec)
    assert load_masks(config, load_folder_test(config, skip_bad=False)).known.sum() == 5


def lookalikes(folder):
    return [(a.name, b.name) for a, b in masks.lookalikes(PictureSet(folder).files())]


def two_valued(path):
    pixels = np.where(np.random.default_rng(1).random((SIDE, SIDE)) < 0.5, 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.mark.parametrize("name", ["001_mask.png", "001_label.bmp", "001_GT.png", "001.bmp"])
def test_masks_among_pictures_are_seen(name, tmp_path):
    folder = write_pictures(tmp_path / "good", 4, seed=0)
    two_valued(folder / name)
    assert lookalikes(folder) == [(name, "001.png")]


def test_pictures_are_not_taken_for_masks(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "good", 4, seed=0)
    two_valued(folder / "drawing.png")  # no partner
    two_valued(folder / "other_mask.png")  # none either
    two_valued(folder / "_mask.png")
    write_pictures(folder, 1, seed=8, name="001_mask.png")  # more than two values
    write_pictures(folder, 1, seed=9, name="002.bmp")
    for suffix in ("png", "bmp"):
        two_valued(folder / f"plan.{suffix}")  # which of the two should be the mask?
    two_valued(write_pictures(folder / "sub", 1, seed=10) / "003.png")  # in another folder
    assert lookalikes(folder) == []
    # Files without a partner are not read.
    decoded = []
    real = pictures.decode
    monkeypatch.setattr(
        pictures, "decode", lambda path, **_: decoded.append(path.name) or real(path)
    )
    lookalikes(folder)
    assert sorted(decoded) == ["001_mask.png", "002.bmp", "002.png", "plan.bmp", "plan.png"]


def test_training_and_check_refuse_masks_among_pictures(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good, other = write_pictures(Path("good"), 24, seed=0), write_pictures(Path("other"), 12, 1)
    sides = ("--normal-dir", "good", "--negative-dir", "other")
    for folder, option in ((good, "--mask-dir"), (other, "--negative-mask-dir")):
        mask = folder / "003_mask.png"
        two_valued(mask)
        said = (
            f"{mask} looks like a mask of {folder}/003.png; move masks elsewhere and name their "
            f"folder with {option}"
        )
        assert_one_sentence(cli("train", *sides, *QUICK), said)
        result = cli("data", "check", *sides, "--json", "check.json")
        assert result.exit_code == 1 and said in result.stderr
        name = "normal" if folder is good else "negative"
        report = json.loads(Path("check.json").read_text())
        assert report["sets"][name]["masks"] == {str(mask): f"{folder}/003.png"}
        mask.unlink()
    assert cli("data", "check", *sides).exit_code == 0


# Negatives


@pytest.fixture
def negatives(mvtec):
    """Two kinds of negatives, one of them with masks, and pictures at the top."""
    root = write_pictures(mvtec / "other", 10, seed=20)
    for seed, kind in enumerate(("oil", "water"), start=21):
        write_pictures(root / kind, 15, seed)
    for index in range(15):
        write_mask(mvtec / "other_masks/oil" / f"{index:03d}.png")
    return {"negative_dir": "part/other"}


def parts_of(side):
    return (side.fit, side.stopping, side.calibration)


def test_negatives_have_kinds_and_marks_row_by_row(mvtec, negatives):
    plain = load_folder_training(folder_config(mvtec, **negatives), skip_bad=False)
    config = folder_config(mvtec, **negatives, negative_mask_dir="part/other_masks")
    data = load_folder_training(config, skip_bad=False)
    assert plain.negative_masks is None
    assert [
        note for note in data.notes if "water (15) have no masks; they count as unmarked" in note
    ]
    kind_by_digest = {}
    for path in PictureSet(Path("part/other")).files():
        digest = pictures.content_hashes(pictures.decode(path)[None])[0]
        kind_by_digest[digest] = kind_of(path, Path("part/other"))
    for a, b, kinds, marked in zip(
        *(parts_of(side) for side in (plain.negative, data.negative, data.negative_kinds)),
        parts_of(data.negative_masks),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)  # masks change no part
        assert kinds.tolist() == [kind_by_digest[d] for d in pictures.content_hashes(b)]
        assert marked.shape == b.shape[:3] and marked.dtype == bool
        np.testing.assert_array_equal(marked.any(axis=(1, 2)), kinds == "oil")
    assert set(data.negative_kinds.fit) == {"", "oil", "water"}
    some = data.with_negatives([kinds != "oil" for kinds in parts_of(data.negative_kinds)])
    assert set(some.negative_kinds.fit) == {"", "water"}
    assert len(some.negative.fit) == len(some.negative_masks.fit) < len(data.negative.fit)
    assert not some.negative_masks.fit.any()
    assert some.normal is data.normal


def test_made_and_mirrored_negatives_keep_rows_together(mvtec, negatives):
    config = folder_config(
        mvtec, **negatives, negative_mask_dir="part/other_masks", negatives="synth:flip"
    )
    data = mirrored(load_folder_training(config, skip_bad=False))
    for pixels, kinds, marked in zip(
        *map(parts_of, (data.negative, data.negative_kinds, data.negative_masks)), strict=True
    ):
        assert len(pixels) == len(kinds) == len(marked)
        assert (kinds == "synth:flip").sum() * 2 == len(kinds)
        assert not marked[kinds == "synth:flip"].any()
    half = len(data.negative.fit) // 2
    np.testing.assert_array_equal(
        data.negative_masks.fit[half:], data.negative_masks.fit[:half, :, ::-1]
    )


def test_masks_of_negatives_follow_the_same_rules(mvtec, negatives, cli):
    (mvtec / "other_masks/oil/004.png").unlink()
    sides = ("--mvtec", "part", "--negative-dir", "part/other")
    given = (*sides, "--negative-mask-dir", "part/other_masks")
    said = "holds no mask oil/004.png or oil/004_mask.png for part/other/oil/004.png"
    assert_one_sentence(cli("train", *given, *QUICK), said)
    result = cli("data", "check", *given)
    assert result.exit_code == 1 and said in result.stderr
    assert "kinds of negative pictures: no folder 10, oil 15, water 15" in result.stdout
