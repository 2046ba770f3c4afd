"""`RESULTS.md` and the pages behind it: ours beside the paper's, differences marked.

The first page has the headline tables and says what the data is. Behind it are pages for each
task, for made and foreign negatives, classifiers, inspection, settings and appendix A.
"""

import statistics
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lisae_tf.core.markdown import difference, folded, markdown
from lisae_tf.grids.cells import Row
from lisae_tf.inspection import report as inspection
from lisae_tf.paper import published, tables, tuning_table

if TYPE_CHECKING:
    from lisae_tf.paper.results import Results, Summed

_HEAD = """# Results

AUROC of this package beside the figures printed in the paper (Battikh & Lenskiy, 2021,
arXiv 2110.13101). Written by `python cli.py benchmark report` from
`results/cells.parquet`: settings, seed, version and date are in its rows; made with {versions}.

- The figure is the mean over the tasks of a column, then over seeds; ± is the sample standard
  deviation over seeds, absent where there is one seed. ▲ at or above the paper, ▼ below it.
- A seed repeats a figure on the same machine with the same number of threads; elsewhere single
  tasks differ as they do between seeds, for sums of floats are added in another order.
- A column whose tasks are not all there reads "n of 10 tasks" and has no mean to compare.
- **Data**: SVHN is a lossy subset here (59,787 of 73,257 training and 10,000 of 26,032 test
  digits, stored as JPEG), and CIFAR-10 is complete but re-encoded as JPEG; MNIST, Fashion-MNIST
  and Omniglot are complete and lossless.
- **Latent sizes** are chosen on held-out normal pictures against negatives of a kind left out of
  that training (the page on settings), and are those of `configs/` for rows that are not
  listed there; the paper reports the best on the test set. Every other setting is one for each
  dataset, in `configs/`.
- Negatives of another dataset are all classes of its training part, resized (bilinear) and turned
  to grey (ITU-R 601) or RGB as the column's own pictures are; drawings get their polarity. Table 3
  and appendix A test on the normal class's own half of the classes.
- "AE" is phase 1 of the LIS-AE training, with the same weights. "Sup." trains on the training
  part of the very classes that are tested: an upper bound.
"""
_TITLES = {
    "table1": "Table 1: MNIST, Fashion-MNIST and two-class MNIST",
    "table2": "Table 2: halves of SVHN and CIFAR-10",
    "table3": "Table 3: five-class halves with other negatives (LIS-AE)",
}


MAIN = "RESULTS.md"


def render(results: "Results", figures: Mapping[str, str], pages: str) -> dict[str, str]:
    """Every page by its file name; the first is `MAIN`.

    Args:
        results: what the cells give.
        figures: title and path, from where the first page lies, of each figure.
        pages: path of the folder of the other pages, from there.
    """
    behind = {name: text for name, text in _behind(results) if text}
    linked = "".join(
        f"- [{text.partition(chr(10))[0].lstrip('# ')}]({pages}/{name})\n"
        for name, text in behind.items()
    )
    made = ", ".join(
        f"version {version} ({n} cells)" for version, n in sorted(results.versions().items())
    )
    sections = [_HEAD.format(versions=made), "## Pages\n\n" + linked]
    sections += [_table(name, results.by_table[name]) for name in _TITLES]
    sections += [inspection.headline(results.root / "inspection"), _figures(figures)]
    return {MAIN: "\n".join(text for text in sections if text)} | behind


def _behind(results: "Results") -> Iterator[tuple[str, str]]:
    """The pages behind the first, by file name; empty where there is nothing to say."""
    yield "tasks.md", _page_of("Each task", *(_dataset(name, results) for name in tables.COLUMNS))
    foreign = {n: f for n, f in results.by_table.items() if n.startswith("table3")}
    yield (
        "negatives.md",
        _page_of(
            "Made negatives, and negatives of other datasets",
            _synthetic(results.synthetic),
            *(_table(name, found) + _all_tasks(found) for name, found in foreign.items()),
        ),
    )
    yield "classifiers.md", _page(_rivals(results))
    yield "inspection.md", _page(inspection.render(results.root / "inspection"))
    yield (
        "settings.md",
        _page_of(
            "Settings: latent sizes, and tuning without anomalies",
            _latents(results),
            tuning_table.render(results.tuning, results.root),
        ),
    )
    yield (
        "appendix-a.md",
        _page(published.render(results.appendix) or "## Appendix A\n") + "\n" + _contradictions(),
    )


def _page(section: str) -> str:
    """A section with the title of a page."""
    return section.removeprefix("#")


def _page_of(title: str, *sections: str) -> str:
    """A page of the sections that say something; empty where none does."""
    said = [section for section in sections if section]
    return "\n".join([f"# {title}\n", *said]) if said else ""


def _dataset(column: str, results: "Results") -> str:
    """Each task of a column of tables 1 and 2."""
    found = {
        row: summed
        for name in ("table1", "table2")
        for (row, of), summed in results.by_table[name].items()
        if of == column
    }
    tasks = _tasks(found)
    return f"## {column}\n\n{tasks}" if tasks else ""


def _all_tasks(figures: Mapping[tuple[str, str], "Summed"]) -> str:
    """Each task of each column, folded."""
    text = ""
    for column in dict.fromkeys(column for _, column in figures):
        tasks = _tasks({row: summed for (row, of), summed in figures.items() if of == column})
        text += folded(f"{column}: each task", tasks) if tasks else ""
    return text


def _table(name: str, figures: Mapping[tuple[str, str], "Summed"]) -> str:
    rows = list(dict.fromkeys(row for row, _ in figures))
    columns = list(dict.fromkeys(column for _, column in figures))
    head = [""] + [cell for c in columns for cell in (c, "paper", "difference")]
    lines = []
    for row in rows:
        line = [row]
        for column in columns:
            summed, paper = figures.get((row, column)), published.printed(name, row, column)
            printed = "–" if paper is None else f"{paper:.4f}"
            gap = difference(summed.mean if summed else None, paper)
            line += [str(summed or "–"), printed, gap]
        lines.append(line)
    variant = name.partition("_")[2]
    title = _TITLES.get(name, f"Table 3 with `{variant}`")
    text = f"## {title}\n\n{markdown(head, lines)}\n"
    text += "".join(f"- {row}: {tables.REMARKS[row]}\n" for row in rows if row in tables.REMARKS)
    return text


def _tasks(by_row: Mapping[str, "Summed"]) -> str:
    """Each task of one column, a column for each row of its table; empty where nothing is there."""
    found = {row: summed for row, summed in by_row.items() if summed.by_seed}
    if not found:
        return ""
    names = next(iter(found.values())).tasks
    head = ["normal", *found]
    lines = []
    for name in names:
        values = [summed.task(name) for summed in found.values()]
        lines.append([name, *("–" if value is None else f"{value:.4f}" for value in values)])
    sizes = [", ".join(map(str, sorted(summed.latents))) for summed in found.values()]
    lines.append(["latent", *sizes])
    lines.append(["seeds", *(str(len(summed.shown)) for summed in found.values())])
    return markdown(head, lines)


def _rivals(results: "Results") -> str:
    """Where a classifier that was given the same negatives is ahead of LIS-AE."""
    lines = list(_rivals_of_systems(results)) + list(_rivals_of_table3(results))
    if not lines:
        return ""
    intro = (
        "A classifier of normal against negative pictures, Deep SAD and the hypersphere classifier "
        "get the same negatives and the same encoder. The paper does not compare with them.\n"
    )
    return "## Classifiers on the same negatives\n\n" + intro + "\n" + "\n".join(lines) + "\n"


def _versus(place: str, ours: Mapping[str, float], rivals: Mapping[str, float]) -> Iterator[str]:
    if not ours or not rivals:
        return
    best = max(ours, key=ours.__getitem__)
    for rival, figure in rivals.items():
        beaten = [name for name, value in ours.items() if figure > value]
        if not beaten:
            yield f"- {place}: {rival} ({figure:.4f}) is behind {', '.join(ours)}."
            continue
        rest = (
            "no row of ours is ahead of it"
            if len(beaten) == len(ours)
            else f"{best} ({ours[best]:.4f}) is ahead of it"
        )
        names = ", ".join(f"{name} ({ours[name]:.4f})" for name in beaten)
        yield f"- **{place}: {rival} ({figure:.4f}) beats {names}**; {rest}."


def _rivals_of_systems(results: "Results") -> Iterator[str]:
    means: dict[str, list[float]] = {}
    columns = 0
    for name in ("table1", "table2"):
        figures = results.by_table[name]
        for column in dict.fromkeys(column for _, column in figures):
            columns += 1
            found = {row: s.mean for (row, c), s in figures.items() if c == column}
            found = {row: mean for row, mean in found.items() if mean is not None}
            for row, mean in found.items():
                means.setdefault(row, []).append(mean)
            yield from _versus(column, *_sides(found))
    whole = {row: statistics.fmean(v) for row, v in means.items() if len(v) == columns}
    yield from _versus(f"mean of the {columns} columns", *_sides(whole))


def _sides(found: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    return (
        {row: found[row] for row in tables.OURS if row in found},
        {row: found[row] for row in tables.CLASSIFIERS if row in found},
    )


def _rivals_of_table3(results: "Results") -> Iterator[str]:
    # The row of each system with whatever negatives it is given.
    named = {row.variant: name for name, row in tables.ROWS.items() if row == Row(row.variant)}
    by_place: dict[tuple[str, str], dict[str, float]] = {}
    for name, figures in results.by_table.items():
        if name.startswith("table3"):
            system = named[name.partition("_")[2] or "lis"]
            for key, summed in figures.items():
                if summed.mean is not None:
                    by_place.setdefault(key, {})[system] = summed.mean
    for (row, column), found in by_place.items():
        yield from _versus(f"table 3, {column} with {row}", *_sides(found))


def _synthetic(figures: Mapping[tuple[str, str], "Summed"]) -> str:
    """What negatives made of the normal pictures alone are worth."""
    if not figures:
        return ""
    rows = list(dict.fromkeys(row for row, _ in figures))
    columns = list(dict.fromkeys(column for _, column in figures))
    lines, better = [], []
    for row in rows:
        line = [row]
        for column in columns:
            gap = difference(figures[row, column].mean, figures["AE", column].mean)
            line.append(f"{figures[row, column]} {gap if row != 'AE' else ''}".strip())
        lines.append(line)
        above = [
            (figures[row, column].mean or 0) > (figures["AE", column].mean or 1)
            for column in columns
        ]
        if row in tables.MADE and all(above):
            better.append(row)
    said = "better than AE in every column: " + (", ".join(better) or "none so far")
    return (
        "## Negatives made of the normal pictures\n\nLIS-AE with `--negatives synth:NAME`, no "
        "other pictures seen in training; the difference is to AE, which is phase 1 of the same "
        f"trainings. Of the generators, {said}.\n\n{markdown(['', *columns], lines)}"
    )


def _contradictions() -> str:
    rows = [
        [variant, positive, negative, f"{avg:.4f}", f"{printed:.4f}"]
        for variant, positive, negative, avg, printed in published.contradictory_averages()
    ]
    return (
        f"## Averages of appendix A that contradict their rows\n\n{len(rows)} printed averages of "
        "the paper differ by more than 0.006 from the mean of their own row; ours are compared "
        "with the mean of the row.\n\n"
        + markdown(["variant", "positive", "negatives", "mean of the row", "as printed"], rows)
    )


def _latents(results: "Results") -> str:
    rows = []
    for column, row, record in results.latents():
        sizes = record["sizes"]
        tried = ", ".join(f"{n}: {sizes[n]['auroc_left_out']:.4f}" for n in sorted(sizes, key=int))
        rows.append(
            [column, row, str(record["latent"]), tried, str(record["best_latent"]),
             record["left_out"]]
        )  # fmt: skip
    if not rows:
        return ""
    return (
        "## Latent sizes\n\nChosen by the AUROC of held-out normal pictures against negatives of a "
        "kind left out of that training, on two tasks and one seed. `best_latent` is the best on "
        "the test sets of those two tasks, kept for comparison and used nowhere.\n\n"
        + markdown(
            ["column", "row", "latent", "held-out AUROC by size", "best_latent", "left out"], rows
        )
    )


def _figures(figures: Mapping[str, str]) -> str:
    if not figures:
        return ""
    return "## Figures\n\n" + "\n".join(f"![{title}]({path})\n" for title, path in figures.items())
