"""Sentences about what was loaded: made here, of a :class:`Fit`, and nowhere else."""

import logging

from mmengine.logging import print_log

from .fitting import Fit
from .resizing import KernelChange

FORMAT_NAMES = {'native': 'native (official, timm)'}  # of those that have more to say than their name


def summarise(fit: Fit) -> str:
    """What was recognised and loaded, in one line.

    Args:
        fit: Of :func:`mmtwins.weights.fitting.fit_backbone` or ``fit_model``.

    Returns:
        For instance: Twins checkpoint recognised as ImageNet classifier in mmseg names: 150 tensors loaded into the
        backbone, 4 dropped (head 2, final norm 2), 8 left fresh (stage norms).
    """
    loaded = f'{fit.num_backbone} tensors loaded into the backbone'
    if fit.num_heads:
        loaded += f' and {fit.num_heads} into the rest of the model'
    parts = [loaded]
    if fit.dropped:
        kinds = ', '.join(f'{kind} {count}' for kind, count in fit.dropped.items())
        parts.append(f'{sum(fit.dropped.values())} dropped ({kinds})')
    if fit.fresh:
        parts.append(f'{len(fit.fresh)} left fresh (stage norms)')
    names = FORMAT_NAMES.get(fit.format, fit.format)
    return f'Twins checkpoint recognised as {fit.kind} in {names} names: {", ".join(parts)}'


def list_warnings(fit: Fit) -> list[str]:
    """A line for each change of sub-sampling kernels, and for each part that only the model or the checkpoint has.

    Args:
        fit: As for :func:`summarise`.

    Returns:
        The lines; none where everything is as documented.
    """
    lines = [_describe(change) for change in fit.changes]
    return lines + [f'{misfit.name}: {misfit.what}, {misfit.action}' for misfit in fit.misfits]


def _describe(change: KernelChange) -> str:
    """What was done to sub-samplings, and what of them is fresh."""
    old, new = (ratio if isinstance(ratio, int | None) else '{} x {}'.format(*ratio) for ratio in change[:2])
    if change.kinds == ('conv', 'conv'):
        return (
            f'{change.count} GSA sub-sampling kernels {change.action}, sr_ratio {old} in the checkpoint and {new} in the '
            'backbone: fine-tune before use'
        )
    names = [
        'none' if ratio == 1 else kind if ratio is None else f'{kind} with sr_ratio {ratio}'
        for kind, ratio in zip(change.kinds, (old, new))
    ]
    line = (
        f'{change.count} GSA sub-samplings {change.action}, {names[0]} in the checkpoint and {names[1]} in the backbone'
    )
    if change.action == 'multiplied' and old == new:
        return f'{line}: they compute the same'
    fresh = {('pool', 'conv'): 'kernels', ('pool', 'separable'): 'kernels', ('conv', 'separable'): 'depth-wise kernels'}
    what = fresh.get(change.kinds, '')
    if old == 1:
        what = 'norms' if change.kinds[1] == 'pool' else 'kernels and norms'
    return line + f'; their {what} are fresh' * bool(what) + ': fine-tune before use'


def log_fit(fit: Fit) -> None:
    """Log the line of :func:`summarise` and the warnings of :func:`list_warnings` to MMEngine's current logger.

    Args:
        fit: As for :func:`summarise`.
    """
    print_log(summarise(fit), logger='current')
    for line in list_warnings(fit):
        print_log(line, logger='current', level=logging.WARNING)
