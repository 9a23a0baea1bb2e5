"""The private fast path of a block on CPUs: the same function in less time and memory, where nobody can notice.

:func:`applies` decides for each call. The block must consist of the plain layers that this package builds it of, and
nobody may look inside: no hooks, replaced or wrapped layers, tensor subclasses, functorch transforms, tracing, compiling or
exporting. In every other case the plain modules run. Results differ by rounding only.

Switch it off with ``with mmtwins.fast_path(False): ...``, with the environment variable ``MMTWINS_FAST_PATH=0``, or with
all of oneDNN through ``torch.backends.mkldnn.flags(enabled=False)``.

What it does is in :mod:`mmtwins.models.fast_ops`. PyTorch's own ``nn.TransformerEncoderLayer`` has such a path too.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from . import fast_ops
from .attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from .compiling import is_compiling
from .layers import DropPath, Mlp
from .threads import fit, fitting_threads

# Of all modules. PyTorch adds to these dicts and never replaces them; torch 2.1 has no function that asks for all.
GLOBAL_HOOKS = (_global_backward_hooks, _global_backward_pre_hooks, _global_forward_hooks, _global_forward_pre_hooks)
# What a block and its parts must consist of, to the exact class.
EXPECTED: dict[str, type[nn.Module]] = dict(
    norm1=nn.LayerNorm, drop_path1=DropPath, norm2=nn.LayerNorm, mlp=Mlp, drop_path2=DropPath
)
EXPECTED_MLP: dict[str, type[nn.Module]] = dict(
    fc1=nn.Linear, act=nn.GELU, drop1=nn.Dropout, fc2=nn.Linear, drop2=nn.Dropout
)
EXPECTED_LSA: dict[str, type[nn.Module]] = dict(qkv=nn.Linear, proj=nn.Linear, proj_drop=nn.Dropout)
EXPECTED_GSA: dict[str, type[nn.Module]] = dict(q=nn.Linear, kv=nn.Linear, proj=nn.Linear, proj_drop=nn.Dropout)
# Beside those of GSA, by sub-sampling.
EXPECTED_SUBSAMPLING: dict[str, dict[str, type[nn.Module]]] = {
    'conv': EXPECTED_GSA | dict(sr=nn.Conv2d, norm=nn.LayerNorm),
    'separable': EXPECTED_GSA | dict(sr=nn.Sequential, norm=nn.LayerNorm),
    'pool': EXPECTED_GSA | dict(sr=nn.AvgPool2d, norm=nn.LayerNorm),
}
EXPECTED_SEPARABLE: dict[str, type[nn.Module]] = dict(depthwise=nn.Conv2d, pointwise=nn.Conv2d)
KINDS: tuple[type[nn.Module], ...] = (
    LocallyGroupedSelfAttention,
    GlobalSubsampledAttention,
    *EXPECTED.values(),
    *EXPECTED_MLP.values(),
    *EXPECTED_LSA.values(),
    *(kind for expected in EXPECTED_SUBSAMPLING.values() for kind in expected.values()),
)
FORWARDS: dict[type[nn.Module], Callable] = {kind: kind.forward for kind in KINDS}

_enabled: ContextVar[bool] = ContextVar('mmtwins_fast_path', default=True)
_saves_memory: ContextVar[bool] = ContextVar('mmtwins_saves_memory', default=False)


@contextmanager
def fast_path(enabled: bool) -> Iterator[None]:
    """Allow or forbid the fast path inside a ``with`` statement.

    Args:
        enabled: False runs the plain modules; True allows the fast path again, unless ``MMTWINS_FAST_PATH=0`` is set.
    """
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


@contextmanager
def _saving_memory() -> Iterator[None]:
    token = _saves_memory.set(True)
    try:
        yield
    finally:
        _saves_memory.reset(token)


def checkpoint_contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
    """``context_fn`` of activation checkpointing: inside, an MLP keeps its input alone and is computed band by band."""
    return _saving_memory(), _saving_memory()


def applies(block: Any, x: Tensor) -> bool:
    """Whether :func:`run_block` may compute a block.

    Args:
        block: The block.
        x: Its input.
    """
    return (
        not is_compiling()
        and type(x) is Tensor
        and x.device.type == 'cpu'
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and x.numel() > 0
        and _is_enabled()
        and torch.backends.mkldnn.is_available()
        and torch._C._get_mkldnn_enabled()
        and not _is_watched()
        and (
            _is_plain_block(block, x.dtype)
            or (fast_ops.autocast_dtype() is x.dtype and _is_plain_block(block, torch.float32))
        )
    )


def threads_of(x: Tensor) -> AbstractContextManager:
    """Inside this, the fast path computes a forward pass with another number of threads where other processes use the cores.

    Args:
        x: The input of the model.
    """
    return fitting_threads(x) if _is_enabled() and not _is_watched() else nullcontext()


def _is_enabled() -> bool:
    return _enabled.get() and os.environ.get('MMTWINS_FAST_PATH') != '0'


def _is_watched() -> bool:
    """Whether something sees or replaces single operations or the calls of modules."""
    return (
        torch.jit.is_tracing()
        or fast_ops.has_transforms()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or any(GLOBAL_HOOKS)
    )


def _is_plain_block(block: Any, dtype: torch.dtype) -> bool:
    attn = block._modules.get('attn')
    if type(attn) is LocallyGroupedSelfAttention:
        expected = EXPECTED_LSA
    elif type(attn) is GlobalSubsampledAttention:
        expected = EXPECTED_SUBSAMPLING[attn.subsampling] if attn.subsamples else EXPECTED_GSA
    else:
        return False
    return (
        _is_plain(attn, type(attn), dtype)
        and _are_plain(attn, expected, dtype)
        and _are_plain(block, EXPECTED, dtype)
        and _are_plain(block.mlp, EXPECTED_MLP, dtype)
        and (expected.get('sr') is not nn.Sequential or _are_plain(attn.sr, EXPECTED_SEPARABLE, dtype))
        and block.mlp.act.approximate == 'none'
        and not (attn.training and attn.attn_drop)
    )


def _are_plain(parent: nn.Module, expected: dict[str, type[nn.Module]], dtype: torch.dtype) -> bool:
    modules = parent._modules
    return all(_is_plain(modules.get(name), kind, dtype) for name, kind in expected.items())


def _is_plain(module: nn.Module | None, kind: type[nn.Module], dtype: torch.dtype) -> bool:
    """Whether a module is of exactly this class, unhooked, with ordinary parameters and no dropout at work."""
    if type(module) is not kind or kind.forward is not FORWARDS[kind]:
        return False
    if (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or 'forward' in module.__dict__
        or (kind is nn.Dropout and module.training and module.p)
    ):
        return False
    parameters = module._parameters
    if kind in (nn.Linear, nn.Conv2d) and parameters.get('weight') is None:
        return False  # a wrapper put something else in its place
    return all(
        value is None
        or (
            type(value) is nn.Parameter
            and value.dtype is dtype
            and value.device.type == 'cpu'
            and value.layout is torch.strided
        )
        for value in parameters.values()
    )


def run_block(block: Any, x: Tensor) -> Tensor:
    """What the forward pass of a :class:`TwinsBlock` computes: (B, H, W, C) -> (B, H, W, C)."""
    fit()
    attn, norm2, mlp, drop_paths = block.attn, block.norm2, block.mlp, (block.drop_path1, block.drop_path2)
    attend = fast_ops.attend_locally if type(attn) is LocallyGroupedSelfAttention else fast_ops.attend_globally
    attended = attend(attn, block.norm1(x))

    def add_branches(x: Tensor, attended: Tensor) -> Tensor:
        x = _add_branch(x, attended, drop_paths[0])
        return _add_branch(x, fast_ops.run_mlp(mlp, norm2(x), saves_memory=_saves_memory.get()), drop_paths[1])

    if torch.is_grad_enabled() or any(drop_path.training and drop_path.rate for drop_path in drop_paths):
        return add_branches(x, attended)  # drop path draws once per sample, not once per band
    return fast_ops.in_bands(add_branches, x, attended, num_channels=mlp.fc1.out_features)


def _add_branch(x: Tensor, branch: Tensor, drop_path: DropPath) -> Tensor:
    """``x + drop_path(branch)`` in one pass over memory."""
    if drop_path.training and drop_path.rate:
        return torch.addcmul(x, branch, drop_path.draw(branch))
    return x + branch
