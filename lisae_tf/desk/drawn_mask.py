"""A mask drawn at the desk: polygons become a picture that `train --ignore-mask` reads.

Runs without TensorFlow.
"""

import io
import itertools
import math
import os
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import cannot_write, make_folder

BLACK, WHITE = 0, 255  # what counts, and what does not
_MOST = 2000  # corners of all polygons together

Polygon = list[tuple[float, float]]


def polygons_of(sent: Any) -> list[Polygon]:
    """Polygons as the page sends them: lists of corners [x, y], in shares of width and height.

    Raises:
        LisaeError: they are none, there are none, or they are too many.
    """
    try:
        found = [[(_share(x), _share(y)) for x, y in corners] for corners in sent]
    except (TypeError, ValueError) as error:
        raise LisaeError("a mask is a list of polygons of corners between 0 and 1") from error
    if not found or any(len(corners) < 3 for corners in found):
        raise LisaeError("a mask needs a polygon, and a polygon three corners; draw one")
    if sum(map(len, found)) > _MOST:
        raise LisaeError(f"the polygons have more than {_MOST} corners; draw them simpler")
    return found


def _share(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError("no share")
    return float(value)


def drawn(polygons: list[Polygon], size: tuple[int, int]) -> Image.Image:
    """The mask, in the mode L; white is what lies in any of the polygons.

    Args:
        polygons: from `polygons_of`.
        size: (H, W).

    Raises:
        LisaeError: nothing of the picture is left.
    """
    height, width = size
    mask = Image.new("L", (width, height), BLACK)
    draw = ImageDraw.Draw(mask)
    for corners in polygons:
        # Pillow counts from the middle of the first pixel.
        draw.polygon([(x * width - 0.5, y * height - 0.5) for x, y in corners], fill=WHITE)
    if mask.getextrema() == (WHITE, WHITE):
        raise LisaeError("the polygons cover the whole picture, and nothing would be left of it")
    return mask


def save(mask: Image.Image, folder: Path) -> Path:
    """Writes a mask under a name that is free, and gives that: mask.png, mask-2.png and so on.

    Raises:
        LisaeError: it cannot be written.
    """
    stream = io.BytesIO()
    mask.save(stream, "PNG")
    make_folder(folder, "--marks")
    for number in itertools.count(1):
        place = folder / ("mask.png" if number == 1 else f"mask-{number}.png")
        try:
            with open(place, "xb") as file:
                try:
                    file.write(stream.getvalue())
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    place.unlink()
                    raise
        except FileExistsError:
            continue
        except OSError as error:
            raise cannot_write(place, error, "--marks") from error
        return place
    raise AssertionError  # numbers do not end
