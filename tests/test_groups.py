"""Pictures that belong together stay in one part: near copies, and those that share a name."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK
from PIL import Image

from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import checks, groups, manifest
from lisae_tf.data.opened_folders import Folders

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
    assert {part[f"{k:02d}_a.png"] == part[f"{k:02d}_b.png"] for k in range(30)} == {True}
    assert set(part.values()) == set(manifest.TRAINED_ON) | {"test"}
    assert [each.group for each in opened.manifest().entries][:4] == [
        "00_a.png", "00_a.png", "01_a.png", "01_a.png",
    ]  # fmt: skip
    assert opened.normals[0].notes == [
        "60 normal pictures are in 30 groups of copies and near copies, each kept in one part"
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
        assert part[1, f"{k:02d}.png"] == alone[f"{k:02d}.png"]


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
    assert all(len(found) == 1 for found in by_group.values())
    assert opened.normals[0].notes == [
        "60 normal pictures are in 20 groups by name (--group-by), each kept in one part"
    ]


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


def test_train_stores_groups_and_says_how_many(workplace, cli):
    write(Path("views"), twice(20))
    arguments = ("train", "--normal-dir", "views", "--variant", "ae", *QUICK, "--out", "grouped")
    result = cli(*arguments, "--group-by", r"^\d+")
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
