"""Pictures: training curves, predictions beside the ground truth, what attention costs and where it looks.

Everything is drawn off screen and written as PNG. Colours come from a palette that colour-blind readers can tell apart, and
every class is named in the picture as well.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .attention_figures import draw_attention as draw_attention
from .attention_figures import pca_colours as pca_colours
from .attention_maps import AttentionMap as AttentionMap
from .attention_maps import Inspection as Inspection
from .attention_maps import attend as attend
from .attention_maps import capture_attention as capture_attention
from .attention_maps import inspect_image as inspect_image
from .attention_maps import load_inferencer as load_inferencer

if TYPE_CHECKING:
    from .complexity import Comparison, Measurement, StageReport

INK = '#222222'
LINES = ('#0072B2', '#D55E00', '#009E73', '#CC79A7')  # Okabe and Ito's colours


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


def read_scalars(work_dir: str | Path) -> list[dict]:
    """Read what MMEngine logged while training, over all runs that were resumed in a work directory.

    Args:
        work_dir: Work directory of MMEngine; holds ``TIMESTAMP/vis_data/scalars.json`` per run.

    Returns:
        One dict per logged step, ordered by ``step`` (iterations); of steps that were trained twice, after an interrupt,
        the later run counts.
    """
    merged = {}
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        run = []
        for line in path.read_text().splitlines():
            try:
                run.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed
        run = [record for record in run if 'step' in record]
        if run:
            first = min(record['step'] for record in run)
            merged = {key: record for key, record in merged.items() if key[0] < first}
        for record in run:
            merged[record['step'], 'loss' in record] = record
    return [merged[key] for key in sorted(merged)]


def draw_training_curves(runs: dict[str, list[dict]], metrics: dict[str, dict[str, str]], path: str | Path) -> Path:
    """Draw loss, validation metrics and learning rate against the iteration, one row per training.

    Args:
        runs: Title of a training: its records, as ``read_scalars`` returns them.
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


def draw_examples(
    examples: Sequence[Example], classes: Sequence[str], palette: Sequence[tuple[int, int, int]], path: str | Path
) -> Path:
    """Draw input, ground truth and prediction side by side, one row per example.

    Args:
        examples: At least one, all label maps or all instances.
        classes: Names; label i of a map or an instance is ``classes[i]``, any other value is left unpainted.
        palette: One RGB colour in 0..255 per class.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    from matplotlib.patches import Patch

    if not examples:
        raise ValueError('no examples to draw: give at least one')
    figure, axes = make_figure(len(examples), 3, width=2.5, height=2.5)
    for title, axis in zip(('input', 'ground truth', 'prediction'), axes[0]):
        axis.set_title(title, fontsize=11, color=INK)
    for row, example in zip(axes, examples):
        row[0].imshow(example.image, interpolation='nearest')
        for axis, content in zip(row[1:], (example.truth, example.prediction)):
            if isinstance(content, Instances):
                _show_instances(axis, example.image, content, classes, palette)
            else:
                axis.imshow(blend_labels(example.image, content, palette), interpolation='nearest')
        for axis in row:
            axis.set(xticks=[], yticks=[])
    shown = sorted(set().union(*(_labels_in(part, len(classes)) for e in examples for part in (e.truth, e.prediction))))
    handles = [
        Patch(facecolor=np.array(palette[i]) / 255, edgecolor=INK, linewidth=0.5, label=classes[i]) for i in shown
    ]
    if handles:
        figure.legend(
            handles=handles, loc='outside lower center', ncols=min(6, len(handles)), frameon=False, fontsize=10
        )
    return save_figure(figure, path)


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


def predict_examples(
    config: str | Path,
    checkpoint: str | Path,
    indices: Sequence[int],
    min_score: float = 0.5,
    cfg_options: dict | None = None,
) -> tuple[list[Example], Sequence[str], Sequence[tuple]]:
    """Run a trained model on images of its validation set.

    Args:
        config: Config of MMSegmentation or MMDetection whose validation pipeline loads annotations.
        checkpoint: Checkpoint of that config.
        indices: Which images of ``val_dataloader.dataset``.
        min_score: Instances with a lower score are left out.
        cfg_options: Changes to the config, as ``--cfg-options`` of the tools.

    Returns:
        The examples, the class names and the palette.
    """
    import cv2
    import torch
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import DATASETS, MODELS, init_default_scope
    from mmengine.runner import load_checkpoint

    from .launch import load_config

    cfg = load_config(str(config), cfg_options)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    cfg.model.backbone.init_cfg = None  # the checkpoint has every weight
    model = MODELS.build(cfg.model)
    load_checkpoint(model, str(checkpoint), map_location='cpu', logger='silent')
    model.eval()
    examples = []
    for index in indices:
        item = dataset[index]
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([item]))[0]
        image = cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB)
        if 'pred_sem_seg' in sample:
            truth, prediction = (sample.get(key).data[0].cpu().numpy() for key in ('gt_sem_seg', 'pred_sem_seg'))
        else:
            # The evaluation keeps only what the metric reads, so the truth comes from the input sample.
            gt, pred = item['data_samples'].gt_instances, sample.pred_instances
            pred = pred[pred.scores >= min_score].cpu().numpy()
            truth = Instances(gt.masks.to_ndarray().astype(bool), np.asarray(gt.labels))
            prediction = Instances(pred.masks.astype(bool), pred.labels, pred.scores)
        examples.append(Example(image, truth, prediction))
    return examples, dataset.metainfo['classes'], dataset.metainfo['palette']


def draw_cost_curves(
    stages: 'Sequence[StageReport]', path: str | Path, measured: 'Sequence[Sequence[Measurement]] | None' = None
) -> Path:
    """Draw the cost of LSA, GSA and both over the window side k, one column per feature map.

    Args:
        stages: As ``mmtwins.complexity.report_costs`` returns them; their minimum and chosen k are marked.
        path: PNG file to write.
        measured: For each stage, as ``mmtwins.complexity.measure_blocks`` returns it (none for a map without): a second
            row then compares closed form, counted MACs and time, each relative to its value at the chosen k.

    Returns:
        ``path``.
    """
    from .complexity import gsa_cost, lsa_cost

    figure, axes = make_figure(1 if measured is None else 2, len(stages), width=3.1, height=3.0)
    colours = _viridis(3)
    for column, stage in enumerate(stages):
        size = (stage.height, stage.width, stage.dim)
        sides = np.geomspace(1, min(size[:2]), 200)
        lsa, gsa = lsa_cost(*size, sides, sides), gsa_cost(*size, sides, sides)
        axis = axes[0, column]
        axis.plot(sides, lsa / 1e6, color=colours[2], linestyle='--', label='LSA: k² H W d')
        axis.plot(sides, gsa / 1e6, color=colours[1], linestyle=':', label='GSA: H² W² d / k²')
        axis.plot(sides, (lsa + gsa) / 1e6, color=colours[0], label='sum')
        axis.plot(stage.best_k, stage.best_cost / 1e6, 'o', color=INK, label='minimum')
        if stage.k <= min(size[:2]):
            axis.plot(stage.k, stage.cost / 1e6, 's', color='white', markeredgecolor=INK, label=f'k = {stage.k}')
        axis.set(
            title=f'{stage.title}, {stage.height} x {stage.width}\nminimum at k = {stage.best_k:.2f}', yscale='log'
        )
        axis.set_ylabel('MACs of one attention product (M)' if column == 0 else None)
        if measured is not None:
            _draw_measured(axes[1, column], stage, measured[column], colours)
        for row in axes[:, column]:
            row.set_xlabel('k (tokens)')
            use_plain_log_ticks(row, [1, 2, 4, 7, 15, 32, 64, 128, 256, 512], min(size[:2]))
    shown = [axes[0, 0]]
    if measured is not None:
        shown += [next((axis for axis in axes[1] if axis.lines), axes[1, 0])]
        shown[1].set_ylabel('relative to the chosen k')
    named = [pair for axis in shown for pair in zip(*axis.get_legend_handles_labels())]
    figure.legend(*zip(*named), loc='outside lower center', ncols=8, frameon=False)
    return save_figure(figure, path)


def draw_comparison(rows: 'Sequence[Comparison]', path: str | Path) -> Path:
    """Draw MACs and, where measured, time over the image side, one line per setting.

    Args:
        rows: As ``mmtwins.complexity.compare_calibrated`` returns them.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    quantities = {'MACs of one image (G)': lambda row: row.macs / 1e9}
    if all(row.seconds is not None for row in rows):
        quantities['time of one image (ms)'] = lambda row: row.seconds * 1e3
    figure, axes = make_figure(1, len(quantities), width=4.5, height=3.4)
    settings = list(dict.fromkeys(row.setting for row in rows))
    for axis, (label, value_of) in zip(axes[0], quantities.items()):
        for setting, colour, marker, style in zip(settings, _viridis(len(settings)), 'so^D', ('-', '--', ':', '-.')):
            points = [row for row in rows if row.setting == setting]
            values = [value_of(row) for row in points]
            axis.plot([row.side for row in points], values, color=colour, marker=marker, linestyle=style, label=setting)
        axis.set(xlabel='side of the image (pixels)', ylabel=label, yscale='log')
        use_plain_log_ticks(axis, sorted({row.side for row in rows}))
        axis.legend(frameon=False)
    return save_figure(figure, path)


def draw_attention_idea(path: str | Path, side: int = 12, k: int = 4) -> Path:
    """Draw what one token attends to: its window in LSA, a representative of every sub-window in GSA.

    Args:
        path: PNG file to write.
        side: Side of the drawn feature map, in tokens.
        k: Side of a window and a sub-window, in tokens; divides ``side``.

    Returns:
        ``path``.
    """
    from matplotlib.patches import Rectangle

    figure, axes = make_figure(1, 3, width=3.4, height=3.6)
    light, middle, dark = 0.95, 0.6, 0.15
    row, column = side // 2 - 2, side // 2 + 1  # of the token that asks
    plain = np.full((side, side), light)
    window = plain.copy()
    window[row // k * k :, column // k * k :][:k, :k] = middle
    representatives = plain.copy()
    representatives[k // 2 :: k, k // 2 :: k] = middle
    pairs = (side * side * k * k, side * side * (side // k) ** 2)
    titles = (
        f'every token with every token\n{side**4:,} pairs',
        f'LSA: inside a {k} x {k} window\n{pairs[0]:,} pairs',
        f'GSA: to one of each sub-window\n{pairs[1]:,} pairs',
    )
    for axis, values, title in zip(axes[0], (np.full((side, side), middle), window, representatives), titles):
        values = values.copy()
        values[row, column] = dark
        axis.imshow(values, cmap='viridis', vmin=0, vmax=1)
        axis.set_xticks(np.arange(side + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(side + 1) - 0.5, minor=True)
        axis.grid(which='minor', color='white', linewidth=0.6)
        axis.tick_params(which='both', length=0)
        axis.set(xticks=[], yticks=[], title=title, xlabel=f'W = {side} tokens', ylabel=f'H = {side} tokens')
        if axis is not axes[0, 0]:
            for y, x in np.ndindex(side // k, side // k):
                axis.add_patch(Rectangle((x * k - 0.5, y * k - 0.5), k, k, fill=False, edgecolor=INK, linewidth=1.5))
        axis.text(column, row, 'q', color='white', ha='center', va='center', fontsize=9)
    return save_figure(figure, path)


def _draw_measured(axis, stage: 'StageReport', measured: 'Sequence[Measurement]', colours: list) -> None:
    """Closed form, counted MACs and time over k, relative to the chosen k, or to the nearest one that was measured."""
    from .complexity import gsa_cost, lsa_cost

    if not measured:
        axis.set_axis_off()
        return
    size = (stage.height, stage.width, stage.dim)
    sides = np.array([m.k for m in measured])
    reference = int(np.abs(sides - stage.k).argmin())
    series = {
        'closed form, attention alone': lsa_cost(*size, sides, sides) + gsa_cost(*size, sides, sides),
        'counted MACs of both blocks': np.array([m.macs for m in measured]),
        'time of both blocks': np.array([m.seconds for m in measured]),
    }
    for (label, values), colour, style in zip(series.items(), colours, ('-', '--', 'o-')):
        axis.plot(sides, values / values[reference], style, color=colour, label=label, markersize=4)
    best = measured[int(np.argmin(series['time of both blocks']))]
    axis.set(title=f'fastest at k = {best.k}: {best.seconds * 1e3:.2f} ms', yscale='log')
    low, high = axis.get_ylim()  # often within one power of ten, which would leave a single tick
    ticks = [tick for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
    axis.set_yticks(ticks, labels=[f'{tick:g}' for tick in ticks])


def _viridis(number: int) -> list:
    """Colours of viridis that stay apart on white and in grey."""
    from matplotlib import colormaps

    return [colormaps['viridis'](0.8 * i / max(number - 1, 1)) for i in range(number)]


def use_plain_log_ticks(axis, ticks: Sequence[int], largest: float = np.inf) -> None:
    """Mark these values, up to the largest, as whole numbers on a logarithmic x axis."""
    axis.set_xscale('log')
    axis.minorticks_off()
    shown = [tick for tick in ticks if tick <= largest]
    axis.set_xticks(shown, labels=[str(tick) for tick in shown])
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)


def make_figure(rows: int, columns: int, width: float, height: float) -> tuple:
    """A figure and its (rows, columns) axes, each about width x height inches, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height + 0.6), layout='constrained', dpi=100)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure, path: str | Path) -> Path:
    """Write a figure of :func:`make_figure`, and the folders above it; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _labels_in(content: np.ndarray | Instances, num_classes: int) -> set[int]:
    """Class indices that occur in a label map or in instances."""
    labels = np.unique(content.labels if isinstance(content, Instances) else content)
    return {int(label) for label in labels if 0 <= label < num_classes}


def _show_instances(
    axis, image: np.ndarray, instances: Instances, classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
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
