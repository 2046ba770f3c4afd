"""The inspection benchmark: kinds shared out both ways, cells kept, failures named, the table."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lisae_tf.config.settings import resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, write_json
from lisae_tf.data import folders
from lisae_tf.data.pictures import content_hashes
from lisae_tf.grids import stored as table
from lisae_tf.grids.cells import STILL_COUNTED, TRAINING_VERSION
from lisae_tf.inspection import cells, measure, records, report
from lisae_tf.inspection.cells import InspectionSet, Split, find_sets

CHECKOUT = Path(__file__).parents[1]
QUICK_ROWS = "linear-lis made,linear-lis real"
SIDE = 64


def write_pictures(folder, count, seed, kind=None, masks=None):
    """Textures; of a kind with a square of its own somewhere, and masks of that."""
    make_folder(folder)
    random = np.random.default_rng([seed, sum(map(ord, kind or ""))])
    for number in range(count):
        picture = random.normal(120, 12, (SIDE, SIDE))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if kind:
            row, column = random.integers(4, SIDE - 20, 2)
            mask[row : row + 16, column : column + 16] = 255
            picture[mask > 0] += {"bright": 90, "dark": -90}.get(kind, 60)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
        if masks:
            Image.fromarray(mask).save(make_folder(masks) / f"{number:03d}_mask.png")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two sets of small pictures: `a` with three kinds and masks, `b` with one."""
    monkeypatch.setattr(folders, "FEATURES_SIDE", SIDE)
    for cached in (cells._size, measure._load, measure._memo):
        cached.cache_clear()
    root = tmp_path / "data"
    for number, (name, kinds) in enumerate({"a": ("bright", "dark", "new"), "b": ("x",)}.items()):
        write_pictures(root / name / "train" / "good", 30, number)
        write_pictures(root / name / "test" / "good", 8, number + 10)
        for kind in kinds:
            masks = root / name / "ground_truth" / kind if name == "a" else None
            write_pictures(root / name / "test" / kind, 11, number, kind, masks)
    return root


def run(cli, data, tmp_path, *more):
    options = ("--data-dir", data, "--seeds", 0, "--out", tmp_path / "out")
    return cli("benchmark", "inspection", *options, *more)


def stored(tmp_path):
    folder = tmp_path / "out" / "cells"
    return {str(path.relative_to(folder)): table.read(path) for path in table.paths(folder)}


def test_kinds_are_shared_out_both_ways_round(data):
    a, b = find_sets(data)
    first, second = a.splits()
    assert (first.negatives, first.tested) == (("bright", "new"), ("dark",))
    assert (second.negatives, second.tested) == (("dark",), ("bright", "new"))
    assert a.usual.tested == ("bright", "dark", "new")
    assert b.splits() == ()
    write_pictures(b.root / "negative" / "other", 3, 0)
    assert b.splits() == (Split(("other",), ("x",), beside=True),)


def test_a_split_is_laid_out_in_folders_that_go_again(data):
    of = find_sets(data)[0]
    with of.laid_out(of.splits()[0]) as own:
        kinds = {name: sorted(p.name for p in Path(own[name]).iterdir())
                 for name in ("negative_dir", "test_dir")}  # fmt: skip
        assert kinds == {"negative_dir": ["bright", "new"], "test_dir": ["dark", "good"]}
        assert "mask_dir" not in own
    assert not Path(own["negative_dir"]).exists()
    with of.laid_out(of.usual) as own:
        assert own.keys() == {"normal_dir", "test_dir", "mask_dir"}


def test_nothing_is_trained_on_that_is_tested(data):
    of = find_sets(data)[0]
    found = list(cells.cells_of(of, records.chosen(["linear-lis both"]), [0], data))
    assert len(found) == len(of.splits())
    for cell in found:
        loaded = measure.load(cell)
        training, test = loaded.data, loaded.test
        seen = [
            digest
            for side in (training.normal, training.negative, training.made)
            for part in (side.fit, side.stopping, side.calibration)
            for digest in content_hashes(part)
        ]
        tested = set(content_hashes(test.pixels))
        assert len(tested) == len(test.pixels) and not set(seen) & tested
        assert set(training.negative_kinds.fit) == set(cell.split.negatives)
        assert {kind for kind in test.kinds if kind} == set(cell.split.tested)
        assert len(test.pixels) == 8 + 11 * len(cell.split.tested)


def test_sets_and_rows_that_are_not_there_are_named(data, tmp_path, cli):
    for options, words in (
        (("--sets", "c"), "holds no set 'c'; it holds a, b"),
        (("--rows", "linear"), "there is no row 'linear'"),
        (("--seeds", "one"), "--seeds one: give whole numbers"),
    ):
        result = run(cli, data, tmp_path, *options)
        assert result.exit_code and words in result.stderr
    with pytest.raises(LisaeError, match="no set in MVTec's layout"):
        find_sets(data / "a")


def test_cells_are_kept_and_a_failed_one_stops_nothing(data, tmp_path, cli):
    bad = data / "b" / "test" / "good" / "000.png"
    good = bad.read_bytes()
    bad.write_bytes(b"no picture")
    result = run(cli, data, tmp_path, "--rows", QUICK_ROWS)
    assert result.exit_code == 0, result.output
    failed = "failed: b/linear-lis-made/usual-seed0.json: "
    assert "4 cells" in result.output and failed in result.output
    first = stored(tmp_path)
    assert list(first) == [
        "a/linear-lis-made/usual-seed0.json",
        "a/linear-lis-real/against-bright-new-seed0.json",
        "a/linear-lis-real/against-dark-seed0.json",
    ]
    bad.write_bytes(good)
    again = run(cli, data, tmp_path, "--rows", QUICK_ROWS)
    assert "4 cells" in again.output and "3 stored, 1 to train" in again.output
    second = stored(tmp_path)
    assert len(second) == 4 and {name: second[name] for name in first} == first
    assert (tmp_path / "out" / "table.md").read_text() in again.output

    record = second["a/linear-lis-made/usual-seed0.json"]
    assert record["config"]["normal_dir"] == "a/train/good"
    assert str(tmp_path) not in str(record)
    assert record["chosen_negatives"] == "made" and record["n_masks"] == 33
    assert record["pictures_per_second"] > 0
    counts = {kind: found["n"] for kind, found in record["by_kind"].items()}
    assert counts == {"bright": 11, "dark": 11, "new": 11}
    real = first[list(first)[2]]
    # The backbone's seconds count although another training had its features already.
    assert real["fit_seconds"] > real["fit_spared_seconds"] > 0
    assert (real["real_negatives"], list(real["by_kind"])) == (["dark"], ["bright", "new"])
    assert str(tmp_path) not in str(real) and real["config"]["negative_dir"] == "dark"


def test_another_setting_makes_a_cell_stale(data, tmp_path):
    of = find_sets(data)[1]
    cell = cells.cells_of(of, records.chosen(["knn"]), [0], tmp_path)[0]
    make_folder(cell.path.parent)
    record = {"config": cell.config.model_dump(), "training_version": TRAINING_VERSION}
    write_json(cell.path, record)
    assert cell.stored() == record
    record["config"]["knn"] = {"bank": 7}
    write_json(cell.path, resolve(record["config"]) and record)
    assert cell.stored() is None


def test_rows_without_chance_have_one_seed(data, tmp_path):
    chosen = records.chosen(["linear-ae", "knn"])
    found = cells.cells_of(find_sets(data)[1], chosen, [3, 4], tmp_path)
    assert [(cell.row.name, cell.config.seed) for cell in found] == [
        ("linear-ae", 3), ("knn", 3), ("knn", 4)
    ]  # fmt: skip


def invent(root, name, row, by_kind, seed=0, split="usual", **more):
    """A result file with given AUROC and number of each kind."""
    kinds = {kind: {"auroc": auroc, "n": n} for kind, (auroc, n) in by_kind.items()}
    pictures = sum(n for _, n in by_kind.values())
    record = {
        "auroc": sum(auroc * n for auroc, n in by_kind.values()) / pictures,
        "auroc_mean_of_kinds": float(np.mean([auroc for auroc, _ in by_kind.values()])),
        "by_kind": kinds, "row": row, "set": name, "split": split, "seed": seed,
        "version": "0.1.0", "training_version": TRAINING_VERSION,
        "fit_seconds": 2.0, "pictures_per_second": 10.0,
        "machine": {"cores": 2, "load_before": 0.4}, "chosen_negatives": "made",
    }  # fmt: skip
    folder = make_folder(root / "cells" / name / row.replace(" ", "-"))
    write_json(folder / f"{split}-seed{seed}.json", record | more)


@pytest.fixture
def invented(tmp_path):
    for seed, gain in enumerate((0.0, 0.1)):
        invent(tmp_path, "a", "knn", {"x": (0.5 + gain, 30), "y": (0.8, 10)}, seed)
    invent(tmp_path, "b", "knn", {"z": (0.9, 5)})
    invent(tmp_path, "a", "ae", {"x": (0.7, 30), "y": (0.7, 10)})
    invent(tmp_path, "a", "linear-lis auto", {"x": (0.9, 30)}, split="against-y")
    invent(tmp_path, "a", "linear-lis auto", {"y": (0.6, 10)}, split="against-x")
    peer = {
        "set": "a", "model": "padim", "status": "run", "versions": {"anomalib": "2.7.0"},
        "image_auroc": 0.77, "image_auroc_mean_of_kinds": 0.76, "fit_seconds": 9.4,
        "image_auroc_by_kind": {"x": 0.8, "y": 0.7}, "test_pictures": {"good": 4, "x": 30, "y": 10},
        "predict_pictures_per_second": 3.0, "seed": 0, "shared": False,
        "machine": {"cores": 2}, "load_before": [0.4, 0.4, 0.4],
    }  # fmt: skip
    failed = {"set": "a", "model": "efficientad", "status": "not run"}
    write_json(tmp_path / "peers.json", {"a-efficientad": failed, "a-padim": peer})
    return tmp_path


def cells_of_table(text, row):
    line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_table_is_means_over_seeds_then_sets(invented):
    text = report.render(invented)
    # (0.575 + 0.65) / 2 and 0.9; a row that is not there for every set has no mean.
    assert cells_of_table(text, "knn") == ["0.613", "0.900", "0.756"]
    assert cells_of_table(text, "ae") == ["0.700", "–", "–"]
    assert cells_of_table(text, "PaDiM (anomalib 2.7)") == ["0.770", "–", "–"]
    overall = text.split("| mean over sets |")[1]
    assert cells_of_table(overall, "knn") == ["0.756", "0.788", "–", "–", "2", "10.0"]
    assert text.index("| knn |") < text.index("| ae |") < text.index("| PaDiM")


@pytest.mark.parametrize("load", [{"load_before": 2.6}, {"load_before": 0.1, "load_after": 3.9}])
def test_times_that_other_work_slowed_are_not_shown(tmp_path, load):
    busy = {"cores": 2} | load
    invent(tmp_path, "a", "knn", {"x": (0.5, 3)}, 0, fit_seconds=8.0, machine=busy)
    invent(tmp_path, "a", "linear-ae", {"x": (0.5, 3)}, machine=busy)
    assert records.read(tmp_path).figure("linear-ae", "a", "fit_seconds") is None
    invent(tmp_path, "a", "knn", {"x": (0.7, 3)}, 1)
    found = records.read(tmp_path)
    assert found.figure("knn", "a", "fit_seconds") == 2.0
    assert found.figure("knn", "a", "auroc") == pytest.approx(0.6)


def test_kinds_left_out_weigh_by_their_pictures_both_ways_round(invented):
    found = records.read(invented)
    assert found.splits("a") == ["against-x", "against-y"] and found.splits("b") == []
    assert found.left_out("knn", "a", "against-y") == pytest.approx(0.55)  # x, over two seeds
    assert found.left_out("linear-lis auto", "a", "against-y") == 0.9
    text = report.render(invented).split("### Kinds that are not among the negatives")[1]
    assert cells_of_table(text, "knn") == ["0.675", "0.675"]
    assert cells_of_table(text, "linear-lis auto") == ["0.750", "0.750"]
    assert "| chosen by auto | made | made |" in text


def test_files_of_an_older_training_do_not_count(tmp_path):
    invent(tmp_path, "a", "knn", {"x": (0.5, 3)}, training_version=min(STILL_COUNTED) - 1)
    assert report.render(tmp_path) == "" == report.render(tmp_path / "nothing")


def test_files_of_an_earlier_training_that_still_counts_are_named(tmp_path):
    invent(tmp_path, "a", "knn", {"x": (0.5, 3)})
    assert "version 0.1.0." in report.render(tmp_path)
    invent(tmp_path, "a", "ae", {"x": (0.5, 3)}, training_version=STILL_COUNTED[0])
    assert f"0.1.0; 0.1.0 with training version {STILL_COUNTED[0]}." in report.render(tmp_path)


def test_the_section_is_written_without_tensorflow(invented):
    code = (
        "import sys; from pathlib import Path; from lisae_tf.inspection import report; "
        f"assert report.render(Path({str(invented)!r})).startswith('## Pictures that people'); "
        "assert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True)


def test_a_set_is_known_by_its_folder(data):
    assert [each.name for each in find_sets(data, ["b"])] == ["b"]
    assert find_sets(data)[0] == InspectionSet(data / "a")


def test_each_committed_cell_lies_where_its_record_says():
    folder = CHECKOUT / "results" / "inspection" / "cells"
    found = {path.relative_to(folder): table.read(path) for path in table.paths(folder)}
    assert len(found) > 100
    for path, record in found.items():
        row = record["row"].replace(" ", "-")
        assert path == Path(record["set"], row, f"{record['split']}-seed{record['seed']}.json")
