"""Attention in each way: the shapes of the backbone, equal results, and reasons where a way is missing."""

import pytest
import torch
from fake_cuda import OnCpu, plug_in
from torch.testing import assert_close

from mmtwins import TwinsSVTBackbone
from mmtwins.benchmark import sdpa
from mmtwins.benchmark.gpu_plan import TINY
from mmtwins.benchmark.sdpa import BACK_ENDS, CHOSEN, EXPLICIT, Shape, attend, measure_attention, shapes_of
from mmtwins.models import attention
from mmtwins.models.fast_path import fast_path

pytest.importorskip('torch.nn.attention', reason='forcing a back end needs PyTorch 2.3')
SMALL = Shape('LSA 1', 6, 2, 49, 49, 8)


def test_the_shapes_are_those_that_the_backbone_attends_with(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(q, k, v, *args, **kwargs):
        seen.append((*q.shape[:3], k.shape[2], q.shape[3]))
        return q

    monkeypatch.setattr(attention, 'scaled_dot_product_attention', record)
    side = 7 * 32  # pixels: windows of 7 tokens fit all stages
    with fast_path(False), torch.no_grad():
        TwinsSVTBackbone(arch=TINY).eval()(torch.randn(2, 3, side, side))
    expected = [tuple(shape[1:]) for shape in shapes_of(side, side, 2, TINY)]
    assert list(dict.fromkeys(seen)) == list(dict.fromkeys(expected))


def test_windows_that_the_border_cuts_off_count_as_whole_ones() -> None:
    first = shapes_of(800, 1344, 16)[0]
    assert first == Shape('LSA 1', 16 * 29 * 48, 2, 49, 49, 32)
    assert shapes_of(800, 1344, 16)[1] == Shape('GSA 1', 16, 2, 200 * 336, 25 * 42, 32)


@pytest.mark.parametrize('way', ['math', 'flash', EXPLICIT])
def test_all_ways_give_the_same(way: str) -> None:
    q, k, v = (torch.randn(3, 2, n, 8) for n in (20, 9, 9))
    assert_close(attend(way, q, k, v), attend(CHOSEN, q, k, v))


@pytest.mark.parametrize('work', ['inference', 'training'])
def test_each_way_is_timed_or_has_a_reason(work: str) -> None:
    found = measure_attention(SMALL, 'bf16', work, 'cpu', rounds=2, repeats=1)
    assert list(found) == [CHOSEN, *BACK_ENDS, EXPLICIT]
    for way in (CHOSEN, 'math', EXPLICIT):
        assert len(found[way]['seconds']) == 2 and min(found[way]['seconds']) > 0
        assert 0 < found[way]['difference'] < 0.02
    assert found['cuDNN']['reason'].startswith('not available: No viable backend')


def test_seconds_are_those_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(sdpa, '_run', lambda way, *args: calls.append(way) or args[0])
    monkeypatch.setattr(
        sdpa, 'time_in_turn', lambda steps, rounds, sync: {way: [run() or 6.0] for way, run in steps.items()}
    )
    found = measure_attention(SMALL, 'fp32', 'inference', 'cpu', rounds=1, repeats=3, ways=(CHOSEN,))
    assert found[CHOSEN]['seconds'] == [2.0] and calls == [CHOSEN] * 4


def test_a_gpu_is_waited_for_and_what_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = plug_in(monkeypatch)
    run = sdpa.attend

    def full(way, q, k, v):
        if way == 'math':
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return run(way, q, k, v)

    monkeypatch.setattr(sdpa, 'attend', full)
    with OnCpu():
        found = measure_attention(SMALL, 'fp32', 'inference', 'cuda:0', 2, 1, (CHOSEN, 'math'))
    assert found['math'] == dict(reason='does not fit into memory')
    assert len(found[CHOSEN]['seconds']) == 2
    assert calls.count('synchronize') == 2 * (2 + 2)  # before and after each of two warm-up and two timed rounds


def test_the_reference_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdpa, 'LARGEST', 2 * 6 * 5)
    q, k, v = (torch.randn(5, 2, n, 4) for n in (6, 5, 5))
    pieces = []
    attend_whole = sdpa.attend
    monkeypatch.setattr(sdpa, 'attend', lambda way, *qkv: pieces.append(len(qkv[0])) or attend_whole(way, *qkv))
    assert_close(sdpa._attend_in_float32(q, k, v), attend_whole(EXPLICIT, q, k, v))
    assert pieces == [1] * 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('work', ['inference', 'training'])
def test_a_gpu_has_back_ends_that_agree(work: str) -> None:
    found = measure_attention(shapes_of(224, 224, 2)[0], 'bf16', work, 'cuda:0', rounds=2)
    timed = [way for way, one in found.items() if 'seconds' in one]
    assert {CHOSEN, 'math', EXPLICIT} <= set(timed) and len(timed) >= 4
    assert all(found[way]['difference'] < 0.02 for way in timed)
