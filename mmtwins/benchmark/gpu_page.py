"""The GPU report as Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..markdown import markdown_table
from .measure import NO_ROOM
from .sdpa import CHOSEN, EXPLICIT, WAYS

Result = Mapping[str, Any]
NOISE = '='
CAPTIONS = {
    'gpu_time.png': 'Median time of the backbone',
    'gpu_memory.png': 'Peak memory of the backbone',
    'gpu_models.png': 'Median time of whole models',
    'gpu_attention.png': 'Median time of attention',
    'gpu_parity.png': 'Errors and what is allowed',
    'gpu_amp.png': 'Loss of the toy training in mixed precision',
}


def to_markdown(
    command: str, machine: Mapping[str, Any], results: Sequence[Result], charts: Sequence[Path], folder: str
) -> str:
    """Write everything measured in Markdown.

    Args:
        command: The command line that measured.
        machine: See :func:`mmtwins.benchmark.machine.describe_machine`.
        results: See :func:`mmtwins.benchmark.gpu_bundle.run_parts`.
        charts: PNG files to show.
        folder: Where they lie for the page, such as ``'performance/'``.

    Returns:
        Markdown.
    """
    lines = ['```sh', command, '```', '', ', '.join(f'{name} {value}' for name, value in machine.items()), '']
    lines += [verdict(results), '']
    lines += [f'- {result["reason"]}' for result in results if result['reason']]
    lines += [f'- {text}' for result in results for text in _notes(result)] + ['']
    lines += _checks(results)
    shown = [f'![{CAPTIONS[chart.name]}]({folder}{chart.name})' for chart in charts]
    lines += [line for picture in shown for line in (picture, '')]
    lines += _parity(results) + _speed(results) + _attention(results)
    return '\n'.join(lines).rstrip()


def verdict(results: Sequence[Result]) -> str:
    """One sentence: how many parts there are, and how many of them failed or were left out."""
    states = [result['state'] for result in results]
    wrong, left = sum(state in ('failed', 'error') for state in states), states.count('left out')
    text = f'**{len(states)} parts: ' + (f'{wrong} failed' if wrong else 'nothing failed')
    return text + (f', {left} did not fit into memory.**' if left else '.**')


def _notes(result: Result) -> list[str]:
    """What other implementations could not do, what does not fit into memory, and why tests were skipped."""
    measured = result['measured'] or {}
    told = measured.get('failures', [])
    notes = [
        f'{result["name"]}: {name}: {text}'
        for name, text in measured.get('errors', {}).items()
        if not any(text in failure for failure in told)
    ]
    entries = measured.get('memory', [])
    notes += [
        f'{result["name"]}: {entry["implementation"]} {NO_ROOM}' for entry in entries if entry['peak_bytes'] is None
    ]
    return notes + [f'tests were skipped: {reason}' for reason in measured.get('skipped_because', [])]


def of_kind(results: Iterable[Result], kind: str) -> list[Result]:
    """The results of a kind of parts that were measured."""
    return [result for result in results if result['name'].split()[0] == kind and result['measured']]


def _checks(results: Sequence[Result]) -> list[str]:
    rows = []
    for result in of_kind(results, 'tests'):
        measured = result['measured']
        rows.append(['GPU tests', *(str(measured[key]) for key in ('passed', 'failed', 'skipped'))])
    lines = markdown_table(['', 'passed', 'failed', 'skipped'], rows) if rows else []
    rows = []
    for result in of_kind(results, 'amp'):
        measured, precision = result['measured'], result['name'].split()[1]
        losses, tenth = measured['losses'], max(1, len(measured['losses']) // 10)
        first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
        scale = '' if measured['loss_scale'] is None else f'{measured["loss_scale"]:.0f}'
        peak = '' if measured['peak_bytes'] is None else f'{measured["peak_bytes"] / 1e6:.0f}'
        state = 'failed' if measured['failures'] else 'passed'
        rows.append(
            [precision, measured['wrapper'], state, str(len(losses)), f'{first:.3f}', f'{last:.3f}', scale, peak]
        )
    titles = ['toy training', 'optimizer wrapper', 'state', 'iterations', 'first loss', 'last loss', 'loss scale', 'MB']
    return lines + (markdown_table(titles, rows, 3) if rows else [])


def _parity(results: Sequence[Result]) -> list[str]:
    rows = []
    for result in of_kind(results, 'parity'):
        name = ' '.join(result['name'].split()[1:])
        for row in result['measured']['rows']:
            cells = [NO_ROOM, '', '']
            if 'errors' in row:
                pairs = [f'{row["errors"][key]:.1e} of {row["allowed"][key]:.0e}' for key in ('features', 'gradients')]
                cells = ['passed' if row['passed'] else 'failed', *pairs]
            rows.append([name, row['precision'], *cells])
    if not rows:
        return []
    text = (
        '**Parity with plain modules in float32 on the CPU**: the largest difference in any feature map, in standard '
        'deviations of the map, and the largest norm of a difference of gradients, relative to that of the gradient of the '
        'same parameter, or of a median one if that is larger; each beside what is allowed.'
    )
    return [text, '', *markdown_table(['backbone', 'precision', 'state', 'features', 'gradients'], rows, 3)]


def _speed(results: Sequence[Result]) -> list[str]:
    backbones, models = of_kind(results, 'backbone'), of_kind(results, 'model')
    if not backbones and not models:
        return []
    lines = [
        'Times are medians in ms; in brackets how many times as long as mmtwins, or `=` within noise. Memory is the peak above '
        'model and input in MB (on a CPU, what the process grew by). '
        '*Share* is that of the rate of the fastest product of the same precision in the same rounds.',
        '',
    ]
    lines += _time_table('backbone', backbones, 'share', _share_of_product)
    lines += _memory_table('backbone', backbones)
    alone = {' '.join(r['name'].split()[1:]): _median(r, 'mmtwins') for r in backbones}

    def share_of_backbone(result: Result) -> str:
        ours, backbone = _median(result, 'mmtwins'), alone.get(' '.join(result['name'].split()[2:]))
        return f'{backbone / ours:.2f}' if ours and backbone else ''

    lines += _time_table('whole model', models, 'share of the backbone', share_of_backbone)
    return lines + _memory_table('whole model', models)


def _names(results: Sequence[Result]) -> list[str]:
    entries = [entry for result in results for entry in result['measured']['memory']]
    return list(dict.fromkeys(entry['implementation'] for entry in entries))


def _timing(result: Result, name: str) -> Mapping[str, Any] | None:
    return next((entry for entry in result['measured']['timings'] if entry['implementation'] == name), None)


def _median(result: Result, name: str) -> float | None:
    timing = _timing(result, name)
    return None if timing is None else timing['median']


def _share_of_product(result: Result) -> str:
    timing = _timing(result, 'mmtwins')
    share = None if timing is None else timing['share_of_fastest_product']
    return '' if share is None else f'{share:.2f}'


def _time_table(title: str, results: Sequence[Result], last: str, share: Callable[[Result], str]) -> list[str]:
    names, rows = _names(results), []
    for result in results:
        cells = []
        for name in names:
            timing = _timing(result, name)
            ratio = NOISE if timing is None or timing['ratio'] is None else f'{timing["ratio"]:.2f}'
            cells.append(_missing(result, name) if timing is None else f'{timing["median"] * 1e3:.1f} ({ratio})')
        rows.append([' '.join(result['name'].split()[1:]), *cells, share(result)])
    return [f'**Time, {title}**', '', *markdown_table([title, *names, last], rows)] if rows else []


def _memory_table(title: str, results: Sequence[Result]) -> list[str]:
    names, rows = _names(results), []
    for result in results:
        peaks = {entry['implementation']: entry['peak_bytes'] for entry in result['measured']['memory']}
        cells = [
            f'{peaks[name] / 1e6:.0f}' if peaks.get(name) is not None else _missing(result, name) for name in names
        ]
        rows.append([' '.join(result['name'].split()[1:]), *cells])
    return [f'**Peak memory, {title}**', '', *markdown_table([title, *names], rows)] if rows else []


def _missing(result: Result, name: str) -> str:
    """Why there is no figure."""
    peaks = {entry['implementation']: entry['peak_bytes'] for entry in result['measured']['memory']}
    if name in result['measured']['errors']:
        return 'failed'
    return '' if name not in peaks else 'no room'


def _attention(results: Sequence[Result]) -> list[str]:
    rows = []
    for result in of_kind(results, 'attention'):
        size = result['name'].split()[1]
        for row in result['measured']['rows']:
            rows.append([size, row['precision'], row['work'], row['name'], *_way_cells(row)])
    if not rows:
        return []
    text = (
        '**Back ends of fused attention, each forced**, and attention written out as two products and a softmax; medians in ms. '
        'LSA has 49 keys. *backbone* is a step of the whole backbone.'
    )
    lines = [text, '', *markdown_table(['images', 'precision', 'work', 'attention', *WAYS], rows, 4)]
    return [_softmax_sentence(results), '', *lines]


def _softmax_sentence(results: Sequence[Result]) -> str:
    """How often LSA is faster with an explicit softmax than with PyTorch's choice."""
    rows = [row for result in of_kind(results, 'attention') for row in result['measured']['rows']]
    both = [[row.get('ways', {}).get(way, {}).get('seconds') for way in (CHOSEN, EXPLICIT)] for row in rows]
    pairs = [pair for row, pair in zip(rows, both) if row['name'].startswith('LSA') and all(pair)]
    faster = sum(median(explicit) < median(chosen) for chosen, explicit in pairs)
    return f'For the 49 keys of LSA, the explicit softmax is faster than the fused attention in {faster} of {len(pairs)} cases.'


def _way_cells(row: Mapping[str, Any]) -> list[str]:
    cells = []
    for way in WAYS:
        found = row.get('ways', {}).get(way, row)
        reason = found.get('reason', '')
        cells.append(
            f'{median(found["seconds"]) * 1e3:.3g}'
            if 'seconds' in found
            else 'no room'
            if reason == NO_ROOM
            else 'not available'
            if reason
            else ''
        )
    return cells
