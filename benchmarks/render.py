"""`benchmarks/README.md` from the file of figures, in seconds."""

from pathlib import Path

from benchmarks import profile
from benchmarks.growth import FIGURE
from benchmarks.measure import RESULTS, stored
from lisae_tf.core.files import read_json, write_text
from lisae_tf.core.markdown import markdown

README = Path(__file__).with_name("README.md")
HEAD = """# Measured against what people would use instead

`python -m benchmarks all --data-dir TFDS_FOLDER` measures everything but the last row (the grid of
the paper's tables, `python -m benchmarks grid`) and writes `results.json`; `python -m benchmarks
render` writes this page from it. It needs `pip install '.[bench]'`.

Both sides run in one process in turns, after one call of each that does not count; what stands
here is the median, and the smallest and largest in brackets. **A ratio above 1 means that ours is
better**, whatever the unit; a limit counts as theirs. "Peak" is the share of this machine's
matrix-multiply peak (2048 × 2048, float32, all cores). Times on shared cores are noisy: read the
ratios. What was found on the way, and what did not pay, is in [findings.md](findings.md).
"""


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write(path: Path = README, results: Path = RESULTS) -> Path:
    """Writes the page."""
    rows = []
    for r in stored(results):
        low, high, low_theirs, high_theirs = map(_figure, r["spread"])
        rows.append([
            r["name"], f"{_figure(r['ours'])} [{low}, {high}]",
            f"{_figure(r['theirs'])} [{low_theirs}, {high_theirs}]", r["unit"],
            f"**{r['ratio']:.2f}**" if r["ratio"] >= r["target"] else f"{r['ratio']:.2f}",
            f"{r['target']:g}", "" if r["peak"] is None else f"{100 * r['peak']:.0f} %",
            r["note"], f"{r['date']}, {r['cores']} cores",
        ])  # fmt: skip
    heads = [
        "comparison: with",
        "ours",
        "theirs",
        "unit",
        "ratio",
        "target",
        "peak",
        "note",
        "when",
    ]
    parts = [HEAD, markdown(heads, rows)]
    if FIGURE.exists():
        parts.append("\n## As work grows\n\n![time and memory](growth.png)")
    for name, found in sorted(read_json(results).get("profiles", {}).items()):
        parts.append(f"\n## Profile: {name}\n\n{found['of']}\n\n{profile.table(found)}")
    write_text(path, "\n".join(parts).rstrip() + "\n")
    return path
