"""Error maps of pictures that somebody looks at: asked for one by one, made in batches."""

import asyncio
import io
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from PIL import Image

from lisae_tf.core.errors import LisaeError
from lisae_tf.desk.pictures import Pictures
from lisae_tf.report.error_maps import full_red, redness, resized

SIDE = 256  # pixels of a map's longer side
BATCH = 16
_YELLOW = 4.0  # times fully red: that much at least is yellow
_GATHER = 0.01  # seconds in which requests come together
_KEPT = 4096  # encoded maps


def encoded(
    error: np.ndarray, size: tuple[int, int], alpha: float, highest_share: float, side: int = SIDE
) -> bytes:
    """A map as WebP, red where the error is and clear elsewhere, in the picture's proportions.

    Beyond what is fully red it goes on to yellow, which its highest error is.

    Args:
        error: float32 (h, w).
        size: (H, W) of the picture.
        alpha: the threshold, which sets the scale.
        highest_share: of the map's places, whose mean is the score.
        side: of the longer side, at most.
    """
    scale = min(1.0, side / max(size))
    height, width = (max(1, round(scale * side)) for side in size)
    drawn = np.zeros((height, width, 4), np.uint8)
    drawn[..., 0] = 255
    drawn[..., 3] = np.rint(255 * redness(error, (height, width), alpha, highest_share))
    if alpha > 0 and (beyond := float(error.max()) / (full := full_red(alpha, highest_share))) > 1:
        times = np.maximum(resized(error[None], (height, width))[0] / full, 1)
        drawn[..., 1] = np.rint(255 * np.log(times) / np.log(max(beyond, _YELLOW)))
    stream = io.BytesIO()
    # Else the red of clear places would be dropped, and the edges with it.
    Image.fromarray(drawn).save(stream, "WEBP", method=2, exact=True, alpha_quality=80)
    return stream.getvalue()


def made(
    pictures: Pictures, scorer, keys: Sequence[tuple[int, float]], side: int = SIDE
) -> list[bytes | Exception]:
    """Encoded maps, in one call of the scorer.

    Args:
        pictures: whose maps they are.
        scorer: a detector or exported model with maps.
        keys: the index of each picture, and the threshold for its scale.
        side: see `encoded`.

    Returns:
        Each map, or why there is none: its picture is gone, another now, or damaged.
    """
    found: list[bytes | Exception] = []
    pixels, sizes, at = [], [], []
    for index, _ in keys:
        try:
            picture, size = pictures.pixels(index, scorer.shape, scorer.depth)
        except LisaeError as error:
            found.append(error)
            continue
        at.append(len(found))
        found.append(b"")
        pixels.append(picture)
        sizes.append(size)
    if pixels:
        for k, error, size in zip(at, scorer.error_maps(np.stack(pixels)), sizes, strict=True):
            found[k] = encoded(error, size, keys[k][1], scorer.highest_share, side)
    return found


class Maps:
    """Error maps by picture; the last asked for come first.

    Args:
        pictures: whose maps they are.
        scorer: a detector or exported model with maps.
        executor: of one thread, for scorers are for one at a time.
    """

    def __init__(self, pictures: Pictures, scorer, executor: Executor):
        self._pictures, self._scorer, self._executor = pictures, scorer, executor
        self._made: OrderedDict[tuple[int, float], bytes] = OrderedDict()
        self._asked: dict[tuple[int, float], list[asyncio.Future[bytes]]] = {}
        self._work: asyncio.Task | None = None

    async def get(self, index: int, alpha: float) -> bytes:
        """The map of a picture, drawn on the scale of a threshold.

        Raises:
            LisaeError: the picture cannot be read any more.
        """
        key = (index, alpha)
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        asked = asyncio.get_running_loop().create_future()
        self._asked.setdefault(key, []).append(asked)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return await asked

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(_GATHER)
        while True:
            # Whoever asked may have scrolled on.
            waiting = {
                key: [each for each in asked if not each.done()]
                for key, asked in self._asked.items()
            }
            self._asked = {key: asked for key, asked in waiting.items() if asked}
            keys = list(self._asked)[-BATCH:]
            if not keys:
                return
            try:
                answers = await loop.run_in_executor(
                    self._executor, made, self._pictures, self._scorer, keys
                )
            except Exception as error:  # each runtime has errors of its own
                answers = [error] * len(keys)
            for key, found in zip(keys, answers, strict=True):
                for asked in self._asked.pop(key):
                    if asked.done():
                        continue
                    if isinstance(found, Exception):
                        asked.set_exception(found)
                    else:
                        asked.set_result(found)
                if isinstance(found, bytes):
                    self._keep(key, found)

    def _keep(self, key: tuple[int, float], found: bytes) -> None:
        self._made[key] = found
        while len(self._made) > _KEPT:
            self._made.popitem(last=False)
