"""Charts of the GPU report."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..plotting import LINES, make_figure, save_figure
from .charts import draw_bars
from .gpu_page import of_kind

Result = Mapping[str, Any]


def draw_report(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw what was measured.

    Args:
        results: See :func:`mmtwins.benchmark.gpu_bundle.run_parts`.
        folder: To write.

    Returns:
        The files; none for what was not measured.
    """
    backbones, models = of_kind(results, 'backbone'), of_kind(results, 'model')
    bars = {
        'gpu_time.png': ('median (ms)', {_title(r): _times(r) for r in backbones}),
        'gpu_memory.png': ('peak memory (MB)', {_title(r): _peaks(r) for r in backbones}),
        'gpu_models.png': ('median (ms)', {_title(r): _times(r) for r in models}),
        'gpu_attention.png': ('median (µs)', _attention_bars(results)),
    }
    charts = []
    for name, (unit, groups) in bars.items():
        shown = {title: values for title, values in groups.items() if values}
        if shown:
            charts.append(draw_bars(shown, unit, folder / name))
    for draw, kind, name in ((_draw_parity, 'parity', 'gpu_parity.png'), (_draw_losses, 'amp', 'gpu_amp.png')):
        if found := of_kind(results, kind):
            charts.append(draw(found, folder / name))
    return charts


def _title(result: Result) -> str:
    return ' '.join(result['name'].split()[1:])


def _times(result: Result) -> dict[str, float]:
    return {entry['implementation']: entry['median'] * 1e3 for entry in result['measured']['timings']}


def _peaks(result: Result) -> dict[str, float]:
    entries = result['measured']['memory']
    return {entry['implementation']: entry['peak_bytes'] / 1e6 for entry in entries if entry['peak_bytes'] is not None}


def _attention_bars(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """LSA of the first stage, which has the most windows."""
    bars = {}
    for result in of_kind(results, 'attention'):
        for row in result['measured']['rows']:
            if row['name'] == 'LSA 1':
                title = f'LSA 1, {_title(result)}, {row["precision"]} {row["work"]}'
                ways = row.get('ways', {}).items()
                bars[title] = {way: median(found['seconds']) * 1e6 for way, found in ways if 'seconds' in found}
    return bars


def _draw_parity(results: Sequence[Result], path: Path) -> Path:
    """Errors as shares of what is allowed; below 1 is passed."""
    labels, shares = [], []
    for result in results:
        for row in result['measured']['rows']:
            for key, error in row.get('errors', {}).items():
                labels.append(f'{_title(result)} {row["precision"]} {key}')
                share = error / row['allowed'][key]
                shares.append(share if math.isfinite(share) else 1e3)
    figure, axes = make_figure(1, 1, width=7, height=max(2.4, 0.2 * len(labels)))
    (axis,) = axes.flat
    axis.barh(labels, [max(share, 1e-4) for share in shares], color=[LINES[1] if s > 1 else LINES[0] for s in shares])
    axis.axvline(1, color='black', lw=1)
    axis.set(xscale='log', xlim=(1e-4, None), xlabel='error, as a share of what is allowed')
    axis.tick_params(axis='y', labelsize=7)
    axis.invert_yaxis()
    return save_figure(figure, path)


def _draw_losses(results: Sequence[Result], path: Path) -> Path:
    figure, axes = make_figure(1, 1, width=6, height=3.2)
    (axis,) = axes.flat
    for result, colour in zip(results, LINES):
        losses = result['measured']['losses']
        axis.plot(range(1, len(losses) + 1), losses, color=colour, lw=1.2, label=_title(result))
    axis.set(xlabel='iteration', ylabel='loss')
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return save_figure(figure, path)
