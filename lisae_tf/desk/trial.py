"""A picture that somebody tries at the desk: read as `score` reads it, then scored.

The page scores it itself where it can: an ONNX model, by ONNX Runtime Web. Else the desk's scorer
does. Runs without TensorFlow.
"""

import base64
from typing import Any

import numpy as np

from lisae_tf.data import levels, pictures
from lisae_tf.desk import maps, web_runtime
from lisae_tf.desk.thumbnails import LARGEST, as_address, encoded
from lisae_tf.exported.runtimes import OnnxModel

MOST = 2**26  # bytes of a picture


class Trial:
    """What it takes to try pictures on one model.

    Args:
        scorer: a detector or exported model.

    Attributes:
        runtime: for the page to score by; None where the server has to.
    """

    def __init__(self, scorer):
        self._scorer = scorer
        self.runtime, self._why = None, ""
        if not isinstance(scorer, OnnxModel):
            self._why = "a page can run exported ONNX models alone"
            return
        self.runtime = web_runtime.find()
        if self.runtime is None:
            self._why = f"the npm package {web_runtime.PACKAGE} is not at hand"

    @property
    def model(self) -> bytes:
        """The ONNX file that was opened."""
        return self._scorer.data

    def told(self) -> dict[str, Any]:
        """What the page has to know."""
        return {
            "most": MOST,
            "runtime": self.runtime and self.runtime.version,
            "why": self._why,
            "shape": list(self._scorer.shape),
            "float": bool(self.runtime) and self._scorer.record["input"]["dtype"] == "float32",
            "highest_share": self._scorer.highest_share if self._scorer.has_maps else None,
        }

    def read(self, data: bytes, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """An encoded picture as the model takes it, and what the page shows of it.

        Args:
            data: the file's bytes.
            name: what messages call it.

        Returns:
            uint8 (H, W, C); and "picture" and "pixels" as text, "height", "width" and "notes".

        Raises:
            BadPicture: it cannot be decoded.
        """
        scorer = self._scorer
        found = pictures.decode_all(
            [data], scorer.shape[:2], scorer.shape[2], names=[name], depth=scorer.depth
        )
        (pixels,), (header,) = found.pixels, found.headers
        notes = levels.reading_remarks([name], [header], scorer)
        return pixels, {
            "height": header.height,
            "width": header.width,
            "picture": as_address(encoded(data, LARGEST, scorer.depth)),
            "pixels": base64.b64encode(pixels.tobytes()).decode("ascii"),
            "notes": notes,
        }

    def score(
        self, pixels: np.ndarray, size: tuple[int, int], alpha: float
    ) -> tuple[float, str | None]:
        """A picture's score, and its error map as text where there are maps; in the model's thread.

        Args:
            pixels: from `read`.
            size: (H, W) of the picture itself.
            alpha: the threshold, which sets the scale of the map.
        """
        batch = pixels[None]
        score = float(self._scorer.score(batch)[0])
        if not self._scorer.has_maps:
            return score, None
        error = self._scorer.error_maps(batch)[0]
        return score, as_address(maps.encoded(error, size, alpha, self._scorer.highest_share))
