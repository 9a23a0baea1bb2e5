"""Models sharded over processes: MMEngine's FSDPStrategy with whole checkpoints, for current PyTorch, and on CPUs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from inspect import signature
from itertools import chain
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast
from mmengine.hooks import EMAHook
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import STRATEGIES
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    OptimStateDictConfig,
    StateDictConfig,
    StateDictType,
)
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from ..models.block import TwinsBlock

INSERTED = ('_fsdp_wrapped_module.', '_checkpoint_wrapped_module.')  # wrappers insert these into names of weights

# As FSDP makes them; torch 2.1 has no such streams for CPUs.
SHARDS_ON_CPUS = 'priority' in signature(torch.cpu.Stream.__init__).parameters


@STRATEGIES.register_module()
class TwinsFSDPStrategy(FSDPStrategy):
    """A replacement of MMEngine's ``FSDPStrategy``, which our tools use in its place.

    A checkpoint is one file, like that of a model without FSDP, and trainings with and without FSDP resume either. Each
    transformer block is an FSDP unit. Gradients are clipped by the norm over all processes. On CPUs, synchronised batch norm
    becomes plain batch norm.

    Args:
        model_wrapper: As for ``FSDPStrategy``; without an ``auto_wrap_policy``, each transformer block is wrapped.
        state_dict_cfg: ``'full'``, or a dict as for ``FSDPStrategy`` with ``state_dict_type='FULL_STATE_DICT'``. MMEngine's
            default, ``'local'``, writes folders that PyTorch cannot read back as weights only.
        kwargs: As for ``FSDPStrategy``.

    Raises:
        ValueError: ``state_dict_cfg`` would write checkpoints as folders, or this torch does not shard on CPUs.
    """

    state_dict_config: StateDictConfig
    optim_state_dict_config: OptimStateDictConfig

    def __init__(
        self, *, model_wrapper: dict | None = None, state_dict_cfg: str | dict = 'full', **kwargs: Any
    ) -> None:
        self._init_state_dict_cfg(state_dict_cfg)
        if not self._is_full_state_dict():
            raise ValueError(
                f'strategy.state_dict_cfg={state_dict_cfg!r} writes folders that cannot be resumed: leave it out, or write '
                "'full'"
            )
        on_cpu = get_device() == 'cpu'
        # A function, since MMEngine refuses what cannot be called, as the ModuleWrapPolicy of torch 2.1.
        each_block = partial(transformer_auto_wrap_policy, transformer_layer_cls={TwinsBlock})
        wrapper: dict[str, Any] = dict(type='MMFullyShardedDataParallel', auto_wrap_policy=each_block)
        wrapper |= dict(device_id=torch.device('cpu')) if on_cpu else {}
        super().__init__(model_wrapper={**wrapper, **(model_wrapper or {})}, state_dict_cfg=state_dict_cfg, **kwargs)
        # Offloading from CPU to CPU in PyTorch: weights end in a segfault, and both moments of Adam in one tensor.
        if on_cpu:
            self.state_dict_config = replace(self.state_dict_config, offload_to_cpu=False)
            self.optim_state_dict_config = replace(self.optim_state_dict_config, offload_to_cpu=False)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if get_device() == 'cpu' and not SHARDS_ON_CPUS:
            raise ValueError(f'FSDP on CPUs needs a newer torch than {torch.__version__}: leave strategy out')
        for value in chain(model.parameters(), model.buffers()):  # as DDP does, in case seeds differ
            broadcast(value.data)
        return super()._wrap_model(revert_sync_batchnorm(model) if get_device() == 'cpu' else model)

    def build_optim_wrapper(self, optim_wrapper: Any, model: nn.Module | None = None) -> BaseOptimWrapper:
        """Build the optimizer wrapper; it clips by the norm of the whole gradient, not of this process's part."""
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(wrapper, 'clip_func', None) is nn.utils.clip_grad_norm_:
            wrapper.clip_func = self._clip_by_norm
        return wrapper

    def _clip_by_norm(self, parameters: list[Tensor], max_norm: float, norm_type: float = 2.0, **_: Any) -> Tensor:
        return self.model.clip_grad_norm_(max_norm, norm_type)

    def load_checkpoint(self, filename: str, **kwargs: Any) -> dict:
        """Load a file into the sharded model; every process reads it."""
        with _whole(self.model):
            return super().load_checkpoint(filename, **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of an optimizer, saved with or without FSDP."""
        optimizer = self.optim_wrapper.optimizer
        names = {id(value): own_name(name) for name, value in self.model.named_parameters()}
        state_dict = name_parameters(state_dict, [[names[id(p)] for p in g['params']] for g in optimizer.param_groups])
        with _whole(self.model):
            part = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        self.optim_wrapper.load_state_dict(part)


def own_name(name: str) -> str:
    """The name of a weight without the parts that FSDP and activation checkpointing insert."""
    for inserted in INSERTED:
        name = name.replace(inserted, '')
    return name


def name_parameters(state: Mapping[str, Any], names: list[list[str]]) -> dict[str, Any]:
    """Name the weights in the state of an optimizer; PyTorch numbers them by their place in the groups.

    Args:
        state: A dict with ``state`` and ``param_groups``.
        names: Names of the weights of each group.

    Returns:
        The same state, with names instead of numbers.

    Raises:
        ValueError: The groups in the state have other sizes than ``names``.
    """
    groups = state['param_groups']
    if [len(group['params']) for group in groups] != [len(group) for group in names]:
        raise ValueError('the optimizer in the checkpoint is of another model, or has other groups of weights')
    renamed = dict(zip(chain.from_iterable(group['params'] for group in groups), chain.from_iterable(names)))
    return dict(
        state={renamed.get(key, key): value for key, value in state['state'].items()},
        param_groups=[{**group, 'params': own} for group, own in zip(groups, names)],
    )


def own_part(model: FullyShardedDataParallel) -> dict[str, Tensor]:
    """The part of each weight in this process, and all buffers, by their names in the whole model."""
    return {own_name(name): value for name, value in chain(model.named_parameters(), model.named_buffers())}


def whole_state_dict(model: FullyShardedDataParallel) -> dict[str, Tensor]:
    """The weights of a whole model, in every process."""
    with _whole(model):
        return model.state_dict()


@contextmanager
def _whole(model: nn.Module) -> Iterator[None]:
    """Inside a ``with`` block, state dicts are those of the whole model, in every process."""
    configs = FullStateDictConfig(offload_to_cpu=False), FullOptimStateDictConfig(offload_to_cpu=False)
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT, *configs):
        yield


def uses_fsdp(cfg: Config) -> bool:
    """Whether a config names MMEngine's ``FSDPStrategy`` or the one here."""
    kind = (cfg.get('strategy') or {}).get('type')
    return getattr(kind, '__name__', kind) in (FSDPStrategy.__name__, TwinsFSDPStrategy.__name__)


def check_options(cfg: Config) -> None:
    """Check that a config asks for nothing that MMEngine's FlexibleRunner ignores, or that FSDP cannot do.

    Args:
        cfg: The whole config.

    Raises:
        ValueError: The config asks for one of these.
    """
    if cfg.get('runner_type') != 'FlexibleRunner':
        return
    for option, instead in (
        ('compile', ''),
        ('activation_checkpointing', ', or set model.backbone.with_cp=True instead'),
    ):
        if cfg.get(option):
            raise ValueError(f'{option}={cfg[option]!r} has no effect with FlexibleRunner: leave it out{instead}')
    hooks = [*(cfg.get('custom_hooks') or []), *(cfg.get('default_hooks') or {}).values()]
    if uses_fsdp(cfg) and any(isinstance(hook, dict) and hook.get('type') in ('EMAHook', EMAHook) for hook in hooks):
        raise ValueError('EMAHook copies the model, which FSDP has spread over processes: leave one of the two out')
