"""Copies of anomalies, each with its errors in red, in a folder of their own. No TensorFlow."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lisae_tf.core.files import cannot_write, make_folder
from lisae_tf.data.pictures import decode
from lisae_tf.exported.runtimes import Model
from lisae_tf.report.error_maps import overlay
from lisae_tf.watching.arrivals import Arrival

_LONGEST = 50  # characters of a picture's own name, so that no system refuses the whole


class Anomalies:
    """The folder, `NAME-ID.SUFFIX` and, of a model with maps, `NAME-ID-errors.png` in it.

    The same picture has the same names, so that one that is scored again after a kill is no second.

    Args:
        folder: where they go.
        model: what scores.
        link: make links in place of copies: hard ones, or symbolic ones to another file system.

    Raises:
        LisaeError: the folder cannot be written.
    """

    def __init__(self, folder: Path, model: Model, *, link: bool):
        self._folder = make_folder(folder, "--anomalies")
        self._model = model
        self._link = link

    def write(
        self, arrivals: Sequence[Arrival], contents: Sequence[bytes], pixels: np.ndarray
    ) -> None:
        """Writes some.

        Args:
            arrivals: the files.
            contents: their bytes, as they were scored.
            pixels: uint8 (N, H, W, C), as the model takes them.

        Raises:
            LisaeError: they cannot be written.
        """
        model = self._model
        maps = model.error_maps(pixels) if model.has_maps and len(pixels) else [None] * len(pixels)
        for arrival, content, error in zip(arrivals, contents, maps, strict=True):
            own = Path(arrival.path)
            name = f"{own.stem[:_LONGEST]}-{arrival.id.hex()[:8]}"
            self._picture(arrival, content, self._folder / (name + own.suffix))
            if error is None:
                continue
            with _whole(self._folder / f"{name}-errors.png") as temporary:
                drawn = overlay(
                    decode(content, depth=model.depth), error, model.threshold, model.highest_share
                )
                Image.fromarray(drawn).save(temporary)

    def _picture(self, arrival: Arrival, content: bytes, place: Path) -> None:
        if self._link and _linked(arrival, place):
            return
        with _whole(place) as temporary:
            temporary.write_bytes(content)


@contextlib.contextmanager
def _whole(place: Path) -> Iterator[Path]:
    """As `replacing`, for many files: whole after a kill; the last ones may go with the power."""
    temporary = place.with_name(f".{place.name}")
    try:
        yield temporary
        os.replace(temporary, place)
    except OSError as error:
        raise cannot_write(place, error, "--anomalies") from error


def _linked(arrival: Arrival, place: Path) -> bool:
    """Whether there is a link now; a file that has gone, or is another, is copied instead."""
    with contextlib.suppress(FileNotFoundError):
        place.unlink()
    for make in (os.link, os.symlink):
        try:
            make(arrival.path, place)
            found = os.stat(place)
            if (found.st_size, found.st_mtime_ns) == (arrival.size, arrival.mtime_ns):
                return True
            place.unlink()
        except OSError:  # another file system, or one without such links
            with contextlib.suppress(OSError):
                place.unlink()
    return False
