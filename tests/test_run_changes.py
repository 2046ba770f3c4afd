"""Random changes to a run and its folders: none is scored or reported wrongly without a word."""

import json
import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import QUICK, contents, copied

from lisae_tf.runs import files as run_files

RUN, OTHER = Path("runs/normal-lis-seed0"), Path("other")
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
        result = self.cli("evaluate", "--run", RUN)
        return self.tidy(result) and (json.loads(result.stdout), result.stderr)

    def calibrate(self):
        """The same of `calibrate`."""
        result = self.cli("calibrate", "--run", RUN, "--fpr", "0.25")
        return self.tidy(result) and (result.stdout, result.stderr)

    def report(self):
        """The same of `report`."""
        result = self.cli("report", "--run", RUN, "--out", "report.html")
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
        path = self.one([RUN])
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
            assert beside or run_files.check(RUN)
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
    copied(trained, work, RUN)
    monkeypatch.chdir(work)
    sides = [part for name in PICTURES for part in (f"--{name}-dir", name)]
    told = cli("train", *sides, *QUICK, "--seed", "1", "--quiet", "--out", OTHER)
    assert told.exit_code == 0, told.stderr
    for run in (RUN, OTHER):
        assert cli("calibrate", "--run", run, "--fpr", "0.3").exit_code == 0
    shutil.copytree(work, base)
    made = Changes(base, cli, seed=0)
    shutil.rmtree(RUN)
    shutil.copytree(base / RUN, RUN)
    return made


@pytest.mark.slow
def test_random_changes_are_noticed(changes, measured):
    for _ in range(CHANGES):
        changes.step()
    # Files of runs are refused, pictures told: each must have happened to many.
    assert min(changes.seen["refused"], changes.seen["done with a word"]) > CHANGES // 20
    measured(changes=CHANGES, outcomes=changes.seen)
