"""Products on a GPU: TF32 in matrix products and convolutions for tf32, in neither for all else."""

import pytest
import torch

from mmtwins.benchmark.precision import products_in, with_precision
from mmtwins.benchmark.task import Task


def allowed() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize('precision', ['fp32', 'tf32', 'bf16', 'fp16'])
def test_tf32_is_taken_where_it_is_asked_for_and_the_users_choice_comes_back(precision: str) -> None:
    before = allowed()
    with pytest.raises(KeyError), products_in(precision):
        assert allowed() == (precision == 'tf32',) * 2
        raise KeyError
    assert allowed() == before


def test_each_task_runs_in_its_precision() -> None:
    before = allowed()
    tasks = [Task('inference', 64, 64, precision=precision) for precision in ('tf32', 'fp32')]
    assert [(task.precision, *allowed()) for task in with_precision(tasks)] == [
        ('tf32', True, True),
        ('fp32', False, False),
    ]
    assert allowed() == before
