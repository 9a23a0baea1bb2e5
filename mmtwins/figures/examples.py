"""Predictions beside the truth: rate them, choose examples, and draw them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..plotting import INK, blend_labels, panel_shape, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 3.3  # inches of a panel; three of them are readable at the width of a page
LETTER, LINE = 0.085, 0.15  # inches, of the names in a panel
LEGEND = 36  # largest number of classes in the legend


class Instances(NamedTuple):
    """Objects in an image.

    Args:
        masks: (N, H, W) bool. For a model that finds only boxes: the filled boxes.
        labels: (N,) class indices.
        scores: (N,), 0 to 1, or None for the truth.
        are_boxes: Whether to draw the masks as boxes.
    """

    masks: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    are_boxes: bool = False


class Example(NamedTuple):
    """An image (H, W, 3) RGB uint8 with its truth, if known, and a prediction, both label maps (H, W) or both ``Instances``."""

    image: np.ndarray
    truth: 'np.ndarray | Instances | None'
    prediction: 'np.ndarray | Instances'


def rate_example(example: Example, num_classes: int) -> float:
    """How good a prediction is, in 0..1.

    Args:
        example: Truth and prediction, both label maps or both instances.
        num_classes: Number of classes. Labels that are not below it, such as 255, stand for no class.

    Returns:
        The share of labelled pixels with the right class. For instances, the overlap: true and predicted masks of the same
        class are matched one to one, and twice the sum of their IoUs is divided by the number of all masks.
    """
    truth, prediction = example.truth, example.prediction
    assert truth is not None
    if not isinstance(truth, Instances):
        labelled = truth < num_classes
        return float((truth == prediction)[labelled].mean()) if labelled.any() else 1.0
    assert isinstance(prediction, Instances)
    number = len(truth.labels) + len(prediction.labels)
    pairs = [
        (float((a & b).sum() / max((a | b).sum(), 1)), i, j)
        for i, (a, a_label) in enumerate(zip(truth.masks, truth.labels))
        for j, (b, b_label) in enumerate(zip(prediction.masks, prediction.labels))
        if a_label == b_label
    ]
    total, taken = 0.0, set[tuple[str, int]]()
    for iou, i, j in sorted(pairs, reverse=True):
        if not taken & {('truth', i), ('prediction', j)}:
            taken |= {('truth', i), ('prediction', j)}
            total += iou
    return 2 * total / number if number else 1.0


def describe_rate(example: Example, num_classes: int) -> str:
    """The result of :func:`rate_example` in words, for a title."""
    rate = rate_example(example, num_classes)
    return f'overlap {rate:.2f}' if isinstance(example.truth, Instances) else f'{100 * rate:.0f} % of the pixels right'


def choose_examples(examples: Sequence[Example], num_classes: int) -> dict[str, Example]:
    """Choose examples that show how well and how badly a model predicts.

    Args:
        examples: Examples with their truth, at least one.
        num_classes: See :func:`rate_example`.

    Returns:
        The best, the median and the worst example by :func:`rate_example`, by a title that says which it is and its rate.
    """
    ranked = sorted(examples, key=lambda example: rate_example(example, num_classes), reverse=True)
    last = len(ranked) - 1
    places = {f'best of {len(ranked)}': 0, 'median': last // 2, 'worst': last}
    chosen = {title: ranked[place] for title, place in places.items()}
    return {f'{title}: {describe_rate(example, num_classes)}': example for title, example in chosen.items()}


def draw_examples(
    examples: Mapping[str, Example], classes: Sequence[str], palette: Sequence[tuple[int, int, int]], path: str | Path
) -> Path:
    """Draw input, truth and prediction side by side, one row per example.

    Args:
        examples: At least one, by the title of its row; all label maps or all instances. If none has a truth, there is no
            column for it.
        classes: Names; label i of a map or an instance is ``classes[i]``, any other value is left unpainted.
        palette: One RGB colour in 0..255 per class.
        path: PNG file to write.

    Returns:
        ``path``.

    Raises:
        ValueError: There are no examples.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if not examples:
        raise ValueError('no examples to draw: give at least one')
    has_truth = any(example.truth is not None for example in examples.values())
    shapes = [example.image.shape[0] / example.image.shape[1] for example in examples.values()]
    heights = [WIDTH * panel_shape(shape) for shape in shapes]
    shown = _labels_shown(list(examples.values()), len(classes))
    columns = 2 + has_truth
    across = max(
        1, min(len(shown), int(columns * WIDTH / (0.6 + LETTER * max((len(classes[i]) for i in shown), default=1))))
    )
    legend = 0.22 * -(-len(shown) // across)
    figure = Figure((columns * WIDTH, sum(heights) + 0.3 * len(heights) + legend + 0.1), layout='constrained', dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(examples), columns, squeeze=False, gridspec_kw=dict(height_ratios=heights))
    for row, (title, example) in zip(axes, examples.items()):
        row[0].imshow(example.image, interpolation='nearest')
        row[0].set_title(title, fontsize=10, color=INK, loc='left')
        contents = {'truth': example.truth, 'prediction': example.prediction}
        for axis, (name, content) in zip(row[1:], contents.items() if has_truth else list(contents.items())[1:]):
            axis.set_title(name, fontsize=10, color=INK)
            if isinstance(content, Instances):
                _show_instances(axis, example.image, content, classes, palette)
            elif content is not None:
                axis.imshow(blend_labels(example.image, content, palette), interpolation='nearest')
        for axis in row:
            axis.set(xticks=[], yticks=[])
    handles = [
        Patch(facecolor='#{:02x}{:02x}{:02x}'.format(*palette[i]), edgecolor=INK, linewidth=0.5, label=classes[i])
        for i in shown
    ]
    if handles:
        figure.legend(handles=handles, loc='outside lower center', ncols=across, frameon=False, fontsize=10)
    return save_figure(figure, path)


def _labels_shown(examples: Sequence[Example], num_classes: int) -> list[int]:
    """Class indices in truths and predictions, in order; if there are too many, those with the most pixels or objects."""
    counts = np.zeros(num_classes, int)
    for content in (part for example in examples for part in (example.truth, example.prediction)):
        if content is not None:
            labels = np.asarray(content.labels if isinstance(content, Instances) else content).ravel()
            counts += np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)
    most = np.argsort(-counts, kind='stable')[:LEGEND]
    return sorted(int(label) for label in most if counts[label])


def _show_instances(
    axis: 'Axes',
    image: np.ndarray,
    instances: Instances,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> None:
    """Show an image with painted masks, their borders, and the class name (and score in percent) of each."""
    picture = image
    if not instances.are_boxes:
        for mask, label in zip(instances.masks, instances.labels):
            picture = blend_labels(picture, np.where(mask, label, -1), palette, opacity=0.5)
    axis.imshow(picture, interpolation='nearest')
    if not len(instances.labels) and instances.scores is not None:
        style: dict[str, Any] = dict(color='white', bbox=dict(facecolor=INK, alpha=0.8, edgecolor='none', pad=3))
        axis.text(0.5, 0.5, 'nothing found', transform=axis.transAxes, ha='center', va='center', fontsize=10, **style)
    pixels = image.shape[1] / WIDTH  # an inch
    taken: list[tuple[float, float, float]] = []
    for i, (mask, label) in enumerate(zip(instances.masks, instances.labels)):
        if not mask.any():
            continue
        padded = np.pad(mask, 1)  # so that the border of the image is one of the mask
        y, x = np.mgrid[-1 : mask.shape[0] + 1, -1 : mask.shape[1] + 1]
        axis.contour(x, y, padded, levels=[0.5], colors='white', linewidths=2.2)
        axis.contour(x, y, padded, levels=[0.5], colors=[np.array(palette[label]) / 255], linewidths=1.4)
        text = classes[label] if instances.scores is None else f'{classes[label]} {100 * instances.scores[i]:.0f}'
        rows, across = np.nonzero(mask)
        place = _free_place(float(across.mean()), float(rows.mean()), len(text), pixels, taken, image.shape)
        axis.text(
            *place,
            text,
            fontsize=8.5,
            color='white',
            ha='center',
            va='center',
            clip_on=True,
            bbox=dict(facecolor=INK, alpha=0.8, edgecolor='none', pad=1),
        )
    axis.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))


def _free_place(
    x: float, y: float, letters: int, pixels: float, taken: list[tuple[float, float, float]], shape: tuple[int, ...]
) -> tuple[float, float]:
    """A free place for a name near (x, y), inside the image, in pixels; it is added to the taken ones."""
    half, line = LETTER * letters * pixels / 2, LINE * pixels
    x = min(max(x, half), max(shape[1] - half, half))
    y = min(max(y, line / 2), shape[0] - line / 2)
    for step in (0, 1, -1, 2, -2, 3, -3):
        there = y + step * line
        is_inside = line / 2 <= there <= shape[0] - line / 2
        if is_inside and all(abs(there - b) >= line or abs(x - a) >= half + other for a, b, other in taken):
            y = there
            break
    taken.append((x, y, half))
    return x, y
