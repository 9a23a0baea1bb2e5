"""Figures of attention: heat maps over the image, with the windows and sub-windows drawn, and features as colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .attention_maps import AttentionMap
from .inspection import Inspection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from matplotlib.image import AxesImage

PANEL = 3.4  # inches, width
NO_KEY = '#cfcfcf'
TOKEN = '#ff9d5c'  # not in viridis, and light enough for its dark halo
DASHED = (0, (2, 1))


class Box(NamedTuple):
    """A rectangle in pixels of the image."""

    left: float
    top: float
    width: float
    height: float


def draw_attention(inspection: Inspection, path: str | Path, heads: bool = False, features: bool = False) -> Path:
    """Draw what points attend to, one column per stage, rows for local and for global attention.

    Local attention is shown inside the window of the point, global attention over the image with its grid of sub-windows,
    each the average of the heads. Axes are in pixels of the image.

    Args:
        inspection: As :func:`mmtwins.analysis.inspection.inspect_image` returns it, with at least one map.
        path: PNG file to write.
        heads: Whether to draw each head as well.
        features: Whether to draw the output of each stage too, as :func:`pca_colours` shows it.

    Returns:
        ``path``.

    Raises:
        ValueError: There is no map to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not inspection.maps:
        raise ValueError('no attention to draw: run the model inside capture_attention first')
    stages = sorted({found.stage for found in inspection.maps})
    points = list(dict.fromkeys(found.point for found in inspection.maps))
    rows = [(point, kind, number) for point in points for kind, number in _kinds(inspection.maps)]
    view = _view(inspection)
    tall = 0.6 * PANEL * min(view.height / view.width, 2) + 0.75  # of a panel that shows the image
    heights = [tall] + [tall + 0.85] * features
    for _, kind, _ in rows:
        heights += [0.6 * PANEL + 1.25 if kind == 'LSA' else tall + 0.85] * (1 + heads)
    columns = max(len(stages), 2)
    figure = Figure(figsize=(PANEL * columns, sum(heights)), layout='constrained', dpi=100)
    FigureCanvasAgg(figure)
    bands = iter(np.ravel(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)))

    _draw_header(next(bands), inspection, points, columns)
    if features:
        band = next(bands)
        _title(band, 'Output: three principal components as red, green, blue')
        for stage, cell in zip(stages, np.ravel(band.subfigures(1, columns))):
            _draw_features(cell, inspection, stage)
    for point, kind, number in rows:
        found = [_pick(inspection.maps, stage, point, kind, number) for stage in stages]
        x, y = _in_image(inspection, point)
        name = f'point {points.index(point) + 1} at ' if len(points) > 1 else ''
        for per_head in (False, True)[: 1 + heads]:
            band = next(bands)
            which = 'each head' if per_head else 'average of the heads'
            _title(band, f'{kind} from {name}x = {int(x)}, y = {int(y)}: {which}')
            for attention, cell in zip(found, np.ravel(band.subfigures(1, columns))):
                if attention is not None:
                    _draw_map(cell, inspection, attention, per_head)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def pca_colours(feature: np.ndarray) -> tuple[np.ndarray, float]:
    """Reduce features to colours: the three components along which they vary most as red, green and blue.

    Args:
        feature: (C, H, W), at least three channels.

    Returns:
        Colours (H, W, 3) from 0 to 1, each component from its 1st to its 99th percentile, and the share of the
        variance that the three hold, 0 to 1.
    """
    channels, height, width = feature.shape
    tokens = feature.reshape(channels, -1).T.astype(np.float64)
    tokens = tokens - tokens.mean(axis=0)
    values, vectors = np.linalg.eigh(tokens.T @ tokens)
    vectors = vectors[:, :-4:-1]
    # The sign of a component is arbitrary: its largest entry decides, so that a picture comes out the same every time.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(3)])
    scores = tokens @ vectors
    low, high = np.percentile(scores, (1, 99), axis=0)
    colours = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    share = values[:-4:-1].sum() / max(values.sum(), 1e-12)
    return colours.reshape(height, width, 3), float(share)


def _kinds(maps: Sequence[AttentionMap]) -> list[tuple[str, int]]:
    """The rows that a point needs: kind of attention, and index among the blocks of that kind in a stage."""
    rows = []
    for kind in ('LSA', 'GSA'):
        places = [(found.point, found.stage) for found in maps if found.kind == kind]
        rows += [(kind, number) for number in range(max(map(places.count, places), default=0))]
    return rows


def _pick(
    maps: Sequence[AttentionMap], stage: int, point: tuple[float, float], kind: str, number: int = 0
) -> AttentionMap | None:
    found = [m for m in maps if (m.stage, m.point, m.kind) == (stage, point, kind)]
    return found[number] if number < len(found) else None


def _in_image(inspection: Inspection, point: tuple[float, float]) -> tuple[float, float]:
    return point[0] / inspection.scale[0], point[1] / inspection.scale[1]


def _view(inspection: Inspection) -> Box:
    """What the network sees: the image, and padding on the right and below."""
    return Box(0, 0, *_in_image(inspection, inspection.input_size[::-1]))


def _box(inspection: Inspection, stride: int, row: int, column: int, rows: int, columns: int) -> Box:
    """Where a rectangle of tokens lies in the image."""
    left, top = _in_image(inspection, (column * stride, row * stride))
    return Box(left, top, *_in_image(inspection, (columns * stride, rows * stride)))


def _title(band: 'SubFigure', text: str) -> None:
    band.suptitle(text, x=0.01, ha='left', fontsize=11, weight='bold')


def _draw_header(
    band: 'SubFigure', inspection: Inspection, points: Sequence[tuple[float, float]], columns: int
) -> None:
    """The image with its points, and what the signs in the other panels mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    left, right = band.subfigures(1, 2, squeeze=False, width_ratios=(1, columns - 1))[0]
    axis = left.subplots()
    axis.imshow(inspection.image, extent=_image_extent(inspection))
    _frame(axis, _view(inspection))
    for number, point in enumerate(points, start=1):
        x, y = _in_image(inspection, point)
        _mark(axis, x, y)
        if len(points) > 1:
            axis.annotate(
                str(number),
                (x, y),
                xytext=(9 if x < _view(inspection).width / 2 else -9, 0),
                textcoords='offset points',
                fontsize=9,
                ha='center',
                va='center',
                bbox=dict(boxstyle='circle,pad=0.15', facecolor='white', edgecolor='black'),
            )
    maps = inspection.maps
    kinds = {found.kind for found in maps}
    boxed: dict[str, Any] = dict(facecolor='#555555', edgecolor='white')
    signs = [
        (Line2D([], [], linestyle='', marker='P', markersize=9, markerfacecolor='white', mec='black'), 'the point'),
        (Patch(facecolor='#555555', edgecolor=TOKEN, **_outlined(2)), 'its token, the query'),
    ]
    if kinds == {'LSA', 'GSA'}:
        signs.append((Patch(linestyle=DASHED, **boxed, **_outlined(1.5)), 'its window in local attention, LSA'))
    if 'GSA' in kinds:
        signs.append((Patch(hatch='++', **boxed), 'sub-windows of GSA: one key each'))
    if any(found.padding_share.any() for found in maps):
        signs.append((Patch(hatch='//', **boxed), 'padding tokens, which take weight'))
    height, width = inspection.image.shape[:2]
    is_padded = _view(inspection).width > width + 0.5 or _view(inspection).height > height + 0.5
    if is_padded or any(_without_key(inspection, found) for found in maps):
        signs.append((Patch(facecolor=NO_KEY, edgecolor='black', linewidth=0.5), 'no key, or image padding'))
    right.legend(*zip(*signs), loc='center left', frameon=False, fontsize=10, handlelength=2.2, handleheight=1.3)


def _draw_features(cell: 'SubFigure', inspection: Inspection, stage: int) -> None:
    axis = cell.subplots()
    if stage not in inspection.features:
        axis.set_axis_off()
        axis.set_title(f'stage {stage}: not among the\noutputs of this backbone', fontsize=9)
        return
    colours, share = pca_colours(inspection.features[stage])
    height, width = colours.shape[:2]
    box = _box(inspection, 4 * 2 ** (stage - 1), 0, 0, height, width)
    axis.imshow(colours, extent=_extent(box), interpolation='nearest')
    cell.suptitle(f'stage {stage}: {height} x {width} tokens\n{share:.0%} of the variance', fontsize=9)
    _frame(axis, _view(inspection))


def _draw_map(cell: 'SubFigure', inspection: Inspection, attention: AttentionMap, per_head: bool) -> None:
    """One block: the average of its heads in one panel, or a small panel for each."""
    weights = 100 * (attention.weights if per_head else attention.weights.mean(axis=0, keepdims=True))
    columns = int(np.ceil(len(weights) ** 0.5))
    axes = np.ravel(cell.subplots(-(-len(weights) // columns), columns, squeeze=False))
    for number, (axis, values) in enumerate(zip(axes, weights), start=1):
        heat = _draw_weights(axis, inspection, attention, values, weights.max(), columns)
        if per_head:
            axis.set(xticks=[], yticks=[], xlabel=None, ylabel=None)
            axis.set_title(f'head {number}', fontsize=7, pad=2)
    for axis in axes[len(weights) :]:
        axis.set_axis_off()
    bar = cell.colorbar(heat, ax=list(axes), shrink=0.85, aspect=18, pad=0.02)
    bar.set_label('weight of a key (%)', fontsize=8)
    bar.ax.tick_params(labelsize=7)
    rows, columns = attention.weights.shape[1:]
    side = attention.side
    text = 'stage {}, block {}: {} x {} tokens\n'.format(attention.stage, attention.block, *attention.map_size)
    if attention.kind == 'GSA':
        text += f'sub-windows of {side} x {side}, {rows} x {columns} keys'
    elif attention.padding_share.any():
        text += f'window of {side} x {side}, {100 * attention.padding_share.mean():.0f} % on padding'
    else:
        text += f'window of {side} x {side}' + f', cut to {rows} x {columns}' * ((rows, columns) != (side, side))
    if not attention.has_own_token:
        text += '\nno whole patch at the point: nearest token'
    cell.suptitle(text, fontsize=9)


def _draw_weights(
    axis: 'Axes',
    inspection: Inspection,
    attention: AttentionMap,
    values: np.ndarray,
    largest: float,
    columns: int = 1,
) -> 'AxesImage':
    """The weights of one head, or of their average, (rows, columns) in percent, over the image; panels side by side."""
    from matplotlib.patches import Rectangle

    is_small = columns > 1
    stride = attention.stride
    keys = _keys(inspection, attention)
    grey = inspection.image @ np.array([0.299, 0.587, 0.114])
    # Less contrast: the image must be recognisable, but lightness shows the weights.
    axis.imshow(40 + 0.7 * grey, cmap='gray', vmin=0, vmax=255, extent=_image_extent(inspection))
    heat = axis.imshow(
        values, cmap='viridis', vmin=0, vmax=largest, alpha=0.62, extent=_extent(keys), interpolation='nearest'
    )
    _frame(axis, _shown(inspection, attention))
    if attention.kind == 'LSA':
        real = _box(inspection, stride, *attention.origin, *attention.num_real)
        for part in _rest(keys, real):  # padding tokens
            axis.add_patch(Rectangle(part[:2], *part[2:], fill=False, hatch='//', edgecolor='white', linewidth=0))
    local = _pick(inspection.maps, attention.stage, attention.point, 'LSA')
    if attention.kind == 'GSA' and local is not None and not is_small:
        window = _box(inspection, stride, *local.origin, local.side, local.side)
        _outline(axis, window, 'white', 1.5, linestyle=DASHED)
    for part in _without_key(inspection, attention):
        axis.add_patch(Rectangle(part[:2], *part[2:], facecolor=NO_KEY, linewidth=0))
    # A panel is about 140 points wide. Lines must not cover the cells between them.
    cell = 140 / columns / max(values.shape)
    if columns == 1 or cell > 3:
        _draw_grid(axis, keys, values.shape[0], values.shape[1], min(0.8, 0.06 * cell))
    _outline(axis, _box(inspection, stride, *attention.token, 1, 1), TOKEN, 1 if is_small else 2)
    if not is_small:
        _mark(axis, *_in_image(inspection, attention.point))
    return heat


def _shown(inspection: Inspection, attention: AttentionMap) -> Box:
    """What a panel shows: the whole window (LSA), or all that the network sees (GSA)."""
    if attention.kind == 'GSA':
        return _view(inspection)
    return _box(inspection, attention.stride, *attention.origin, attention.side, attention.side)


def _keys(inspection: Inspection, attention: AttentionMap) -> Box:
    """Where the keys lie."""
    rows, columns = (number * attention.key_side for number in attention.weights.shape[1:])
    return _box(inspection, attention.stride, *attention.origin, rows, columns)


def _without_key(inspection: Inspection, attention: AttentionMap) -> list[Box]:
    return _rest(_shown(inspection, attention), _keys(inspection, attention))


def _rest(whole: Box, part: Box) -> list[Box]:
    """The parts of a box to the right of and below another one with the same top left corner."""
    right, below = whole.width - part.width, whole.height - part.height
    boxes = [
        Box(part.left + part.width, part.top, right, whole.height),
        Box(part.left, part.top + part.height, part.width, below),
    ]
    return [box for box in boxes if min(box.width, box.height) > 1e-6 * whole.width]


def _extent(box: Box) -> tuple[float, float, float, float]:
    return box.left, box.left + box.width, box.top + box.height, box.top


def _image_extent(inspection: Inspection) -> tuple[float, float, float, float]:
    height, width = inspection.image.shape[:2]
    return 0, width, height, 0


def _frame(axis: 'Axes', box: Box) -> None:
    """Show a part of the image, with its pixels along the axes."""
    from matplotlib.ticker import MaxNLocator

    left, right, bottom, top = _extent(box)
    axis.set(xlim=(left, right), ylim=(bottom, top), aspect='equal', facecolor=NO_KEY)
    axis.set_xlabel('x (pixels)', fontsize=8)
    axis.set_ylabel('y (pixels)', fontsize=8)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_locator(MaxNLocator(4))


def _outlined(width: float) -> dict:
    """Style of a white line with black edges, which is visible on light and dark."""
    from matplotlib.patheffects import withStroke

    return dict(linewidth=width, path_effects=[withStroke(linewidth=2.2 * width, foreground='black')])


def _outline(axis: 'Axes', box: Box, colour: str, width: float, linestyle: str | tuple = '-') -> None:
    from matplotlib.patches import Rectangle

    style = dict(fill=False, edgecolor=colour, linestyle=linestyle, zorder=3, **_outlined(width))
    axis.add_patch(Rectangle(box[:2], *box[2:], **style))


def _draw_grid(axis: 'Axes', box: Box, rows: int, columns: int, width: float) -> None:
    style = dict(colors='white', zorder=2, **_outlined(width))
    axis.vlines(np.linspace(box.left, box.left + box.width, columns + 1), box.top, box.top + box.height, **style)
    axis.hlines(np.linspace(box.top, box.top + box.height, rows + 1), box.left, box.left + box.width, **style)


def _mark(axis: 'Axes', x: float, y: float) -> None:
    axis.plot(x, y, 'P', markersize=8, markerfacecolor='white', markeredgecolor='black', zorder=4, clip_on=False)
