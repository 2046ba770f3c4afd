"""`monitor`: drift is told from anomalies, from chance and from trifles."""

import json

import numpy as np
import pyarrow
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from lisae_tf.cli import main
from lisae_tf.core.arrays import save_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import write_json
from lisae_tf.exported.monitoring import compare
from lisae_tf.exported.score_files import read as read_scores
from lisae_tf.runs.files import METRICS, SCORES, record
from lisae_tf.runs.folders import read_scores as read_scores_of

RATES = {"alpha": 0.03, "expected_rate": 0.05}


def normal_scores(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(8, 0.0025, count)


def test_scores_of_the_same_kind_have_not_drifted():
    drift = [compare(normal_scores(400, 0), normal_scores(300, seed), **RATES) for seed in (1, 2)]
    assert not any(each.drifted for each in drift)
    assert "leave the threshold" in drift[0].advice()


def test_a_few_anomalies_are_no_drift_but_are_counted():
    window = normal_scores(300, 1)
    window[:15] = 0.2
    drift = compare(normal_scores(400, 0), window, **RATES)
    assert not drift.drifted
    assert drift.flagged_rate > 0.05


@pytest.mark.parametrize(("factor", "side"), [(1.3, "higher"), (0.7, "lower")])
def test_another_level_is_drift_in_either_direction(factor, side):
    drift = compare(normal_scores(400, 0), factor * normal_scores(300, 1), **RATES)
    assert drift.drifted
    assert f"they are {side} than" in drift.advice()
    assert "calibrate --normal-dir" in drift.advice()


def test_a_trifle_is_no_drift_however_many_scores_show_it():
    drift = compare(normal_scores(20_000, 0), 1.03 * normal_scores(20_000, 1), **RATES)
    assert drift.p_value < 1e-4
    assert not drift.drifted
    drift = compare(
        normal_scores(20_000, 0), 1.03 * normal_scores(20_000, 1), smallest=0.0, **RATES
    )
    assert drift.drifted


def test_too_few_scores_are_refused():
    with pytest.raises(LisaeError, match="window has 5 scores; a comparison needs at least 20"):
        compare(normal_scores(100, 0), normal_scores(5, 0), **RATES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,score\na.png,0.1\nb.png,x\n", "line 3: no score"),
        ("path,value\na.png,0.1\n", "line 2: no score"),
        ("path,score\na.png,nan\n", "line 2: the score is nan"),
        ('{"score": 0.1}\n{"path": "b"}\n', "line 2: no score"),
        ('{"score": 0.1}\n{"score"\n', "no file that score wrote"),
    ],
)
def test_a_bad_line_is_named(text, said, tmp_path):
    (tmp_path / "scores").write_text(text)
    with pytest.raises(LisaeError, match=said):
        read_scores(tmp_path / "scores")


@pytest.fixture
def run(tmp_path):
    """A completed run, as far as this command looks at it."""
    folder = tmp_path / "run"
    folder.mkdir()
    scores = normal_scores(400, 0)
    save_arrays(
        folder / SCORES,
        {"calibration": scores, "test": scores, "is_anomaly": np.zeros(400, bool)},
    )
    texts = dict.fromkeys(("config_hash", "dataset", "protocol", "variant"), "x")
    threshold = {"threshold": 0.03, "threshold_guaranteed_fpr": 0.05}
    write_json(
        folder / METRICS, texts | threshold | {"normal": ["x"], "seed": 0, "negatives": "none"}
    )
    record(folder)
    return folder


def write_csv(path, scores):
    rows = [f"p{index}.png,{score},0.03,false" for index, score in enumerate(scores)]
    path.write_text("path,score,threshold,is_anomaly\n" + "\n".join(rows) + "\n")
    return path


def monitor(run, scores, *more):
    return CliRunner().invoke(main, ["monitor", "--run", str(run), "--scores", str(scores), *more])


def test_the_exit_code_says_drift(run, tmp_path):
    scores = write_csv(tmp_path / "same.csv", normal_scores(200, 1))
    assert monitor(run, scores).exit_code == 0
    scores = write_csv(tmp_path / "other.csv", 2 * normal_scores(200, 1))
    result = monitor(run, scores)
    assert result.exit_code == 3
    assert "the scores have drifted" in result.output
    assert monitor(run, tmp_path / "missing.csv").exit_code == 1


def write_part(path, scores):
    parquet.write_table(pyarrow.table({"score": pyarrow.array(scores, pyarrow.float32())}), path)


def test_parts_count_like_lines_but_for_pictures_without_a_score(run, tmp_path):
    scores, parts = normal_scores(200, 1), tmp_path / "parts"
    parts.mkdir()
    write_part(parts / "part-000000.parquet", [*scores[:150], None])
    write_part(parts / "part-000001.parquet", scores[150:])
    (parts / "_manifest.json").write_text("{}")
    np.testing.assert_array_equal(read_scores(parts), scores.astype(np.float32))
    assert len(read_scores(parts / "part-000001.parquet")) == 50
    assert monitor(run, parts).exit_code == 0
    write_part(parts / "part-000001.parquet", 2 * normal_scores(500, 2))
    assert monitor(run, parts).exit_code == 3


def test_what_is_no_part_is_named(run, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    assert "holds no part" in monitor(run, parts).output
    part = parts / "part-000000.parquet"
    for spoil in (
        lambda: part.write_bytes(b"PAR1 damaged"),
        lambda: parquet.write_table(pyarrow.table({"value": [0.1]}), part),
        lambda: parquet.write_table(pyarrow.table({"score": ["a"]}), part),
    ):
        spoil()
        result = monitor(run, parts)
        assert (result.exit_code, result.output) == (
            1, 
            f"Error: {part} is damaged or no part of score --parts; remove it and score again\n",
        )  # fmt: skip
    write_part(part, [0.1, float("inf")])
    assert "not finite" in monitor(run, parts).output


def test_the_last_scores_alone(run, tmp_path):
    both = np.concatenate([2 * normal_scores(300, 1), normal_scores(100, 2)])
    scores = write_csv(tmp_path / "both.csv", both)
    assert monitor(run, scores).exit_code == 3
    result = monitor(run, scores, "--last", "100", "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["n_window"] == 100


def test_after_a_new_calibration_the_new_scores_are_what_is_compared_with(workplace, cli):
    folder = workplace / "runs" / "normal-lis-seed0"
    before = read_scores_of(folder)["calibration"]
    assert cli("calibrate", "--fpr", "0.1", "--normal-dir", "anomaly").exit_code == 0
    after = read_scores_of(folder)
    assert len(after["calibration"]) == len(list((workplace / "anomaly").iterdir()))
    assert not np.array_equal(after["calibration"], before)
    assert len(after["test"]) == len(after["is_anomaly"])
