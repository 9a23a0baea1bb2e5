"""Measuring: in turn, where the time goes, peak memory in a process. No time is judged."""

import pytest
import torch
from fake_cuda import GIB, plug_in

from mmtwins.benchmark import measure
from mmtwins.benchmark.measure import measure_memory, measure_parts, measure_time, time_in_turn
from mmtwins.benchmark.task import Task

TASK = Task('inference', 64, 64)


def test_everything_runs_in_turn_after_warming_up() -> None:
    calls = []
    seconds = time_in_turn({name: lambda name=name: calls.append(name) for name in 'abc'}, rounds=3)
    assert ''.join(calls) == 'abc' * 5
    assert {name: len(values) for name, values in seconds.items()} == dict(a=3, b=3, c=3)


@pytest.mark.parametrize('work', ['inference', 'training'])
def test_parts_are_operators_and_the_longest_come_first(work: str) -> None:
    parts = measure_parts(Task(work, 64, 64), rounds=1)
    assert {'aten::native_layer_norm', 'aten::mkldnn_convolution', 'aten::addmm'} < set(parts)
    assert ('aten::native_layer_norm_backward' in parts) == (work == 'training')
    assert list(parts.values()) == sorted(parts.values(), reverse=True)
    assert all(seconds > 0 for seconds in parts.values())


def test_implementations_are_timed_beside_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmtwins.benchmark.products.SHAPES', ((64, 64, 64),))
    timings, rate = measure_time(TASK, ['mmtwins', 'mmtwins with_cp'], rounds=2)
    assert [timing.implementation for timing in timings] == ['mmtwins', 'mmtwins with_cp']
    assert all(len(timing.seconds) == 2 and timing.minimum > 0 for timing in timings)
    assert rate.flops > 1e6


def test_peak_memory_is_that_of_one_step() -> None:
    assert 2**20 < measure_memory(TASK, 'mmtwins') < 2**30


def test_a_gpus_allocator_tells_the_memory_of_a_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = plug_in(monkeypatch, peak=5 * GIB)
    monkeypatch.setattr(measure, 'make_step', lambda *args: lambda: calls.append('step'))
    task = Task('training', 64, 64, device='cuda:0')
    assert measure_memory(task, 'mmtwins') == 4 * GIB
    expected = ['empty_cache', 'memory_allocated', 'step', 'reset_peak_memory_stats', 'step', 'max_memory_allocated']
    assert calls == expected

    def full() -> None:
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(measure, 'make_step', lambda *args: full)
    assert measure_memory(task, 'mmtwins') is None


@pytest.mark.parametrize(
    ('code', 'error', 'expected'),
    [
        (-9, '', None),
        (1, "RuntimeError: [enforce] can't allocate memory: 8 bytes", None),
        (1, 'torch.OutOfMemoryError: CUDA out of memory', None),
        (1, 'ValueError: something else', ChildProcessError),
        (0, '', 123),
    ],
)
def test_what_does_not_fit_into_memory_is_told_from_failures(monkeypatch, code, error, expected) -> None:
    done = measure.subprocess.CompletedProcess([], code, 'warning\n123\n', error)
    monkeypatch.setattr(measure.subprocess, 'run', lambda *args, **kwargs: done)
    if isinstance(expected, type):
        with pytest.raises(expected, match=r'measuring memory of mmtwins failed: .*something else'):
            measure_memory(TASK, 'mmtwins')
    else:
        assert measure_memory(TASK, 'mmtwins') == expected
