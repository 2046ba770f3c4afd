"""`runs list`, `runs compare`, random changes to a run, and marks of its pictures."""

import hashlib
import json
import os
import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import QUICK, contents, copied

from lisae_tf.commands.train import run_name
from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.data.manifest import Entry, Manifest
from lisae_tf.experiments.marked import lists_of
from lisae_tf.runs import files as run_files
from lisae_tf.runs import folders as runs
from lisae_tf.runs.marks import Mark, append_mark, place_of, read_marks

RUN = Path("runs/normal-lis-seed0")
SIDES = ("--normal-dir", "normal", "--negative-dir", "negative", "--anomaly-dir", "anomaly")


@pytest.fixture
def begun(workplace):
    """An interrupted run beside the complete one."""
    folder = Path("runs/begun")
    runs.claim(folder, (RUN / "config.yaml").read_text(), resume=False)
    run_files.record(folder)
    (folder / "checkpoint.npz").touch()
    return folder


def rows(result):
    assert (result.exit_code, result.stderr) == (0, "")
    return {line.split()[0]: " ".join(line.split()) for line in result.stdout.splitlines() if line}


def test_each_run_is_listed_with_what_became_of_it(begun, cli):
    metrics = runs.read_metrics(RUN)
    found = rows(cli("runs", "list"))
    assert found.keys() == {"run", "begun", RUN.name}
    assert " normal lis 1.000 (95 %: 0." in found[RUN.name]
    assert found[RUN.name].endswith(f"to 1.000) {metrics['threshold']:.5g} complete")
    assert found["begun"].endswith(" normal lis - - interrupted")
    with run_files.writing(begun):
        assert rows(cli("runs", "list"))["begun"].endswith("being written")
    runs.abandon(begun, "the disk is full")
    assert rows(cli("runs", "list"))["begun"].endswith("failed: the disk is full")
    path = RUN / "metrics.json"
    path.write_text(path.read_text().replace("0.05", "0.04"))
    assert f"unreadable: {path} is damaged" in rows(cli("runs", "list"))[RUN.name]


def test_a_run_that_fails_leaves_nothing_in_the_way(workplace, cli, monkeypatch):
    from lisae_tf.experiments import experiment

    def fail(*args, **how):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run", fail)
        with pytest.raises(RuntimeError):
            cli("train", *SIDES, *QUICK, "--quiet", "--out", "new")
    assert not Path("new").exists()


def test_runs_on_other_folders_have_other_names():
    given = {"dataset": "folder", "normal_dir": "a/good", "negatives": "none", "variant": "ae"}
    name, *others = (
        run_name(resolve(given | more))
        for more in ({}, {"normal_dir": "b/good"}, {"anomaly_dir": "c"}, {"seed": 1})
    )
    assert name.startswith("good-ae-seed0-")
    assert len({name, *others}) == 4
    assert name == run_name(resolve(given))


def test_two_runs_are_compared(workplace, cli):
    shutil.copytree(RUN, "same")
    found = cli("runs", "compare", RUN, "same")
    assert (found.exit_code, found.stderr) == (0, "")
    assert "the settings are the same" in found.stdout and "note" not in found.stdout
    Path("anomaly/000.png").rename("one.png")
    more = ("--set", "network.latent=3", "--quiet", "--out", "other")
    assert cli("train", *SIDES, *QUICK, *more).exit_code == 0
    said = rows(cli("runs", "compare", RUN, "other"))
    a, b = (runs.read_metrics(folder) for folder in (RUN, Path("other")))
    assert said["threshold"] == f"threshold {a['threshold']:.5g} {b['threshold']:.5g}"
    assert said["n_anomaly"] == "n_anomaly 9 8"
    assert said["network.latent"] == "network.latent 4 3"
    assert "seed" not in said
    assert said["note:"].startswith("note: they were not tested on the same pictures")


CHANGED, OTHER = Path("runs/normal-lis-seed0"), Path("other")
PICTURES = ("normal", "negative", "anomaly")
CHANGES = int(os.environ.get("LISAE_RANDOM_CHANGES", "1000"))


class Changes:
    """Changes a copy of a working folder, has it used, and starts again."""

    def __init__(self, base: Path, cli, seed: int):
        self.chance, self.cli, self.base, self.seen = random.Random(seed), cli, base, Counter()
        self.good = self.evaluated()
        self.reported = self.report()
        self.calibrated = self.calibrate()

    def evaluated(self):
        """What `evaluate` finds, and what it says beside that; None where it refuses."""
        result = self.cli("evaluate", "--run", CHANGED)
        return self.tidy(result) and (json.loads(result.stdout), result.stderr)

    def calibrate(self):
        """The same of `calibrate`."""
        result = self.cli("calibrate", "--run", CHANGED, "--fpr", "0.25")
        return self.tidy(result) and (result.stdout, result.stderr)

    def report(self):
        """The same of `report`."""
        result = self.cli("report", "--run", CHANGED, "--out", "report.html")
        return self.tidy(result) and (Path("report.html").read_text(), result.stderr)

    @staticmethod
    def tidy(result) -> bool:
        if result.exit_code:
            assert result.stderr.splitlines()[-1].startswith("Error: "), result.stderr
            assert result.stdout == ""
        return result.exit_code == 0

    def one(self, folders) -> Path:
        return self.chance.choice(
            sorted(p for f in folders for p in Path(f).rglob("*") if p.is_file())
        )

    def altered(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        digits = [k for k, byte in enumerate(data) if chr(byte).isdigit()]
        data[self.chance.choice(digits or range(len(data)))] ^= 1
        path.write_bytes(data)

    def change(self) -> str:
        """One random change; gives its name."""
        name = self.chance.choice(
            ("digit", "digit", "swapped", "removed", "renamed", "picture added", "picture removed",
             "picture renamed", "picture altered", "picture swapped")
        )  # fmt: skip
        if name.startswith("picture"):
            path = self.one(PICTURES)
            other = self.one(PICTURES)
            match name.split()[1]:
                case "added":
                    shutil.copy(other, path.with_name(f"new{self.chance.random()}{other.suffix}"))
                case "removed":
                    path.unlink()
                case "renamed":
                    path.rename(path.with_name(f"{self.chance.random()}{path.suffix}"))
                case "altered":
                    self.altered(path)
                case _:
                    path.write_bytes(other.read_bytes())
            return name
        path = self.one([CHANGED])
        match name:
            case "digit":
                self.altered(path)
            case "swapped":
                shutil.copy(self.one([OTHER]), path)
            case "removed":
                path.unlink()
            case _:
                path.rename(path.with_name(f"old{self.chance.random()}{path.suffix}"))
        return f"file {name}"

    def step(self) -> None:
        files = contents(".")
        made = [self.change() for _ in range(self.chance.choice((1, 1, 1, 2, 3)))]
        use = self.chance.choice((self.evaluated, self.evaluated, self.calibrate, self.report))
        same = contents(".") == files
        try:
            outcome = self.judged(use, made)
        except BaseException as error:
            error.add_note(f"{made}, then {use.__name__}")
            raise
        self.seen["unharmed" if same else outcome] += 1
        for name in ("runs", "other", *PICTURES):
            shutil.rmtree(name)
            shutil.copytree(self.base / name, name)

    def judged(self, use, made) -> str:
        found = use()
        if not found:
            return "refused"
        said, beside = found
        if use == self.report:
            told = "and are not shown" in said or "test pictures cannot be read" in said
            assert beside or run_files.check(CHANGED)
            if beside or told:
                return "reported with a word"
            assert shown(said) == shown(self.reported[0])
            return "the same report"
        if beside:
            return "done with a word"
        good = self.good[0] if use == self.evaluated else self.calibrated[0]
        if use == self.evaluated:
            assert said == {
                key: pytest.approx(value) if isinstance(value, float) else value
                for key, value in good.items()
            }
        else:
            assert said == good
        return "the same figures"


def shown(report: str) -> list[str]:
    """What a report says of each picture, besides its name."""
    return re.findall(r"<br>(\w+, score \S+?,)", report)


@pytest.fixture
def changes(trained, tmp_path, monkeypatch, cli):
    """Random changes to a copy of a working folder with two runs."""
    base, work = tmp_path / "base", tmp_path / "work"
    # Runs name whole paths of their pictures: what is changed must be where they were trained.
    copied(trained, work, CHANGED)
    monkeypatch.chdir(work)
    sides = [part for name in PICTURES for part in (f"--{name}-dir", name)]
    told = cli("train", *sides, *QUICK, "--seed", "1", "--quiet", "--out", OTHER)
    assert told.exit_code == 0, told.stderr
    for run in (CHANGED, OTHER):
        assert cli("calibrate", "--run", run, "--fpr", "0.3").exit_code == 0
    shutil.copytree(work, base)
    made = Changes(base, cli, seed=0)
    shutil.rmtree(CHANGED)
    shutil.copytree(base / CHANGED, CHANGED)
    return made


@pytest.mark.slow("a thousand changes, each with a command")
def test_random_changes_are_noticed(changes, measured):
    for _ in range(CHANGES):
        changes.step()
    # Files of runs are refused, pictures told: each must have happened to many.
    assert min(changes.seen["refused"], changes.seen["done with a word"]) > CHANGES // 20
    measured(changes=CHANGES, outcomes=changes.seen)


MARK = Mark("/a.png", "0" * 64, "normal", 0.5, 0.25, "2026-01-01T00:00:00+00:00")


def test_versions_of_a_model_share_their_marks(tmp_path, monkeypatch):
    (tmp_path / "part" / "1" / "variables").mkdir(parents=True)
    (tmp_path / "alone").mkdir()
    shared = tmp_path / "part" / "marks.jsonl"
    versions = tmp_path / "part" / "1", tmp_path / "part" / "2" / "model.onnx"
    assert {place_of(None, version) for version in versions} == {shared}
    monkeypatch.chdir(tmp_path / "part" / "1")
    assert place_of(None, Path("model.onnx")) == shared
    alone = tmp_path / "alone" / "model.tflite"
    assert place_of(None, alone) == alone.with_name("model.tflite.marks.jsonl")
    assert place_of(tmp_path / "run", None) == tmp_path / "run" / "marks.jsonl"


def test_half_a_mark_is_none_and_is_cut_off(tmp_path):
    path = tmp_path / "new" / "marks.jsonl"
    assert read_marks(path) == []
    append_mark(path, MARK)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-9])
    assert read_marks(path) == [MARK]
    other = Mark("/b\udcff.png", "1" * 64, "anomaly", 1.0, 0.25, MARK.time)
    append_mark(path, other)
    assert path.read_bytes().startswith(whole)
    assert read_marks(path) == [MARK, other]
    append_mark(path, Mark(MARK.picture, MARK.sha256, None, 0.5, 0.25, MARK.time))
    assert read_marks(path) == [other]


@pytest.mark.parametrize(
    "line",
    [
        "x", "[]", "{}", '{"picture": "/a"}', "[" * 100_000,
        json.dumps(vars(MARK) | {"mark": "odd"}), json.dumps(vars(MARK) | {"score": "1"}),
        json.dumps(vars(MARK) | {"score": float("nan")}), json.dumps(vars(MARK) | {"more": 1}),
        json.dumps(vars(MARK) | {"mark": ["normal"]}),
    ],
)  # fmt: skip
def test_what_is_no_mark_is_refused(tmp_path, line):
    path = tmp_path / "marks.jsonl"
    path.write_text(json.dumps(vars(MARK)) + f"\n{line}\n")
    with pytest.raises(LisaeError, match=r"line 2 of .*marks\.jsonl is no mark"):
        read_marks(path)


def mark(picture, said, **changed):
    digest = hashlib.sha256(Path(picture).read_bytes()).hexdigest()
    return replace(
        Mark(str(picture), digest, said, 0.5, 0.4, "2026-01-31T12:00:00+00:00"), **changed
    )


@pytest.fixture
def place(tmp_path):
    """A folder of six files, and a run that has the last of them as normal."""
    for k in range(6):
        (tmp_path / f"{k}.png").write_bytes(bytes([k]))
    (tmp_path / "run").mkdir()
    digest = hashlib.sha256(bytes([5])).hexdigest()
    entry = Entry("normal", 0, "5.png", digest, "fit", "", 8, 8, "L")
    Manifest([entry]).write(tmp_path / "run")
    return tmp_path


def written(place, *marks):
    path = place / "marks.jsonl"
    for each in marks:
        append_mark(path, each)
    return path


def test_lists_hold_what_the_run_does_not_have(place):
    marks = [
        *(mark(place / f"{k}.png", "normal") for k in (1, 0, 5)),
        *(mark(place / f"{k}.png", "anomaly") for k in (3, 2)),
        mark(place / "4.png", None),
    ]
    path = written(place, *marks)
    found = lists_of(path, place / "run")
    (normal,), (known,) = found.normal, found.known
    assert Path(normal).read_text() == f"{place}/0.png\n{place}/1.png\n"
    assert Path(known).read_text() == f"{place}/2.png\n{place}/3.png\n"
    assert found.notes == ["1 of 5 marked pictures are the run's own"]
    # Later marks make lists of their own: those of an earlier run stay.
    written(place, mark(place / "4.png", "normal"))
    assert lists_of(path, place / "run").normal != found.normal
    assert Path(normal).is_file()


def test_a_single_anomaly_is_left_out_and_named(place):
    marks = mark(place / "0.png", "normal"), mark(place / "1.png", "anomaly")
    found = lists_of(written(place, *marks), place / "run")
    assert (len(found.normal), found.known) == (1, [])
    assert "1.png is left out" in found.notes[0]


@pytest.mark.parametrize(
    ("marks", "sentence"),
    [
        ([(0, None)], "marks no picture"),
        ([(5, "normal")], "has all pictures"),
        ([(5, "anomaly")], "is marked anomaly, and .* has it among its normal pictures"),
        ([(1, "anomaly")], "a single anomaly"),
    ],
)
def test_marks_that_add_nothing_are_refused(place, marks, sentence):
    path = written(place, *(mark(place / f"{k}.png", said) for k, said in marks))
    with pytest.raises(LisaeError, match=sentence):
        lists_of(path, place / "run")
    assert not list(place.glob("marks-*"))


def test_a_picture_that_changed_since_is_refused(place):
    path = written(place, mark(place / "0.png", "normal"))
    (place / "0.png").write_bytes(b"other")
    with pytest.raises(LisaeError, match=r"0\.png has changed since it was marked"):
        lists_of(path, place / "run")
    (place / "0.png").unlink()
    with pytest.raises(LisaeError, match=r"0\.png is marked in .* and does not exist"):
        lists_of(path, place / "run")
