"""`results/summary.json`, `RESULTS.md` and the figures, from the stored cells alone.

Reads result files, configurations and the paper's figures; imports no TensorFlow, and writes
the same bytes whenever the cells are the same.
"""

import os
from pathlib import Path
from typing import Any

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, write_json, write_text
from lisae_tf.paper import reconstructions, report_figures, report_text
from lisae_tf.paper.results import Results

FIGURES = "figures"  # folder of the figures, below that of the results
PAGES = "docs/results"  # of the pages, below that of the report


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
    drawn = dict(report_figures.draw_all(results, root / FIGURES))
    shown = drawn | reconstructions.stored(root / FIGURES)
    links = {title: os.path.relpath(path, text.parent) for title, path in shown.items()}
    pages = report_text.render(results, links, PAGES)
    write_text(text, pages.pop(report_text.MAIN))
    behind = make_folder(text.parent / PAGES)
    for name, page in pages.items():
        write_text(behind / name, page)
    return [root / "summary.json", *drawn.values(), text, *(behind / name for name in pages)]
