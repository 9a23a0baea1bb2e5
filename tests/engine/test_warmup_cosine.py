"""The schedule of the public classification code, against its formula and what its logs say."""

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmtwins import WarmUpCosineLR
from mmtwins.analysis.published_classifiers import CLASSIFIERS

RUN = CLASSIFIERS['twins-svt-b_8xb128-300e_in1k']


def make(rate: float = 1e-3, **options: object) -> tuple[torch.optim.Optimizer, WarmUpCosineLR]:
    optimizer = build_optim_wrapper(
        nn.Linear(1, 1), dict(optimizer=dict(type='SGD', lr=rate), paramwise_cfg=dict(bias_lr_mult=2))
    ).optimizer
    cfg = dict(type='WarmUpCosineLR', end=300, warmup=5, warmup_start=1e-6, eta_min=1e-5, **options)
    return optimizer, PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optimizer))


def rates_of(optimizer: torch.optim.Optimizer, scheduler: WarmUpCosineLR, steps: int) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


def test_every_epoch_has_the_rate_of_the_formula_in_every_group() -> None:
    rates = np.array(rates_of(*make(), 300))
    np.testing.assert_allclose(rates[:, 0], RUN.learning_rates(np.arange(300)), rtol=1e-12)
    np.testing.assert_allclose(rates[:, 1], RUN.learning_rates(np.arange(300), rate=2e-3), rtol=1e-12)
    assert rates[0, 0] == rates[1, 0] == 1e-6  # the public code calls its scheduler one epoch late
    assert rates[6].tolist() > rates[7].tolist()


def test_a_resumed_schedule_goes_on_as_if_it_had_not_stopped() -> None:
    optimizer, scheduler = make()
    whole = rates_of(optimizer, scheduler, 20)
    optimizer, scheduler = make()
    rates_of(optimizer, scheduler, 8)
    other, resumed = make()
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert rates_of(other, resumed, 12) == whole[8:]


def test_wrong_lengths_and_rates_are_refused() -> None:
    for wrong in (dict(warmup=300), dict(warmup=-1), dict(begin=296), dict(eta_min=-1.0)):
        cfg = dict(type='WarmUpCosineLR', **{**dict(end=300, warmup=5), **wrong})
        with pytest.raises(ValueError, match='the training must be longer than its warm-up, and no rate negative'):
            PARAM_SCHEDULERS.build(
                cfg, default_args=dict(optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1))
            )
