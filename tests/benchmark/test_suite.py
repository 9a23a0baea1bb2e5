"""What one run measures, task by task."""

import pytest
import torch

from mmtwins.benchmark import suite
from mmtwins.benchmark.products import Product, Rate
from mmtwins.benchmark.suite import run_tasks
from mmtwins.benchmark.task import Task, Timing


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list:
    """(task, implementations) that were timed; timm does not fit into memory."""
    calls = []

    def measure_time(task, names, rounds):
        calls.append((task, names))
        return [Timing(name, task, (1.0,) * rounds) for name in names], Rate(
            Product('matrix product', 'MKL', (8, 8, 8)), 1e9
        )

    monkeypatch.setattr(suite, 'measure_time', measure_time)
    monkeypatch.setattr(suite, 'measure_memory', lambda task, name: None if name == 'timm' else 10**6)
    monkeypatch.setattr(suite, 'measure_parts', lambda task, rounds: {'Conv2d': 1.0})
    return calls


TASKS = [Task('inference', 64, 64), Task('training', 64, 64)]


def test_what_does_not_fit_is_not_timed(timed: list) -> None:
    shown = []
    measured = run_tasks(TASKS, ['mmtwins', 'timm'], shown.append, rounds=3, with_memory=True, with_profile=True)
    assert [names for _, names in timed] == [['mmtwins'], ['mmtwins']]
    assert [task for task, _ in measured.memory] == TASKS
    assert [task for task, _ in measured.profiles] == TASKS
    assert [section.caption.split()[0] for section in shown] == ['peak', 'fastest', 'where'] * 2


def test_products_are_in_the_precision_of_the_task(timed: list, monkeypatch) -> None:
    seen = []

    def measure_memory(task, name):
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return 1

    monkeypatch.setattr(suite, 'measure_memory', measure_memory)
    tasks = [Task('inference', 64, 64, precision=precision) for precision in ('tf32', 'fp32')]
    run_tasks(tasks, ['mmtwins'], lambda section: None, with_time=False, with_memory=True)
    assert seen == [True, False]


def test_only_what_is_asked_for_is_measured(timed: list) -> None:
    measured = run_tasks(TASKS, ['mmtwins', 'timm'], lambda section: None)
    assert [names for _, names in timed] == [['mmtwins', 'timm']] * 2
    assert measured.memory == measured.profiles == []
    assert run_tasks(TASKS, ['mmtwins'], lambda section: None, with_time=False).timings == []
