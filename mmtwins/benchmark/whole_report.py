"""Tables of what was measured of whole models, their settings and their data, from kept results."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from ..markdown import markdown_table
from .report import OURS

Result = dict[str, Any]
WORDS = {'training': 'training iteration', 'inference': 'inference'}


def model_name(config: str) -> str:
    """The name of a config without what it was trained for: ``'upernet_twins-svt-s'``."""
    stem = config.replace('\\', '/').rpartition('/')[2].removesuffix('.py')
    return '_'.join(stem.split('_')[:2])


def to_markdown(results: Sequence[Result]) -> str:
    """Write the tables, with their commands and machines.

    Args:
        results: As ``mmtwins benchmark`` keeps them, of one kind each: ``'whole'``, ``'settings'`` or ``'pipeline'``.

    Returns:
        Markdown.
    """
    lines = ['```sh', *dict.fromkeys(command for result in results for command in result['commands']), '```', '']
    machines = dict.fromkeys(', '.join(f'{name} {value}' for name, value in r['machine'].items()) for r in results)
    lines += [line for machine in machines for line in (machine, '')]
    for kind, table in TABLES.items():
        found = [result for result in results if result['kind'] == kind]
        for caption, titles, rows in table(found):
            lines += [f'**{caption}**', '', *markdown_table(titles, rows)]
    return '\n'.join(lines)


def _by_work(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results by what they are of, training first; those of one size and batch are not told apart."""
    return {work: found for work in WORDS if (found := [r for r in results if r['task']['work'] == work])}


def _size(task: Result) -> str:
    precision = '' if task['precision'] == 'fp32' else f' {task["precision"]}'
    return f'{task["batch"]} x {task["height"]} x {task["width"]}{precision}'


def _ratio(value: float | None, ours: float | None) -> str:
    return '' if not value or not ours else f'{value / ours:.2f}'


def whole_tables(results: Sequence[Result]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Time and memory beside other backbones, and the parts of our time.

    Args:
        results: Of the kind ``'whole'``.

    Returns:
        Caption, titles and rows of each table. Ratios are to ours.
    """
    tables = []
    titles = ['model', 'batch and size', 'backbone', 'alone (s)', 'times ours', 'with loading (s)', 'times ours']
    for work, found in _by_work(results).items():
        rows = []
        for result in found:
            timings, peaks = result.get('timings', {}), result.get('memory', {})
            for name in dict.fromkeys([*timings, *peaks]):
                row = [model_name(result['task']['config']), _size(result['task']), name]
                for kind in ('alone', 'loading'):
                    seconds, ours = (median(timings[one][kind]) if one in timings else None for one in (name, OURS))
                    row += ['' if seconds is None else f'{seconds:.2f}', _ratio(seconds, ours)]
                peak = peaks.get(name)
                fits = f'{peak / 1e6:.0f}' if peak else 'does not fit' if name in peaks else ''
                rows.append([*row, fits, _ratio(peak, peaks.get(OURS))])
        tables.append((WORDS[work], [*titles, 'peak (MB)', 'times ours'], rows))
    timed = [result for result in results if OURS in result.get('timings', {})]
    for work, found in _by_work(timed).items():
        parts = list(found[0]['timings'][OURS]['parts'])
        rows = []
        for result in found:
            spent = result['timings'][OURS]['parts']
            shares = [f'{spent[part] / sum(spent.values()):.3f}' for part in parts]
            rows.append([model_name(result['task']['config']), _size(result['task']), *shares])
        tables.append((f'shares of our {WORDS[work]}', ['model', 'batch and size', *parts], rows))
    return tables


def settings_tables(results: Sequence[Result]) -> list[tuple[str, list[str], list[list[str]]]]:
    """What settings do to time and scores.

    Args:
        results: Of the kind ``'settings'``.

    Returns:
        Caption, titles and rows of each table.
    """
    tables = []
    for work, found in _by_work(results).items():
        titles = ['model', 'batch and size', 'setting', 'median (s)', 'times as fast', 'heads (s)']
        if work == 'inference':
            titles += ['largest change of a score', 'equal pixels']
        rows = []
        for result in found:
            effects = result['effects']
            plain = median(next(iter(effects.values()))['seconds'])
            for name, effect in effects.items():
                seconds = median(effect['seconds'])
                row = [model_name(result['task']['config']), _size(result['task']), name, f'{seconds:.2f}']
                row += [f'{plain / seconds:.2f}', f'{effect["parts"]["heads"]:.2f}']
                if work == 'inference':
                    equal = effect['equal']
                    row += [f'{effect["difference"]:.0e}', '' if equal is None else f'{equal:.4f}']
                rows.append(row)
        tables.append((f'settings, {WORDS[work]}', titles, rows))
    return tables


def pipeline_tables(results: Sequence[Result]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Images per second by number of workers, and the time of transforms.

    Args:
        results: Of the kind ``'pipeline'``.

    Returns:
        Caption, titles and rows of each table.
    """
    if not results:
        return []
    numbers = sorted({int(number) for result in results for number in result['rates']})
    titles = ['pipeline', *(f'{number} workers' if number != 1 else '1 worker' for number in numbers)]
    rows = [
        [_pipeline(result), *(f'{result["rates"][str(n)]:.1f}' if str(n) in result['rates'] else '' for n in numbers)]
        for result in results
    ]
    tables = [('images per second', titles, rows)]
    for result in results:
        seconds = result['transforms']
        whole = sum(seconds.values())
        rows = [[name, f'{value * 1e3:.1f}', f'{value / whole:.2f}'] for name, value in seconds.items()]
        rows.append(['all', f'{whole * 1e3:.1f}', '1.00'])
        tables.append((f'transforms of {_pipeline(result)}', ['transform', 'ms for an image', 'share'], rows))
    return tables


def _pipeline(result: Result) -> str:
    return f'{model_name(result["task"]["config"])}, {result["task"]["work"]}'


TABLES = {'whole': whole_tables, 'settings': settings_tables, 'pipeline': pipeline_tables}
