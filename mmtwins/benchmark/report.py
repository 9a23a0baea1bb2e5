"""What the benchmark measured, as tables and JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from ..markdown import markdown_table
from .peers import PEERS
from .products import Rate
from .roofline import Roofline
from .task import Task, Timing

NO_RATIO = 'within noise'
OURS = 'mmtwins'


@dataclass(frozen=True)
class Section:
    """A table.

    Args:
        task: What was measured.
        caption: What the table shows of it.
        titles: Of the columns; the first column holds text, the others numbers.
        rows: The cells.
    """

    task: Task
    caption: str
    titles: list[str]
    rows: list[list[str]]

    def to_table(self) -> Table:
        """The table for a terminal."""
        table = Table(title=f'{self.task}; {self.caption}', title_justify='left')
        for i, title in enumerate(self.titles):
            table.add_column(title, justify='right' if i else 'left')
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> list[str]:
        """The table as lines of Markdown."""
        return [f'**{self.task}**, {self.caption}', '', *markdown_table(self.titles, self.rows)]


def time_section(timings: Sequence[Timing], rate: Rate) -> Section:
    """Show minimum, median, throughput, the ratio to the first implementation, and the share of the fastest product's rate.

    Args:
        timings: Of one task; ours first.
        rate: The machine's fastest product.

    Returns:
        The table.
    """
    titles = ['implementation', 'min (ms)', 'median (ms)', 'images/s', f'times {timings[0].implementation}']
    caption = f'fastest product {rate}'
    return Section(timings[0].task, caption, [*titles, 'share of the fastest product'], time_rows(timings, rate.flops))


def time_rows(timings: Sequence[Timing], rate: float) -> list[list[str]]:
    """The cells of :func:`time_section`."""
    ours, task = timings[0], timings[0].task
    rows = []
    for timing in timings:
        speedup = timing.speedup_of(ours)
        ratio = '1' if timing is ours else NO_RATIO if speedup is None else f'{speedup:.2f}'
        share = timing.share_of(rate)
        cells = [f'{timing.minimum * 1e3:.1f}', f'{timing.median * 1e3:.1f}', f'{task.batch / timing.median:.2f}']
        rows.append([timing.implementation, *cells, ratio, '' if share is None else f'{share:.2f}'])
    return rows


def summary_table(timings: Sequence[tuple[Sequence[Timing], Rate]]) -> list[str]:
    """A table with a row for each task: our median time, how many times as long the others take, and our share.

    Args:
        timings: As in :class:`mmtwins.benchmark.suite.Measurements`.

    Returns:
        The lines of the table in Markdown; a cell is empty where an implementation does not fit into memory.
    """
    names = dict.fromkeys(timing.implementation for group, _ in timings for timing in group)
    others = [name for name in names if name != OURS]
    rows = []
    for group, rate in timings:
        cells = {name: row for name, *row in time_rows(group, rate.flops)}
        _, median, _, _, share = cells.get(OURS, [''] * 5)
        ratios = [cells[name][3] if name in cells and OURS in cells else '' for name in others]
        rows.append([str(group[0].task), median, *ratios, share])
    titles = ['task', f'{OURS} (ms)', *(f'times as long: {name}' for name in others)]
    return markdown_table([*titles, 'share of the fastest product'], rows)


def memory_section(task: Task, peaks: Mapping[str, int | None]) -> Section:
    """Show peak memory and its ratio to that of each other library.

    Args:
        task: What was measured.
        peaks: Bytes by implementation; None where it does not fit.

    Returns:
        The table.
    """
    titles = ['implementation', 'MB', *(f'times {name}' for name in peaks if name in PEERS)]
    return Section(task, 'peak memory above model and input', titles, memory_rows(peaks))


def memory_rows(peaks: Mapping[str, int | None]) -> list[list[str]]:
    """The cells of :func:`memory_section`."""
    rows = []
    for name, peak in peaks.items():
        others = [peaks[other] for other in peaks if other in PEERS]
        ratios = [f'{peak / other:.2f}' if peak and other else '' for other in others]
        rows.append([name, 'does not fit' if peak is None else f'{peak / 1e6:.0f}', *ratios])
    return rows


def parts_section(task: Task, parts: Mapping[str, float]) -> Section:
    """Show time by operator and its share of the whole.

    Args:
        task: What was measured.
        parts: Seconds by operator, the longest first.

    Returns:
        The table.
    """
    titles = ['operator', 'ms', 'share']
    return Section(task, 'where the time of mmtwins goes', titles, parts_rows(parts))


def parts_rows(parts: Mapping[str, float]) -> list[list[str]]:
    """The cells of :func:`parts_section`; operators below a hundredth of the whole share one row."""
    whole = sum(parts.values())
    shown = {name: seconds for name, seconds in parts.items() if seconds >= 0.01 * whole}
    if len(shown) < len(parts):
        shown['all others'] = whole - sum(shown.values())
    return [[name, f'{seconds * 1e3:.1f}', f'{seconds / whole:.2f}'] for name, seconds in shown.items()]


def roofline_section(roofline: Roofline) -> Section:
    """Show arithmetic, memory traffic and time of each kind of module beside what the machine allows.

    Args:
        roofline: Of :func:`mmtwins.benchmark.roofline.measure_roofline`.

    Returns:
        The table.
    """
    rate, bandwidth = roofline.rate.flops, roofline.bandwidth
    titles = ['modules', 'GMACs', 'MB', 'FLOP/byte', 'limited by', 'limit (ms)', 'measured (ms)', 'share of the limit']
    rows = []
    for point in (*roofline.points, roofline.whole):
        limit = point.limit(rate, bandwidth)
        by = 'arithmetic' if 2 * point.macs / rate >= limit else 'memory'
        cells = [f'{point.macs / 1e9:.2f}', f'{point.bytes / 1e6:.0f}', f'{point.intensity:.0f}', by]
        times = [f'{limit * 1e3:.1f}', f'{point.seconds * 1e3:.1f}', f'{limit / point.seconds:.2f}']
        rows.append([point.kind, *cells, *times])
    caption = f'modules and what the machine allows: fastest product {roofline.rate}, copy {bandwidth / 1e9:.1f} GB/s'
    return Section(roofline.task, caption, titles, rows)


def to_json(
    timings: Iterable[tuple[Sequence[Timing], Rate]],
    memory: Iterable[tuple[Task, Mapping[str, int | None]]],
    profiles: Iterable[tuple[Task, Mapping[str, float]]],
    rooflines: Iterable[Roofline] = (),
) -> dict:
    """Give everything measured as plain data for JSON.

    Args:
        timings: As in :class:`mmtwins.benchmark.suite.Measurements`, and so the others.
        memory: Peak memory.
        profiles: Time by operator.
        rooflines: Modules and what the machine allows.

    Returns:
        ``timings`` with the seconds of every round, ``memory``, ``profiles`` and ``rooflines``; a ratio within noise is None.
    """
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
                fastest_product=rate.product._asdict() | dict(flops=rate.flops),
                share_of_fastest_product=timing.share_of(rate.flops),
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
        rooflines=[
            dict(
                task=asdict(task),
                fastest_product=rate.product._asdict() | dict(flops=rate.flops),
                bytes_per_second=bandwidth,
                modules=[point._asdict() for point in points],
                whole=whole._asdict(),
            )
            for task, rate, bandwidth, points, whole in rooflines
        ],
    )


def to_markdown(
    command: str,
    machine: Mapping[str, str | int],
    timings: Iterable[tuple[Sequence[Timing], Rate]],
    memory: Iterable[tuple[Task, Mapping[str, int | None]]],
    profiles: Iterable[tuple[Task, Mapping[str, float]]],
    rooflines: Iterable[Roofline] = (),
    summary: bool = False,
) -> str:
    """Write the tables in Markdown, with the command and the machine above them.

    Args:
        command: The command line that measured.
        machine: See :func:`mmtwins.benchmark.machine.describe_machine`.
        timings: As in :class:`mmtwins.benchmark.suite.Measurements`, and so the others.
        memory: Peak memory.
        profiles: Time by operator.
        rooflines: Modules and what the machine allows.
        summary: One table for all timings instead of one for each task.

    Returns:
        Markdown.
    """
    lines = ['```sh', command, '```', '', ', '.join(f'{name} {value}' for name, value in machine.items()), '']
    timings = list(timings)
    sections = []
    if summary:
        lines += summary_table(timings)
    else:
        sections += [time_section(*timing) for timing in timings]
    sections += [memory_section(*peaks) for peaks in memory]
    sections += [parts_section(*parts) for parts in profiles]
    sections += [roofline_section(roofline) for roofline in rooflines]
    for section in sections:
        lines += section.to_markdown()
    return '\n'.join(lines)
