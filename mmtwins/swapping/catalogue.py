"""docs/models.md: which models of MMSegmentation and MMDetection take Twins, by trial."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from ..markdown import markdown_table
from .sweep import COUNTED, LIBRARIES, folders
from .trying import ITERATIONS, SIDES

NAMES = {'mmseg': 'MMSegmentation 1.2.2', 'mmdet': 'MMDetection 3.3.0'}
STATES = {
    'works': 'take Twins',
    'refused': 'cannot',
    'missing': 'need packages that were not installed',
    'failed': 'failed',
}
SHOWN = ('works', 'refused')  # also if there are none
WIDTH = 130  # letters of a line


def models_page(results: Sequence[Mapping[str, Any]], arch: str, command: str) -> str:
    """Write the page.

    Args:
        results: Results of :func:`mmtwins.swapping.sweep.sweep`.
        arch: Architecture that they were tried with.
        command: Command that writes the page.

    Returns:
        Markdown.
    """
    libraries = ' and '.join(NAMES.values())
    sizes = ' or '.join(f'{h} x {w} pixels ({NAMES[library].split()[0]})' for library, (h, w) in COUNTED.items())
    about = (
        f'`{command}` writes this page. It tries one config of each folder of {libraries}: it puts Twins (`{arch}`) into the '
        'config, as [`mmtwins swap`](finetuning.md#twins-in-another-model) does, builds the model, trains it for '
        f'{ITERATIONS} iterations from random weights, and predicts. The images are generated and square; their side is '
        f'{SIDES[0]} pixels, or {SIDES[1]} or {SIDES[2]} where a model needs larger images. A model takes Twins if its losses '
        'and the gradients of its backbone are finite and it predicts. This shows that the parts fit together. It says nothing '
        'about accuracy. The trial replaces what would fail with any backbone: CARAFE, for which MMCV has no code for CPUs, and '
        'the `loss_cls` that SSD lacks when it predicts in MMDetection 3.3.0. Boxes from random weights are kept in the image.'
    )
    macs = (
        f'MACs are those of the segmentor or detector for one image of {sizes}, counted as in `mmtwins cost`. Those with ~ '
        'are of one prediction from random weights, because the model asks for the values of what it computes: the number of '
        "regions may differ, and MMCV's own operators, such as deformable convolutions, are not counted. A dash stands for a "
        'model that was not counted.'
    )
    lines = ['# Models that take Twins', '', *wrap(about, WIDTH), '', *wrap(macs, WIDTH), '']
    for library in LIBRARIES:
        own = [result for result in results if result['library'] == library]
        lines += [f'## {NAMES[library]}', '', _summary(own, len(folders(library))), '']
        works = [result for result in own if result['state'] == 'works']
        titles = ('folder', 'config', 'backbone before', 'parameters (M)', 'GMACs')
        lines += markdown_table(titles, [_row(result) for result in works], 3)
        others = [result for result in own if result['state'] != 'works']
        rows = [(r['folder'], f'`{r["config"]}`' if r['config'] else '-', _reason(r)) for r in others]
        lines += markdown_table(('folder', 'config', 'why not'), rows, 3) if rows else []
    return '\n'.join(lines).rstrip() + '\n'


def _summary(results: Sequence[Mapping[str, Any]], total: int) -> str:
    counts = {state: sum(result['state'] == state for result in results) for state in STATES}
    counts['not tried yet'] = total - len(results)
    named = [f'{STATES.get(state, state)}: {count}' for state, count in counts.items() if count or state in SHOWN]
    return f'{total} folders; {", ".join(named)}.'


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    macs = '-' if result['macs'] is None else f'{"~" * result.get("by_predicting", False)}{result["macs"] / 1e9:.0f}'
    return result['folder'], f'`{result["config"]}`', result['old'], f'{result["parameters"] / 1e6:.1f}', macs


def _reason(result: Mapping[str, Any]) -> str:
    reason = ' '.join(result['reason'].split()).replace('|', '\\|')
    reason = f'{reason[0].upper()}{reason[1:]}.' if reason else ''
    return {'missing': f'Not run here. {reason}', 'failed': f'Failed. {reason}'}.get(result['state'], reason)
