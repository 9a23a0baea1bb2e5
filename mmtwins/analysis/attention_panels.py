"""One panel of a figure of attention: the weights of keys over the image, and the places of tokens and keys in the image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .attention_maps import AttentionMap
from .attention_rollout import Rollout
from .inspection import Inspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

NO_KEY = '#cfcfcf'
TOKEN = '#ff9d5c'  # not in viridis, and light enough for its dark halo
DASHED = (0, (2, 1))


class Box(NamedTuple):
    """A rectangle in pixels of the image."""

    left: float
    top: float
    width: float
    height: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """As matplotlib's ``imshow`` takes it."""
        return self.left, self.left + self.width, self.top + self.height, self.top


def pick(
    maps: Sequence[AttentionMap], stage: int, point: tuple[float, float], kind: str, number: int = 0
) -> AttentionMap | None:
    """The map number ``number``, from 0, of those of a stage, a point and a kind of attention; None if there is none."""
    found = [m for m in maps if (m.stage, m.point, m.kind) == (stage, point, kind)]
    return found[number] if number < len(found) else None


def in_image(inspection: Inspection, point: tuple[float, float]) -> tuple[float, float]:
    """Convert a point from pixels of the network's input to pixels of the image."""
    return point[0] / inspection.scale[0], point[1] / inspection.scale[1]


def view(inspection: Inspection) -> Box:
    """What the network sees: the image, and padding on the right and below."""
    return Box(0, 0, *in_image(inspection, inspection.input_size[::-1]))


def tokens_box(inspection: Inspection, stride: int, row: int, column: int, rows: int, columns: int) -> Box:
    """Where a rectangle of tokens lies in the image."""
    left, top = in_image(inspection, (column * stride, row * stride))
    return Box(left, top, *in_image(inspection, (columns * stride, rows * stride)))


def shown(inspection: Inspection, attention: AttentionMap) -> Box:
    """What a panel shows: the whole window (LSA), or all that the network sees (GSA)."""
    if attention.kind == 'GSA':
        return view(inspection)
    return tokens_box(inspection, attention.stride, *attention.origin, *attention.size)


def without_key(inspection: Inspection, attention: AttentionMap) -> list[Box]:
    """The parts of a panel that no key covers."""
    return _rest(shown(inspection, attention), _keys(inspection, attention))


def draw_weights(
    axis: 'Axes',
    inspection: Inspection,
    attention: AttentionMap,
    values: np.ndarray,
    largest: float,
    width: float,
    is_small: bool = False,
) -> 'AxesImage':
    """Draw the weights of one head, or of their average, over the image.

    Args:
        axis: Axes of the panel.
        inspection: The image and its attention maps.
        attention: The map that the weights are of.
        values: Weights of the keys, (rows, columns), in percent.
        largest: Weight at the light end of the colours, in percent.
        width: Width of the panel, in typographic points.
        is_small: Whether to leave out what a small panel has no room for.

    Returns:
        The heat map.
    """
    from matplotlib.patches import Rectangle

    stride = attention.stride
    keys = _keys(inspection, attention)
    _draw_grey(axis, inspection)
    heat = axis.imshow(
        values, cmap='viridis', vmin=0, vmax=largest, alpha=0.62, extent=keys.extent, interpolation='nearest'
    )
    frame(axis, shown(inspection, attention))
    if attention.kind == 'LSA':
        real = tokens_box(inspection, stride, *attention.origin, *attention.num_real)
        for part in _rest(keys, real):  # padding tokens
            axis.add_patch(Rectangle(part[:2], *part[2:], fill=False, hatch='//', edgecolor='white', linewidth=0))
    local = pick(inspection.maps, attention.stage, attention.point, 'LSA')
    if attention.kind == 'GSA' and local is not None and not is_small:
        window = tokens_box(inspection, stride, *local.origin, *local.size)
        _outline(axis, window, 'white', 1.5, linestyle=DASHED)
    for part in without_key(inspection, attention):
        axis.add_patch(Rectangle(part[:2], *part[2:], facecolor=NO_KEY, linewidth=0))
    cell = width / max(values.shape)  # lines must not cover the cells between them
    if cell > 3:
        _draw_grid(axis, keys, values.shape[0], values.shape[1], min(0.8, 0.06 * cell))
    _outline(axis, tokens_box(inspection, stride, *attention.token, 1, 1), TOKEN, 1 if is_small else 2)
    if not is_small:
        mark(axis, *in_image(inspection, attention.point))
    return heat


def draw_rollout(axis: 'Axes', inspection: Inspection, rollout: Rollout, most: float) -> 'AxesImage':
    """Draw the shares of a rollout over the image, relative to the average pixel, on a logarithmic scale.

    Args:
        axis: Axes of the panel.
        inspection: The image.
        rollout: The rollout.
        most: What the light end of the colours stands for. The dark end stands for the average, 1, and all below.

    Returns:
        The heat map.
    """
    from matplotlib.colors import LogNorm

    _draw_grey(axis, inspection)
    box = view(inspection)
    relative = np.clip(rollout.shares * rollout.shares.size, 1, most)
    scale = LogNorm(1, most)
    heat = axis.imshow(relative, cmap='viridis', norm=scale, alpha=0.62, extent=box.extent, interpolation='nearest')
    frame(axis, box)
    _outline(axis, tokens_box(inspection, rollout.stride, *rollout.token, 1, 1), TOKEN, 2)
    mark(axis, *in_image(inspection, rollout.point))
    return heat


def _draw_grey(axis: 'Axes', inspection: Inspection) -> None:
    """The image in grey, with less contrast: it must be recognisable, but lightness shows what lies over it."""
    grey = inspection.image @ np.array([0.299, 0.587, 0.114])
    axis.imshow(40 + 0.7 * grey, cmap='gray', vmin=0, vmax=255, extent=image_extent(inspection))


def image_extent(inspection: Inspection) -> tuple[float, float, float, float]:
    """The whole image, as matplotlib's ``imshow`` takes it."""
    height, width = inspection.image.shape[:2]
    return 0, width, height, 0


def frame(axis: 'Axes', box: Box) -> None:
    """Fill a panel with a part of the image, stretched to the panel's shape, without numbers along its axes."""
    left, right, bottom, top = box.extent
    axis.set(xlim=(left, right), ylim=(bottom, top), aspect='auto', facecolor=NO_KEY, xticks=[], yticks=[])


def mark(axis: 'Axes', x: float, y: float) -> None:
    """Mark a point, in pixels of the image."""
    axis.plot(x, y, 'P', markersize=8, markerfacecolor='white', markeredgecolor='black', zorder=4, clip_on=False)


def outlined(width: float) -> dict:
    """Style of a white line with black edges, which is visible on light and on dark parts."""
    from matplotlib.patheffects import withStroke

    return dict(linewidth=width, path_effects=[withStroke(linewidth=2.2 * width, foreground='black')])


def _keys(inspection: Inspection, attention: AttentionMap) -> Box:
    """Where the keys lie."""
    rows, columns = (number * side for number, side in zip(attention.weights.shape[1:], attention.key_size))
    return tokens_box(inspection, attention.stride, *attention.origin, rows, columns)


def _rest(whole: Box, part: Box) -> list[Box]:
    """The parts of a box to the right of and below another one with the same top left corner."""
    right, below = whole.width - part.width, whole.height - part.height
    boxes = [
        Box(part.left + part.width, part.top, right, whole.height),
        Box(part.left, part.top + part.height, part.width, below),
    ]
    return [box for box in boxes if min(box.width, box.height) > 1e-6 * whole.width]


def _outline(axis: 'Axes', box: Box, colour: str, width: float, linestyle: str | tuple = '-') -> None:
    from matplotlib.patches import Rectangle

    style = dict(fill=False, edgecolor=colour, linestyle=linestyle, zorder=3, **outlined(width))
    axis.add_patch(Rectangle(box[:2], *box[2:], **style))


def _draw_grid(axis: 'Axes', box: Box, rows: int, columns: int, width: float) -> None:
    style = dict(colors='white', zorder=2, **outlined(width))
    axis.vlines(np.linspace(box.left, box.left + box.width, columns + 1), box.top, box.top + box.height, **style)
    axis.hlines(np.linspace(box.top, box.top + box.height, rows + 1), box.left, box.left + box.width, **style)
