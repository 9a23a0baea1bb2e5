"""The machine of a measurement."""

import pytest
import torch
from fake_cuda import plug_in

import mmtwins
from mmtwins.benchmark.machine import describe_machine, processor_name


def test_the_machine_is_described() -> None:
    machine = describe_machine('cpu')
    assert machine['device'] == processor_name() != ''
    assert machine['threads'] == torch.get_num_threads() and machine['cpus'] >= 1
    assert machine['torch'] == torch.__version__ and machine['mmtwins'] == mmtwins.__version__


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch)
    machine = describe_machine('cuda:0')
    assert (machine['device'], machine['memory'], machine['compute capability']) == ('Fake H100', '80 GiB', '9.0')
    assert machine['CUDA'] == str(torch.version.cuda) and 'cuDNN' in machine
