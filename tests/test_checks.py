"""`data check` and the checks that `train` makes of the user's folders."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lisae_tf.cli import main
from lisae_tf.core.errors import LisaeError
from lisae_tf.data import checks
from lisae_tf.data.data_check import treatment
from lisae_tf.data.pictures import Decoded, Header


def scene(seed: int, size: int = 64) -> np.ndarray:
    """A smooth picture of its own for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))


def decoded(*pictures: np.ndarray) -> Decoded:
    return Decoded(np.stack(pictures), [f"p{index}" for index in range(len(pictures))], {})


def write(folder, pictures, suffix="png", **options):
    folder.mkdir(exist_ok=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:03d}.{suffix}", **options)
    return folder


def dry_run(*arguments):
    return CliRunner().invoke(main, ["data", "check", *map(str, arguments)])


def test_exact_copies_are_told_from_near_ones_and_from_other_pictures():
    base = scene(0)
    noise = np.random.default_rng(1).normal(0, 8, base.shape)
    noisy = (base + noise).clip(0, 255).astype(np.uint8)
    found = checks.check_set(decoded(base, scene(2), base, noisy, scene(3)))
    assert [(p.one, p.other, p.exact) for p in found.copies] == [
        ("p0", "p2", True),
        ("p0", "p3", False),
    ]
    assert found.constant == []


def test_a_moved_or_brighter_picture_is_no_near_copy():
    base = scene(0)
    moved, brighter = np.roll(base, 8, axis=1), (base * 0.8 + 40).astype(np.uint8)
    assert checks.check_set(decoded(base, moved, brighter)).copies == []


def test_constant_pictures_are_named_and_are_not_each_others_copies():
    black, grey = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 127, np.uint8)
    almost = grey.copy()
    almost[0, 0] += 2
    found = checks.check_set(decoded(black, grey, almost, scene(0, 8)))
    assert found.constant == ["p0", "p1", "p2"]
    assert found.copies == []


def test_leaks_across_sets_exact_first():
    base, other = scene(0), scene(1)
    near = (other + np.random.default_rng(0).normal(0, 6, other.shape)).clip(0, 255)
    one, two = decoded(base, other), decoded(near.astype(np.uint8), base, scene(5))
    assert [(p.one, p.other, p.exact) for p in checks.leaks(one, two)] == [
        ("p0", "p1", True),
        ("p1", "p0", False),
    ]


@pytest.mark.parametrize(
    ("header", "channels", "said"),
    [
        (Header(32, 32, "RGB"), 3, "as it is"),
        (Header(64, 64, "RGB"), 3, "resized to 32x32"),
        (Header(16, 16, "L"), 3, "resized to 32x32 (enlarged), grey repeated to RGB"),
        (
            Header(64, 32, "RGBA"),
            1,
            "resized to 32x32, stretched 2.00 times, transparency laid over white, colour",
        ),
        (Header(32, 32, "I;16"), 1, "16 bits to 8"),
        (Header(32, 32, "RGB;16"), 3, "upper 8 of 16 bits"),
        (Header(32, 32, "LA;16"), 1, "upper 8 of 16 bits, transparency laid over white"),
        (Header(32, 32, "CMYK"), 3, "turned to RGB"),
        (Header(32, 32, "P"), 3, "turned to RGB"),
        (Header(32, 32, "P"), 1, "colour turned to grey"),
        (Header(32, 32, "RGB", turned=True), 3, "turned upright (EXIF)"),
    ],
)
def test_what_is_done_to_a_kind_of_picture(header, channels, said):
    assert treatment(header, (32, 32), channels).startswith(said)


@pytest.fixture
def folders(tmp_path):
    """Good normal pictures, negatives, and anomalies."""
    return {
        "--normal-dir": write(tmp_path / "normal", [scene(seed) for seed in range(24)]),
        "--negative-dir": write(tmp_path / "negative", [scene(seed) for seed in range(100, 112)]),
        "--anomaly-dir": write(tmp_path / "anomaly", [scene(seed) for seed in range(200, 203)]),
    }


def options(folders):
    return [part for pair in folders.items() for part in pair]


def test_good_folders_pass_and_the_json_says_the_same(folders, tmp_path):
    result = dry_run(*options(folders), "--json", tmp_path / "new" / "check.json")
    assert result.exit_code == 0, result.output
    assert "training would start" in result.output
    report = json.loads((tmp_path / "new" / "check.json").read_text())
    assert {name: found["usable"] for name, found in report["sets"].items()} == {
        "normal": 24, "negative": 12, "anomaly": 3,
    }  # fmt: skip
    assert report["sets"]["normal"]["kinds"] == {"64x64 RGB": 24}
    assert report["errors"] == report["warnings"] == report["leaks"] == []


def test_tiles_are_announced_and_impossible_ones_refused(folders, tmp_path):
    given = [*options(folders), "--tile", 32, "--stride", 16, "--input-size", "64,96"]
    result = dry_run(*given, "--json", tmp_path / "check.json")
    assert result.exit_code == 0, result.output
    assert "training sees 96x64 RGB pictures, each as 15 tiles of 32 pixels (3 rows)" in (
        result.output
    )
    report = json.loads((tmp_path / "check.json").read_text())
    assert report["tiles"] == {"side": 32, "stride": 16, "grid": [3, 5]}
    assert report["sets"]["normal"]["treatment"]["64x64 RGB"].startswith("resized to 96x64")
    refused = dry_run(*options(folders), "--tile", 40, "--input-size", "64,64")
    assert refused.exit_code == 1
    assert "do not fill a height of 64" in refused.output


def test_a_photograph_on_its_side_is_measured_upright(folders, tmp_path):
    tags = Image.Exif()
    tags[274] = 6
    photograph = Image.fromarray(scene(300, 128)[:64])
    for name in ("a.jpg", "b.png"):
        photograph.save(folders["--normal-dir"] / name, exif=tags)
    size = ("--set", "data.size=[64,32]")
    result = dry_run(*options(folders), *size, "--json", tmp_path / "check.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "check.json").read_text())["sets"]["normal"]
    assert found["kinds"] == {"64x64 RGB": 24, "64x128 RGB (turned)": 2}
    assert found["treatment"]["64x128 RGB (turned)"] == "turned upright (EXIF), resized to 32x64"


def test_files_that_are_no_pictures_by_name_are_named(folders, tmp_path):
    normal = folders["--normal-dir"]
    (normal / "sub").mkdir()
    for name in ("a.psd", "b.svg", "sub/c.gif", "notes.txt", ".DS_Store"):
        (normal / name).write_text("x")
    (normal / "link").symlink_to(folders["--negative-dir"])
    result = dry_run(*options(folders), "--json", tmp_path / "check.json")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "note: 5 normal files are left out, for only .png, .jpg, .jpeg, .bmp, .tif, " in said
    assert "and 2 more" in said
    found = json.loads((tmp_path / "check.json").read_text())["sets"]
    names = ("a.psd", "b.svg", "link", "notes.txt", "sub/c.gif")
    assert found["normal"]["others"] == [str(normal / name) for name in names]
    assert found["negative"]["others"] == []
    assert found["normal"]["usable"] == 24


def test_everything_wrong_is_named_at_once(folders):
    normal, negative = folders["--normal-dir"], folders["--negative-dir"]
    (normal / "damaged.png").write_bytes((normal / "000.png").read_bytes()[:200])
    (normal / "text.jpg").write_text("no picture")
    Image.fromarray(scene(7)).save(folders["--anomaly-dir"] / "leak.png")
    Image.fromarray(scene(8)).save(negative / "near.jpg", quality=80)
    Image.new("RGB", (64, 64), "red").save(normal / "red.png")
    Image.fromarray(scene(9, 128)[:, :64]).save(normal / "tall.png")
    result = dry_run(*options(folders))
    assert result.exit_code == 1
    output = " ".join(result.output.split())
    for said in (
        "unreadable: " + str(normal / "damaged.png"),
        "unreadable: " + str(normal / "text.jpg"),
        "2 normal files of 28 cannot be read",
        "1 anomaly picture lies among the normal ones",
        "1 negative picture is a near copy of normal ones",
        "1 normal picture is of one colour",
        "1 normal picture changes its proportions",
        "--skip-bad leaves bad files out",
    ):
        assert said in output, said


def test_skipping_bad_files_leaves_only_the_rest_to_stop_training(folders):
    (folders["--normal-dir"] / "text.jpg").write_text("no picture")
    assert dry_run(*options(folders)).exit_code == 1
    assert dry_run(*options(folders), "--skip-bad").exit_code == 0


def test_too_few_pictures_and_a_missing_folder(folders, tmp_path):
    few = write(tmp_path / "few", [scene(1), scene(2)])
    result = dry_run("--normal-dir", few)
    assert result.exit_code == 1
    assert "2 usable normal pictures; training needs at least 20" in result.output
    result = dry_run("--normal-dir", tmp_path / "nothing")
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path / 'nothing'} does not exist; check the path\n"


def test_copies_alone_are_too_little_to_hold_parts_apart(tmp_path):
    copies = write(tmp_path / "copies", [scene(1)] * 24)
    result = dry_run("--normal-dir", copies)
    assert result.exit_code == 1
    assert "normal: 24 pictures (1 different or independent) cannot be held apart" in result.output


def test_each_folder_of_normal_pictures_is_a_set_as_in_training(folders, tmp_path):
    from conftest import load_folder_training

    from lisae_tf.config.settings import resolve

    more = write(tmp_path / "more", [scene(seed) for seed in range(300, 322)])
    both = [str(folders["--normal-dir"]), str(more)]
    given = [part for folder in both for part in ("--normal-dir", folder)]

    def training_stops():
        own = {"dataset": "folder", "variant": "ae", "negatives": "none", "normal_dir": both}
        try:
            load_folder_training(resolve(own), skip_bad=False)
        except LisaeError:
            return True
        return False

    result = dry_run(*given, "--json", tmp_path / "check.json")
    assert result.exit_code == 0 and not training_stops(), result.output
    found = json.loads((tmp_path / "check.json").read_text())["sets"]
    usable = {name: each["usable"] for name, each in found.items()}
    assert usable == {"normal": 24, "normal (2)": 22}
    Image.fromarray(scene(7)).save(more / "again.png")
    result = dry_run(*given)
    assert result.exit_code == 1 and training_stops()
    assert "1 normal (2) picture lies among the normal ones" in result.output
    for path in sorted(more.iterdir())[3:]:  # with the copy
        path.unlink()
    result = dry_run(*given)
    assert result.exit_code == 1 and training_stops()
    assert "3 usable normal (2) pictures; training needs at least 20" in result.output


def test_training_notes_what_the_check_finds(folders):
    from conftest import load_folder_test, load_folder_training

    from lisae_tf.config.settings import resolve

    Image.new("RGB", (64, 64), "red").save(folders["--normal-dir"] / "red.png")
    Image.fromarray(scene(8)).save(folders["--anomaly-dir"] / "near.jpg", quality=80)
    named = {name[2:].replace("-", "_"): str(path) for name, path in folders.items()}
    config = resolve({"dataset": "folder", "variant": "lis", **named})
    notes = load_folder_training(config, skip_bad=False).notes
    assert notes == (f"1 normal picture is of one colour: {folders['--normal-dir'] / 'red.png'}",)
    (folders["--negative-dir"] / "a.psd").write_text("x")
    notes = load_folder_training(config, skip_bad=False).notes
    assert [note for note in notes if "1 negative file is left out" in note and "a.psd" in note]
    notes = load_folder_test(config, skip_bad=False).notes
    assert len(notes) == 1 and "1 anomaly picture is a near copy of normal ones" in notes[0]
