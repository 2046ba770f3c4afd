"""`results/summary.json`, `RESULTS.md` and the figures, from the stored cells alone.

Imports no TensorFlow, and writes the same bytes whenever the cells are the same.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, write_json, write_text
from lisae_tf.grids.cells import Figure
from lisae_tf.paper import reconstructions, report_text, tables
from lisae_tf.paper.results import Results

if TYPE_CHECKING:
    from lisae_tf.paper.results import Results

FIGURES = "figures"  # folder of the figures, below that of the results
PAGES = "docs/results"  # of the pages, below that of the report
Curves = dict[str, list[float]]  # task -> accuracy on anomalies, see `cells.detection`
TABLE2, TABLE3 = tables.table2("lis"), tables.table3("lis")


def write(root: Path, text: Path, over: dict[str, Any]) -> list[Path]:
    """Writes `summary.json` and the figures below `root` and the Markdown report to `text`.

    The pages behind the report go to `docs/results` beside it.

    Args:
        root: folder of the results.
        text: file of the report.
        over: settings that were laid over the configurations when the cells were trained.

    Returns:
        The files written.

    Raises:
        LisaeError: no cell is stored there.
    """
    results = Results(root, over)
    summary = results.summary()
    if not results.versions():
        raise LisaeError(f"{root} holds no current cell; run 'benchmark table1' first")
    make_folder(root)
    write_json(root / "summary.json", summary)
    drawn = dict(draw_all(results, root / FIGURES))
    shown = drawn | reconstructions.stored(root / FIGURES)
    links = {title: os.path.relpath(path, text.parent) for title, path in shown.items()}
    pages = report_text.render(results, links, PAGES)
    write_text(text, pages.pop(report_text.MAIN))
    behind = make_folder(text.parent / PAGES)
    for name, page in pages.items():
        write_text(behind / name, page)
    return [root / "summary.json", *drawn.values(), text, *(behind / name for name in pages)]


@dataclass(frozen=True)
class TradeOffs:
    """One figure: what stands in its columns; tasks 0-4 above, tasks 5-9 below, as in the paper."""

    title: str
    panes: Mapping[str, Figure]


TRADE_OFFS: dict[str, TradeOffs] = {
    "figure3": TradeOffs(
        "Figure 3: CIFAR-10",
        {"AE": TABLE2["AE", "cifar10"], "LIS-AE": TABLE2["LIS-AE", "cifar10"]},
    ),
    "appendix_b_cifar10": TradeOffs(
        "Appendix B: CIFAR-10, LIS-AE",
        {
            "supervised": TABLE3["Same (Sup.)", "cifar10"],
            "SVHN negatives": TABLE3["SVHN", "cifar10"],
        },
    ),
    "appendix_b_svhn": TradeOffs(
        "Appendix B: SVHN, LinSep-LIS-AE",
        {
            "supervised": TABLE2["Sup. LinSep-LIS-AE", "svhn"],
            "other half as negatives": TABLE2["LinSep-LIS-AE", "svhn"],
        },
    ),
    "appendix_b_mnist": TradeOffs(
        "Appendix B: MNIST, LIS-AE",
        {
            "supervised": TABLE3["Same (Sup.)", "mnist"],
            "Omniglot negatives": TABLE3["Omniglot", "mnist"],
        },
    ),
    "appendix_b_fashion_mnist": TradeOffs(
        "Appendix B: Fashion-MNIST, LIS-AE",
        {
            "supervised": TABLE3["Same (Sup.)", "fashion_mnist"],
            "Omniglot negatives": TABLE3["Omniglot", "fashion_mnist"],
        },
    ),
}


def curves(results: "Results", figure: Figure) -> Curves | None:
    """The curves of the first seed whose cells have all of them; None where there is none."""
    for seed in results.seeds:
        found: Curves = {}
        for task, entry in zip(
            figure.column.tasks, figure.entries(results.root, seed, results.over), strict=True
        ):
            stages = (results.record(entry.cell) or {}).get("detection", {})
            curve = stages.get("phase1" if entry.phase1 else "final")
            if curve:
                found[", ".join(task)] = curve
        if len(found) == len(figure.column.tasks):
            return found
    return None


def draw_all(results: "Results", folder: Path) -> Iterator[tuple[str, Path]]:
    """Draws what the cells suffice for.

    Returns:
        The title and the file of each figure drawn.
    """
    for name, wanted in TRADE_OFFS.items():
        panes = {label: curves(results, figure) for label, figure in wanted.panes.items()}
        complete = {label: found for label, found in panes.items() if found}
        if len(complete) == len(panes):
            make_folder(folder)
            path = folder / f"{name}.png"
            _draw(path, wanted.title, complete)
            yield wanted.title, path


def _draw(path: Path, title: str, panes: Mapping[str, Curves]) -> None:
    import numpy as np
    from matplotlib import pyplot as plt

    from lisae_tf.core.plots import STYLE, save

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2,
            len(panes),
            figsize=(3.6 * len(panes), 6),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for column, (label, by_task) in enumerate(panes.items()):
            for row, tasks in enumerate(_halves(list(by_task))):
                axis = axes[row, column]
                for task in tasks:
                    curve = by_task[task]
                    axis.plot(np.linspace(0, 1, len(curve)), curve, label=task, linewidth=1.2)
                axis.legend(frameon=False, fontsize=7, loc="lower left")
                axis.set(xlim=(0, 1), ylim=(0, 1))
            axes[0, column].set_title(label)
            axes[1, column].set_xlabel("accuracy on normal")
        for row in axes:
            row[0].set_ylabel("accuracy on anomalies")
        figure.suptitle(f"{title}: trade-off over α")
        save(figure, path)


def _halves(tasks: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    middle = len(tasks) // 2
    return tasks[:middle], tasks[middle:]
