"""Two lists in the record of an exported model, each packed into one text; no TensorFlow.

The pictures that it was trained on, as a few bytes of each one's SHA-256: six bytes take eight
characters of the record, and of a thousand new pictures none is taken for one of a hundred thousand
but once in millions of times. And its calibration scores, which `monitor` compares with: they are
the file's own, since rounding to float16 or int8 moves scores.
"""

import base64
from collections.abc import Iterable, Sequence

import numpy as np

from lisae_tf.core.arrays import batches

BYTES = 6  # of each digest
MOST_PICTURES, MOST_SCORES = 2**17, 2**16  # more would make the record too large to read


def pack_digests(digests: Iterable[str]) -> str | None:
    """The digests, hex, as one text; None of more than `MOST_PICTURES`."""
    short = sorted({bytes.fromhex(digest)[:BYTES] for digest in digests})
    return base64.b64encode(b"".join(short)).decode() if len(short) <= MOST_PICTURES else None


def unpack_digests(text: str) -> frozenset[bytes]:
    """What `pack_digests` made one text of.

    Raises:
        ValueError: another text.
    """
    data = base64.b64decode(text, validate=True)
    if len(data) % BYTES:
        raise ValueError("no list of digests")
    return frozenset(batches(data, BYTES))


def which_seen(text: str | None, digests: Sequence[str]) -> list[bool]:
    """Of some digests, hex, whether each is in the list; none is where there is no list."""
    known = unpack_digests(text) if text else frozenset()
    return [bytes.fromhex(digest)[:BYTES] in known for digest in digests]


def pack_scores(scores: np.ndarray) -> str:
    """Scores (N,) as one text of float32; of more than `MOST_SCORES` some, evenly spaced."""
    every = max(1, -(-len(scores) // MOST_SCORES))
    return base64.b64encode(np.asarray(scores[::every], "<f4").tobytes()).decode()


def unpack_scores(text: str) -> np.ndarray:
    """What `pack_scores` made one text of, float32 (N,).

    Raises:
        ValueError: another text.
    """
    scores = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if not np.isfinite(scores).all():
        raise ValueError("scores that are not finite")
    return scores
