"""The calibration scores of an exported model, in its record: what `monitor` compares with.

They are the file's own: rounding to float16 or int8 moves scores. Runs without TensorFlow.
"""

import base64

import numpy as np

MOST = 2**16  # scores; more would make the record too large to read


def pack(scores: np.ndarray) -> str:
    """Scores (N,) as one text of float32; of more than `MOST` some, evenly spaced."""
    every = max(1, -(-len(scores) // MOST))
    return base64.b64encode(np.asarray(scores[::every], "<f4").tobytes()).decode()


def unpack(text: str) -> np.ndarray:
    """What `pack` made one text of, float32 (N,).

    Raises:
        ValueError: another text.
    """
    scores = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if not np.isfinite(scores).all():
        raise ValueError("scores that are not finite")
    return scores
