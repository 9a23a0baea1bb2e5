"""What the benchmark measured, as tables, charts and JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from ..markdown import markdown_table
from ..plotting import make_figure, save_figure, use_plain_log_ticks
from .measure import Task, Timing
from .peers import PEERS

NO_RATIO = 'within noise'


@dataclass(frozen=True)
class Section:
    """One table: what it is of, its titles and its cells; the first column holds text, the others numbers."""

    task: Task
    caption: str
    titles: list[str]
    rows: list[list[str]]

    def to_table(self) -> Table:
        """For the terminal."""
        table = Table(title=f'{self.task}; {self.caption}', title_justify='left')
        for i, title in enumerate(self.titles):
            table.add_column(title, justify='right' if i else 'left')
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> list[str]:
        """Lines for a page."""
        return [f'**{self.task}**, {self.caption}', '', *markdown_table(self.titles, self.rows)]


def time_section(timings: Sequence[Timing], rate: float) -> Section:
    """Minimum, median, throughput, what it is in times of ours, and the share of the machine's GEMM rate."""
    titles = ['implementation', 'min (ms)', 'median (ms)', 'images/s', f'times {timings[0].implementation}']
    caption = f'GEMM {rate / 1e9:.0f} GFLOP/s'
    return Section(timings[0].task, caption, [*titles, 'share of GEMM'], time_rows(timings, rate))


def time_rows(timings: Sequence[Timing], rate: float) -> list[list[str]]:
    """The cells of :func:`time_section`."""
    ours, task = timings[0], timings[0].task
    rows = []
    for timing in timings:
        speedup = timing.speedup_of(ours)
        ratio = '1' if timing is ours else NO_RATIO if speedup is None else f'{speedup:.2f}'
        share = '' if task.macs is None else f'{2 * task.macs / timing.minimum / rate:.2f}'
        cells = [f'{timing.minimum * 1e3:.1f}', f'{timing.median * 1e3:.1f}', f'{task.batch / timing.median:.2f}']
        rows.append([timing.implementation, *cells, ratio, share])
    return rows


def memory_section(task: Task, peaks: Mapping[str, int | None]) -> Section:
    """Peak memory, and what it is as a part of each other implementation's."""
    titles = ['implementation', 'MB', *(f'times {name}' for name in peaks if name in PEERS)]
    return Section(task, 'peak memory above model and input', titles, memory_rows(peaks))


def memory_rows(peaks: Mapping[str, int | None]) -> list[list[str]]:
    """The cells of :func:`memory_section`."""
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
        axis.set(title=title, xlabel=xlabel)
        if max(values) > 20 * min(values):
            axis.set_yscale('log')
        else:
            axis.set_ylim(bottom=0)
        use_plain_log_ticks(axis, ticks)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=4, frameon=False)
    return save_figure(figure, path)


def _make_panels(number: int, width: float, height: float) -> tuple:
    """A figure and so many axes, in rows of at most four, or of two where there are not more than four."""
    columns = min(number, 4 if number > 4 else 2)
    figure, axes = make_figure(math.ceil(number / columns), columns, width, height)
    for axis in axes.flat[number:]:
        axis.remove()
    return figure, axes.flat[:number]


def parts_section(task: Task, parts: Mapping[str, float]) -> Section:
    """Time by class of module, and its share."""
    titles = ['modules, without those inside', 'ms', 'share']
    return Section(task, 'where the time of mmtwins goes', titles, parts_rows(parts))


def parts_rows(parts: Mapping[str, float]) -> list[list[str]]:
    """The cells of :func:`parts_section`."""
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
    sections = [time_section(*timing) for timing in timings]
    sections += [memory_section(*peaks) for peaks in memory]
    sections += [parts_section(*parts) for parts in profiles]
    for section in sections:
        lines += section.to_markdown()
    return '\n'.join(lines)


def _colour(name: str) -> str:
    return {'mmtwins': '#440154', 'mmseg': '#31688e', 'mmpretrain': '#35b779', 'timm': '#b5a51c'}.get(name, '#8b5a96')
