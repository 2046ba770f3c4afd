"""The figures that the paper prints, from `published.json` (source and caveats are in it)."""

import json
from functools import cache
from importlib import resources


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
