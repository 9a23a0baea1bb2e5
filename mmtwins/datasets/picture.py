"""A picture of a data set: how often each class occurs, how large boxes and images are, and annotated samples."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plotting import INK, LINES, blend_labels, save_figure
from .checking import Checked
from .coco_table import CocoTable
from .images import Decoder, ImageTable
from .label_values import LabelTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLES = 12
COLUMNS = 4
SHOWN_BOXES = 60  # the largest, in one sample
NAMED_REGIONS = 8  # the same, of labels
WIDTH = 13.0  # inches
SIDE = 480  # of a sample, in pixels
SIDES = [2**power for power in range(13)]  # of boxes, as ticks
COCO_SIZES = (32, 96)  # sides of a square between small, medium and large in COCO's metric, in pixels
FEW_CLASSES = 14
NO_CLASS = (170, 170, 170)
FAULT = '#D00000'


def draw_picture(checked: Checked, path: str | Path) -> Path | None:
    """Draw what a check has read from a data set.

    Args:
        checked: A data set as :func:`mmtwins.datasets.checking.check_datasets` returns it.
        path: PNG file to write; its folders are created.

    Returns:
        The path; None if nothing could be read.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = checked.images or (checked.labels.images if checked.labels else None)
    table: CocoTable | LabelTable | None = checked.coco or checked.labels
    if table is None or images is None or not table.classes:
        return None
    samples = _choose_samples(checked, images)
    rows = -(-len(samples) // COLUMNS)
    few = len(table.classes) <= FEW_CLASSES
    heights = [3.2] + ([] if few else [3.4]) + [3.1] * rows
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.7), layout='constrained', dpi=100 if few else 150)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), 12, height_ratios=heights)
    figure.suptitle(f'{checked.report.name}   {checked.report.path}', fontsize=11, color=INK, x=0.01, ha='left')
    palette = _palette(checked, len(table.classes))
    few_places = [grid[0, :4], grid[0, 4:8], grid[0, 8:]]
    places = few_places if few else [grid[0, :], grid[1, :8], grid[1, 8:]]
    axes = [figure.add_subplot(place) for place in places]
    if isinstance(table, CocoTable):
        _draw_counts(axes[0], table, palette)
        _draw_box_sizes(axes[1], table)
    else:
        _draw_shares(axes[0], table, palette)
        _draw_presence(axes[1], table, palette)
    _draw_image_sizes(axes[2], images)
    decoder = Decoder.of(checked.source.steps)
    for place, index in enumerate(samples):
        row, column = len(heights) - rows + place // COLUMNS, 3 * (place % COLUMNS)
        axis = figure.add_subplot(grid[row, column : column + 3])
        picture = _read_sample(images.paths[index], decoder)
        if isinstance(table, CocoTable):
            _draw_annotations(axis, picture, table, images.facts[index].size, _row_of(table, index, checked), palette)
        else:
            _draw_labels(axis, picture, table, index, palette)
        axis.set_title(_shorten(Path(images.paths[index]).name), fontsize=10, color=INK)
        axis.set_axis_off()
    return save_figure(figure, path)


def _choose_samples(checked: Checked, images: ImageTable) -> list[int]:
    """Images that can be read, evenly spread; those with annotations, if there are any."""
    readable = [i for i, fact in sorted(images.facts.items()) if not fact.problem]
    if checked.coco is not None:
        annotated = set(checked.coco.image_rows.tolist())
        preferred = [i for i in readable if _row_of(checked.coco, i, checked) in annotated]
    else:
        assert checked.labels is not None
        preferred = [i for i in readable if not checked.labels.facts[i].problem]
    chosen = preferred or readable
    step = max(len(chosen) / SAMPLES, 1)
    return [chosen[int(i * step)] for i in range(min(SAMPLES, len(chosen)))]


def _row_of(table: CocoTable, index: int, checked: Checked) -> int:
    """The row in the annotation file of an image that was looked at."""
    rows = np.flatnonzero(table.kept_images) if table.kept_images.any() else np.arange(len(table.file.images))
    return int(rows[index])


def _palette(checked: Checked, number: int) -> list[tuple[int, int, int]]:
    """The config's colours, or some that differ."""
    given = checked.source.dataset.metainfo.get('palette')
    if isinstance(given, list | tuple) and len(given) >= number:
        colours = np.asarray(given[:number])
        if colours.shape == (number, 3) and colours.dtype.kind in 'iu':
            return [(int(r), int(g), int(b)) for r, g, b in np.clip(colours, 0, 255)]
    from matplotlib import colormaps

    shades = colormaps['hsv'](np.arange(number) * 0.381966 % 1)[:, :3]  # golden angle: neighbours differ
    return [(int(r), int(g), int(b)) for r, g, b in 225 * shades]


def _draw_bars(axis: 'Axes', names: Sequence[str], values: np.ndarray, palette: list, title: str) -> None:
    """Bars by class, with the names of empty classes in red; logarithmic if some bars would be too small to see."""
    places = np.arange(len(names))
    axis.bar(places, values, color=np.array(palette) / 255, edgecolor=INK, linewidth=0.4)
    positive = values[values > 0]
    if len(positive) and positive.max() > 50 * positive.min():
        axis.set_yscale('log')
        axis.yaxis.set_major_formatter('{x:g}')
    shown = [_shorten(str(name), 18) for name in names]
    size = min(8, 0.7 * 72 * WIDTH / len(names))  # points; names side by side do not touch
    axis.set_xticks(places, shown, rotation=90 if len(names) > 6 else 30, fontsize=size)
    axis.set_xlim(-0.7, len(names) - 0.3)
    for name, value in zip(axis.get_xticklabels(), values):
        name.set_color(INK if value else FAULT)
    _finish(axis, title)


def _draw_counts(axis: 'Axes', table: CocoTable, palette: list) -> None:
    rows = table.used if table.used.any() else table.labels >= 0
    _draw_bars(axis, table.classes, table.class_boxes(rows), palette, 'boxes to train with')


def _draw_shares(axis: 'Axes', table: LabelTable, palette: list) -> None:
    counts, total = table.class_pixels(), sum(table.pixels().values())
    shares = 100 * np.array([*counts, total - sum(counts)]) / max(total, 1)
    _draw_bars(axis, [*table.classes, '(no class)'], shares, [*palette, NO_CLASS], 'share of all pixels, %')


def _draw_presence(axis: 'Axes', table: LabelTable, palette: list) -> None:
    found, number = table.images_with(), max(len(table.facts), 1)
    shares = np.array([100 * found.get(table.first + i, 0) / number for i in range(len(table.classes))])
    few = len(table.classes) <= FEW_CLASSES
    names = table.classes if few else [''] * len(table.classes)
    _draw_bars(axis, names, shares, palette, f'images with the class, %{"" if few else "; the order is that above"}')


def _draw_box_sizes(axis: 'Axes', table: CocoTable) -> None:
    width, height = np.clip(table.boxes[table.kept, 2:], 1, None).T
    if len(width) > 3000:
        shown = axis.hexbin(
            width, height, xscale='log', yscale='log', gridsize=45, bins='log', cmap='viridis', mincnt=1
        )
        inset = axis.inset_axes((0.04, 0.93, 0.25, 0.03))  # a bar of its own beside the axes breaks the layout
        axis.figure.colorbar(shown, cax=inset, orientation='horizontal').ax.tick_params(labelsize=7)
        inset.set_xlabel('boxes', fontsize=7, labelpad=0)
    elif len(width):
        axis.scatter(width, height, s=12, color=LINES[0], alpha=0.5, linewidths=0)
    axis.set(xscale='log', yscale='log', xlabel='width, pixels', ylabel='height, pixels')
    axis.minorticks_off()
    axis.set_xticks(SIDES, labels=map(str, SIDES))
    axis.set_yticks(SIDES, labels=map(str, SIDES))
    low, high = (0.8 * width.min(), 1.25 * width.max()) if len(width) else (1, 2)
    line = np.geomspace(max(low, 0.5), max(high, 2), 30)
    for side in COCO_SIZES:
        axis.plot(line, side**2 / line, color=INK, linewidth=0.8, linestyle=':')
    axis.set_xlim(low, high)
    if len(height):
        axis.set_ylim(0.8 * height.min(), 1.25 * height.max())
    _finish(axis, "box sizes; dotted: COCO's small, medium, large")


def _draw_image_sizes(axis: 'Axes', images: ImageTable) -> None:
    sizes = Counter(fact.size for fact in images.facts.values() if not fact.problem)
    if sizes:
        height, width = np.array(list(sizes)).T
        counts = np.array(list(sizes.values()))
        axis.scatter(width, height, s=20 + 180 * counts / counts.max(), color=LINES[1], alpha=0.5, linewidths=0)
        axis.set_xlim(0, 1.15 * width.max())
        axis.set_ylim(0, 1.15 * height.max())
    axis.set(xlabel='width, pixels', ylabel='height, pixels')
    one = [f'all {width} x {height}' for height, width in sizes] if len(sizes) == 1 else ['larger: more often']
    _finish(axis, f'sizes of {sum(sizes.values()):,} images; {one[0]}')


def _finish(axis: 'Axes', title: str) -> None:
    axis.set_title(title, fontsize=11, color=INK)
    axis.tick_params(labelsize=8)
    axis.xaxis.label.set_fontsize(10)
    axis.yaxis.label.set_fontsize(10)
    axis.spines[['top', 'right']].set_visible(False)
    axis.grid(alpha=0.25, axis='y')


def _read_sample(path: str, decoder: Decoder) -> np.ndarray:
    """An image for the eye: (H, W, 3) uint8, RGB."""
    image = decoder.decode(Path(path).read_bytes())
    image = image[..., None] if image.ndim == 2 else image
    image = np.repeat(image, 3, 2) if image.shape[2] < 3 else image[..., :3][..., ::-1]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = (255 * (image.astype(np.float64) - low) / max(high - low, 1e-9)).astype(np.uint8)
    return image


def _step(shape: Sequence[int]) -> int:
    """Only every nth pixel is shown, so that a picture of large images stays small."""
    return max(1, max(shape[:2]) // SIDE)


def _draw_labels(axis: 'Axes', picture: np.ndarray, table: LabelTable, index: int, palette: list) -> None:
    step = _step(picture.shape)
    labels = table.decoder.decode(Path(table.paths[index]).read_bytes()).squeeze().astype(np.int64)
    shown = picture[::step, ::step]
    if labels.shape == picture.shape[:2]:
        classes = labels[::step, ::step] - table.first
        axis.imshow(blend_labels(shown, classes, palette, 0.6))
        _name_regions(axis, classes, table.classes, palette)
        return
    axis.imshow(shown)


def _name_regions(axis: 'Axes', labels: np.ndarray, names: Sequence[str], palette: list) -> None:
    """Write the names of the classes with most pixels, each in the middle of its pixels."""
    values, counts = np.unique(labels[(labels >= 0) & (labels < len(names))], return_counts=True)
    for value in values[np.argsort(-counts)][:NAMED_REGIONS]:
        places = np.argwhere(labels == value)
        y, x = places[np.square(places - places.mean(0)).sum(1).argmin()]
        _write(axis, x, y, names[value], np.array(palette[value]) / 255, ha='center', va='center')


def _write(axis: 'Axes', x: float, y: float, name: str, colour: Any, **options: Any) -> None:
    """The name of a class on its colour."""
    box = dict(facecolor=colour, edgecolor='none', pad=0.8, alpha=0.85)
    text = 'black' if np.dot(_rgb(colour), (0.3, 0.6, 0.1)) > 0.6 else 'white'
    axis.text(x, y, _shorten(name, 14), fontsize=8.5, color=text, clip_on=True, bbox=box, **options)


def _draw_annotations(
    axis: 'Axes', picture: np.ndarray, table: CocoTable, size: tuple[int, int], row: int, palette: list
) -> None:
    from matplotlib.patches import Rectangle

    height, width = size
    step = _step(picture.shape)
    axis.imshow(picture[::step, ::step], extent=(0, width, height, 0))
    rows = np.flatnonzero(table.image_rows == row)
    rows = rows[np.argsort(-table.areas[rows], kind='stable')][:SHOWN_BOXES]
    for place, one in enumerate(rows.tolist()):
        label = int(table.labels[one])
        colour = np.array(palette[label]) / 255 if label >= 0 else FAULT
        _draw_mask(axis, table, one, colour)
        x, y, box_width, box_height = table.boxes[one]
        style = '-' if table.kept[one] else '--'
        edge = colour if table.kept[one] else FAULT
        axis.add_patch(
            Rectangle((x, y), box_width, box_height, fill=False, edgecolor=edge, linestyle=style, linewidth=1.2)
        )
        if label >= 0 and place < 12 and 0 <= x <= width and 0 <= y <= height:
            side = 'bottom' if y > height / 10 else 'top'
            right = x + box_width if x > 0.75 * width else None  # the name ends where the box does
            across = dict(ha='right') if right else {}
            _write(axis, min(right or x, width), y, table.classes[label], colour, va=side, **across)
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)


def _draw_mask(axis: 'Axes', table: CocoTable, row: int, colour: Any) -> None:
    if table.masks is None or not table.masks.usable[row]:
        return
    from matplotlib.patches import Polygon

    mask = table.file.annotations[row]['segmentation']
    if isinstance(mask, list):
        for part in mask:
            if len(part) % 2 == 0 and len(part) >= 6:
                points = np.array(part).reshape(-1, 2)
                axis.add_patch(
                    Polygon(points, facecolor=(*_rgb(colour), 0.35), edgecolor=(*_rgb(colour), 0.9), linewidth=0.6)
                )
        return
    from pycocotools import mask as mask_api

    code = mask_api.frPyObjects(mask, *mask['size']) if isinstance(mask['counts'], list) else mask
    painted = np.zeros((*mask['size'], 4))
    painted[mask_api.decode(code) > 0] = (*_rgb(colour), 0.35)
    axis.imshow(painted, extent=(0, mask['size'][1], mask['size'][0], 0))


def _rgb(colour: Any) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(tuple(colour) if isinstance(colour, np.ndarray) else colour)


def _shorten(text: str, limit: int = 40) -> str:
    """Shorten a name and escape what Matplotlib would read as a formula."""
    shown = ''.join(char if char.isprintable() else '?' for char in text).replace('$', r'\$')
    return shown if len(shown) <= limit else f'{shown[: limit - 3]}...'
