"""The section "Pictures that people inspect" of RESULTS.md, from the files alone.

Imports no TensorFlow.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lisae_tf.core.markdown import folded, markdown
from lisae_tf.inspection.records import AUTO, USUAL, Results, mean, read

_HEAD = """## Pictures that people inspect

One setting for all sets, `configs/folder.yaml` and `configs/folder_pixels.yaml`; made by `python
cli.py benchmark inspection`, a row a cell in
`results/inspection/cells.parquet`. Each training chooses from its
own training data alone, but the settings of `folder.yaml` (variant, latent size, widths, share of
places, sizes of made flaws) were chosen once with test figures of these sets in view: they are not
blind.

- "made" trains against small flaws pasted into normal pictures; without real negatives "auto" is
  the same. A row without such a word sees normal pictures alone: `linear-ae` and `ae` are
  `linear-lis` and `lis` with no negatives.
- Rows see the features of a frozen network unless they say pixels.
- Figures are means over seeds, {seeds}; made with version {versions}.
"""
_COLUMNS = {
    "auroc": "AUROC", "auroc_mean_of_kinds": "mean over kinds", "pixel_auroc": "pixel AUROC",
    "per_region_overlap": "PRO", "fit_seconds": "fit, s", "pictures_per_second": "pictures/s",
}  # fmt: skip
_DIGITS = {"fit_seconds": 0, "pictures_per_second": 1}
_TIMES = """
Pixel figures are means over the sets with masks. The seconds of a fit hold those of the backbone
on all pictures that training looks at; pictures/s are from decoded pixels to scores, in rows of
other packages with reading and resizing the files. Measured on a machine of {cores} cores; a
time is missing where other work ran beside the training.
"""
_LEFT_OUT = """### Kinds that are not among the negatives

Real negatives are every other kind of the set's anomalies, by name, and in a second training the
rest; tested are the kinds that are not among them, and the figure is the mean of both ways round.
A set with one kind of anomaly has the negatives in its folder `negative/`, or no column. Nobody
marks where in a negative its flaw is. "auto" chooses among none, made, real and both on negatives
alone, by kinds left out of them.
"""


def _shown(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def render(root: Path) -> str:
    """The section; empty where there are no files.

    Args:
        root: folder of the results.
    """
    results = read(root)
    if not results.records:
        return ""
    head = _HEAD.format(seeds=_seeds(results), versions=results.versions())
    parts = [head, _by_set(results), _overall(results)]
    parts += [*_sets(results), _left_out(results)]
    return "\n".join(part for part in parts if part)


def headline(root: Path) -> str:
    """AUROC of each set alone; empty where there are no files."""
    results = read(root)
    return f"## Pictures that people inspect\n\n{_by_set(results)}" if results.records else ""


def _seeds(results: Results) -> str:
    counts = [len(found) for found in results.records.values()]
    return f"{min(counts)} to {max(counts)} a figure" if min(counts) < max(counts) else "one each"


def _by_set(results: Results) -> str:
    """AUROC of all anomalies: a row for each system, a column for each set."""
    lines = []
    for row in results.rows:
        figures = [results.figure(row, name, "auroc") for name in results.sets]
        if any(figure is not None for figure in figures):
            lines.append([row, *map(_shown, figures), _shown(mean(figures))])
    return "AUROC of all anomalies of a set:\n\n" + markdown(["", *results.sets, "mean"], lines)


def _overall(results: Results) -> str:
    """The mean over sets of every figure, for systems that were tested on all."""
    lines = []
    with_masks = [name for name in results.sets if _has(results, name, "pixel_auroc")]
    for row in results.rows:
        if results.figure(row, results.sets[0], "auroc") is None:
            continue
        line = [row]
        for key in _COLUMNS:
            names = with_masks if key in ("pixel_auroc", "per_region_overlap") else results.sets
            figures = [results.figure(row, name, key) for name in names]
            line.append(_shown(mean(figures), _DIGITS.get(key, 3)))
        lines.append(line)
    table = markdown(["mean over sets", *_COLUMNS.values()], lines)
    return table + _TIMES.format(cores=_cores(results))


def _has(results: Results, name: str, key: str) -> bool:
    return any(results.figure(row, name, key) is not None for row in results.rows)


def _cores(results: Results) -> str:
    found = {
        record["machine"]["cores"]
        for records in results.records.values() for record in records
    }  # fmt: skip
    return " or ".join(map(str, sorted(found)))


def _sets(results: Results) -> Iterator[str]:
    """Every figure of each set, folded."""
    for name in results.sets:
        usual = [found for (_, of, split), found in results.records.items()
                 if of == name and split == USUAL]  # fmt: skip
        kinds = list(usual[0][0]["by_kind"]) if usual else []
        lines = []
        for row in results.rows:
            own = [results.figure(row, name, key) for key in _COLUMNS]
            if own[0] is None:
                continue
            figures = [_shown(v, _DIGITS.get(key, 3)) for v, key in zip(own, _COLUMNS, strict=True)]
            each = [_shown(results.kind(row, name, kind)) for kind in kinds]
            seeds = len(results.records[row, name, USUAL])
            lines.append([row, *figures, *each, str(seeds)])
        yield folded(name, markdown(["", *_COLUMNS.values(), *kinds, "seeds"], lines))


def _left_out(results: Results) -> str:
    """What real negatives are worth against kinds that nobody has shown."""
    sets = [name for name in results.sets if results.splits(name)]
    if not sets:
        return ""
    lines = []
    for row in results.rows:
        figures = [
            mean(results.left_out(row, name, split) for split in results.splits(name))
            for name in sets
        ]
        if any(figure is not None for figure in figures):
            lines.append([row, *map(_shown, figures), _shown(mean(figures))])
    text = _LEFT_OUT + "\n" + markdown(["", *sets, "mean"], lines)
    return text + "\n" + folded("each way round, and what auto chose", _ways(results, sets))


def _ways(results: Results, sets: Sequence[str]) -> str:
    columns = [(name, split) for name in sets for split in results.splits(name)]
    head = ["", *(f"{name}, {split.replace('-', ' ')}" for name, split in columns)]
    lines = []
    for row in results.rows:
        figures = [results.left_out(row, *column) for column in columns]
        if any(figure is not None for figure in figures):
            lines.append([row, *map(_shown, figures)])
    chosen = ["chosen by auto"]
    for name, split in columns:
        found = {
            record["chosen_negatives"]
            for row in results.rows if row.endswith(f" {AUTO}")
            for record in results.records.get((row, name, split), [])
        }  # fmt: skip
        chosen.append(", ".join(sorted(found)) or "–")
    return markdown(head, [*lines, chosen])
