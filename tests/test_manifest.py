"""Which pictures a run has, whatever becomes of their folder, and where it has moved to."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, assert_one_sentence

from export.exportable import load_samples
from lisae_tf.config.settings import read_settings, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import read_json, sha256
from lisae_tf.data import folders, manifest
from lisae_tf.data.tasks import TaskData, reopen
from lisae_tf.detectors import load_detector

RUN = Path("runs/normal-lis-seed0")


def config():
    return resolve(read_settings(RUN / "config.yaml"))


def by_part(role="normal"):
    """Digests of a role's pictures by part, from the list of the run."""
    found = {}
    for line in (RUN / manifest.FILE).read_text().splitlines():
        entry = json.loads(line)
        if entry["role"] == role:
            found.setdefault(entry["part"], set()).add(entry["sha256"])
    return found


def digests_of(labels):
    return {sha256(Path(label)) for label in labels}


def add_copies_of_others(picture_folder, count=50):
    """So many other pictures among the normal ones, first by name."""
    more = picture_folder(Path("more"), count, level=63)
    for path in more.iterdir():
        path.rename(Path("normal") / f"0000{path.name}")


def test_each_picture_is_listed_with_what_it_was_for(workplace):
    listed = [json.loads(line) for line in (RUN / manifest.FILE).read_text().splitlines()]
    for role, folder in (("normal", "normal"), ("negative", "negative"), ("anomaly", "anomaly")):
        own = [each for each in listed if each["role"] == role]
        assert [each["path"] for each in own] == sorted(p.name for p in Path(folder).iterdir())
        for each in own:
            assert each["sha256"] == sha256(Path(folder) / each["path"])
            assert each["height"] > 0 and each["width"] > 0 and each["mode"]
    parts = by_part()
    assert set(parts) == {"fit", "stopping", "calibration", "test"}
    metrics = read_json(RUN / "metrics.json")
    assert len(parts["test"]) == metrics["n_normal"]
    assert len(parts["calibration"]) == metrics["n_calibration"]
    assert {each["part"] for each in listed if each["role"] == "anomaly"} == {"test"}


def test_pictures_that_are_added_or_renamed_change_no_part(workplace, picture_folder):
    before = by_part()
    first = TaskData(config()).test()
    assert digests_of(first.labels[: -sum(first.is_anomaly)]) == before["test"]
    add_copies_of_others(picture_folder)
    for number, path in enumerate(sorted(Path("normal").glob("01*"))):
        path.rename(path.with_name(f"zz{number}{path.suffix}"))
    opened = reopen(RUN, config())
    data, test = opened.training(), opened.test()
    np.testing.assert_array_equal(np.sort(test.rows), np.arange(len(first.labels)))
    assert (
        digests_of(test.labels)
        == digests_of([label for label in test.labels if "anomaly" in label]) | before["test"]
    )
    assert len(data.normal.calibration) == len(before["calibration"])
    assert opened.since == [
        "50 pictures of normal came after the training and are left out: 0000000.png, "
        + opened.since[0].split("0000000.png, ")[1]
    ]


def test_evaluate_tests_what_was_tested_and_names_what_came_later(workplace, picture_folder, cli):
    stored = read_json(RUN / "metrics.json")
    add_copies_of_others(picture_folder)
    result = cli("evaluate", "--run", RUN)
    assert result.exit_code == 0, result.stderr
    assert "50 pictures of normal came after the training and are left out" in result.stderr
    found = json.loads(result.stdout)
    for name in ("auroc", "n_normal", "n_anomaly", "false_positive_rate"):
        assert found[name] == pytest.approx(stored[name], abs=1e-6)


def test_what_is_gone_or_changed_is_named_and_counted(workplace, cli):
    tested = [Path("normal") / each.path for each in manifest.read(RUN).of("normal")
              if each.part == "test"]  # fmt: skip
    tested[0].unlink()
    shutil.copy(Path("anomaly") / next(Path("anomaly").iterdir()).name, tested[1])
    result = cli("evaluate", "--run", RUN)
    # The picture that took its place is an anomaly of the test.
    assert result.exit_code == 0, result.stderr
    assert f"1 picture of normal has gone: {tested[0].name}" in result.stderr.replace("\n", " ")
    assert f"1 picture of normal has changed: {tested[1].name}" in result.stderr.replace("\n", " ")
    assert json.loads(result.stdout)["n_normal"] == len(tested) - 2


def test_pictures_that_are_all_others_are_refused(workplace, picture_folder, cli):
    shutil.rmtree("normal")
    picture_folder(Path("normal"), 50, level=64)
    for command in ("evaluate", "export"):
        result = cli(command, "--run", RUN)
        assert result.exit_code == 1
        assert "normal holds none of the normal pictures that the run was made of" in result.stderr


def cards(text):
    """(path, score and thumbnail) of each picture that a report shows."""
    page = json.loads(re.search(r'id="frozen">(.*?)</script>', text, re.DOTALL)[1])
    scores, places = (
        np.frombuffer(base64.b64decode(page[name]), kind).tolist()
        for name, kind in (("scores", "<f4"), ("folder", "<i4"))
    )
    for name, place, *shown in zip(page["names"], places, scores, page["thumbs"], strict=True):
        if shown[1]:
            yield Path(page["folders"][place], name), tuple(shown)


def test_a_report_shows_pictures_beside_their_own_scores(workplace, cli):
    assert cli("report", "--run", RUN).exit_code == 0
    report = RUN / "report.html"
    before = {sha256(path): shown for path, shown in cards(report.read_text())}
    assert len(before) > 5
    # To the front, by name: rows of the test move against its scores.
    last = max(path for path in Path("anomaly").iterdir())
    last.rename(last.with_name(f"000000{last.suffix}"))
    tested = [each for each in manifest.read(RUN).of("normal") if each.part == "test"]
    (Path("normal") / tested[-1].path).rename(Path("normal") / f"00000{tested[-1].path}")
    assert cli("report", "--run", RUN).exit_code == 0
    assert {sha256(path): shown for path, shown in cards(report.read_text())} == before
    (Path("normal") / f"00000{tested[-1].path}").unlink()
    assert cli("report", "--run", RUN).exit_code == 0
    text = report.read_text()
    assert "1 picture is gone or changed, and not shown;" in text
    left = {sha256(path): shown for path, shown in cards(text)}
    assert len(left) == len(before) - 1 and left.items() <= before.items()


def test_a_resumed_run_keeps_the_pictures_that_it_began_with(workplace, picture_folder, cli):
    sides = [part for name in ("normal", "negative", "anomaly") for part in (f"--{name}-dir", name)]
    begun = Path("begun")
    begun.mkdir()
    for name in ("config.yaml", manifest.FILE):
        shutil.copy(RUN / name, begun / name)
    add_copies_of_others(picture_folder, 3)
    arguments = ("train", "--quiet", *sides, *QUICK, "--out", begun, "--resume")
    result = cli(*arguments)
    assert result.exit_code == 1
    assert "the pictures are no longer those that begun began with (3 pictures" in result.stderr
    for path in Path("normal").glob("0000*"):
        path.unlink()
    assert cli(*arguments).exit_code == 0
    assert (begun / manifest.FILE).read_text() == (RUN / manifest.FILE).read_text()


def test_a_continued_run_tests_on_nothing_that_either_training_saw(workplace, picture_folder, cli):
    old = by_part()
    picture_folder(Path("also"), 30, level=90)
    add_copies_of_others(picture_folder)
    arguments = ("train", "--quiet", "--continue", RUN, "--normal-dir", "also", "--out", "next")
    result = cli(*arguments)
    assert result.exit_code == 0, result.stderr
    listed = manifest.read(Path("next"))
    tested = {each.sha256 for each in listed.of("normal") if each.part == "test"}
    assert tested == old["test"]
    # A picture of the old training, moved among the new ones.
    seen = next(each for each in manifest.read(RUN).of("normal") if each.part == "fit")
    shutil.move(Path("normal") / seen.path, Path("also") / "moved.png")
    result = cli(*arguments[:-1], "another")
    assert result.exit_code == 1
    assert "holds a picture that the run was trained on already" in result.stderr
    assert not Path("another").exists()


def test_a_damaged_list_is_refused(workplace, cli):
    path = RUN / manifest.FILE
    path.write_text(path.read_text()[:-20])
    result = cli("evaluate", "--run", RUN)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{path} is damaged" in result.stderr


def test_a_run_without_a_list_says_that_it_cannot_tell(workplace, cli):
    (RUN / manifest.FILE).unlink()
    (RUN / "digests.json").unlink()
    result = cli("evaluate", "--run", RUN)
    assert result.exit_code == 0
    assert "kept no list of its pictures" in result.stderr
    assert "kept no digests of its files" in result.stderr


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_to_a_folder_no_picture_changes_its_part(seed):
    """Random additions, removals, renamings and copies."""
    random = np.random.default_rng(seed)
    digest = [f"{k:x}" for k in random.integers(0, 12, 20)]  # with copies
    entries = [
        manifest.Entry(
            "normal", 0, f"{k:02d}.png", d, ["fit", "test"][int(d, 16) % 2], "", 1, 1, "L"
        )
        for k, d in enumerate(digest)
    ]
    files = {entry.path: entry.sha256 for entry in entries}
    for _ in range(8):
        path = random.choice(sorted(files))
        match random.integers(4):
            case 0:
                files[f"new{random.integers(99)}.png"] = f"x{random.integers(99)}"
            case 1 if len(files) > 3:
                del files[path]
            case 2:
                files[f"{random.integers(99):02d}.png"] = files.pop(path)
            case _:
                files[f"copy{random.integers(99)}.png"] = files[path]
    paths = sorted(files)
    found = manifest.match(entries, paths, [files[path] for path in paths])
    assert len(set(found.rows)) == len(found.rows)
    for entry, row in zip(found.entries, found.rows, strict=True):
        assert files[paths[row]] == entry.sha256
    told = len(found.entries) + len(found.missing) + len(found.changed)
    assert told == len(entries)
    assert len(found.rows) + len(found.added) + len(found.changed) == len(paths)


def stored():
    return read_settings(RUN / "config.yaml")


@pytest.fixture
def fresh(tmp_path, picture_folder, cli, monkeypatch):
    """Trains a variant in `old` on folders in `old/data`; their parent and what was said."""
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    for name, count, level in (("normal", 40, 60), ("anomaly", 5, 200), ("more", 30, 90)):
        picture_folder(Path("data") / name, count, level=level)

    def train(*options):
        sides = ("--normal-dir", "data/normal", "--anomaly-dir", "data/anomaly")
        result = cli("train", *sides, *options, "--out", "run")
        assert result.exit_code == 0, result.stderr
        return tmp_path, result.stdout

    return train


def test_a_run_is_found_from_anywhere_and_moved_folders_are_named(fresh, cli, monkeypatch):
    base, said = fresh("--variant", "ae", *QUICK)
    settings = read_settings(base / "old/run/config.yaml")
    assert settings["normal_dir"] == str(base / "old/data/normal")
    assert settings["anomaly_dir"] == str(base / "old/data/anomaly")
    assert f"normal_dir: {base}/old/data/normal" in said
    (base / "else").mkdir()
    monkeypatch.chdir(base / "else")
    result = cli("evaluate", "--run", "../old/run")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["n_anomaly"] == 5
    monkeypatch.chdir(base / "old")
    shutil.move(base / "old/data", base / "new")
    gone = base / "old/data"
    result = cli("evaluate", "--run", "run")
    assert_one_sentence(result, "data/normal", "does not exist", "--data-root", "=NEW")
    root = ("--data-root", f"{gone}={base / 'new'}")
    for command in ("evaluate", "report"):
        result = cli(command, "--run", "run", *root)
        assert result.exit_code == 0, result.stderr
    assert "cannot be read" not in Path("run/report.html").read_text()
    assert len(load_samples(load_detector(Path("run")), Path("run"), None, root[1:]).real) == 9
    more = ("--normal-dir", base / "new/more", "--out", "further")
    result = cli("train", "--continue", "run", *more, *root)
    assert result.exit_code == 0, result.stderr
    assert read_settings(Path("further/config.yaml"))["normal_dir"] == [
        str(base / "new/normal"), str(base / "new/more"),
    ]  # fmt: skip
    # Its old pictures keep their parts.
    old, new = (
        {(each.sha256, each.part) for each in manifest.read(Path(run)).of("normal")}
        for run in ("run", "further")
    )
    assert old == new


def test_an_interrupted_run_is_resumed_on_moved_folders(fresh, cli):
    solved = ("--variant", "linear-ae", *QUICK[:8])
    base, _ = fresh(*solved)
    shutil.move(base / "old/data", base / "new")
    for name in ("metrics.json", "digests.json"):  # as it was before its end
        Path("run", name).unlink()
    result = cli(
        "train", "--normal-dir", base / "new/normal", "--anomaly-dir", base / "new/anomaly",
        *solved, "--out", "run", "--resume", "--data-root",
        f"{base / 'old/data'}={base / 'new'}",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr


def test_home_is_meant_by_a_tilde_wherever_a_path_is_taken(workplace, cli, monkeypatch):
    monkeypatch.setenv("HOME", str(workplace))
    result = cli("score", "--run=~/runs/normal-lis-seed0", "--out=~/scores.csv", "~/anomaly")
    assert result.exit_code == 0, result.stderr
    assert (workplace / "scores.csv").is_file()
    given = resolve({"dataset": "folder", "normal_dir": "~/normal", "negative_dir": "negative"})
    assert folders.absolute(given).normal_dir == str(workplace / "normal")
    assert folders.absolute(given).negative_dir == str(workplace / "negative")
    assert folders.here(given).normal_dir == "normal"
    assert cli("data", "check", "--normal-dir=~/normal").exit_code == 0


def test_what_has_moved_goes_back():
    given = resolve({"dataset": "folder", "normal_dir": ["/a/b/one", "/c/two"]})
    there = folders.moved(given, ["/a=/new", "/c=/new/c"])
    assert there.normal_dirs == ["/new/b/one", "/new/c/two"]
    assert folders.moved(there, ["/new/b=/b"]).normal_dirs == ["/b/one", "/new/c/two"]
    assert folders.moved_back(folders.moved(given, ["/a/b=/n"]), ["/a/b=/n"]) == given
    with pytest.raises(LisaeError, match="no folder of the run lies in /x"):
        folders.moved(given, ["/x=/y"])
