"""Schedules of the learning rate that MMEngine lacks."""

import math
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmUpCosineLR(_ParamScheduler):
    """Linear warm-up into the middle of a cosine, one epoch late, as the public classification code has it.

    That code calls its scheduler with the number of the epoch that has just ended. So the first two epochs have the first
    rate, and epoch e the rate of ``t = e - 1``: on a line from ``warmup_start`` to the optimizer's rate, which it would
    reach at ``t = warmup``, and from there on the cosine that starts at ``t = 0``. MMEngine's ``LinearLR`` and
    ``CosineAnnealingLR`` cannot say this: the latter starts at its highest point wherever it begins.

    Args:
        optimizer: Whose rates are set.
        end: Length of the cosine, in epochs (iterations without ``by_epoch``); the Runner gives that of the training.
        warmup: Length of the warm-up.
        warmup_start: First rate; not scaled with the optimizer's.
        eta_min: Rate at the end of the cosine.
        begin: Epoch with t = 0.
        by_epoch: Whether a step is an epoch.
        last_step: As in MMEngine.
        verbose: As in MMEngine.

    Raises:
        ValueError: The warm-up is not shorter than the cosine, or a number is negative.

    Source: ``main.py`` of the public code with timm 0.3.2; its logs ``logs/svt_b.txt`` and so on have these rates.
    """

    def __init__(
        self,
        optimizer: Any,
        end: int,
        warmup: int = 0,
        warmup_start: float = 0.0,
        eta_min: float = 0.0,
        begin: int = 0,
        by_epoch: bool = True,
        last_step: int = -1,
        verbose: bool = False,
    ) -> None:
        if not 0 <= warmup < end - begin or min(warmup_start, eta_min) < 0:
            raise ValueError(
                f'begin={begin}, end={end}, warmup={warmup}, warmup_start={warmup_start}, eta_min={eta_min}: the training must '
                'be longer than its warm-up, and no rate negative; a short one has warmup=0'
            )
        self.warmup, self.warmup_start, self.eta_min = warmup, warmup_start, eta_min
        super().__init__(optimizer, 'lr', begin, end, last_step, by_epoch, verbose)

    def _get_value(self) -> list[float]:
        return [self._rate(base, max(self.last_step - 1, 0)) for base in self.base_values]

    def _rate(self, base: float, step: int) -> float:
        if step < self.warmup:
            return self.warmup_start + (base - self.warmup_start) * step / self.warmup
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * step / (self.end - self.begin))) / 2
