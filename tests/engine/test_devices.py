"""The device of a training or an evaluation."""

import os
from collections.abc import Iterator

import pytest
import torch
from mmengine.device import get_device, utils

from mmtwins.engine.devices import hide_gpus, use_device


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(utils, 'DEVICE', utils.DEVICE)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3')
    yield


@pytest.mark.parametrize(('device', 'visible'), [('cpu', ''), ('cpu:0', ''), ('cuda', '3'), (None, '3')])
def test_gpus_are_hidden_for_the_cpu_alone(device: str | None, visible: str) -> None:
    hide_gpus(device)
    assert os.environ['CUDA_VISIBLE_DEVICES'] == visible


def test_mmengine_works_on_the_cpu_where_it_would_take_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, 'DEVICE', 'cuda')
    assert use_device(None) == 'cuda'
    assert use_device('cpu') == 'cpu'
    assert get_device() == 'cpu'


def test_one_gpu_of_several_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setattr('mmtwins.engine.checks.check_device', lambda device: device)
    assert use_device('cuda:1') == 'cuda:1'
    assert chosen == [1] and get_device() == 'cuda'


def test_what_cannot_be_used_is_refused() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"device 'cuda' cannot be used here \(.*\): take cpu$"):
            use_device('cuda')
    with pytest.raises(ValueError, match='--device meta: MMEngine knows no such device, but cpu, cuda'):
        use_device('meta')
    with pytest.raises(
        ValueError, match='--device cuda:1: --launcher pytorch gives each process its own GPU: write --device cuda'
    ):
        use_device('cuda:1', 'pytorch')
