"""The settings of several stages of which none is beaten in everything: fewer MACs, fewer parameters, more keys."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

DEAR = 2  # times the fewest MACs: settings that cost more are neither listed nor drawn


class StageChoice(NamedTuple):
    """Windows and sub-windows of one stage.

    ``window_size`` and ``sr_ratio``, sides in tokens; what depends on them: ``macs``, ``parameters``, and ``keys``, those
    that a token sees in GSA.
    """

    window_size: int
    sr_ratio: int
    macs: int
    parameters: int
    keys: int


class Setting(NamedTuple):
    """Windows and sub-windows of a Twins-SVT: ``macs`` and ``parameters`` of the backbone, ``keys`` that each token sees.

    ``keys`` are those in GSA, in the stage where they are the fewest; ``window_sizes`` and ``sr_ratios`` are sides in
    tokens, ``subsampling`` has one kind per stage.
    """

    macs: int
    parameters: int
    keys: int
    window_sizes: tuple[int, ...]
    sr_ratios: tuple[int, ...]
    subsampling: tuple[str, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of :class:`TwinsSVTBackbone`."""
        return dict(window_sizes=self.window_sizes, sr_ratios=self.sr_ratios, subsampling=self.subsampling)


def combine(stages: Sequence[Sequence[StageChoice]]) -> list[tuple[StageChoice, ...]]:
    """All combinations of one choice per stage that no other combination beats.

    The MACs and parameters of a combination are sums, its keys the fewest of its stages. One combination beats another
    that is in no way better and in one way worse. Of combinations that are equal in all three, one is taken.

    Args:
        stages: The choices of each stage, at least one.

    Returns:
        The combinations by rising MACs.
    """
    tables = [np.array([choice[2:] for choice in choices], dtype=np.int64) for choices in stages]
    most = min(table[:, 2].max() for table in tables)
    thresholds = {int(keys) for table in tables for keys in table[:, 2] if keys <= most}
    beaten_by = np.empty((0, 2), dtype=np.int64)  # MACs and parameters of combinations with more keys
    found: list[tuple[int, tuple[StageChoice, ...]]] = []
    for keys in sorted(thresholds, reverse=True):
        totals, picks = np.zeros((1, 2), dtype=np.int64), np.zeros((1, 0), dtype=np.int64)
        for table in tables:
            allowed = np.flatnonzero(table[:, 2] >= keys)
            allowed = allowed[_unbeaten(table[allowed, :2])]
            sums = (totals[:, None] + table[allowed, :2]).reshape(-1, 2)
            kept = _unbeaten(sums)
            totals, picks = sums[kept], np.column_stack([picks[kept // len(allowed)], allowed[kept % len(allowed)]])
        both = np.concatenate([beaten_by, totals])
        kept = _unbeaten(both)
        for index in kept[kept >= len(beaten_by)] - len(beaten_by):
            combination = tuple(choices[i] for choices, i in zip(stages, picks[index]))
            found.append((int(totals[index, 0]), combination))
        beaten_by = both[kept]
    return [combination for _, combination in sorted(found, key=lambda pair: pair[0])]


def choose_within(front: Sequence[Setting], max_params: int | None, max_macs: int | None) -> Setting:
    """The best setting within bounds, see :func:`mmtwins.analysis.cost.calibrate`.

    Args:
        front: As :func:`mmtwins.analysis.cost.pareto_front` returns it.
        max_params: Most parameters; None has no bound.
        max_macs: Most MACs; None has no bound.

    Returns:
        With both bounds the one with the most keys; with ``max_macs`` alone that with the fewest parameters; else that with
        the fewest MACs.

    Raises:
        ValueError: None is within the bounds.
    """
    within = [
        setting
        for setting in front
        if (max_params is None or setting.parameters <= max_params) and (max_macs is None or setting.macs <= max_macs)
    ]
    if not within:
        least = min(front, key=lambda setting: (setting.parameters, setting.macs))
        given = dict(max_params=max_params, max_macs=max_macs)
        raise ValueError(
            f'{", ".join(f"{name}={value}" for name, value in given.items() if value is not None)}: no windows are within '
            f'this. The fewest MACs are {front[0].macs}, with {front[0].parameters} parameters; the fewest parameters are '
            f'{least.parameters}, with {least.macs} MACs: give larger bounds, a smaller min_keys or another subsampling'
        )
    if max_params is not None and max_macs is not None:
        return min(within, key=lambda setting: (-setting.keys, setting.macs))
    if max_macs is not None:
        return min(within, key=lambda setting: (setting.parameters, setting.macs))
    return min(within, key=lambda setting: (setting.macs, setting.parameters))


def _unbeaten(costs: np.ndarray) -> np.ndarray:
    """Indices of the rows (MACs, parameters) that no other row beats, by rising MACs; the first of equal rows."""
    order = np.lexsort((costs[:, 1], costs[:, 0]))  # stable
    parameters = costs[order, 1]
    least_before = np.minimum.accumulate(np.concatenate([[np.iinfo(np.int64).max], parameters[:-1]]))
    return order[parameters < least_before]
