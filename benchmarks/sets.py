"""Two inspection sets that anyone can make, in MVTec's layout.

    pip install elpv-dataset && python -m benchmarks.sets cells cells/
    python -m benchmarks.sets brick brick/

`cells`: solar cells in electroluminescence (ELPV, CC BY-NC-SA 4.0), as they were photographed.
`brick`: a brick wall out of scikit-image's photographs, with holes and cracks drawn into it.
"""

from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw

SIDE = 128  # pixels of a picture of brick
TRAIN, TEST = 200, 30


def _save(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def cells(folder: Path) -> None:
    """ELPV's cells as 300x300 grey PNG.

    Monocrystalline cells of defect probability 0 are normal, a random fifth of them for the test;
    those of probability 1 are the anomalies. Polycrystalline cells of probability 1 are negatives
    of another kind. In `new` are the monocrystalline cells between 0 and 1, on which experts were
    not agreed or not sure.
    """
    from elpv_dataset.utils import load_dataset

    pictures, probabilities, kinds = load_dataset()
    normal = np.flatnonzero((kinds == "mono") & (probabilities == 0))
    normal = normal[np.random.default_rng(0).permutation(len(normal))]
    tests = round(len(normal) / 5)
    parts = {
        "train/good": normal[tests:],
        "test/good": normal[:tests],
        "test/defect": np.flatnonzero((kinds == "mono") & (probabilities == 1)),
        "new": np.flatnonzero((kinds == "mono") & (probabilities > 0) & (probabilities < 1)),
        "negative/poly": np.flatnonzero((kinds == "poly") & (probabilities == 1)),
    }
    for part, indices in parts.items():
        for index in indices:
            _save(pictures[index], folder / part / f"cell{index + 1:04d}.png")


def brick(folder: Path) -> None:
    """Crops of a wall, the left part for training, the right one for the test."""
    from skimage import data

    wall, gravel = data.brick(), data.gravel()
    generator = np.random.default_rng(0)

    def crop(photograph: np.ndarray, left: int, right: int) -> np.ndarray:
        row = generator.integers(0, photograph.shape[0] - SIDE + 1)
        column = generator.integers(left, right - SIDE + 1)
        return photograph[row : row + SIDE, column : column + SIDE]

    for number in range(TRAIN):
        _save(crop(wall, 0, 320), folder / "train" / "good" / f"{number:03d}.png")
    for number in range(TEST):
        name = f"{number:03d}.png"
        _save(crop(wall, 320, 512), folder / "test" / "good" / name)
        for kind, mark in (("hole", _hole), ("crack", _crack)):
            whole = crop(wall, 320, 512)
            mask = mark(generator)
            shown = crop(gravel, 0, 512) if kind == "hole" else whole // 4
            _save(np.where(mask, shown, whole), folder / "test" / kind / name)
            _save(
                mask.astype(np.uint8) * 255,
                folder / "ground_truth" / kind / f"{number:03d}_mask.png",
            )


def _hole(generator: np.random.Generator) -> np.ndarray:
    mask = Image.new("L", (SIDE, SIDE))
    middle, half = generator.integers(20, SIDE - 20, 2), generator.integers(5, 14, 2)
    ImageDraw.Draw(mask).ellipse([*(middle - half), *(middle + half)], fill=1)
    return np.asarray(mask) > 0


def _crack(generator: np.random.Generator) -> np.ndarray:
    mask = Image.new("L", (SIDE, SIDE))
    steps = generator.integers(-12, 13, (5, 2)).cumsum(axis=0) + generator.integers(
        30, SIDE - 30, 2
    )
    ImageDraw.Draw(mask).line([tuple(map(int, step)) for step in steps], fill=1, width=2)
    return np.asarray(mask) > 0


@click.command()
@click.argument("name", type=click.Choice(["cells", "brick"]))
@click.argument("folder", type=click.Path(path_type=Path))
def main(name: str, folder: Path) -> None:
    """Write a set in MVTec's layout."""
    {"cells": cells, "brick": brick}[name](folder)


if __name__ == "__main__":
    main()
