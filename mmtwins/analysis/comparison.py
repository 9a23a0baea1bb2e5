"""The published windows beside those calibrated for each image size: parameters, MACs and time of the backbone."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..markdown import markdown_table
from ..models.backbone import TwinsSVTBackbone
from .cost import calibrate, setting_of
from .timing import time_forward


class Comparison(NamedTuple):
    """A backbone on a square image: ``parameters``, ``macs`` and, where measured, ``seconds`` of one image."""

    side: int
    setting: str
    window_sizes: tuple[int, ...]
    sr_ratios: tuple[int, ...]
    parameters: int
    macs: int
    seconds: float | None


def compare_calibrated(
    arch: str,
    sides: Sequence[int],
    measure: bool = False,
    device: str | torch.device = 'cpu',
    min_seconds: float = 2.0,
    subsampling: str = 'conv',
) -> list[Comparison]:
    """Compare the published windows with those calibrated for each image size.

    Args:
        arch: As :class:`TwinsSVTBackbone`'s.
        sides: Sides of square images, in pixels.
        measure: Whether to time the whole backbone on one image too.
        device: Where to run.
        min_seconds: Time to spend on each, at least one run.
        subsampling: Of the calibrated windows.

    Returns:
        Two rows per side: ``'k = 7'``, the published windows and ratios, and ``'calibrated'``, or ``'calibrated, pool'``
        and so on for another sub-sampling than the published one.
    """
    rows = []
    for side in sides:
        calibrated = calibrate(arch, side, side, subsampling=subsampling)
        name = 'calibrated' if subsampling == 'conv' else f'calibrated, {subsampling}'
        compared = {
            'k = 7': setting_of(arch, side, side),
            name: setting_of(arch, side, side, **calibrated, subsampling=subsampling),
        }
        for setting, known in compared.items():
            seconds = None
            if measure:
                with torch.device(device):
                    model = TwinsSVTBackbone(arch=arch, **known.arguments)
                seconds = time_forward(model, torch.randn(1, 3, side, side, device=device), min_seconds)
            windows = (known.window_sizes, known.sr_ratios)
            rows.append(Comparison(side, setting, *windows, known.parameters, known.macs, seconds))
    return rows


def comparison_table(rows: Sequence[Comparison]) -> list[str]:
    """Show a comparison as the lines of a Markdown table, an empty one last.

    Args:
        rows: See :func:`compare_calibrated`; the first row of each side is what the others are relative to.

    Returns:
        The lines.
    """
    measured = all(row.seconds is not None for row in rows)
    titles = ['image (pixels)', 'setting', 'window_sizes', 'sr_ratios', 'parameters (M)', 'GMACs', 'relative']
    titles += ['time (ms)', 'relative'] if measured else []
    cells = []
    for row in rows:
        reference = next(r for r in rows if r.side == row.side)
        cells.append(
            [
                f'{row.side} x {row.side}',
                row.setting,
                ' '.join(map(str, row.window_sizes)),
                ' '.join(map(str, row.sr_ratios)),
                f'{row.parameters / 1e6:.1f}',
                f'{row.macs / 1e9:.2f}',
                f'{row.macs / reference.macs:.2f}',
            ]
        )
        if measured:
            assert row.seconds is not None and reference.seconds is not None
            cells[-1] += [f'{row.seconds * 1e3:.1f}', f'{row.seconds / reference.seconds:.2f}']
    return markdown_table(titles, cells, num_text=4)
