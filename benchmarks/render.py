"""`benchmarks/README.md` from the file of figures, in seconds; and docs/desk.png."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import profile
from benchmarks.growth import FIGURE
from benchmarks.measure import RESULTS, stored
from lisae_tf.core.files import read_json, write_text
from lisae_tf.core.markdown import markdown

CHECKOUT = Path(__file__).parents[1]
PICTURE = CHECKOUT / "docs" / "desk.png"
WIDTH, HEIGHT = 1300, 900
COLOURS = 128  # of the picture, which would be five times as large with all
# Beyond the highest normal picture, so that the stored threshold is seen beside it.
MOVE = "desk.page.setThreshold(1.05 * desk.page.counts.normal.at(-1))"
THERE = """[...document.querySelectorAll(".tile:not([hidden]) img[src]")]
  .every((image) => image.classList.contains("there"))"""
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


def photographed(address: str, place: Path) -> None:
    """The page as it opens, its threshold moved."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    browser_at = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_at, args=["--no-sandbox"])
        # Playwright waits by a function in the page, which the policy of the page forbids.
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", bypass_csp=True
        )
        page.goto(address)
        page.wait_for_selector("#work:not([hidden]) .tile img.map.there")
        page.evaluate(MOVE)
        page.wait_for_function(THERE)
        page.screenshot(path=place)
        browser.close()
    with Image.open(place) as picture:
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(place, optimize=True)


def desk(out: Path = PICTURE) -> Path:
    """Writes a photograph of the desk on pictures that anyone can make.

    Makes the set `brick` and trains with the defaults (a minute). Needs the browser chromium, and
    playwright, which `pip install '.[dev]'` brings.
    """
    out = out.absolute()
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    with tempfile.TemporaryDirectory() as folder:
        for arguments in (
            ["-m", "benchmarks.sets", "brick", "brick"],
            [CHECKOUT / "cli.py", "train", "--mvtec", "brick", "--quiet", "--out", "runs/brick"],
        ):
            subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True)
        with subprocess.Popen(
            [sys.executable, CHECKOUT / "cli.py", "desk", "--no-browser"],
            cwd=folder, env=environment, stdout=subprocess.PIPE, text=True,
        ) as shown:  # fmt: skip
            try:
                photographed(shown.stdout.readline().split()[3], out)
            finally:
                shown.terminate()
    return out
