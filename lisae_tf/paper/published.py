"""The figures that the paper prints, from `published.json`; ours of appendix A beside them.

Source and caveats are in the file.
"""

import json
import statistics
from collections.abc import Mapping
from functools import cache
from importlib import resources

from lisae_tf.core.markdown import difference, folded, markdown
from lisae_tf.paper import tables

Blocks = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
WHOLE = ("None", "Comb", "Sup")


@cache
def load() -> dict:
    """The whole file."""
    return json.loads(
        resources.files("lisae_tf.paper").joinpath("published.json").read_text("utf-8")
    )


def printed(table: str, row: str, column: str) -> float | None:
    """The figure of `table1`, `table2` or `table3`; None where the paper has none."""
    found = load().get(table, {"columns": [], "rows": {}})
    figures = found["rows"].get(row)
    if figures is None or column not in found["columns"]:
        return None
    return figures[found["columns"].index(column)]


def appendix_a() -> dict[str, dict[str, dict[str, dict]]]:
    """Variant, positive class, negative set -> `outliers`, `avg` and `avg_printed`."""
    return load()["appendix_a_cifar10"]


def contradictory_averages(tolerance: float = 0.006) -> list[tuple[str, str, str, float, float]]:
    """Rows of appendix A whose printed average is not that of their cells.

    Returns:
        Variant, positive, negative, the average of the cells, the average as printed.
    """
    return [
        (variant, positive, negative, row["avg"], row["avg_printed"])
        for variant, blocks in appendix_a().items()
        for positive, rows in blocks.items()
        for negative, row in rows.items()
        if abs(row["avg"] - row["avg_printed"]) > tolerance
    ]


def render(appendix: Blocks) -> str:
    """The section; empty where no cell is stored."""
    if not appendix:
        return ""
    text = (
        "## Appendix A: CIFAR-10, positive class, negative set, outlier class\n\nAverages over the "
        "outlier classes beside the paper's, which are recomputed from its cells (below).\n\n"
    )
    for variant, blocks in appendix.items():
        text += f"### {variant}\n\n{_summary(variant, blocks)}\n{_averages(variant, blocks)}\n"
        text += "".join(
            _outliers(positive, blocks[positive])
            for positive in tables.CIFAR10
            if positive in blocks
        )
    return text


def _average(row: Mapping[str, float]) -> float:
    return statistics.fmean(row.values())


def _summary(variant: str, blocks: Mapping) -> str:
    """Means over the positive classes, and how many averages are near the paper's."""
    paper = appendix_a()[variant]
    lines = []
    for negative in WHOLE:
        found = [_average(blocks[p][negative]) for p in paper if negative in blocks.get(p, {})]
        if len(found) < len(paper):
            lines.append([negative, f"{len(found)} of {len(paper)} classes", "", ""])
            continue
        printed = statistics.fmean(block[negative]["avg"] for block in paper.values())
        mean = statistics.fmean(found)
        lines.append([negative, f"{mean:.4f}", f"{printed:.4f}", difference(mean, printed)])
    near = [
        _average(row) >= paper[positive][negative]["avg"] - 0.03
        for positive, rows in blocks.items()
        for negative, row in rows.items()
    ]
    return (
        markdown(["mean over positive classes", "ours", "paper", "difference"], lines)
        + f"\n{sum(near)} of {len(near)} averages are at least the paper's less 0.03.\n"
    )


def _averages(variant: str, blocks: Mapping) -> str:
    """One line a positive class, ours / paper's for each negative set."""
    paper = appendix_a()[variant]
    names = list(tables.CIFAR10)
    lines = []
    for positive in names:
        if positive not in blocks:
            continue
        line = [positive]
        for negative in ("None", *names, "Comb", "Sup"):
            printed = paper[positive].get(negative)
            row = blocks[positive].get(negative)
            ours = "–" if row is None else f"{_average(row):.3f}"
            line.append(f"{ours} / {printed['avg']:.3f}" if printed else "")
        lines.append(line)
    return markdown(["ours / paper", "None", *names, "Comb", "Sup"], lines)


def _outliers(positive: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    order = [name for name in ("None", *tables.CIFAR10, "Comb", "Sup") if name in rows]
    classes = [name for name in tables.CIFAR10 if any(name in row for row in rows.values())]
    lines = [[negative, *(f"{rows[negative][name]:.3f}" for name in classes)] for negative in order]
    table = markdown(["negatives", *classes], lines)
    return folded(f"{positive}: each outlier class", table)
