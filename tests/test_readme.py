"""What README and the pages say is run as it stands, on small pictures."""

import contextlib
import inspect
import json
import re
import shlex
from pathlib import Path

import click
import feature_fixtures
import numpy as np
import pytest
import serving_fixtures
from conftest import CHECKOUT, QUICK
from training_fixtures import surface

from export.parity import BOUNDS
from lisae_tf.cli import main
from lisae_tf.config import sections
from lisae_tf.config.variants import GRAPHLESS
from lisae_tf.core.files import read_json
from lisae_tf.data import checks, pictures
from lisae_tf.exported import monitoring
from lisae_tf.grids import stored
from lisae_tf.paper import one_dataset, published
from lisae_tf.serving import limits

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
PYTHON = (CHECKOUT / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")
PAGES = sorted((CHECKOUT / "docs").rglob("*.md"))


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(heading: str) -> list[str]:
    """The command lines below a heading of README."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line.partition("#")[0].strip() for line in blocks(section, "console")[0].splitlines()]


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


# Rows of the pages that repeat figures, by how they begin, and the rows that a command wrote.
REPEATED = {
    "| `linear-lis`, made": "linear-lis made",
    "| `lis`, made": "lis made",
    "| `ae` ": "ae",
    "| `linear-ae` ": "linear-ae",
    "| `lis-knn`": "lis-knn made",
    "| `knn` ": "knn",
    "| `mahalanobis` ": "mahalanobis",
    "| PaDiM of anomalib": "PaDiM (anomalib 2.7)",
    "| PatchCore of anomalib": "PatchCore 1 % (anomalib 2.7)",
}


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/features.md"])
def test_figures_that_a_page_repeats_are_those_of_the_results(page):
    results = (CHECKOUT / "docs/results/inspection.md").read_text(encoding="utf-8")
    written = {}
    for line in results.partition("\n| mean over sets")[0].splitlines():
        name, *figures = [cell.strip() for cell in line.strip("| ").split("|")]
        written[name] = figures
    found = 0
    for line in (CHECKOUT / page).read_text(encoding="utf-8").splitlines():
        for beginning, name in REPEATED.items():
            if line.startswith(beginning) and line.count("|") == 8:
                cells = [cell.strip("* ") for cell in line.strip("| ").split("|")]
                assert cells[1:] == written[name], line
                found += 1
    assert found >= 6


def test_what_known_flaws_change_is_as_it_was_measured():
    measured = json.loads((CHECKOUT / "results" / "inspection" / "known_flaws.json").read_text())
    page = (CHECKOUT / "docs" / "how-to" / "known-flaws.md").read_text()
    assert f"in {measured['draws']} random draws" in page
    for known in ("10", "20", "30"):
        found = [each["known"][known] for each in measured["sets"].values()]
        assert len(found) == 5
        (changed,) = {f"{100 * each['changed']:.0f}" for each in found}
        gains = [each["gain_of_the_best"] for each in found]
        low, high = (f"{gain:.3f}".replace("-", "−") for gain in (min(gains), max(gains)))
        assert f"| {known} | {changed} % of draws | {low} to {high} |" in page


def test_what_is_said_of_made_negatives_is_in_the_results():
    page = (CHECKOUT / "docs/how-to/negatives.md").read_text(encoding="utf-8")
    results = (CHECKOUT / "docs/results/negatives.md").read_text(encoding="utf-8")
    for name, row in (
        ("elastic", "| `synth:elastic` (default) |"),
        ("rotate", "| `synth:rotate` |"),
    ):
        written = re.search(rf"^\| {name} \|(.*)\|$", results, re.MULTILINE)[1].split("|")
        figures = " | ".join(f"{float(cell.split()[0]):.3f}" for cell in written)
        assert f"{row} {figures} |" in page
    better = re.search(r"better than AE in every column: (.*)\.", results)[1].split(", ")
    assert better[-1] == "cutpaste+shuffle" and len(better) == 6
    assert (
        "Five of the generators, and `cutpaste+shuffle`, beat the plain autoencoder on all" in page
    )


def on_surfaces(folder: str, *parts: str) -> list[dict]:
    """Records of LIS-AE on the embedded surfaces, below a folder of the results."""
    found = stored.paths(CHECKOUT / "results" / folder)
    return [stored.read(path) for path in found if {"lis", *parts} <= {*path.parts}]


def measured():
    """Pages, and rows of theirs that repeat committed figures."""
    elastic, rotate = (on_surfaces("synthetic", name) for name in ("elastic", "rotate"))
    for name, records, key in (
        ("none (phase 1 of these runs)", elastic, "auroc_phase1"),
        ("`synth:elastic`", elastic, "auroc"),
        ("`synth:rotate`", rotate, "auroc"),
        ("real negatives (the other half)", on_surfaces("surfaces"), "auroc"),
    ):
        found = {record["normal"][0]: record[key] for record in records}
        mean, one = np.mean([*found.values()]), found["immunohistochemistry"]
        assert len(found) == 10
        yield "how-to/negatives.md", f"| {name} | {mean:.3f} | {one:.3f} |"
    over_sets = (CHECKOUT / "docs/results/inspection.md").read_text(encoding="utf-8")
    over_sets = over_sets.partition("\n| mean over sets")[2]
    for name in ("lis-knn", "linear-lis", "lis"):
        row = rf"^\| {name} made \|(?:[^|]*\|){{3}} (\S+) \|"
        overlap = re.search(row, over_sets, re.MULTILINE)[1]
        yield "how-to/features.md", f"| `{name}` | {overlap} |"
    tuning = read_json(CHECKOUT / "results/summary.json")["tuning"]
    for name, column in {"SVHN": "svhn", "MNIST two-class": "mnist_2class"}.items():
        before, after = (tuning[row][column]["mean"] for row in ("folder defaults", "tuned"))
        yield "how-to/runs.md", f"| {name} | {before:.3f} | {after:.3f} |"
    gains = (CHECKOUT / "docs/results/settings.md").read_text(encoding="utf-8")
    for column in ("fashion_mnist", "cifar10"):
        gain, error = re.search(rf"\| {column} \|.* ▲ \+(\S+) ± (\S+) \|", gains).groups()
        assert float(gain) < float(error)
        yield "how-to/runs.md", "| Fashion-MNIST, CIFAR-10 | | better within the noise |"
    yield from of_the_paper()
    yield from speeds()


def of_the_paper():
    """What the page on the paper repeats: the embedded photographs, tables 1 and 2, and more."""
    page = "datasets.md"
    cells = one_dataset.cells("surfaces", ["lis", "linsep"], range(1), CHECKOUT / "results")
    yield page, one_dataset.table(one_dataset.stored([*cells]))
    summary = read_json(CHECKOUT / "results/summary.json")
    table = {column: name for name in ("table1", "table2") for column in summary[name]["AE"]}

    def figure(row: str, column: str, *, printed: bool = False) -> str:
        ours = summary[table[column]].get(row, {}).get(column)
        paper = published.printed(table[column], row, column) if ours and printed else None
        return (f"{ours['mean']:.3f}" if ours else "") + (f" ({paper:.3f})" if paper else "")

    columns = "mnist", "fashion_mnist", "mnist_2class", "svhn", "cifar10"
    rows = ("AE", "LIS-AE", "LinSep-LIS-AE", "LinSep-fused", "Binary classifier", "Sup. LIS-AE",
            "Sup. LinSep-LIS-AE")  # fmt: skip
    for name, column in zip(
        ("MNIST, Omniglot negatives", "Fashion-MNIST, next class and elastic",
         "MNIST two-class, Omniglot", "SVHN, other half", "CIFAR-10, other half"), columns,
        strict=True,
    ):  # fmt: skip
        yield page, " | ".join([name, *(figure(row, column, printed=True) for row in rows)])
    for name, row in (
        ("AE at a size chosen for itself", "AE (own latent)"),
        ("Deep SAD, same negatives", "Deep SAD"),
        ("hypersphere classifier, same negatives", "Hypersphere classifier"),
    ):
        yield page, " | ".join([name, *(figure(row, column) for column in columns)])
    for name, row, column in (
        ("MNIST, Fashion-MNIST", "Fashion", "mnist"),
        ("Fashion-MNIST, MNIST", "MNIST", "fashion_mnist"),
        ("CIFAR-10, SVHN", "SVHN", "cifar10"),
    ):
        yield page, f"| {name} | {summary['table3_linsep-fused'][row][column]['mean']:.3f} |"


def speeds():
    """What the page on scale repeats of `benchmarks/results.json`."""
    rows = {row["name"]: row for row in read_json(CHECKOUT / "benchmarks/results.json")["rows"]}
    page, kind = "scale.md", ", 32×32×3: "
    files = rows[f"parts from PNG files{kind}Ray, the local engine"]["ours"]
    alone = rows[f"scoring arrays{kind}PyTorch"]["ours"]
    table = rows[f"parts from a Parquet table{kind}from PNG files"]
    yield page, f"both cores | {files:,.0f} pictures/s: {files / 2:,.0f} a core |"
    yield page, f"both cores | {alone:,.0f} pictures/s: {alone / 2:,.0f} a core |"
    yield page, f"takes {files / 2:,.0f} / {alone / 2:,.0f}, about a third"
    yield page, f"one local process | {table['ours']:,.0f} pictures/s |"
    row_bytes, picture_bytes = re.findall(r"(\d+) bytes", table["note"])
    yield page, f"| encoded picture in a Parquet table | {int(picture_bytes):,} bytes |"
    yield page, f"| row of scores | {row_bytes} bytes |"
    yield page, f"TFLite, {rows[f'int8 TFLite{kind}speed of float32 TFLite']['ratio']:.1f} times"
    gains = [row["ratio"] for name, row in rows.items() if "in bfloat16" in name]
    yield page, f"| training of the autoencoders | up to {max(gains):.1f} times |"


def test_figures_of_the_pages_are_those_of_the_results():
    for page, words in measured():
        text = (CHECKOUT / "docs" / page).read_text(encoding="utf-8")
        plain, wanted = (re.sub(" +", " ", each.replace("**", "")) for each in (text, words))
        assert wanted.rstrip() in plain, f"{page}: {words}"


def stated():
    """Pages, and what they say of constants of the code."""
    bounds = limits.Limits()
    yield "pictures.md", f"more than {pictures.MAX_PIXELS:,} pixels | refused before a pixel"
    yield "how-to/own-folders.md", f"differ by less than {checks.NEAR_LEVELS} of\n255 levels"
    yield "how-to/own-folders.md", f"| with tiles | {16 * sections.WHOLE:,} pixels |"
    yield "how-to/own-folders.md", f"| without | {sections.WHOLE:,} pixels |"
    yield "how-to/edge.md", f"the run's, to {BOUNDS[None].relative:.0e}".replace("e-0", "e-")
    yield "how-to/edge.md", "{}, {} and {} have no graph".format(*(f"`{n}`" for n in GRAPHLESS))
    drift = inspect.signature(monitoring.compare).parameters
    yield "how-to/runs.md", f"| p-value | below {drift['significance'].default} |"
    yield "how-to/runs.md", f"| difference | at least {drift['smallest'].default} |"
    yield "serving.md", f"unpacked; {bounds.body // 2**20} MiB"
    yield "serving.md", f"{limits._PLAIN_BYTES} bytes a pixel, {limits._CLEAR_BYTES} with transp"
    yield "serving.md", f"; {limits.MEMORY // 2**20} MiB, or a picture of {limits.ENLARGED} times"
    yield (
        "serving.md",
        f"header does not come within {bounds.header_seconds:g} s is closed, an idle",
    )
    yield "serving.md", f"an idle one after {bounds.idle_seconds:g} s"
    slow = f"{bounds.stalled_seconds:g} s at less than {bounds.read_rate // 2**10} KiB a second"
    yield "serving.md", f"{slow}, and after {bounds.read_seconds:g} s in any case"


@pytest.mark.parametrize(("page", "words"), [*stated()])
def test_numbers_that_pages_state_are_those_of_the_code(page, words):
    assert words in (CHECKOUT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(CHECKOUT)) for p in PAGES)])
def test_every_link_leads_to_a_file(page):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert len(targets) == text.count("](") - text.count("](#")
    for target in targets:
        assert "://" in target or ((CHECKOUT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", ["architecture", "extending"])
def test_the_code_that_a_page_leads_to_is_there(page):
    text = (CHECKOUT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:lisae_tf|export|tests)/[^`\s]+)`", text)
    named = re.findall(r"`([\w/]+\.py)`:((?:[^`]{0,40}`\w+`)+)", text)
    assert len(paths) > 5 and len(named) > 0
    for path in paths:
        assert (CHECKOUT / path).exists(), path
    for path, names in named:
        code = (CHECKOUT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", code), f"{name} in {path}"


def command_lines() -> list[str]:
    """Every `python cli.py …` of README and the pages, without comments and redirections."""
    texts = [README, *(page.read_text(encoding="utf-8") for page in PAGES)]
    lines = [line for text in texts for block in blocks(text, "console") for line in
             block.splitlines()]  # fmt: skip
    found = (re.search(r"python cli\.py (.*)", line.partition("#")[0]) for line in lines)
    return sorted({re.sub(r"[\[\]]| > .*", "", each[1]).strip() for each in found if each})


@pytest.mark.parametrize("line", command_lines())
def test_every_command_of_the_pages_has_these_options(line):
    words, group = shlex.split(line), main
    while isinstance(group, click.Group):
        name = words.pop(0)
        group = group.get_command(click.Context(group), name)
        assert group is not None, name
    with contextlib.suppress(click.exceptions.Exit):  # --help
        group.make_context(name, words)


@pytest.fixture(scope="module")
def used(tmp_path_factory, picture_folder, cli):
    """A working folder in which README's commands were run, and what each printed."""
    base = tmp_path_factory.mktemp("readme")
    for name, count, level in (
        ("good", 150, 60), ("flawed", 9, 200), ("new_pictures", 30, 62), ("unseen_good", 60, 61),
    ):  # fmt: skip
        picture_folder(base / name, count, level=level)
    found = {}
    with contextlib.chdir(base):
        for line in commands("Your own pictures") + commands("In production"):
            command, _, file = line.removeprefix("python cli.py ").partition(" > ")
            words = shlex.split(command)
            if words[0] == "serve":
                server = serving_fixtures.Embedded(base / words[-1])
                assert server.end() == 0
                continue
            result = cli(*words, *(QUICK if words[0] == "train" else ()))
            assert result.exit_code == 0, line + result.output
            found[line] = result.stdout
            if file:
                Path(file).write_text(result.stdout, encoding="utf-8")
    return base, found


def test_there_are_six_commands_for_own_pictures_and_six_for_production():
    assert len(commands("Your own pictures")) == len(commands("In production")) == 6
    assert all(
        line.startswith("python cli.py ")
        for line in commands("Your own pictures") + commands("In production")
    )


@pytest.mark.slow("every command of the page, two trainings among them")
def test_readme_commands_do_what_they_say(used):
    base, found = used
    assert "training would start" in found[commands("Your own pictures")[0]]
    assert len((base / "scores.csv").read_text().splitlines()) == 31
    assert len(list((base / "maps").iterdir())) == 30
    assert len(list(base.glob("runs/*/report.html"))) == 1
    assert (base / "models/onnx/part/2/model.onnx").is_file()  # the new threshold


def test_readme_python():
    names = {"normal": feature_fixtures.parts(30), "images": feature_fixtures.parts(3, flaw=True)}
    (block,) = blocks(README, "python")
    exec(compile(block, "README.md", "exec"), names)
    assert (names["detector"].predict(names["images"]) == -1).all()


def small(name, count):
    return surface(name, count)[:, :8, :8]


@pytest.fixture(scope="module")
def left():
    """What the examples leave behind, in order; the linear case takes the place of networks."""
    from lisae_tf.interfaces import estimator

    class Quick(estimator.LISAEDetector):
        def _config(self, X, seed):
            return super()._config(X, seed).model_copy(update={"variant": "linear-lis"})

    names = {
        "normal": small("gravel", 60),
        "negative": np.concatenate([small("coins", 20), small("brick", 20)]),
        "kinds": ["coins"] * 20 + ["brick"] * 20,
        "images": small("page", 5),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(estimator, "LISAEDetector", Quick)
        for block in blocks(PYTHON, "python"):
            exec(compile(block, "python.md", "exec"), names)
    return names


pytestmark = pytest.mark.filterwarnings("ignore:.*calibration samples? supports?:UserWarning")


def test_the_detector_of_the_example_is_fitted(left):
    assert len(blocks(PYTHON, "python")) == 2
    assert left["detector"].predict(left["images"]).shape == (5,)


def test_gamma_is_chosen_by_kinds_that_the_training_has_not_seen(left):
    search, y, groups = (left[name] for name in ("search", "y", "groups"))
    assert set(search.best_params_) == {"gamma"}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    kinds = np.asarray(groups, object)
    for trained, measured in search.cv.split(left["X"], y, groups):
        told_apart = [set(kinds[rows[y[rows] == -1]]) for rows in (trained, measured)]
        assert all(told_apart)
        assert not set.intersection(*told_apart)
        assert (y[measured] == 1).sum() > 10
