"""`score --list`: pictures that a file names."""

import csv
import io
from pathlib import Path

import pytest

from lisae_tf.data import lists


@pytest.fixture
def place(tmp_path, picture_folder):
    picture_folder(tmp_path / "lot", 4)
    return tmp_path


def test_lines_and_a_column_of_a_csv_are_paths_from_the_lists_folder_on(place):
    wanted = sorted((place / "lot").iterdir())
    (place / "all.txt").write_text("\n".join(f"lot/{each.name}" for each in wanted) + "\n\n")
    assert lists.read(place / "all.txt") == wanted
    rows = [f"{k},lot/{each.name}" for k, each in enumerate(wanted)]
    (place / "all.csv").write_text("\ufeffnumber, Path\n" + "\n".join(rows), encoding="utf-8")
    assert lists.read(place / "all.csv") == wanted
    (place / "one.csv").write_text(f"path\n{wanted[0]}\n")
    assert lists.read(place / "one.csv") == wanted[:1]


def test_a_list_is_scored(workplace, cli):
    Path("lot").mkdir()
    Path("lot/these.csv").write_text("path,station\n../normal/000.png,1\n../anomaly/002.png,2\n")
    result = cli("score", "--list", "lot/these.csv")
    assert result.exit_code == 0, result.stderr
    listed = [row["path"] for row in csv.DictReader(io.StringIO(result.stdout))]
    assert listed == ["lot/../normal/000.png", "lot/../anomaly/002.png"]
    # What `score` writes is such a list.
    Path("scores.csv").write_text(result.stdout)
    assert cli("score", "--list", "scores.csv").stdout == result.stdout


def test_nothing_to_score_is_said(workplace, cli):
    assert "name files or folders, or --list FILE" in cli("score").stderr
