"""Print the report of `mmtwins doctor` as tables."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..installing import package_of
from .examination import ESSENTIAL, MODULES, OPTIONAL

SHOWN = 5  # largest number of entries of a cache to list


def show(report: Mapping[str, Any]) -> None:
    """Print a report.

    Args:
        report: Result of :func:`mmtwins.commands.examination.examine`.
    """
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(f'mmtwins {report["mmtwins"]} in {report["folder"]}', markup=False, soft_wrap=True)
    console.print(f'Python {report["python"]}, {report["system"]}', markup=False, soft_wrap=True)
    tried = report['tried']
    table = Table('package', 'version', title='Packages', title_justify='left')
    for name in MODULES:
        if not (name in OPTIONAL and tried[name].get('missing')):
            fork = package_of(name).startswith('onedl')
            table.add_row(
                f'{name} ({package_of(name)})' if fork else name, _say(tried[name], tried[name].get('version', ''))
            )
    console.print(table)
    absent = [name for name in OPTIONAL if tried[name].get('missing')]
    if absent:
        console.print(f'not installed, and needed by some commands only: {", ".join(absent)}', soft_wrap=True)

    table = Table('what', 'result', title='Trials', title_justify='left')
    for name in ('backbone', 'mmcv operators', 'mmcv operators on the GPU'):
        table.add_row(name, _say(tried[name], tried[name].get('skipped', 'works')))
    gpus = [f'{gpu["name"]}, {gpu["memory_gb"]} GB' for gpu in tried['GPU'].get('gpus', ())]
    build = tried['GPU'].get('cuda_build')
    kind = f'torch is built for CUDA {build}' if build else 'torch is built for CPUs only'
    table.add_row('GPU', _say(tried['GPU'], f'{"; ".join(gpus) or "none"}; {kind}'))
    console.print(table)

    table = Table('cache', 'size', 'largest', title='Caches', title_justify='left')
    for name, cache in report['caches'].items():
        entries = list(cache.get('entries', {}).items())
        lines = [f'{_size(size):>8}  {entry}' for entry, size in entries[:SHOWN]]
        lines += [f'and {len(entries) - SHOWN} more'] if len(entries) > SHOWN else []
        size = _say(cache, _size(cache.get('bytes', 0)))
        table.add_row(Text(f'{name}\n{cache["folder"]}'), size, Text('\n'.join(lines) or 'empty'))
    console.print(table)
    disks = {
        free: folder for folder, free in reversed(report['free_bytes'].items())
    }  # folders on one disk have one line
    for free, folder in reversed(disks.items()):
        text = f'free disk at {folder}: {"not known" if free is None else _size(free)}'
        console.print(text, markup=False, soft_wrap=True)

    table = Table('command', 'can run', title='Commands', title_justify='left')
    for name, lacking in report['commands'].items():
        table.add_row(name, Text('yes') if not lacking else Text(f'no: {", ".join(lacking)}', 'red'))
    console.print(table)
    for remedy in report['remedies']:
        console.print(f'- {remedy}', markup=False, soft_wrap=True)
    console.print(_verdict(report), markup=False, soft_wrap=True)


def _verdict(report: Mapping[str, Any]) -> str:
    if report['ready']:
        parts = {'mmseg': 'segmentation', 'mmdet': 'detection'}
        able = [part for name, part in parts.items() if 'failure' not in report['tried'][name]]
        return f'Training and predictions can run: {" and ".join(able)}.'
    lacking = dict.fromkeys(one for name in ESSENTIAL for one in report['commands'][name])
    return f'Training and predictions cannot run, because these do not work: {", ".join(lacking)}.'


def _say(found: Mapping[str, Any], text: str) -> Text:
    """The text of a cell; if the trial failed, its failure in red."""
    if 'failure' not in found:
        return Text(text)
    return Text('not installed' if found.get('missing') else found['failure'], 'red')


def _size(number: float) -> str:
    """A number of bytes with a decimal unit."""
    for unit in ('B', 'kB', 'MB', 'GB'):
        if number < 1000:
            return f'{number:.0f} {unit}' if unit in ('B', 'kB') else f'{number:.1f} {unit}'
        number /= 1000
    return f'{number:.1f} TB'
