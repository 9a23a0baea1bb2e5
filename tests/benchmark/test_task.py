"""Tasks and their timings: MACs, quartiles, and ratios that noise forbids."""

import pytest

from mmtwins.benchmark.task import Task, Timing

TASK = Task('inference', 64, 64)


def test_a_ratio_is_refused_where_the_spread_is_larger_than_the_difference() -> None:
    ours = Timing('mmtwins', TASK, (1.0, 1.1, 1.2))
    assert ours.median == pytest.approx(1.1)
    assert ours.spread == pytest.approx(0.1)
    assert Timing('timm', TASK, (2.2, 2.2, 2.2)).speedup_of(ours) == pytest.approx(2.0)
    assert Timing('timm', TASK, (0.5, 0.5, 0.5)).speedup_of(ours) == pytest.approx(0.4545, abs=1e-3)
    assert Timing('timm', TASK, (1.15, 1.15, 1.15)).speedup_of(ours) is None  # ours spreads more than that
    assert Timing('timm', TASK, (1.0, 2.2, 5.0)).speedup_of(ours) is None  # and here the other


def test_macs_are_those_of_the_work() -> None:
    assert Task('inference', 512, 512).macs / 1e9 == pytest.approx(16.6, abs=0.2)
    assert Task('training', 800, 1344, batch=2).macs / 1e9 == pytest.approx(2 * 3 * 88.5, abs=6)
    assert Task('inference', 64, 64, config='config.py').macs is None


def test_a_task_is_named_by_its_work_and_sizes() -> None:
    assert str(Task('training', 64, 96, batch=2, precision='bf16')) == 'training 2 x 64 x 96 bf16'
    assert str(Task('inference', 64, 64, load=1)) == 'inference 1 x 64 x 64 fp32, 1 busy process beside it'
    assert str(Task('inference', 64, 64, load=2)).endswith('2 busy processes beside it')
    assert Task('inference', 64, 64, device='cuda:1').is_on_gpu and not TASK.is_on_gpu
