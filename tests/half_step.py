"""A float16 step whose functions are each called again in float32, with the same arguments."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cuda_autocast import CudaAutocast
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map


@contextmanager
def compare_in_float32(functions: Mapping[str, tuple[Any, str]]) -> Iterator[dict[str, float]]:
    """Run a float16 step as on a GPU, and compare what its functions return with what they return in float32.

    Args:
        functions: Name -> object or class, and the attribute of it that is the function.

    Yields:
        Name -> largest difference so far, infinite for results of other shapes; none for functions that were not called.
    """
    differences: dict[str, float] = {}
    in_float32 = torch.autocast('cpu', enabled=False)
    comparing = False

    def watch(name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal comparing
            if comparing:
                return function(*args, **kwargs)
            full = tree_map(_float32, (args, kwargs))  # before the call, which may change what it is given
            out = function(*args, **kwargs)
            comparing = True
            with torch.no_grad(), in_float32:
                expected = function(*full[0], **full[1])
            comparing = False
            found = max(map(_difference, _leaves(out), _leaves(expected)), default=0.0)
            differences[name] = max(differences.get(name, 0.0), found)
            return out

        return watched

    with pytest.MonkeyPatch.context() as patch, torch.autocast('cpu', torch.float16), CudaAutocast():
        for name, (owner, attribute) in functions.items():
            patch.setattr(owner, attribute, watch(name, getattr(owner, attribute)))
        yield differences


def _float32(x: Any) -> Any:
    if x is torch.float16:
        return torch.float32
    if not isinstance(x, Tensor):
        return x
    return x.detach().float().clone() if x.is_floating_point() else x


def _leaves(x: Any) -> list[Any]:
    return tree_flatten(tree_map(lambda y: dict(y.items()) if isinstance(y, InstanceData) else y, x))[0]


def _difference(a: Any, b: Any) -> float:
    if not isinstance(a, Tensor):
        return 0.0
    if a.shape != b.shape:
        return float('inf')
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
