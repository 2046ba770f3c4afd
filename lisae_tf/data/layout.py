"""Which of the user's files belong to which set, and of which kind they are.

A kind is the first folder below a set's folder; MVTec's layout holds `train/good`, `test/good`,
`test/KIND` and `ground_truth/KIND`. Runs without TensorFlow.
"""

from dataclasses import dataclass
from pathlib import Path

from lisae_tf.core.errors import LisaeError
from lisae_tf.data import picture_files

GOOD = "good"
_MISSING = "the folder {} does not exist; check the path"
_TRAIN, _TEST, _MASKS = "train", "test", "ground_truth"


def kind_of(path: Path, root: Path) -> str:
    """The first folder below `root` that `path` lies in; "" at its top."""
    parts = [part for part in picture_files.below(path, root).parts if part != ".."]
    return parts[0] if len(parts) > 1 else ""


@dataclass(frozen=True)
class PictureSet:
    """The pictures below a folder, but for those below a folder in it that is another set."""

    root: Path
    apart: Path | None = None

    def files(self) -> list[Path]:
        """Its pictures, sorted by path.

        Raises:
            LisaeError: the folder is missing or holds no picture.
        """
        return [path for path in picture_files.find(self.root) if self._own(path)]

    def others(self) -> list[Path]:
        """Its files that are left out as no pictures."""
        return [path for path in picture_files.others(self.root) if self._own(path)]

    def _own(self, path: Path) -> bool:
        return self.apart is None or not path.is_relative_to(self.apart)


def refuse_empty_kinds(root: Path) -> None:
    """Each folder in `root` is a kind of its own and must hold a picture.

    Raises:
        LisaeError: one holds none.
    """
    for folder in [] if picture_files.is_list(root) else _folders(root):
        if next(picture_files.walk(folder), None) is None:
            raise LisaeError(
                f"the folder {folder} holds no {picture_files.NAMES} picture of its kind; put some "
                "in or remove it"
            )


def _folders(root: Path) -> list[Path]:
    """Those that `picture_files.walk` looks into."""
    if not root.is_dir():
        raise LisaeError(_MISSING.format(root))
    return sorted(
        path
        for path in root.iterdir()
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
    )


def normal_test_set(test_dir: str | None) -> PictureSet | None:
    """The normal test pictures that the user gives; None where they are to be held out.

    Raises:
        LisaeError: `test_dir` is missing.
    """
    if test_dir is None:
        return None
    if not Path(test_dir).is_dir():
        raise LisaeError(_MISSING.format(test_dir))
    good = Path(test_dir) / GOOD
    return PictureSet(good) if good.is_dir() else None


def test_sets(
    test_dir: str | None, anomaly_dir: str | None
) -> tuple[PictureSet | None, PictureSet | None]:
    """The normal test pictures and the anomalies that the user gives; None for what is not given.

    Args:
        test_dir: a folder for each kind of anomaly and, where normal test pictures are given,
            `good/`.
        anomaly_dir: anomalies alone, in folders of their kinds or not.

    Raises:
        LisaeError: a missing folder, a kind without pictures, or pictures of no kind in `test_dir`.
    """
    if anomaly_dir is not None:
        refuse_empty_kinds(Path(anomaly_dir))
        return None, PictureSet(Path(anomaly_dir))
    if test_dir is None:
        return None, None
    normal, root, good = normal_test_set(test_dir), Path(test_dir), Path(test_dir) / GOOD
    refuse_empty_kinds(root)
    first = next((path for path in picture_files.walk(root) if path.parent == root), None)
    if first is not None:
        raise LisaeError(
            f"{first} lies in no folder of {root}; move it to {good} or to a folder named as its "
            "kind of anomaly"
        )
    kinds = [folder for folder in _folders(root) if folder != good]
    if normal is None and not kinds:
        raise LisaeError(
            f"the folder {root} holds no test pictures; put normal ones in {good} and anomalies in "
            "a folder for each kind"
        )
    return normal, PictureSet(root, apart=good) if kinds else None


test_sets.__test__ = False  # no test, whatever pytest thinks


def mvtec_settings(folder: Path) -> dict[str, str]:
    """A folder in MVTec's layout as settings: normal_dir, test_dir and, with masks, mask_dir.

    Raises:
        LisaeError: it is not laid out so.
    """
    if not folder.is_dir():
        raise LisaeError(_MISSING.format(folder))
    normal, test, masks = folder / _TRAIN / GOOD, folder / _TEST, folder / _MASKS
    for needed in (normal, test):
        if not needed.is_dir():
            inside = [each for each in _folders(folder) if (each / _TRAIN / GOOD).is_dir()]
            way_out = (
                f"name one of the sets in it, as in --mvtec {inside[0]}"
                if inside
                else "name its folders with --normal-dir, --test-dir and --mask-dir"
            )
            raise LisaeError(
                f"{folder} is not in MVTec's layout, for it holds no "
                f"{needed.relative_to(folder)}; {way_out}"
            )
    settings = {"normal_dir": str(normal), "test_dir": str(test)}
    if masks.is_dir() and next(picture_files.walk(masks), None) is not None:
        settings["mask_dir"] = str(masks)
    return settings


def subject(normal_dir: str) -> str:
    """What a folder of normal pictures is about, in a name for a run."""
    path = Path(normal_dir).resolve()
    if path.parts[-2:] == (_TRAIN, GOOD):
        return path.parent.parent.name
    return path.name
