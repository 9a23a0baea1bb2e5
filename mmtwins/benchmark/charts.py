"""Charts of what the benchmark measured."""

import math
from collections.abc import Mapping
from pathlib import Path

from ..plotting import INK, make_figure, save_figure, use_plain_log_ticks, viridis
from .roofline import Roofline
from .suite import Measurements


def draw_measurements(measured: Measurements, out: Path) -> None:
    """Draw a bar per implementation for each task, ``time.png`` and ``memory.png``, and rooflines, whichever was measured.

    Args:
        measured: What was measured.
        out: Folder to write.
    """
    if measured.timings:
        times = {str(group[0].task): {t.implementation: t.median * 1e3 for t in group} for group, _ in measured.timings}
        draw_bars(times, 'median (ms)', out / 'time.png')
    if measured.memory:
        peaks = {str(task): {k: (peak or 0) / 1e6 for k, peak in values.items()} for task, values in measured.memory}
        draw_bars(peaks, 'peak memory (MB)', out / 'memory.png')
    for roofline in measured.rooflines:
        task = roofline.task
        draw_roofline(roofline, out / f'roofline_{task.batch}x{task.height}x{task.width}_{task.precision}.png')


def draw_roofline(roofline: Roofline, path: str | Path) -> Path:
    """Draw the rate of each kind of module over its operations per byte, below what the machine allows.

    Args:
        roofline: Of :func:`mmtwins.benchmark.roofline.measure_roofline`.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    figure, ((axis,),) = make_figure(1, 1, width=6.4, height=4.2)
    points = [point for point in roofline.points if point.macs]
    whole = roofline.whole
    flops, bandwidth = roofline.rate.flops / 1e9, roofline.bandwidth / 1e9
    ridge = flops / bandwidth
    left, right = min([ridge, *(p.intensity for p in points)]) / 2, max([ridge, *(p.intensity for p in points)]) * 3
    axis.plot([left, ridge, right], [left * bandwidth, flops, flops], color=INK)
    axis.annotate(
        f'{flops:.0f} GFLOP/s, fastest product', (right, flops), (0, 4), textcoords='offset points', ha='right'
    )
    axis.annotate(f'{bandwidth:.1f} GB/s, copy', (left, left * bandwidth), (8, 0), textcoords='offset points', va='top')
    for point, colour in zip(points, viridis(len(points)), strict=True):
        rate = 2 * point.macs / point.seconds / 1e9
        share = f'{point.seconds / sum(p.seconds for p in roofline.points):.0%} of the time'
        axis.plot(point.intensity, rate, 'o', markersize=9, color=colour, label=f'{point.kind}, {share}')
    label = f'{whole.kind}, {whole.limit(roofline.rate.flops, roofline.bandwidth) / whole.seconds:.0%} of the limit'
    axis.plot(whole.intensity, 2 * whole.macs / whole.seconds / 1e9, '*', markersize=14, color=INK, label=label)
    axis.set(xscale='log', yscale='log', xlabel='FLOP per byte that must be moved', ylabel='GFLOP/s')
    axis.set_title(str(roofline.task))
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
    axis.legend(frameon=False, loc='lower right')
    return save_figure(figure, path)


def draw_measured_growth(measured: Measurements, over: str, out: Path) -> None:
    """Draw time per image and peak memory over the image side or the batch, a line per implementation.

    Args:
        measured: What was measured, at several sides or batches.
        over: ``'side'`` or ``'batch'``.
        out: Folder to write; the file is called as ``over``.
    """
    panels: dict[str, dict[str, dict[int, float]]] = {}
    points = [
        (timing.task, 'seconds per image', timing.implementation, timing.median / timing.task.batch)
        for group, _ in measured.timings
        for timing in group
    ]
    points += [
        (task, 'peak memory (MB)', name, peak / 1e6)
        for task, peaks in measured.memory
        for name, peak in peaks.items()
        if peak
    ]
    for task, panel, name, value in points:
        at = task.height if over == 'side' else task.batch
        panels.setdefault(f'{task.work}: {panel}', {}).setdefault(name, {})[at] = value
    xlabel = 'image side (pixels)' if over == 'side' else 'images at once'
    draw_growth(panels, xlabel, out / f'{over}.png')


def draw_bars(groups: Mapping[str, Mapping[str, float]], unit: str, path: str | Path) -> Path:
    """Draw a bar per implementation for each task.

    Args:
        groups: Values by task and implementation.
        unit: Of the values.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    figure, axes = _make_panels(len(groups), width=4.2, height=2.4)
    for axis, (title, values) in zip(axes, groups.items(), strict=True):
        bars = axis.barh(list(values), list(values.values()), color=[_colour(name) for name in values])
        axis.bar_label(bars, fmt='{:,.0f}', padding=2)
        axis.set(title=title, xlabel=unit)
        axis.title.set_fontsize(11)
        axis.margins(x=0.35)
        axis.invert_yaxis()
    return save_figure(figure, path)


def draw_growth(panels: Mapping[str, Mapping[str, Mapping[int, float]]], xlabel: str, path: str | Path) -> Path:
    """Draw how measures grow, a line per implementation.

    Args:
        panels: Values by measure, implementation and what ``xlabel`` names.
        xlabel: Such as ``'image side (pixels)'``.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    figure, axes = _make_panels(len(panels), width=4.2, height=3.2)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, points in lines.items():
            axis.plot(list(points), list(points.values()), marker='o', label=name, color=_colour(name))
        ticks = sorted({x for points in lines.values() for x in points})
        values = [y for points in lines.values() for y in points.values()]
        axis.set(title=title, xlabel=xlabel)
        if max(values) > 20 * min(values):
            axis.set_yscale('log')
        else:
            axis.set_ylim(bottom=0)
        use_plain_log_ticks(axis, ticks)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=4, frameon=False)
    return save_figure(figure, path)


def _make_panels(number: int, width: float, height: float) -> tuple:
    """A figure and so many axes, in rows of two, which are readable at the width of a page."""
    columns = min(number, 2)
    figure, axes = make_figure(math.ceil(number / columns), columns, width, height)
    for axis in axes.flat[number:]:
        axis.remove()
    return figure, axes.flat[:number]


def _colour(name: str) -> str:
    return {'mmtwins': '#440154', 'mmseg': '#31688e', 'mmpretrain': '#35b779', 'timm': '#b5a51c'}.get(name, '#8b5a96')
