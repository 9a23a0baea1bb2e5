"""The machine of a measurement."""

import torch

import mmtwins
from mmtwins.benchmark.machine import describe_machine, processor_name


def test_the_machine_is_described() -> None:
    machine = describe_machine('cpu')
    assert machine['device'] == processor_name() != ''
    assert machine['threads'] == torch.get_num_threads() and machine['cpus'] >= 1
    assert machine['torch'] == torch.__version__ and machine['mmtwins'] == mmtwins.__version__
