"""Curves of trainings: loss, metrics of the validations, and learning rate against the iteration."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..plotting import INK, LINES, make_figure, save_figure

# The metrics of a validation that a reader looks for first.
FIRST = ('mIoU', 'mAcc', 'aAcc', 'coco/segm_mAP', 'coco/bbox_mAP', 'coco/segm_mAP_50', 'coco/bbox_mAP_50')
NO_METRIC = ('step', 'iter', 'epoch', 'time', 'data_time', 'memory')


def draw_training_curves(
    runs: Mapping[str, Sequence[dict]], metrics: Mapping[str, Mapping[str, str]], path: str | Path
) -> Path:
    """Draw loss, validation metrics and learning rate against the iteration, one row per training.

    Args:
        runs: Records of each training by its title, as ``mmtwins.engine.scalars.read_scalars`` returns them.
        metrics: Validation metrics of each training by its title: their labels by their keys in the records, see
            :func:`find_metrics`. Metrics that MMSegmentation gives in percent are drawn from 0 to 1, as COCO's are.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = make_figure(len(runs), 3, width=3.4, height=2.7)
    for row, (title, records) in zip(axes, runs.items()):
        row[0].set_title(title, loc='left', fontsize=11, color=INK)
        training = [record for record in records if 'loss' in record]
        for axis, ylabel, key in ((row[0], 'training loss', 'loss'), (row[2], 'learning rate', _rate_of(training))):
            steps = np.array([record['step'] for record in training])
            values = np.array([record.get(key, np.nan) for record in training], float)
            finite = np.isfinite(values)
            axis.plot(steps[finite], values[finite], color=LINES[0])
            low = min(0, values[finite].min(initial=0))
            axis.set(ylabel=ylabel, ylim=(1.05 * low, 1.05 * values[finite].max(initial=0) or 1))
        row[2].ticklabel_format(axis='y', style='sci', scilimits=(-2, 3))
        highest = 1.0
        for (key, label), colour, marker in zip(metrics[title].items(), LINES, 'osD^'):
            points = [(record['step'], record[key]) for record in records if np.isfinite(record.get(key, np.nan))]
            scale = 1 if '/' in key or not points or max(value for _, value in points) <= 1 else 0.01
            scaled = [scale * value for _, value in points]
            row[1].plot([s for s, _ in points], scaled, color=colour, marker=marker, markersize=4, label=label)
            highest = max([highest, *scaled])
        row[1].set(ylabel='held-out metric (0 to 1)' if highest == 1 else 'held-out metric', ylim=(0, highest))
        if metrics[title]:
            row[1].legend(frameon=False, fontsize=9)
        for axis in row:
            axis.set(xlabel='iteration')
            axis.set_xlim(left=0)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.xaxis.set_major_formatter('{x:,.0f}')
            axis.grid(alpha=0.3)
            axis.spines[['top', 'right']].set_visible(False)
    return save_figure(figure, path)


def find_metrics(records: Sequence[dict]) -> dict[str, str]:
    """Choose up to four metrics of the validations of a training to draw.

    Args:
        records: Records of the training, see :func:`draw_training_curves`.

    Returns:
        Labels of the metrics by key, the best known metrics first.
    """
    known = {key for record in records if 'loss' not in record for key in record if key not in NO_METRIC}
    keys = {key for key in known if not key.endswith('lr')}
    ordered = [key for key in FIRST if key in keys] + sorted(keys - set(FIRST))
    return {key: key.rpartition('/')[2].replace('_', ' ') for key in ordered[: len(LINES)]}


def _rate_of(training: Sequence[dict]) -> str:
    """The key of the learning rate."""
    return next((key for key in ('lr', *(training[-1] if training else ())) if key.endswith('lr')), 'lr')
