"""Forward passes timed on this machine: one block of each kind over the side of its windows, or a whole model."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from ..models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from ..models.block import TwinsBlock
from .cost import gsa_macs, lsa_macs
from .cost_report import StageReport


class Measurement(NamedTuple):
    """An LSA block and a GSA block with windows and sub-windows of side ``k`` on one map: ``macs`` and ``seconds``."""

    k: int
    macs: int
    seconds: float


def measure_blocks(
    stage: StageReport, mlp_ratio: float = 4, device: str | torch.device = 'cpu', min_seconds: float = 0.2
) -> list[Measurement]:
    """Time a local and a global block over k on this machine for one image, see :func:`time_forward`.

    Args:
        stage: Size of the map.
        mlp_ratio: Of the blocks' MLPs.
        device: Where to run.
        min_seconds: Time to spend on each k, at least one run.

    Returns:
        By rising k: from 1 or where the blocks cost 16 times the least, to the side of the map; about ten values of k, the best
        one and the compared one among them.
    """
    height, width, dim = stage.height, stage.width, stage.dim
    side = min(height, width)
    tokens = height * width

    def macs(k: int) -> int:
        attention = (lsa_macs(height, width, dim, k), gsa_macs(height, width, dim, k))
        return sum(sum(part.values()) for part in attention) + 4 * tokens * dim * int(dim * mlp_ratio)

    wanted = {max(round(side ** (i / 9)), 1) for i in range(10)} | {stage.best_integer_k, stage.k}
    costs = {k: macs(k) for k in sorted(wanted) if k <= side}
    x = torch.randn(1, height, width, dim, device=device)
    measurements = []
    for k, cost in costs.items():
        if cost > 16 * min(costs.values()):
            continue
        blocks = nn.Sequential(
            TwinsBlock(LocallyGroupedSelfAttention(dim, stage.num_heads, k), dim, mlp_ratio, 0.0, 0.0),
            TwinsBlock(GlobalSubsampledAttention(dim, stage.num_heads, k), dim, mlp_ratio, 0.0, 0.0),
        )
        measurements.append(Measurement(k, cost, time_forward(blocks.to(device), x, min_seconds)))
    return measurements


def time_forward(model: nn.Module, x: Tensor, min_seconds: float) -> float:
    """Median seconds of a forward pass in evaluation mode.

    On a CPU this is processor time of one thread, so that other programs on the machine matter little.
    """
    model.eval()
    clock: dict[str, Any] = {} if x.is_cuda else dict(timer=time.process_time)
    with torch.inference_mode():
        # Timer runs the model once before it measures. It uses one thread.
        return (
            Timer('model(x)', globals=dict(model=model, x=x), **clock)
            .blocked_autorange(min_run_time=min_seconds)
            .median
        )


def times_table(reports: Sequence[StageReport], measured: Sequence[Sequence[Measurement]], title: str) -> Table:
    """Show measured times over k as a table for the terminal.

    Args:
        reports: See :func:`report_costs`.
        measured: Of each report, see :func:`measure_blocks`; empty for a map without global blocks.
        title: What was measured.

    Returns:
        A row for each k: milliseconds on each map, the least of a map in bold.
    """
    table = Table(title=title, title_justify='left')
    table.add_column('k', justify='right')
    timed = [(report, list(found)) for report, found in zip(reports, measured, strict=True) if found]
    for report, _ in timed:
        table.add_column(report.title, justify='right')
    for k in sorted({one.k for _, found in timed for one in found}):
        cells = []
        for _, found in timed:
            seconds = {one.k: one.seconds for one in found}
            text = f'{seconds[k] * 1e3:.2f}' if k in seconds else ''
            cells.append(f'[bold]{text}[/bold]' if text and seconds[k] == min(seconds.values()) else text)
        table.add_row(str(k), *cells)
    return table
