"""Pareto fronts as a table for the terminal and as plain data."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from .front import DEAR, Setting


def front_table(fronts: Mapping[str, Sequence[Setting]], published: Setting, title: str, most: int = 8) -> Table:
    """Show fronts as a table, below the published setting.

    Args:
        fronts: Settings by kind of sub-sampling, see :func:`mmtwins.analysis.cost.pareto_front`.
        published: What to compare with.
        title: What the table is of.
        most: Settings to show of each front, evenly chosen among those that cost at most twice its fewest MACs.

    Returns:
        The table.
    """
    table = Table(title=title, title_justify='left')
    for name in ('subsampling', 'window_sizes', 'sr_ratios'):
        table.add_column(name, no_wrap=True)
    for name in ('keys', 'parameters (M)', 'GMACs'):
        table.add_column(name, justify='right', no_wrap=True)
    _add(table, 'conv (published)', published)
    for kind, front in fronts.items():
        table.add_section()
        for setting in excerpt(front, most):
            _add(table, kind, setting)
    return table


def excerpt(front: Sequence[Setting], most: int) -> list[Setting]:
    """Some settings of a front: evenly chosen among those of at most twice the fewest MACs, the first and last of them too."""
    cheap = [setting for setting in front if setting.macs <= DEAR * front[0].macs]
    if len(cheap) <= most:
        return cheap
    return [cheap[round(i * (len(cheap) - 1) / (most - 1))] for i in range(most)]


def front_data(fronts: Mapping[str, Sequence[Setting]]) -> dict[str, list[dict[str, Any]]]:
    """All settings of fronts as plain data for JSON, by kind of sub-sampling."""
    return {kind: [setting._asdict() for setting in front] for kind, front in fronts.items()}


def _add(table: Table, name: str, setting: Setting) -> None:
    sides = [' '.join(map(str, values)) for values in (setting.window_sizes, setting.sr_ratios)]
    numbers = (str(setting.keys), f'{setting.parameters / 1e6:.2f}', f'{setting.macs / 1e9:.2f}')
    table.add_row(name, *sides, *numbers)
