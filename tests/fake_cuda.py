"""A CUDA GPU that is not there: what is made on it lies on the CPU, and its functions note that they were called."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

GIB = 2**30


class OnCpu(TorchFunctionMode):
    """Puts what PyTorch is asked to put on a GPU on the CPU."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        args, kwargs = tree_map(_on_cpu, (args, kwargs or {}))
        return function(*args, **kwargs)


def _on_cpu(x: Any) -> Any:
    is_gpu = (isinstance(x, torch.device) and x.type == 'cuda') or (isinstance(x, str) and x.startswith('cuda'))
    return torch.device('cpu') if is_gpu else x


def plug_in(monkeypatch: pytest.MonkeyPatch, peak: int = 3 * GIB, count: int = 1) -> list[str]:
    """Let PyTorch find GPUs for a test.

    Args:
        monkeypatch: Of the test.
        peak: Bytes that its allocator says were in use at most; 1 GiB are in use.
        count: Number of GPUs.

    Returns:
        The names of the functions of ``torch.cuda`` that were called, in order; the list grows.
    """
    calls: list[str] = []

    def put(name: str, value: Any) -> None:
        def called(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return value

        monkeypatch.setattr(torch.cuda, name, called)

    properties = SimpleNamespace(total_memory=80 * GIB, major=9, minor=0)
    values = dict(synchronize=None, empty_cache=None, reset_peak_memory_stats=None, set_device=None)
    values |= dict(is_available=True, device_count=count, get_device_name='Fake H100', get_device_properties=properties)
    values |= dict(memory_allocated=GIB, max_memory_allocated=peak, is_bf16_supported=True)
    values |= dict(is_current_stream_capturing=False)  # optimizers of PyTorch before 2.6 ask
    for name, value in values.items():
        put(name, value)
    if hasattr(torch, 'accelerator'):  # of PyTorch 2.6 and newer: optimizers ask it for the current stream
        monkeypatch.setattr(torch.accelerator, 'current_accelerator', lambda check_available=False: None)
    return calls
