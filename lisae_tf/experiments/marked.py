"""Pictures that people have marked, as lists that a run is continued with.

Runs without TensorFlow.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import write_text
from lisae_tf.data import manifest
from lisae_tf.runs.marks import ANOMALY, NORMAL, Mark, read_marks

# The roles in a run that agree with a mark.
_AGREE = {
    NORMAL: (manifest.NORMAL, manifest.NORMAL_TEST),
    ANOMALY: (manifest.ANOMALY, manifest.KNOWN, manifest.NEGATIVE),
}


@dataclass(frozen=True)
class Marked:
    """What marks add to a run.

    Attributes:
        normal: the path of a list of normal pictures; empty where there are none.
        known: of anomalies, likewise.
        notes: what the user should know.
    """

    normal: list[str]
    known: list[str]
    notes: list[str]


def _refuse_changed(marks: list[Mark], path: Path) -> None:
    """Raises on a picture that is gone, or another than the one that was marked."""
    for mark in marks:
        if not Path(mark.picture).is_file():
            raise LisaeError(
                f"{mark.picture} is marked in {path} and does not exist; put it back, or take the "
                "mark back"
            )
    found = manifest.digests(mark.picture for mark in marks)
    for mark, digest in zip(marks, found, strict=True):
        if digest != mark.sha256:
            raise LisaeError(
                f"{mark.picture} has changed since it was marked in {path}; mark it again"
            )


def lists_of(path: Path, run: Path) -> Marked:
    """Writes lists of the marked pictures that a run does not have yet, beside the marks.

    A list is named by what it holds, so that later marks do not change those of an earlier run.

    Args:
        path: of the marks.
        run: that is continued.

    Raises:
        LisaeError: nothing is marked that the run does not have, a picture is gone, has changed,
            or is of the other side in the run.
    """
    marks = read_marks(path)
    if not marks:
        raise LisaeError(f"{path} marks no picture as {NORMAL} or {ANOMALY}; mark some first")
    _refuse_changed(marks, path)
    kept = manifest.read(run)
    role_of = {each.sha256: each.role for each in kept.entries} if kept else {}
    new = []
    for mark in marks:
        role = role_of.get(mark.sha256)
        if role is None:
            new.append(mark)
        elif role not in _AGREE[mark.mark]:
            raise LisaeError(
                f"{mark.picture} is marked {mark.mark}, and {run} has it among its {role} "
                "pictures; take the mark back, or move the picture and train anew"
            )
    if not new:
        raise LisaeError(f"{run} has all pictures that are marked in {path}; mark others")
    notes = []
    if len(new) < len(marks):
        notes.append(f"{len(marks) - len(new)} of {len(marks)} marked pictures are the run's own")
    normal, anomalies = ([each for each in new if each.mark == side] for side in (NORMAL, ANOMALY))
    if len(anomalies) == 1:  # one half is tested, the other is not
        notes.append(f"{anomalies[0].picture} is left out: of one anomaly no half can be tested")
        anomalies = []
        if not normal:
            raise LisaeError(
                f"{path} marks a single anomaly that {run} does not have; mark two at least, for "
                "one half of them joins the test"
            )
    return Marked(_list(path, NORMAL, normal), _list(path, ANOMALY, anomalies), notes)


def _list(path: Path, side: str, marks: list[Mark]) -> list[str]:
    """The path of a list of these pictures, which is written; empty without any."""
    if not marks:
        return []
    names = sorted(mark.picture for mark in marks)
    if odd := [name for name in names if name.splitlines() != [name.strip()]]:
        raise LisaeError(
            f"{odd[0]!r} cannot stand in a list of pictures; give it a name without line breaks "
            "and spaces at its ends"
        )
    text = "".join(f"{name}\n" for name in names)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    found = path.resolve().with_name(f"{path.stem}-{side}-{digest}.txt")
    write_text(found, text)
    return [str(found)]
