"""What the benchmark measures, and the seconds it took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..analysis.cost import backbone_macs

PRECISIONS = {'fp32': torch.float32, 'tf32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
WORKS = ('inference', 'training')


@dataclass(frozen=True)
class Task:
    """What is measured.

    Args:
        work: ``'inference'``, or ``'training'``: a forward and a backward pass, without an optimizer.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        batch: Images at once.
        precision: ``'fp32'``; ``'tf32'``, the same with products in TF32 on a GPU; ``'bf16'`` or ``'fp16'`` for autocast.
        device: Such as ``'cpu'`` or ``'cuda:0'``.
        arch: ``'small'``, ``'base'`` or ``'large'``; or one of its own, which only mmtwins has.
        config: Config of a whole segmentor or detector; None for the backbone alone.
        load: Busy processes beside it.
    """

    work: str
    height: int
    width: int
    batch: int = 1
    precision: str = 'fp32'
    device: str = 'cpu'
    arch: str | Mapping[str, Sequence] = 'small'
    config: str | None = None
    load: int = 0

    def __str__(self) -> str:
        beside = f', {self.load} busy process{"es" * (self.load > 1)} beside it' if self.load else ''
        return f'{self.work} {self.batch} x {self.height} x {self.width} {self.precision}{beside}'

    @property
    def is_on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith('cuda')

    @property
    def macs(self) -> int | None:
        """MACs of one step, a training step as three inferences; None for a whole config."""
        if self.config is not None:
            return None
        stages = backbone_macs(self.arch, self.height, self.width)
        return (3 if self.work == 'training' else 1) * self.batch * sum(sum(stage.values()) for stage in stages)


@dataclass(frozen=True)
class Timing:
    """Seconds of one implementation at one task, a value per round."""

    implementation: str
    task: Task
    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return float(np.quantile(self.seconds, 0.5))

    @property
    def spread(self) -> float:
        """Between the first and the third quartile."""
        return float(np.subtract(*np.quantile(self.seconds, (0.75, 0.25))))

    def share_of(self, rate: float) -> float | None:
        """The rate of the fastest round, 2 x MACs per second, divided by a rate in FLOP/s; None without MACs."""
        return None if self.task.macs is None else 2 * self.task.macs / self.minimum / rate

    def speedup_of(self, other: 'Timing') -> float | None:
        """How many times as long this takes as ``other`` by the medians; None where noise could be the difference.

        That is so where the spread of either is larger than the difference of the medians.
        """
        if max(self.spread, other.spread) > abs(self.median - other.median):
            return None
        return self.median / other.median
