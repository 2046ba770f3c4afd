"""Sides of pictures beside each other's: what is stretched when one is laid over another.

Runs without TensorFlow.
"""

from collections.abc import Sequence

from lisae_tf.data.levels import Header, depth_remarks
from lisae_tf.data.picture_files import few

CLEARLY = 0.05  # of two pictures' proportions: so much apart can be seen


def apart(one: tuple[int, int], other: tuple[int, int]) -> float:
    """By which share the proportions of two sizes, (H, W) each, differ."""
    (height, width), (other_height, other_width) = one, other
    return abs(height * other_width / (width * other_height) - 1)


def stretched_remarks(
    what: str, names: Sequence[str], headers: Sequence[Header], mask_size: tuple[int, int] | None
) -> list[str]:
    """One sentence if the mask of what does not count is stretched over some pictures; else none.

    Args:
        what: the set.
        names: of its pictures.
        headers: theirs, once decoded; none of pictures that do not come from files.
        mask_size: (H, W) of the mask as it was drawn; None where there is none.
    """
    if mask_size is None:
        return []
    named = zip(names, headers, strict=False)
    other = [name for name, each in named if apart((each.height, each.width), mask_size) > CLEARLY]
    if not other:
        return []
    have = "pictures have" if len(other) > 1 else "picture has"
    return [
        f"{len(other)} {what} {have} other proportions than the {mask_size[1]}x{mask_size[0]} of "
        f"the mask of what does not count, which is stretched over them; cut them as the normal "
        f"pictures are: {few(other)}"
    ]


def reading_remarks(names: Sequence[str], headers: Sequence[Header], scorer) -> list[str]:
    """What new pictures lost on the way to a detector or exported model, a sentence each.

    Args:
        names: of the pictures.
        headers: theirs, once decoded.
        scorer: has `depth` and `mask_size`.
    """
    return [
        *depth_remarks("new", names, headers, scorer.depth),
        *stretched_remarks("new", names, headers, scorer.mask_size),
    ]
