"""The paper's cost model applied to the feature maps of a Twins-SVT, as data and as a table."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.table import Table

from ..models.architectures import ARCHITECTURES, resolve_architecture
from ..models.layers import map_sizes
from .cost import PUBLISHED_SR_RATIOS, best_window, gsa_cost, lsa_cost


class StageReport(NamedTuple):
    """The paper's cost model for one feature map.

    ``height`` x ``width`` tokens of ``dim`` channels; ``best_k`` and ``best_integer_k``, sides of the windows and
    sub-windows at which LSA and GSA together cost the least; ``k`` and ``cost`` beside ``best_cost``, in MACs; keys
    that remain with sub-windows of ``k``, of ``best_integer_k`` and of the published ``sr_ratio`` (None for a map that
    is no stage), as (rows, columns).
    """

    title: str
    height: int
    width: int
    dim: int
    num_heads: int
    best_k: float
    best_integer_k: int
    k: int
    cost: float
    best_cost: float
    keys: tuple[int, int]
    best_keys: tuple[int, int]
    sr_ratio: int | None
    sr_keys: tuple[int, int] | None


def report_costs(arch: str | Mapping[str, Sequence], height: int, width: int, k: int = 7) -> list[StageReport]:
    """Apply the paper's cost model to an image taken as a map of one token per pixel, and to each stage's map.

    Args:
        arch: As :class:`TwinsSVTBackbone`'s.
        height: H of the image, in pixels.
        width: W of the image, in pixels.
        k: The side of windows and sub-windows to compare with the best one; the paper's text has 7.

    Returns:
        One report for the image, with the channels of the first stage, and one per stage.

    Source: Twins (arXiv:2104.13840), section 3.2; ``sr_ratios`` of the public code.
    """
    architecture = resolve_architecture(arch, ARCHITECTURES)
    dims, num_heads = architecture['embed_dims'], architecture['num_heads']
    sizes = map_sizes(height, width, len(dims))
    if min(sizes[-1]) < 1:
        raise ValueError(f'{height} x {width} pixels leave no token in the last stage: give at least 32 x 32 pixels')
    ratios = PUBLISHED_SR_RATIOS[: len(dims)] + (1,) * (len(dims) - len(PUBLISHED_SR_RATIOS))
    rows: list[tuple[str, tuple[int, int], int, int, int | None]]
    rows = [('a token per pixel', (height, width), dims[0], num_heads[0], None)]
    rows += [(f'stage {i + 1}', sizes[i], dims[i], num_heads[i], ratios[i]) for i in range(len(dims))]
    reports = []
    for title, (rows_, columns), dim, heads, ratio in rows:
        best_k, best_integer_k = best_window(rows_, columns)

        def cost(k: float, size: tuple[int, int, int] = (rows_, columns, dim)) -> float:
            return lsa_cost(*size, k, k) + gsa_cost(*size, k, k)

        def keys(side: int, size: tuple[int, int] = (rows_, columns)) -> tuple[int, int]:
            return size[0] // side, size[1] // side

        reports.append(
            StageReport(
                title, rows_, columns, dim, heads, best_k, best_integer_k, k, cost(k), cost(best_k), keys(k),
                keys(best_integer_k), ratio, keys(ratio) if ratio else None,
            )
        )  # fmt: skip
    return reports


def stages_table(reports: Sequence[StageReport], title: str) -> Table:
    """Show reports as a table for the terminal, costs in millions of MACs.

    Args:
        reports: At least one, see :func:`report_costs`.
        title: What the table is of.

    Returns:
        The table.
    """
    k = reports[0].k
    table = Table(title=title, title_justify='left')
    table.add_column('map')
    for name in ('H x W', 'd', 'best k', 'integer', 'least cost', f'at k = {k}', 'more', f'keys, k = {k}'):
        table.add_column(name, justify='right')
    for name in ('keys, best k', 'sr_ratio', 'keys'):
        table.add_column(name, justify='right')
    for r in reports:
        table.add_row(
            r.title,
            f'{r.height} x {r.width}',
            str(r.dim),
            f'{r.best_k:.2f}',
            str(r.best_integer_k),
            f'{r.best_cost / 1e6:.2f}',
            f'{r.cost / 1e6:.2f}',
            f'{r.cost / r.best_cost - 1:.0%}',
            _by(r.keys),
            _by(r.best_keys),
            str(r.sr_ratio or ''),
            _by(r.sr_keys) if r.sr_keys else '',
        )
    return table


def keys_sentence(reports: Sequence[StageReport]) -> str:
    """Say how many keys windows of side k and the published sub-sampling leave in the stages.

    Args:
        reports: See :func:`report_costs`; the first one is of the image and is left out.

    Returns:
        One paragraph.
    """
    stages = reports[1:]
    fewest = min(stage.sr_keys for stage in stages if stage.sr_keys is not None)
    return (
        f'The minimum is 2 H W d sqrt(H W), at k = (H W)^(1/4). Sub-windows of {stages[0].k} in every stage would leave '
        f'{", ".join(_by(stage.keys) for stage in stages)} keys; the sub-sampling of the published models, '
        f'{" ".join(str(stage.sr_ratio) for stage in stages)}, keeps at least {_by(fewest)}: keys cost little on the '
        'small maps of the later stages, and too few of them say too little.'
    )


def _by(size: tuple[int, int]) -> str:
    return f'{size[0]} x {size[1]}'
