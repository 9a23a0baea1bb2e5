"""What the benchmark measured, as tables, charts and JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from .benchmark import Task, Timing
from .markdown import markdown_table
from .peers import PEERS
from .visualization import make_figure, save_figure

NO_RATIO = 'within noise'


def time_table(timings: Sequence[Timing], rate: float) -> Table:
    """Minimum, median, throughput, what it is in times of ours, and the share of the machine's GEMM rate."""
    ours, task = timings[0], timings[0].task
    table = Table(title=f'{task}; GEMM {rate / 1e9:.0f} GFLOP/s', title_justify='left')
    table.add_column('implementation')
    for title in ('min (ms)', 'median (ms)', 'images/s', f'times {ours.implementation}', 'share of GEMM'):
        table.add_column(title, justify='right')
    for row in time_rows(timings, rate):
        table.add_row(*row)
    return table


def time_rows(timings: Sequence[Timing], rate: float) -> list[list[str]]:
    """The cells of :func:`time_table`."""
    ours, task = timings[0], timings[0].task
    rows = []
    for timing in timings:
        speedup = timing.speedup_of(ours)
        ratio = '1' if timing is ours else NO_RATIO if speedup is None else f'{speedup:.2f}'
        share = '' if task.macs is None else f'{2 * task.macs / timing.minimum / rate:.2f}'
        cells = [f'{timing.minimum * 1e3:.1f}', f'{timing.median * 1e3:.1f}', f'{task.batch / timing.median:.2f}']
        rows.append([timing.implementation, *cells, ratio, share])
    return rows


def memory_table(task: Task, peaks: Mapping[str, int | None]) -> Table:
    """Peak memory, and what it is as a part of each other implementation's."""
    table = Table(title=f'{task}; peak memory above model and input', title_justify='left')
    table.add_column('implementation')
    others = [name for name in peaks if name in PEERS]
    for title in ('MB', *(f'times {name}' for name in others)):
        table.add_column(title, justify='right')
    for row in memory_rows(peaks):
        table.add_row(*row)
    return table


def memory_rows(peaks: Mapping[str, int | None]) -> list[list[str]]:
    """The cells of :func:`memory_table`."""
    rows = []
    for name, peak in peaks.items():
        ratios = [
            '' if not peak or not peaks[other] else f'{peak / peaks[other]:.2f}' for other in peaks if other in PEERS
        ]
        rows.append([name, 'does not fit' if peak is None else f'{peak / 1e6:.0f}', *ratios])
    return rows


def draw_bars(groups: Mapping[str, Mapping[str, float]], unit: str, path: str | Path) -> Path:
    """Draw a bar per implementation for each task.

    Args:
        groups: Values by task and implementation.
        unit: Of the values.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    figure, axes = _make_panels(len(groups), width=3.2, height=2.6)
    for axis, (title, values) in zip(axes, groups.items(), strict=True):
        bars = axis.barh(list(values), list(values.values()), color=[_colour(name) for name in values])
        axis.bar_label(bars, fmt='{:,.0f}', padding=2)
        axis.set(title=title, xlabel=unit)
        axis.title.set_fontsize(9)
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
        axis.set(title=title, xlabel=xlabel, xscale='log')
        if max(values) > 20 * min(values):
            axis.set_yscale('log')
        else:
            axis.set_ylim(bottom=0)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=4, frameon=False)
    return save_figure(figure, path)


def _make_panels(number: int, width: float, height: float) -> tuple:
    """A figure and so many axes, in rows of at most four, or of two where there are not more than four."""
    columns = min(number, 4 if number > 4 else 2)
    figure, axes = make_figure(math.ceil(number / columns), columns, width, height)
    for axis in axes.flat[number:]:
        axis.remove()
    return figure, axes.flat[:number]


def parts_table(task: Task, parts: Mapping[str, float]) -> Table:
    """Time by class of module, and its share."""
    table = Table(title=f'{task}; where the time of mmtwins goes', title_justify='left')
    table.add_column('modules, without those inside')
    for title in ('ms', 'share'):
        table.add_column(title, justify='right')
    for row in parts_rows(parts):
        table.add_row(*row)
    return table


def parts_rows(parts: Mapping[str, float]) -> list[list[str]]:
    """The cells of :func:`parts_table`."""
    whole = sum(parts.values())
    return [[name, f'{seconds * 1e3:.1f}', f'{seconds / whole:.2f}'] for name, seconds in parts.items()]


def to_json(
    timings: Iterable[tuple[Sequence[Timing], float]],
    memory: Iterable[tuple[Task, Mapping[str, int | None]]],
    profiles: Iterable[tuple[Task, Mapping[str, float]]],
) -> dict:
    """Everything measured as plain data: seconds of every round, medians, refused ratios as None."""
    return dict(
        timings=[
            dict(
                task=asdict(timing.task),
                implementation=timing.implementation,
                seconds=timing.seconds,
                minimum=timing.minimum,
                median=timing.median,
                spread=timing.spread,
                ratio=timing.speedup_of(group[0]) if timing is not group[0] else 1.0,
                gemm_flops=rate,
                share_of_gemm=None if timing.task.macs is None else 2 * timing.task.macs / timing.minimum / rate,
            )
            for group, rate in timings
            for timing in group
        ],
        memory=[
            dict(task=asdict(task), implementation=name, peak_bytes=peak)
            for task, peaks in memory
            for name, peak in peaks.items()
        ],
        profiles=[dict(task=asdict(task), seconds=parts) for task, parts in profiles],
    )


def to_markdown(
    command: str,
    machine: Mapping[str, str | int],
    timings: Iterable[tuple[Sequence[Timing], float]],
    memory: Iterable[tuple[Task, Mapping[str, int | None]]],
    profiles: Iterable[tuple[Task, Mapping[str, float]]],
) -> str:
    """The tables in Markdown, with the command and the machine."""
    lines = ['```sh', command, '```', '', ', '.join(f'{name} {value}' for name, value in machine.items()), '']
    for group, rate in timings:
        titles = ['implementation', 'min (ms)', 'median (ms)', 'images/s', f'times {group[0].implementation}']
        lines += [f'**{group[0].task}**, GEMM {rate / 1e9:.0f} GFLOP/s', '']
        lines += markdown_table([*titles, 'share of GEMM'], time_rows(group, rate))
    for task, peaks in memory:
        titles = ['implementation', 'MB', *(f'times {name}' for name in peaks if name in PEERS)]
        lines += [f'**{task}**, peak memory above model and input', '']
        lines += markdown_table(titles, memory_rows(peaks))
    for task, parts in profiles:
        lines += [f'**{task}**, where the time of mmtwins goes', '']
        lines += markdown_table(['modules, without those inside', 'ms', 'share'], parts_rows(parts))
    return '\n'.join(lines)


def _colour(name: str) -> str:
    return {'mmtwins': '#440154', 'mmseg': '#31688e', 'mmpretrain': '#35b779', 'timm': '#b5a51c'}.get(name, '#8b5a96')
