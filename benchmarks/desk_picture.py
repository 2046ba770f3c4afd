"""docs/desk.png: the desk on a run of pictures that anyone can make.

python -m benchmarks.desk_picture

Makes the set `brick`, trains with the defaults (a minute) and photographs the page. Needs the
browser chromium, and playwright, which `pip install '.[dev]'` brings.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import sync_playwright

CHECKOUT = Path(__file__).parents[1]
PICTURE = CHECKOUT / "docs" / "desk.png"
WIDTH, HEIGHT = 1300, 900
COLOURS = 128  # of the picture, which would be five times as large with all
# Beyond the highest normal picture, so that the stored threshold is seen beside it.
MOVE = "desk.page.setThreshold(1.05 * desk.page.counts.normal.at(-1))"
THERE = """[...document.querySelectorAll(".tile:not([hidden]) img[src]")]
  .every((image) => image.classList.contains("there"))"""


def photographed(address: str, place: Path) -> None:
    """The page as it opens, its threshold moved."""
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


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=PICTURE, show_default=True)
def main(out: Path) -> None:
    """Write the picture of the desk."""
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
        ) as desk:  # fmt: skip
            try:
                photographed(desk.stdout.readline().split()[3], out)
            finally:
                desk.terminate()
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
