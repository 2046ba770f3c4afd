"""Which pictures an exported model was trained on: a few bytes of each one's SHA-256.

Six bytes take eight characters of the record, and of a thousand new pictures none is taken for one
of a hundred thousand but once in millions of times. Runs without TensorFlow.
"""

import base64
from collections.abc import Iterable, Sequence

from lisae_tf.core.arrays import batches

BYTES = 6  # of each digest
MOST = 2**17  # pictures; a record of more would be too large to read


def pack(digests: Iterable[str]) -> str | None:
    """The digests, hex, as one text; None of more than `MOST`."""
    short = sorted({bytes.fromhex(digest)[:BYTES] for digest in digests})
    return base64.b64encode(b"".join(short)).decode() if len(short) <= MOST else None


def unpack(text: str) -> frozenset[bytes]:
    """What `pack` made one text of.

    Raises:
        ValueError: another text.
    """
    data = base64.b64decode(text, validate=True)
    if len(data) % BYTES:
        raise ValueError("no list of digests")
    return frozenset(batches(data, BYTES))


def which(text: str | None, digests: Sequence[str]) -> list[bool]:
    """Of some digests, hex, whether each is in the list; none is where there is no list."""
    known = unpack(text) if text else frozenset()
    return [bytes.fromhex(digest)[:BYTES] in known for digest in digests]
