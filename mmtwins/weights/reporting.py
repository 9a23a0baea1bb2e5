"""Sentences about what was loaded: made here, of a :class:`Fit`, and nowhere else."""

import logging

from mmengine.logging import print_log

from .fitting import Fit

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
    lines = [
        f'{change.count} GSA sub-sampling kernels {change.action}, sr_ratio {change.old} in the checkpoint and '
        f'{change.new} in the backbone: fine-tune before use'
        for change in fit.changes
    ]
    return lines + [f'{misfit.name}: {misfit.what}, {misfit.action}' for misfit in fit.misfits]


def log_fit(fit: Fit) -> None:
    """Log the line of :func:`summarise` and the warnings of :func:`list_warnings` to MMEngine's current logger.

    Args:
        fit: As for :func:`summarise`.
    """
    print_log(summarise(fit), logger='current')
    for line in list_warnings(fit):
        print_log(line, logger='current', level=logging.WARNING)
