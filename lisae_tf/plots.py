"""What every figure shares: drawing backend, colours, style; files are whole or absent."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lisae_tf.files import replacing

NORMAL, ANOMALY, BEFORE, AFTER = "#2a6fbb", "#d1495b", "#8d99ae", "#1b9e77"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG, the same bytes for the same figure, and closes it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
