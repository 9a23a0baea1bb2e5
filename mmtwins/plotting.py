"""Colours, axes and files of all our figures; no display is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = '#222222'
FLATTEST, TALLEST = 0.3, 1.6  # limits of a panel's height divided by its width
LINES = ('#0072B2', '#D55E00', '#009E73', '#CC79A7')  # Okabe and Ito's colours


def blend_labels(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[tuple[int, int, int]], opacity: float = 0.65
) -> np.ndarray:
    """Paint a label map over an image.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) integers; values without a colour are left as they are.
        palette: One RGB colour in 0..255 per label.
        opacity: Of the paint, 0 to 1.

    Returns:
        (H, W, 3) uint8.
    """
    known = (labels >= 0) & (labels < len(palette))
    paint = np.asarray(palette, float)[np.where(known, labels, 0)]
    blended = np.where(known[..., None], (1 - opacity) * image + opacity * paint, image)
    return (blended + 0.5).astype(np.uint8)


def viridis(number: int) -> list:
    """Colours of viridis that stay apart on white and in grey."""
    from matplotlib import colormaps

    return [colormaps['viridis'](0.8 * i / max(number - 1, 1)) for i in range(number)]


def use_plain_log_ticks(axis: 'Axes', ticks: Sequence[int], largest: float = np.inf) -> None:
    """Mark these values, up to the largest, as whole numbers on a logarithmic x axis."""
    axis.set_xscale('log')
    axis.minorticks_off()
    shown = [tick for tick in ticks if tick <= largest]
    axis.set_xticks(shown, labels=[str(tick) for tick in shown])
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)


def panel_shape(shape: float) -> float:
    """Height by width of a panel for content of a shape: very flat or tall content is stretched, or gets a margin."""
    return min(max(shape, FLATTEST), TALLEST)


def make_figure(rows: int, columns: int, width: float, height: float) -> tuple['Figure', np.ndarray]:
    """A figure and its (rows, columns) axes, each about width x height inches, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height + 0.6), layout='constrained', dpi=100)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: 'Figure', path: str | Path) -> Path:
    """Write a figure, and the folders above it; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
