"""The picture of `mmtwins check-run`: a training's curves beside what is expected of them."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..plotting import INK, LINES, make_figure, save_figure
from .run_check import Report
from .run_findings import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {'ok': LINES[2], 'note': LINES[0], 'off': LINES[1]}


def draw_run(report: Report, path: str | Path) -> Path:
    """Draw one panel per curve, and the findings as text.

    Args:
        report: As ``mmtwins.analysis.run_check.check_run`` returns it.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    columns = 3
    rows = -(-(len(report.curves) + 1) // columns)
    figure, axes = make_figure(rows, columns, width=4.4, height=3.3)
    panels = list(axes.flat)
    for axis, (title, curve) in zip(panels, report.curves.items()):
        _draw_curve(axis, title, curve)
    for axis in panels[len(report.curves) :]:
        axis.set_axis_off()
    _write_findings(panels[len(report.curves)], report)
    colour = COLOURS['ok' if report.on_track else 'off']
    figure.suptitle(f'{report.name}: {"on" if report.on_track else "off"} track', fontsize=13, color=colour)
    return save_figure(figure, path)


def _draw_curve(axis: 'Axes', title: str, curve: Curve) -> None:
    """Records as dots, their means as a line, and what is expected as a dashed line with the margin of the means."""
    finite = np.isfinite(curve.values)
    kept = Curve(curve.iterations[finite], curve.values[finite])
    noisy = len(kept.values) >= 30 and title != 'learning rate'
    groups = kept.bins() if noisy else list(np.eye(len(kept.values), dtype=bool))
    means = [[values[group].mean() for group in groups] for values in (kept.iterations, kept.values)]
    axis.plot(kept.iterations, kept.values, '.', color=LINES[0], alpha=0.3, markersize=5, markeredgewidth=0)
    style = '.-' if len(groups) < 30 else '-'
    axis.plot(*means, style, color=LINES[0], label='this run, means' if noisy else 'this run')
    if not finite.all():
        lost, low = curve.iterations[~finite], axis.get_xaxis_transform()
        axis.plot(lost, np.full(len(lost), 0.03), 'x', color=LINES[1], label='not finite', transform=low)
    highest = [*kept.values, 1e-9]
    if curve.expected is not None and (known := np.isfinite(curve.expected)).any():
        iterations, expected = curve.iterations[known], curve.expected[known]
        axis.plot(iterations, expected, '--' if len(expected) > 2 else 'D', color=INK, markersize=4, label=curve.source)
        highest += list(expected)
        if curve.margin is not None:
            margin = curve.margin[known]
            axis.fill_between(iterations, expected - margin, expected + margin, color=INK, alpha=0.12, linewidth=0)
    axis.set(xlabel='iteration', title=title, ylim=(0, 1.15 * max(highest)))
    if len(curve.iterations) > 1 and curve.iterations[-1] > 20 * curve.iterations[0]:
        axis.set_xscale('log')
    else:
        axis.locator_params(axis='x', nbins=5)
    axis.xaxis.set_major_formatter('{x:,.0f}')
    if max(highest) < 0.01:
        axis.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
    falls = len(kept.values) > 0 and kept.values[-1] < 0.9 * kept.values[0]
    axis.legend(
        loc='lower center' if title == 'learning rate' else 'upper right' if falls else 'lower right',
        frameon=False,
        fontsize=8,
    )


def _write_findings(axis: 'Axes', report: Report) -> None:
    """The findings, one below the other, in the colours of their verdicts."""
    words = {'ok': 'ok', 'note': 'note', 'off': 'OFF'}
    height = 1.0
    for finding in report.findings:
        text = textwrap.fill(f'{words[finding.verdict]}: {finding.text}', 58)
        axis.text(0, height, text, color=COLOURS[finding.verdict], fontsize=8.5, va='top', transform=axis.transAxes)
        height -= 0.065 * (text.count('\n') + 1) + 0.03
