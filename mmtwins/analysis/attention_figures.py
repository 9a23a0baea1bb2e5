"""Figures of attention: what points attend to in each stage, with the image and a legend, and features as colours.

Everything is placed in inches, so that no texts overlap, whatever the shape of the image.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..plotting import panel_shape, save_figure
from .attention_header import Place, draw_header, plan_header
from .attention_maps import AttentionMap
from .attention_panels import draw_rollout, draw_weights, frame, in_image, pick, shown, tokens_box, view
from .attention_rollout import Rollout
from .inspection import Inspection

# In inches. The text stays readable where a picture of this width is shown at the width of a page.
PAGE = 10.0
MARGIN = 0.12
GAP = 0.16  # between two panels
HEADING = 0.42
LINE = 0.165  # of a panel's title
BAR = 0.4  # the colours below a panel and their numbers
NUMBER = 0.14  # that of a head, above its panel
RESOLUTION = 150  # pixels an inch


class Row(NamedTuple):
    """A row of panels: its heading, for each stage a title and a function that draws the panel, and heights in inches."""

    heading: str
    titles: list[str]
    panels: list[Callable[[Place], None]]
    height: float
    below: float

    @property
    def above(self) -> float:
        """Height of the heading and the titles."""
        return HEADING + LINE * max(title.count('\n') + 1 for title in self.titles)


def draw_attention(inspection: Inspection, path: str | Path, heads: bool = False, features: bool = False) -> Path:
    """Draw what points attend to, one column per stage, rows for local and for global attention.

    Local attention is shown inside the window of the point, global attention over the image with its grid of sub-windows.
    Both are means over the heads. Rollouts, if there are any, get a row below. Above them is the image with its pixels
    along the axes. Panels of a long and thin image are stretched.

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
    columns = max(len(stages), 2)
    column = min((PAGE - 2 * MARGIN) / columns, 3.6)
    panel, width = column - GAP, columns * column
    rows = [_plan_features(inspection, stages, panel)] if features else []
    for point in points:
        x, y = in_image(inspection, point)
        name = f'point {points.index(point) + 1}, ' if len(points) > 1 else ''
        for kind, number in _kinds(inspection.maps):
            found = [pick(inspection.maps, stage, point, kind, number) for stage in stages]
            words = 'Local attention (LSA)' if kind == 'LSA' else 'Global attention (GSA)'
            for each in (False, True)[: 1 + heads]:
                heading = f'{words} at {name}({int(x)}, {int(y)}): {"each head" if each else "mean of the heads"}'
                rows.append(_plan_maps(inspection, heading, found, panel, each))
        if inspection.rollouts:
            heading = f'Rollout of {name}({int(x)}, {int(y)}): what its token depends on'
            rows.append(_plan_rollout(inspection, heading, [r for r in inspection.rollouts if r.point == point], panel))
    header = plan_header(inspection, width)
    height = 2 * MARGIN + header.height + sum(row.above + row.height + row.below for row in rows)
    figure = Figure(figsize=(width + 2 * MARGIN, height), dpi=min(RESOLUTION, 60000 / height))
    FigureCanvasAgg(figure)
    draw_header(Place(figure, MARGIN, MARGIN, width, header.height), header, inspection, points)
    top = MARGIN + header.height
    for row in rows:
        place = Place(figure, MARGIN, top, width, row.above)
        place.write(0, HEADING - 0.08, row.heading, fontsize=11, weight='bold', va='bottom')
        for number, (title, draw) in enumerate(zip(row.titles, row.panels)):
            place.write(number * column, row.above - 0.05, title, fontsize=8.5, va='bottom', linespacing=1.15)
            draw(place.part(number * column, row.above, panel, row.height))
        top += row.above + row.height + row.below
    return save_figure(figure, path)


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


def _shape(inspection: Inspection, kind: str) -> float:
    """Height by width of a panel; the image may be wider or higher."""
    if kind == 'LSA':
        return panel_shape(inspection.scale[0] / inspection.scale[1])
    box = view(inspection)
    return panel_shape(box.height / box.width)


def _plan_features(inspection: Inspection, stages: Sequence[int], width: float) -> Row:
    """A row with the output of each stage."""
    titles: list[str] = []
    panels: list[Callable[[Place], None]] = []
    for stage in stages:
        if stage not in inspection.features:
            titles.append(f'stage {stage}\nno output of this backbone')
            panels.append(_draw_nothing)
            continue
        colours, share = pca_colours(inspection.features[stage])
        titles.append(f'stage {stage}: {colours.shape[0]} x {colours.shape[1]} tokens\n{share:.0%} of the variance')
        panels.append(partial(_draw_features, inspection=inspection, stage=stage, colours=colours))
    heading = 'Output: three principal components as red, green, blue'
    return Row(heading, titles, panels, width * _shape(inspection, 'GSA'), 0.1)


def _draw_nothing(place: Place) -> None:
    """A stage that has no panel in a row."""


def _draw_features(place: Place, inspection: Inspection, stage: int, colours: np.ndarray) -> None:
    axis = place.axes()
    box = tokens_box(inspection, 4 * 2 ** (stage - 1), 0, 0, *colours.shape[:2])
    axis.imshow(colours, extent=box.extent, interpolation='nearest')
    frame(axis, view(inspection))


def _plan_maps(
    inspection: Inspection, heading: str, found: Sequence[AttentionMap | None], width: float, each: bool
) -> Row:
    """A row with a block of each stage: the mean of its heads in one panel, or a small panel for each."""
    titles: list[str] = []
    panels: list[Callable[[Place], None]] = []
    heights = [0.0]
    for attention in found:
        if attention is None:
            titles.append('')
            panels.append(_draw_nothing)
            continue
        titles.append(_title(inspection, attention))
        shape = _shape(inspection, attention.kind)
        number = len(attention.weights) if each else 1
        across = min(
            number, int(np.ceil((number * shape) ** 0.5))
        )  # so that the small panels together are about square
        cell = (width - 0.06 * (across - 1)) / across
        down = -(-number // across)
        heights.append(down * cell * shape + (down * NUMBER if each else 0))
        panels.append(partial(_draw_map, inspection=inspection, attention=attention, each=each, cell=cell, shape=shape))
    return Row(heading, titles, panels, max(heights), BAR)


def _title(inspection: Inspection, attention: AttentionMap) -> str:
    rows, columns = attention.weights.shape[1:]
    size = '{} x {}'.format(*attention.size)
    lines = [f'stage {attention.stage}, block {attention.block}']
    if attention.kind == 'GSA':
        lines.append(f'{rows} x {columns} keys' + f', each of {size} tokens' * (attention.size != (1, 1)))
    else:
        text = f'window of {size} tokens'
        if attention.padding_share.any():
            text = f'window {size}, {_percent(100 * attention.padding_share.mean())} on padding'
        elif (rows, columns) != attention.size:
            text = f'window {size}, cut to {rows} x {columns}'
        left, right, bottom, top = (round(value) for value in shown(inspection, attention).extent)
        lines += [text, f'x {left} to {right}, y {top} to {bottom}']
    if not attention.has_own_token:
        lines.append('of the nearest token')
    return '\n'.join(lines)


def _percent(value: float) -> str:
    return f'{value:.0f} %' if value >= 10 else f'{value:.2g} %' if value >= 0.01 else '0 %'


def _draw_map(
    place: Place, inspection: Inspection, attention: AttentionMap, each: bool, cell: float, shape: float
) -> None:
    """One block: panels of a width and a shape, below each other the colours of the weights."""
    weights = 100 * (attention.weights if each else attention.weights.mean(axis=0, keepdims=True))
    across = int((place.width + 0.061) // (cell + 0.06))
    top = NUMBER if each else 0
    bottom = 0.0
    for number, values in enumerate(weights):
        down, right = divmod(number, across)
        part = place.part(right * (cell + 0.06), down * (cell * shape + top) + top, cell, cell * shape)
        bottom = part.top + part.height - place.top
        draw_weights(part.axes(), inspection, attention, values, weights.max(), 72 * cell, is_small=each)
        if each:
            part.write(cell / 2, -0.02, str(number + 1), fontsize=7, ha='center', va='bottom')
    _draw_bar(place, bottom, '0', _percent(weights.max()))


def _draw_bar(place: Place, top: float, least: str, most: str) -> None:
    """The colours below panels, between their numbers."""
    bar = place.part(0, top + 0.06, place.width, 0.07)
    axis = bar.axes()
    axis.imshow(np.linspace(0, 1, 256)[None], cmap='viridis', aspect='auto', alpha=0.62)
    axis.set(xticks=[], yticks=[])
    bar.write(0, 0.1, least, fontsize=8, va='top')
    bar.write(bar.width, 0.1, most, fontsize=8, va='top', ha='right')


def _plan_rollout(inspection: Inspection, heading: str, rollouts: Sequence[Rollout], width: float) -> Row:
    """A row with the rollout of one point from the output of each stage."""
    titles = []
    for rollout in rollouts:
        falling = np.sort(rollout.shares, axis=None)[::-1].cumsum(dtype=np.float64)
        area = 100 * (np.searchsorted(falling, 0.5) + 1) / falling.size
        titles.append(f'output of stage {rollout.stage}\nhalf of it: {_percent(area)} of the pixels')
    shape = _shape(inspection, 'GSA')
    panels: list[Callable[[Place], None]] = [
        partial(_draw_rollout, inspection=inspection, rollout=rollout) for rollout in rollouts
    ]
    return Row(heading, titles, panels, width * shape, BAR)


def _draw_rollout(place: Place, inspection: Inspection, rollout: Rollout) -> None:
    """One panel, and below it the colours. A few very large shares, such as that of the token itself, are cut off."""
    most = max(float(np.percentile(rollout.shares, 99.5)) * rollout.shares.size, 2.0)
    draw_rollout(place.axes(), inspection, rollout, most)
    _draw_bar(place, place.height, 'average', f'{most:.1f} x the average')
