"""Weights for another sub-sampling ratio or other image channels: pure functions from tensors to tensors."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class KernelChange(NamedTuple):
    """How sub-sampling kernels of a checkpoint were fitted to a backbone.

    Args:
        old: Sub-sampling ratio in the checkpoint, in tokens; 1 is without a kernel.
        new: Sub-sampling ratio in the backbone, in tokens.
        action: ``'resized'``, ``'started as means'`` or ``'dropped'``.
        count: Number of kernels.
    """

    old: int
    new: int
    action: str
    count: int  # type: ignore[assignment]  # the field takes the place of tuple.count, which nobody calls


def resize_sr_kernel(weight: Tensor, ratio: int) -> Tensor:
    """Resize the kernel of a GSA sub-sampling convolution, keeping what it averages.

    The kernel is taken as a density over its sub-window; each new cell gets the part of the mass that lies on it. So the
    sum over the kernel stays, for every pair of channels, and a constant map gives the same representatives as before;
    where one ratio is a multiple of the other, so does any map that is constant on the cells of the smaller one.

    Args:
        weight: Kernel, (C_out, C_in, r, r).
        ratio: The new r, in tokens.

    Returns:
        (C_out, C_in, ratio, ratio), of the same type.
    """
    if weight.shape[-1] == ratio:
        return weight.clone()
    edges_old = torch.linspace(0, 1, weight.shape[-1] + 1, dtype=torch.float64, device=weight.device)
    edges_new = torch.linspace(0, 1, ratio + 1, dtype=torch.float64, device=weight.device)
    upper = torch.minimum(edges_new[1:, None], edges_old[None, 1:])
    lower = torch.maximum(edges_new[:-1, None], edges_old[None, :-1])
    shares = (upper - lower).clamp(min=0) * weight.shape[-1]  # (new, old): the share of an old cell on a new one
    return (shares @ weight.double() @ shares.T).to(weight.dtype)


def resize_in_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapt the kernel of a first convolution to images with other channels, keeping the scale of what it sums.

    Args:
        weight: Kernel, (C_out, C_in, k, k).
        channels: The new number of input channels.

    Returns:
        (C_out, channels, k, k), of the same type: the sum over the channels for one channel, else the channels over and
        over, scaled by C_in / channels.

    Source: ``adapt_input_conv`` of timm.
    """
    given = weight.shape[1]
    if channels == given:
        return weight
    if channels == 1:
        return weight.float().sum(dim=1, keepdim=True).to(weight.dtype)
    order = torch.arange(channels, device=weight.device) % given
    return (weight.float()[:, order] * (given / channels)).to(weight.dtype)


def fit_sr_kernels(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[KernelChange, ...]]:
    """Fit the GSA sub-sampling of a checkpoint to a backbone with other ``sr_ratios``.

    A kernel of another size is resized, see :func:`resize_sr_kernel`. Where only the backbone sub-samples, the mean over
    the sub-window stands in, with a fresh norm; where only the checkpoint does, its kernel and norm are dropped. All
    other weights, those of LSA among them, do not depend on windows or ratios and stay as they are.

    Args:
        state_dict: Weights by native names.
        expected: The backbone's own weights by the same names, for their shapes.

    Returns:
        The fitted state dict, and what was changed, empty where nothing was.
    """
    fitted = dict(state_dict)
    changes: Counter[tuple[int, int, str]] = Counter()
    blocks = {name.removesuffix('kv.weight') for name in expected if name.endswith('.attn.kv.weight')}
    for block in sorted(name for name in blocks if f'{name}kv.weight' in state_dict):
        old, new = (weights.get(f'{block}sr.weight') for weights in (state_dict, expected))
        if (old is None and new is None) or (old is not None and new is not None and old.shape == new.shape):
            continue
        if f'{block}sr.bias' in state_dict if old is None else old.dim() != 4 or old.shape[2] != old.shape[3]:
            continue  # damaged, which is for the check of shapes to say
        old_ratio, new_ratio = (1 if weight is None else weight.shape[-1] for weight in (old, new))
        if new is None:
            for name in ('sr.weight', 'sr.bias', 'norm.weight', 'norm.bias'):
                fitted.pop(f'{block}{name}', None)
            action = 'dropped'
        elif old is None:
            like = state_dict[f'{block}kv.weight']
            dim = new.shape[0]
            mean = torch.eye(dim, dtype=like.dtype, device=like.device)[:, :, None, None] / new_ratio**2
            fitted[f'{block}sr.weight'] = mean.expand(-1, -1, new_ratio, new_ratio).contiguous()
            fitted[f'{block}norm.weight'] = like.new_ones(dim)
            fitted[f'{block}sr.bias'], fitted[f'{block}norm.bias'] = like.new_zeros(dim), like.new_zeros(dim)
            action = 'started as means'
        elif old.shape[:2] == new.shape[:2]:
            fitted[f'{block}sr.weight'] = resize_sr_kernel(old, new_ratio)
            action = 'resized'
        else:
            continue  # another architecture, which is for the check of shapes to say
        changes[old_ratio, new_ratio, action] += 1
    return fitted, tuple(KernelChange(*change, count) for change, count in changes.items())
