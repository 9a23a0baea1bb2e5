"""Pictures of the demo: training curves, and examples with their predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import load_checkpoint

from ..engine.config import load_config
from ..engine.model import build_model
from ..plotting import INK, LINES, blend_labels, make_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Instances(NamedTuple):
    """Objects in an image: ``masks`` (N, H, W) bool, ``labels`` (N,) class indices, ``scores`` (N,) or None for truth."""

    masks: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None


class Example(NamedTuple):
    """An image (H, W, 3) RGB uint8 with its truth and a prediction, both label maps (H, W) or both ``Instances``."""

    image: np.ndarray
    truth: 'np.ndarray | Instances'
    prediction: 'np.ndarray | Instances'


def draw_training_curves(runs: dict[str, list[dict]], metrics: dict[str, dict[str, str]], path: str | Path) -> Path:
    """Draw loss, validation metrics and learning rate against the iteration, one row per training.

    Args:
        runs: Title of a training: its records, as ``mmtwins.analysis.run_log.read_scalars`` returns them.
        metrics: Title of a training: key of a validation metric in the records: its label. A metric that MMSegmentation
            gives in percent is drawn from 0 to 1 as COCO's are.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    figure, axes = make_figure(len(runs), 3, width=3.6, height=2.6)
    for row, (title, records) in zip(axes, runs.items()):
        for axis, ylabel in zip(row, ('training loss', 'held-out metric (0 to 1)', 'learning rate')):
            axis.set(xlabel='iteration', ylabel=ylabel)
            axis.grid(alpha=0.3)
            axis.spines[['top', 'right']].set_visible(False)
        row[0].set_title(title, loc='left', fontsize=11, color=INK)
        training = [record for record in records if 'loss' in record]
        steps = [record['step'] for record in training]
        for axis, key in ((row[0], 'loss'), (row[2], 'lr')):
            values = [record[key] for record in training]
            axis.plot(steps, values, color=LINES[0])
            axis.set_ylim(0, 1.05 * max(values, default=1))
        row[2].ticklabel_format(axis='y', style='sci', scilimits=(0, 0))
        for (key, label), colour, marker in zip(metrics[title].items(), LINES, 'osD^'):
            points = [(record['step'], record[key]) for record in records if key in record]
            scale = 1 if '/' in key else 0.01
            row[1].plot(
                [s for s, _ in points],
                [scale * value for _, value in points],
                color=colour,
                marker=marker,
                markersize=4,
                label=label,
            )
        row[1].set_ylim(0, 1)
        row[1].legend(frameon=False, fontsize=9)
        for axis in row:
            axis.set_xlim(left=0)
    return save_figure(figure, path)


def rate_example(example: Example, num_classes: int) -> float:
    """How good a prediction is, in 0..1.

    Args:
        example: Truth and prediction, both label maps or both instances.
        num_classes: Labels from this on are no class, as 255.

    Returns:
        The share of labelled pixels with the right class. For instances, twice the sum of the IoUs of true and predicted
        masks of one class, matched one to one, by the number of both.
    """
    truth, prediction = example.truth, example.prediction
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


def choose_examples(examples: Sequence[Example], num_classes: int) -> dict[str, Example]:
    """Choose what shows how well and how badly a model predicts.

    Args:
        examples: At least one.
        num_classes: See :func:`rate_example`.

    Returns:
        The best, the upper quartile, the median and the worst by :func:`rate_example`, each with what it is.
    """
    ranked = sorted(examples, key=lambda example: rate_example(example, num_classes), reverse=True)
    last = len(ranked) - 1
    places = {f'best of {len(ranked)}': 0, 'upper quartile': last // 4, 'median': last // 2, 'worst': last}
    return {title: ranked[place] for title, place in places.items()}


def draw_examples(
    examples: Mapping[str, Example], classes: Sequence[str], palette: Sequence[tuple[int, int, int]], path: str | Path
) -> Path:
    """Draw input, ground truth and prediction side by side, one row per example.

    Args:
        examples: At least one, each with the title of its row; all label maps or all instances.
        classes: Names; label i of a map or an instance is ``classes[i]``, any other value is left unpainted.
        palette: One RGB colour in 0..255 per class.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    from matplotlib.patches import Patch

    if not examples:
        raise ValueError('no examples to draw: give at least one')
    figure, axes = make_figure(len(examples), 3, width=3.4, height=3.4)
    for title, axis in zip(('input', 'ground truth', 'prediction'), axes[0]):
        axis.set_title(title, fontsize=11, color=INK)
    for row, (title, example) in zip(axes, examples.items()):
        row[0].imshow(example.image, interpolation='nearest')
        label = dict(facecolor=INK, alpha=0.8, edgecolor='none', pad=2.5)
        row[0].text(0.02, 0.97, title, transform=row[0].transAxes, va='top', color='white', fontsize=10, bbox=label)
        for axis, content in zip(row[1:], (example.truth, example.prediction)):
            if isinstance(content, Instances):
                _show_instances(axis, example.image, content, classes, palette)
            else:
                axis.imshow(blend_labels(example.image, content, palette), interpolation='nearest')
        for axis in row:
            axis.set(xticks=[], yticks=[])
    shown = sorted(
        set().union(*(_labels_in(part, len(classes)) for e in examples.values() for part in (e.truth, e.prediction)))
    )
    handles = [
        Patch(facecolor='#{:02x}{:02x}{:02x}'.format(*palette[i]), edgecolor=INK, linewidth=0.5, label=classes[i])
        for i in shown
    ]
    if handles:
        figure.legend(
            handles=handles, loc='outside lower center', ncols=min(6, len(handles)), frameon=False, fontsize=10
        )
    return save_figure(figure, path)


def predict_examples(
    config: str | Path,
    checkpoint: str | Path,
    number: int,
    min_score: float = 0.5,
    cfg_options: dict | None = None,
) -> tuple[list[Example], Sequence[str], Sequence[tuple]]:
    """Run a trained model on images of its validation set.

    Args:
        config: Config of MMSegmentation or MMDetection whose validation pipeline loads annotations.
        checkpoint: Checkpoint of that config.
        number: How many images of ``val_dataloader.dataset``, from the first on; fewer where it has fewer.
        min_score: Instances with a lower score are left out.
        cfg_options: Changes to the config, as ``--cfg-options`` of the tools.

    Returns:
        The examples, the class names and the palette.
    """
    cfg = load_config(str(config), cfg_options)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    cfg.model.backbone.init_cfg = None  # the checkpoint has every weight
    model: Any = build_model(cfg)
    load_checkpoint(model, str(checkpoint), map_location='cpu', logger='silent')
    model.eval()
    examples = []
    for index in range(min(number, len(dataset))):
        item = dataset[index]
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([item]))[0]
        pixels = cv2.imread(sample.img_path)
        assert pixels is not None  # the pipeline has read it
        image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        if 'pred_sem_seg' in sample:
            truth, prediction = (sample.get(key).data[0].cpu().numpy() for key in ('gt_sem_seg', 'pred_sem_seg'))
        else:
            # The output sample has no ground-truth masks, so the truth comes from the input sample.
            gt, pred = item['data_samples'].gt_instances, sample.pred_instances
            pred = pred[pred.scores >= min_score].cpu().numpy()
            truth = Instances(gt.masks.to_ndarray().astype(bool), np.asarray(gt.labels))
            prediction = Instances(pred.masks.astype(bool), pred.labels, pred.scores)
        examples.append(Example(image, truth, prediction))
    return examples, dataset.metainfo['classes'], dataset.metainfo['palette']


def _labels_in(content: np.ndarray | Instances, num_classes: int) -> set[int]:
    """Class indices that occur in a label map or in instances."""
    labels = np.unique(content.labels if isinstance(content, Instances) else content)
    return {int(label) for label in labels if 0 <= label < num_classes}


def _show_instances(
    axis: 'Axes',
    image: np.ndarray,
    instances: Instances,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> None:
    """Show an image with painted masks, their borders, and the class name (and score in percent) of each."""
    picture = image
    for mask, label in zip(instances.masks, instances.labels):
        picture = blend_labels(picture, np.where(mask, label, -1), palette, opacity=0.5)
    axis.imshow(picture, interpolation='nearest')
    for i, (mask, label) in enumerate(zip(instances.masks, instances.labels)):
        if not mask.any():
            continue
        axis.contour(mask, levels=[0.5], colors='white', linewidths=1.8)
        axis.contour(mask, levels=[0.5], colors=[np.array(palette[label]) / 255], linewidths=1.1)
        text = classes[label] if instances.scores is None else f'{classes[label]} {100 * instances.scores[i]:.0f}'
        y, x = (values.mean() for values in np.nonzero(mask))
        axis.text(
            x,
            y,
            text,
            fontsize=6.5,
            color='white',
            ha='center',
            va='center',
            clip_on=True,
            bbox=dict(facecolor=INK, alpha=0.7, edgecolor='none', pad=1),
        )
