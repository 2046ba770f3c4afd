"""Figures 2 and 4: pictures of what trained networks make of test inputs, one training each.

Written by `benchmark figures`, with a record of each training beside them; the report shows them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lisae_tf.config.settings import Config, dataset_settings, merge, resolve
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import make_folder, read_json, update_json
from lisae_tf.grids.cells import TRAINING_VERSION

if TYPE_CHECKING:
    import numpy as np

    from lisae_tf.experiments.experiment import Outcome

SHOWN = 5  # pictures of each side
RECORDS = "records.json"  # of the trainings, in the folder of the pictures


@dataclass(frozen=True)
class Exhibit:
    """One figure and the training it shows."""

    title: str
    config: str
    variant: str
    normal: str

    def settings(self, over: dict[str, Any]) -> Config:
        """The resolved configuration, seed 0."""
        own = {"variant": self.variant, "normal_class": [self.normal], "seed": 0}
        return resolve(merge(merge(dataset_settings(self.config) or {}, own), over), self.config)


EXHIBITS: dict[str, Exhibit] = {
    "figure2": Exhibit("Figure 2: linear case, digit 8, Omniglot", "mnist", "linear-lis", "8"),
    "figure4_cifar10": Exhibit("Figure 4: CIFAR-10, car", "cifar10", "lis", "automobile"),
    "figure4_svhn": Exhibit("Figure 4: SVHN, digit 0", "svhn_cropped", "lis", "0"),
}


def stored(folder: Path) -> dict[str, Path]:
    """Title and file of each picture that lies in the folder."""
    paths = {exhibit.title: folder / f"{name}.png" for name, exhibit in EXHIBITS.items()}
    return {title: path for title, path in paths.items() if path.is_file()}


def records(folder: Path) -> dict[str, dict]:
    """What each picture in the folder was made of, by its name."""
    path = folder / RECORDS
    return read_json(path) if path.is_file() else {}


def make_all(
    folder: Path, data_dir: Path | None, over: dict[str, Any], say: Callable[[str], None]
) -> Iterator[Path]:
    """Trains and draws each picture that is missing or of other settings.

    A failure is said and stops nothing.
    """
    from lisae_tf.experiments import experiment

    make_folder(folder)
    for name, exhibit in EXHIBITS.items():
        config = exhibit.settings(over)
        picture = folder / f"{name}.png"
        wanted = {"config_hash": config.digest(), "training_version": TRAINING_VERSION}
        record = records(folder).get(name, {})
        if picture.is_file() and wanted.items() <= record.items():
            continue
        try:
            outcome = experiment.run(config, experiment.load(config, data_dir))
        except LisaeError as error:
            say(f"{name}: failed: {error}")
            continue
        draw = linear_case if exhibit.variant == "linear-lis" else both_phases
        draw(picture, outcome)
        kept = ("auroc", "auroc_phase1", "seed", "version", "seconds")
        record = wanted | {key: outcome.metrics[key] for key in kept}
        update_json(folder / RECORDS, name, record)
        yield picture


def both_phases(path: Path, outcome: "Outcome") -> None:
    """Figure 4: inputs, what the autoencoder of phase 1 makes of them, what LIS-AE does."""
    from lisae_tf.report import figures
    from lisae_tf.report.figures import shown

    chosen, n_normal = shown(outcome.test, SHOWN)
    pixels, detector = outcome.test.pixels[chosen], outcome.detector
    rows = [
        ("input", pixels),
        ("AE", detector.phase1_detector().reconstruct(pixels)),
        ("LIS-AE", detector.reconstruct(pixels)),
    ]
    names = [outcome.test.labels[index] for index in chosen]
    figures.reconstructions(path, rows, names, n_normal)


def linear_case(path: Path, outcome: "Outcome") -> None:
    """Figure 2, rows (a) to (f): inputs, their orthogonal part, and what both make of either."""
    import numpy as np

    from lisae_tf.report import figures
    from lisae_tf.report.figures import shown

    chosen, n_normal = shown(outcome.test, SHOWN)
    pixels = outcome.test.pixels[chosen]
    x, orthogonal, ae_orthogonal, lis_orthogonal, ae, lis = decompose(
        pixels, **outcome.detector.arrays()
    )

    def centred(signed: "np.ndarray") -> "np.ndarray":
        return np.clip(0.5 + signed / 2, 0, 1)  # these vectors have both signs: grey is zero

    rows = [
        ("(a) input", x), ("(b) orthogonal", centred(orthogonal)),
        ("(c) AE of (b)", centred(ae_orthogonal)), ("(d) LIS-AE of (b)", centred(lis_orthogonal)),
        ("(e) AE of (a)", ae), ("(f) LIS-AE of (a)", lis),
    ]  # fmt: skip
    names = [outcome.test.labels[index] for index in chosen]
    shaped = [(label, images.reshape(pixels.shape)) for label, images in rows]
    figures.reconstructions(path, shaped, names, n_normal)


def decompose(pixels: "np.ndarray", e: "np.ndarray", u_r: "np.ndarray") -> tuple:
    """Section 4.1's picture: the part of x orthogonal to U_r, and x̂ = U_r Eᵀ x of x and of it.

    Args:
        pixels: uint8 (N, H, W, C).
        e: E of linear LIS-AE, float (m, r).
        u_r: U_r, float (m, r).

    Returns:
        Floats (N, m): x, its orthogonal part, that part through the linear AE (U_r U_rᵀ) and
        through LIS-AE, and x through both.
    """
    from lisae_tf.detectors.pixels import rows

    x = rows(pixels)
    orthogonal = x - x @ u_r @ u_r.T
    through = [vectors @ encoder @ u_r.T for vectors in (orthogonal, x) for encoder in (u_r, e)]
    return (x, orthogonal, *through)
