"""The generated sections of ``docs/export.md``."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..markdown import markdown_table
from .matrix import ARCHS, MODELS, SIZES, all_cells
from .runtimes import FORMATS

TITLES = {'backbone': 'Backbone', 'fpn': 'Semantic FPN', 'upernet': 'UPerNet'}
NAMES = {'eager': 'PyTorch', 'onnx': 'ONNX Runtime, float32', 'int8': 'ONNX Runtime, int8'}


def matrix_section(results: Sequence[Mapping[str, Any]], command: str) -> str:
    """Write the matrix.

    Args:
        results: Of :func:`mmtwins.export.matrix.sweep`.
        command: Command that measures it.

    Returns:
        Markdown: one table for each model, a row for each architecture and size, a column for each format.
    """
    found = {(one['arch'], one['model'], one['format']): one for one in results}
    measured = [one for one in results if one['state'] in ('works', 'differs')]
    runtimes = dict.fromkeys(one['runtime'] for one in measured)
    lines = ['```sh', command, '```', '', f'{_count(results)}. Runtimes: {", ".join(runtimes)}.', '']
    for model in MODELS:
        rows = [row for arch in ARCHS for row in _rows(found, arch, model)]
        titles = ('architecture', 'size', 'PyTorch (s)', *(format_.title for format_ in FORMATS.values()))
        lines += [f'### {TITLES[model]}', '', *markdown_table(titles, rows, 2)] if rows else []
    reasons = dict.fromkeys(_reason(one) for one in results if one['state'] != 'works')
    return '\n'.join([*lines, *(f'- {reason}' for reason in reasons)]).rstrip()


def _rows(found: Mapping[tuple[str, str, str], Mapping[str, Any]], arch: str, model: str) -> list[tuple[str, ...]]:
    """A row for each size, with what was measured of each format."""
    own = {name: found.get((arch, model, name), {}) for name in FORMATS}
    rows = []
    for i, (height, width) in enumerate(SIZES):
        sizes = {name: one['sizes'][i] for name, one in own.items() if one.get('sizes')}
        if not sizes and not any(own.values()):
            continue
        eager = min((size['eager_seconds'] for size in sizes.values()), default=None)
        cells = [_cell(own[name], sizes.get(name)) for name in FORMATS]
        rows.append((arch, f'{height} x {width}', '-' if eager is None else f'{eager:.2f}', *cells))
    return rows


def _cell(result: Mapping[str, Any], size: Mapping[str, Any] | None) -> str:
    if size is None:
        return result.get('state', '-')
    return f'{size["difference"]:.0e}, {size["seconds"] / size["eager_seconds"]:.2f}'


def _reason(result: Mapping[str, Any]) -> str:
    where = '' if result['state'] == 'missing' else f' of {result["arch"]}, {TITLES[result["model"]]}'
    return f'{FORMATS[result["format"]].title}{where}, {result["state"]}: {result["reason"]}.'


def _count(results: Sequence[Mapping[str, Any]]) -> str:
    total, works = len(all_cells()), sum(one['state'] == 'works' for one in results)
    worst = max((size['difference'] for one in results for size in one.get('sizes', ())), default=0)
    left = f'; {total - len(results)} of {total} have not been measured yet' if len(results) < total else ''
    same = f'{works} of {len(results)} files give the results of PyTorch at all sizes'
    return f'{same}; the largest difference is {worst:.1e}{left}'


def int8_section(found: Mapping[str, Mapping[str, float]], command: str, calibration: int) -> str:
    """Write the table of the accuracy in int8.

    Args:
        found: Of :func:`mmtwins.export.accuracy.measure_accuracy`.
        command: Command that measures it.
        calibration: Number of calibration images.

    Returns:
        Markdown.
    """
    eager = found['eager']
    rows = [
        (
            NAMES[name],
            f'{one["mIoU"]:.2f}',
            f'{1000 * one["seconds"]:.1f}',
            f'{one["seconds"] / eager["seconds"]:.2f}',
            f'{one["megabytes"]:.1f}' if one['megabytes'] else '-',
        )
        for name, one in found.items()
    ]
    about = f'{eager["images"]:.0f} validation images; calibrated with {calibration} training images.'
    titles = ('runtime', 'mIoU', 'time of an image (ms)', 'times PyTorch', 'file (MB)')
    return '\n'.join(['```sh', command, '```', '', about, '', *markdown_table(titles, rows)]).rstrip()
