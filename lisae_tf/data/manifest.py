"""Which pictures a run was made of, by content, and what has become of them since.

A run on folders keeps a line for each picture (`manifest.jsonl`): what it was for, and the part it
was given. A picture keeps its part whatever is added, renamed or removed later. Runs without
TensorFlow.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import sha256, write_text
from lisae_tf.data.picture_files import few

FILE = "manifest.jsonl"
NORMAL, NEGATIVE, NORMAL_TEST, ANOMALY = "normal", "negative", "normal test", "anomaly"
KNOWN = "known"  # flaws, some of which choose settings
FIT, STOPPING, CALIBRATION, TEST = "fit", "stopping", "calibration", "test"
CHOOSING = "choosing"  # known flaws that settings were chosen with: no test has them
# A normal test picture that training has as well, or a copy of a picture that calibrates.
UNUSED = "unused"
FITTED = (FIT, STOPPING)  # what the weights rest on
TRAINED_ON = (*FITTED, CALIBRATION)


@dataclass(frozen=True)
class Entry:
    """One picture.

    Attributes:
        role: of its folder: "normal", "negative", "normal test", "anomaly" or "known".
        number: of its folder among those of the role.
        path: below that folder, with "/".
        sha256: of the file's bytes, hex.
        part: "fit", "stopping", "calibration", "choosing" or "test"; "unused" of none.
        kind: of an anomaly, negative or known flaw, "" where there is none.
        height: of the file's picture, upright, in pixels.
        width: likewise.
        mode: Pillow's name for its pixels.
        group: its name, "" of a picture that stands alone or was kept by an earlier version.
    """

    role: str
    number: int
    path: str
    sha256: str
    part: str
    kind: str
    height: int
    width: int
    mode: str
    group: str = ""


@dataclass(frozen=True)
class Matched:
    """The pictures of one folder that a run knows, as they are now.

    Attributes:
        entries: of the run, in its order.
        rows: of the files where they are now.
        missing: paths of pictures that are gone.
        changed: paths that hold another picture now.
        added: paths of pictures that the run does not know.
    """

    entries: list[Entry]
    rows: list[int]
    missing: list[str]
    changed: list[str]
    added: list[str]

    def remarks(self, folder: str) -> list[str]:
        """What the user should know of a folder."""
        said = []
        for names, what in ((self.missing, "gone"), (self.changed, "changed")):
            if names:
                said.append(f"{_pictures(names)} of {folder} {_have(names)} {what}: {few(names)}")
        if self.added:
            said.append(
                f"{_pictures(self.added)} of {folder} came after the training and "
                f"{_are(self.added)} left out: {few(self.added)}"
            )
        return said


def _pictures(names: Sequence[str]) -> str:
    return f"{len(names)} picture{'s' * (len(names) != 1)}"


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def digests(paths: Iterable[Path | str]) -> list[str]:
    """SHA-256 of each file's bytes, hex."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: sha256(Path(path)), paths))


def match(entries: Sequence[Entry], paths: Sequence[str], found: Sequence[str]) -> Matched:
    """Finds a run's pictures again, renamed or not.

    Args:
        entries: of one folder.
        paths: of the files in it now, below the folder.
        found: the digest of each.
    """
    at = {path: row for row, path in enumerate(paths)}
    free = defaultdict(list)
    for row in reversed(range(len(paths))):
        free[found[row]].append(row)
    # Of copies of one picture each keeps its own name.
    taken: dict[int, int] = {}
    for k, entry in enumerate(entries):
        row = at.get(entry.path)
        if row is not None and found[row] == entry.sha256:
            taken[k] = row
            free[entry.sha256].remove(row)
    for k, entry in enumerate(entries):
        if k not in taken and free[entry.sha256]:
            taken[k] = free[entry.sha256].pop()
    lost = [entry.path for k, entry in enumerate(entries) if k not in taken]
    used = set(taken.values())
    kept = sorted(taken)
    changed = [path for path in lost if path in at and at[path] not in used]
    return Matched(
        [entries[k] for k in kept],
        [taken[k] for k in kept],
        [path for path in lost if path not in changed],
        changed,
        [path for row, path in enumerate(paths) if row not in used and path not in changed],
    )


class Manifest:
    """All pictures of a run, by folder."""

    def __init__(self, entries: Iterable[Entry]):
        self.entries = tuple(entries)

    def of(self, role: str, number: int = 0) -> list[Entry]:
        """The pictures of one folder, in the run's order."""
        return [each for each in self.entries if (each.role, each.number) == (role, number)]

    def digests(self, parts: Sequence[str]) -> set[str]:
        """Those of all pictures in some parts, whatever their folder."""
        return {each.sha256 for each in self.entries if each.part in parts}

    def tested_normals(self) -> list[int]:
        """How many pictures of each folder of normal ones were held out for the test."""
        found = Counter(each.number for each in self.entries if each.role == NORMAL)
        tested = Counter(
            each.number for each in self.entries if (each.role, each.part) == (NORMAL, TEST)
        )
        return [tested[number] for number in sorted(found)]

    def only(self, folders: Iterable[tuple[str, int]]) -> "Manifest":
        """The pictures of some folders alone, each given as role and number."""
        wanted = set(folders)
        return Manifest(each for each in self.entries if (each.role, each.number) in wanted)

    def write(self, run: Path) -> None:
        """Writes the list into the folder of a run."""
        lines = (json.dumps(asdict(each), sort_keys=True) for each in self.entries)
        write_text(run / FILE, "".join(f"{line}\n" for line in lines))


def read(run: Path) -> Manifest | None:
    """The pictures of a run; None of one on named data, or of an earlier version.

    Raises:
        LisaeError: the list is damaged.
    """
    path = run / FILE
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return Manifest([Entry(**json.loads(line)) for line in lines])
    except (OSError, ValueError, TypeError) as error:
        raise LisaeError(f"{path} is damaged ({error}); restore it or train anew") from error
