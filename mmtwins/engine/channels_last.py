"""Convolutions of heads and necks in channels-last memory format."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Compute the convolutions behind the backbone in channels-last memory format. Results stay equal within rounding.

    oneDNN and cuDNN then need not reorder their maps, which saves time above all in half precision. Names, shapes and
    values of the weights stay, so checkpoints can be exchanged with models that do without.
    """

    # Once the weights are there: random ones would fall on other places of reordered kernels.
    def before_train(self, runner: Runner) -> None:
        """Reorder the kernels."""
        use_channels_last(runner.model)

    def before_val(self, runner: Runner) -> None:
        """As :meth:`before_train`."""
        use_channels_last(runner.model)

    def before_test(self, runner: Runner) -> None:
        """As :meth:`before_train`."""
        use_channels_last(runner.model)


def use_channels_last(model: nn.Module) -> list[str]:
    """Reorder the kernels of convolutions behind the backbone in memory, in place. Maps follow the kernels they meet.

    The operators of mmcv take any memory for contiguous: channels-last maps would give wrong results. So parts that
    contain one of them stay as they are, and with them the neck that feeds them, as in Mask R-CNN.

    Args:
        model: A segmentor or detector, also one wrapped for several processes.

    Returns:
        The names of the parts whose kernels were reordered.
    """
    inner: Any = model
    while is_model_wrapper(inner):
        inner = inner.module
    parts = dict(_parts_of(inner))
    operated = {name for name, part in parts.items() if _has_operator(part)}
    chosen = [name for name in parts if name not in operated and not (name == 'neck' and operated)]
    for name in chosen:
        module: Any
        for module in parts[name].modules():
            if type(module) in (nn.Conv2d, nn.ConvTranspose2d):
                weight = module.weight
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return chosen


def _parts_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a model but the backbone; those of a RoI head one by one."""
    for name, part in model.named_children():
        if name == 'roi_head':
            yield from ((f'{name}.{child}', module) for child, module in part.named_children())
        elif name != 'backbone':
            yield name, part


def _has_operator(part: nn.Module) -> bool:
    return any(type(module).__module__.startswith('mmcv.ops') for module in part.modules())
