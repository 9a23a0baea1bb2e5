"""Speed on a GPU: one implementation that fails or does not fit does not end the others."""

import pytest
import torch
from fake_cuda import GIB, OnCpu, plug_in
from gpu_results import RATE

from mmtwins.benchmark import gpu_speed
from mmtwins.benchmark.gpu_plan import TINY
from mmtwins.benchmark.gpu_speed import measure_all_attention, measure_back_ends, measure_speed
from mmtwins.benchmark.sdpa import CHOSEN
from mmtwins.benchmark.task import Task, Timing

TASK = Task('inference', 64, 64, device='cuda:0', arch=TINY)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Implementations that were timed together; with timm they do not fit."""
    calls: list[list[str]] = []

    def measure_time(task, names, rounds):
        calls.append(list(names))
        if 'timm' in names:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return [Timing(name, task, (1.0,) * rounds) for name in names], RATE

    monkeypatch.setattr(gpu_speed, 'measure_time', measure_time)
    return calls


def test_each_failure_is_text_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch, timed) -> None:
    def measure_memory(task, name):
        assert torch.backends.cuda.matmul.allow_tf32
        if name == 'mmtwins compiled':
            raise RuntimeError('no C compiler\nwas found')
        return None if name == 'mmseg' else GIB

    monkeypatch.setattr(gpu_speed, 'measure_memory', measure_memory)
    task = Task('inference', 64, 64, precision='tf32', device='cuda:0')
    found = measure_speed(task, ['mmtwins', 'mmtwins compiled', 'mmseg', 'timm'], rounds=2)
    assert timed == [['mmtwins', 'timm'], ['mmtwins']]
    assert [(one['implementation'], one['peak_bytes']) for one in found['memory']] == [
        ('mmtwins', GIB),
        ('mmseg', None),
        ('timm', GIB),
    ]
    assert [one['implementation'] for one in found['timings']] == ['mmtwins']
    assert found['errors'] == {
        'mmtwins compiled': 'RuntimeError: no C compiler was found',
        'timm': 'does not fit into memory beside the others',
    }
    assert found['failures'] == ['mmtwins compiled failed: RuntimeError: no C compiler was found']


def test_a_gpus_memory_is_read_from_its_allocator(monkeypatch: pytest.MonkeyPatch, timed) -> None:
    calls = plug_in(monkeypatch)
    with OnCpu():
        found = measure_speed(TASK, ['mmtwins', 'mmtwins channels-last'], rounds=2)
    assert [one['peak_bytes'] for one in found['memory']] == [2 * GIB] * 2  # of 3 at most, 1 is the model
    assert [len(one['seconds']) for one in found['timings']] == [2, 2]
    assert {'empty_cache', 'reset_peak_memory_stats'} < set(calls)
    assert found['failures'] == []


def test_a_cpus_memory_is_what_the_process_grows_by(timed) -> None:
    found = measure_speed(Task('training', 64, 64, arch=TINY), ['mmtwins'], rounds=2)
    assert 0 <= found['memory'][0]['peak_bytes'] < GIB


def test_back_ends_are_forced_on_the_whole_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('torch.nn.attention')
    calls = plug_in(monkeypatch)
    with OnCpu():
        found = measure_back_ends(TASK, rounds=2)
    assert len(found[CHOSEN]['seconds']) == len(found['math']['seconds']) == 2
    assert 'No viable backend' in found['cuDNN']['reason'] and 'synchronize' in calls


def test_attention_that_does_not_fit_is_said_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(shape, *args):
        if shape.name == 'GSA 1':
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return {CHOSEN: dict(seconds=[1.0])}

    monkeypatch.setattr(gpu_speed, 'measure_attention', measure)
    monkeypatch.setattr(gpu_speed, 'measure_back_ends', lambda task, rounds: {CHOSEN: dict(seconds=[2.0])})
    rows = measure_all_attention((64, 64), 1, 'cuda:0', ['bf16'], ['inference'], 2, 1)['rows']
    assert [row['name'] for row in rows] == [f'{kind} {i}' for i in (1, 2, 3, 4) for kind in ('LSA', 'GSA')] + [
        'backbone'
    ]
    assert rows[1] == dict(precision='bf16', work='inference', name='GSA 1', reason='does not fit into memory')
    assert rows[0]['ways'] == {CHOSEN: dict(seconds=[1.0])} and rows[-1]['ways'] == {CHOSEN: dict(seconds=[2.0])}
