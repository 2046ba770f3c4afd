"""What every figure shares: drawing backend, colours, style; files are whole or absent."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lisae_tf.core.files import replacing

NORMAL, ANOMALY, BEFORE, AFTER = "#2a6fbb", "#d1495b", "#8d99ae", "#1b9e77"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
DPI = 120  # of every file


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG, the same bytes for the same figure, and closes it.

    The figure's layout is its own ("constrained"); `savefig` would draw everything twice.
    """
    figure.set_dpi(DPI)
    with replacing(path) as temporary:
        figure.canvas.print_png(temporary, metadata={"Software": None})
    plt.close(figure)
