"""The choices of the commands, which do without torch, are those of the modules that need it."""

import inspect

from mmtwins.benchmark.peers import OURS, PEERS
from mmtwins.benchmark.task import PRECISIONS, WORKS
from mmtwins.commands import attention_cost, benchmark, check_data, convert
from mmtwins.datasets.data_sources import SPLITS
from mmtwins.engine import devices
from mmtwins.models.architectures import ARCHITECTURES
from mmtwins.models.subsampling import SUBSAMPLINGS
from mmtwins.weights.formats import FORMATS


def test_choices() -> None:
    assert tuple(ARCHITECTURES) == attention_cost.ARCHS
    assert tuple(SUBSAMPLINGS) == attention_cost.SUBSAMPLINGS
    assert tuple(FORMATS) == convert.FORMATS
    assert check_data.SPLITS == SPLITS
    assert (WORKS, tuple(PRECISIONS)) == (benchmark.WORKS, benchmark.PRECISIONS)
    assert (*PEERS, *OURS[1:]) == benchmark.AGAINST


def test_devices_are_those_that_mmengine_takes() -> None:
    from mmengine.device import utils

    source = inspect.getsource(utils)
    assert all(f"DEVICE = '{kind}'" in source for kind in devices.KINDS)
