"""Weights for another sub-sampling ratio or other image channels: pure functions from tensors to tensors."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Ratio = int | tuple[int, int] | None


class KernelChange(NamedTuple):
    """How the sub-sampling of GSA in a checkpoint was fitted to a backbone.

    Args:
        old: Side of a sub-window in the checkpoint, or its rows and columns, in tokens; 1 is without sub-sampling, and
            None unknown: an average has no weights that show it.
        new: The same in the backbone.
        action: ``'resized'``, ``'multiplied'``, ``'started as means'`` or ``'dropped'``.
        count: Number of blocks.
        kinds: Kind of sub-sampling in the checkpoint and in the backbone: ``'conv'``, ``'separable'`` or ``'pool'``; both the
            same where one of the two has none.
    """

    old: Ratio
    new: Ratio
    action: str
    count: int  # type: ignore[assignment]  # the field takes the place of tuple.count, which nobody calls
    kinds: tuple[str, str] = ('conv', 'conv')


def resize_sr_kernel(weight: Tensor, ratio: int | tuple[int, int]) -> Tensor:
    """Resize the kernel of a GSA sub-sampling convolution, keeping what it averages.

    The kernel is taken as a density over its sub-window; each new cell gets the part of the mass that lies on it. So the
    sum over the kernel stays, for every pair of channels, and a constant map gives the same representatives as before;
    where one ratio is a multiple of the other, so does any map that is constant on the cells of the smaller one.

    Args:
        weight: Kernel, (C_out, C_in, rows, columns).
        ratio: The new side, or the new rows and columns, in tokens.

    Returns:
        (C_out, C_in, rows, columns), of the same type.
    """
    rows, columns = (ratio, ratio) if isinstance(ratio, int) else ratio
    if weight.shape[-2:] == (rows, columns):
        return weight.clone()
    vertical, horizontal = _shares(weight.shape[-2], rows, weight), _shares(weight.shape[-1], columns, weight)
    return (vertical @ weight.double() @ horizontal.T).to(weight.dtype)


def _shares(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old): the share of an old cell that lies on a new one, where both divide the same length."""
    edges_old = torch.linspace(0, 1, old + 1, dtype=torch.float64, device=like.device)
    edges_new = torch.linspace(0, 1, new + 1, dtype=torch.float64, device=like.device)
    upper = torch.minimum(edges_new[1:, None], edges_old[None, 1:])
    lower = torch.maximum(edges_new[:-1, None], edges_old[None, :-1])
    return (upper - lower).clamp(min=0) * old


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


# Names of the weights of a sub-sampling, its norm included, by kind.
NORM = ('norm.weight', 'norm.bias')
DEPTHWISE, POINTWISE = 'sr.depthwise.weight', 'sr.pointwise.weight'
NAMES = {
    '': (),
    'conv': ('sr.weight', 'sr.bias', *NORM),
    'separable': (DEPTHWISE, POINTWISE, 'sr.pointwise.bias', *NORM),
    'pool': NORM,
}
KERNELS = {'conv': 'sr.weight', 'separable': DEPTHWISE}  # whose last two sides are those of a sub-window


def fit_sr_kernels(
    state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[KernelChange, ...]]:
    """Fit the GSA sub-sampling of a checkpoint to a backbone with other ``sr_ratios`` or another ``subsampling``.

    What carries over:

    - The same kind with other sub-windows: the kernel is resized, see :func:`resize_sr_kernel`.
    - A separable convolution to a convolution: the product of its two kernels, which computes the same; resized too where
      sub-windows differ.
    - A convolution to a separable one: the depth-wise kernel starts as the mean over the sub-window, the 1 x 1 kernel as
      the sum of the convolution's. So maps that are constant in each sub-window give the same representatives.
    - An average, or no sub-sampling, to either convolution: it starts as the mean over the sub-window.
    - Anything to an average or to no sub-sampling: the convolutions are dropped.

    The norm stays; it starts fresh where only the backbone sub-samples, and is dropped where only the checkpoint does. An
    average has no weights, so averages over other sub-windows need no change and are not noticed. All other weights, those
    of LSA among them, do not depend on windows or ratios and stay as they are.

    Args:
        state_dict: Weights by native names.
        expected: The backbone's own weights by the same names, for their shapes.

    Returns:
        The fitted state dict, and what was changed, empty where nothing was.
    """
    fitted = dict(state_dict)
    changes: Counter[KernelChange] = Counter()
    blocks = {name.removesuffix('kv.weight') for name in expected if name.endswith('.attn.kv.weight')}
    for block in sorted(name for name in blocks if f'{name}kv.weight' in state_dict):
        old, new = _part(state_dict, block), _part(expected, block)
        kinds = _kind(old), _kind(new)
        if kinds[0] is None or kinds[1] is None or not _is_whole(old, kinds[0]):
            continue  # damaged, which is for the check of shapes to say
        if 'norm.weight' in old and 'norm.weight' in new and old['norm.weight'].shape != new['norm.weight'].shape:
            continue  # another architecture, which is for the check of shapes to say
        ratios = _ratio(old, kinds[0]), _ratio(new, kinds[1])
        if kinds[0] == kinds[1] and ratios[0] == ratios[1]:
            continue
        part, action = _convert(old, new, (kinds[0], kinds[1]), state_dict[f'{block}kv.weight'])
        for name in old.keys() - part.keys():
            del fitted[block + name]
        fitted.update({block + name: value for name, value in part.items()})
        change = KernelChange(*ratios, action, 1, (kinds[0] or kinds[1], kinds[1] or kinds[0]))
        changes[change] += 1
    return fitted, tuple(change._replace(count=count) for change, count in changes.items())


def lacks_subsampling_alone(given: Iterable[str], expected: Iterable[str]) -> bool:
    """Whether of all expected names those of sub-samplings alone are missing, one at least, as where a kind has no weights."""
    missing = set(expected).difference(given)
    names = tuple(f'.attn.{name}' for name in {name for names in NAMES.values() for name in names})
    return bool(missing) and all(name.endswith(names) for name in missing)


def _part(weights: Mapping[str, Tensor], block: str) -> dict[str, Tensor]:
    """The sub-sampling of one block, by names without the block's."""
    return {
        name.removeprefix(block): value
        for name, value in weights.items()
        if name.startswith((f'{block}sr.', f'{block}norm.'))
    }


def _kind(part: Mapping[str, Tensor]) -> str | None:
    """The kind of sub-sampling that has weights of these names."""
    return next((kind for kind, names in NAMES.items() if set(names) == set(part)), None)


def _is_whole(part: Mapping[str, Tensor], kind: str) -> bool:
    """Whether the kernels have the sides of a kernel from all channels to all."""
    if kind not in KERNELS:
        return True
    kernel, dim = part[KERNELS[kind]], part['norm.weight'].numel()
    if kernel.dim() != 4 or tuple(kernel.shape[:2]) != (dim, dim if kind == 'conv' else 1):
        return False
    return kind == 'conv' or tuple(part[POINTWISE].shape) == (dim, dim, 1, 1)


def _ratio(part: Mapping[str, Tensor], kind: str) -> Ratio:
    if kind not in KERNELS:
        return 1 if kind == '' else None
    rows, columns = part[KERNELS[kind]].shape[2:]
    return rows if rows == columns else (rows, columns)


def _convert(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], kinds: tuple[str, str], like: Tensor
) -> tuple[dict[str, Tensor], str]:
    """The sub-sampling of one block as another kind, and what was done."""
    given, wanted = kinds
    if not wanted:
        return {}, 'dropped'
    dim = new['norm.weight'].numel()
    fresh = dict(zip(NORM, (like.new_ones(dim), like.new_zeros(dim))))
    norm = {name: old.get(name, fresh[name]) for name in NORM}
    if wanted == 'pool':
        return norm, 'dropped' if given else 'started as means'
    size = new[KERNELS[wanted]].shape[2:]
    area = size[0] * size[1]
    if wanted == given:
        return {**old, KERNELS[given]: resize_sr_kernel(old[KERNELS[given]], (size[0], size[1]))}, 'resized'
    bias = old.get('sr.bias', old.get('sr.pointwise.bias', like.new_zeros(dim)))
    if wanted == 'separable':
        depthwise = like.new_full((dim, 1, *size), 1 / area)
        if given == 'conv':
            sums = old['sr.weight'].double().sum((2, 3), keepdim=True)
            pointwise = sums.to(old['sr.weight'].dtype)
        else:
            pointwise = torch.eye(dim, dtype=like.dtype, device=like.device)[:, :, None, None]
        return {DEPTHWISE: depthwise, POINTWISE: pointwise, 'sr.pointwise.bias': bias, **norm}, 'started as means'
    if given == 'separable':
        product = old[POINTWISE].double() * old[DEPTHWISE].double().transpose(0, 1)  # (C_out, C_in, rows, columns)
        kernel = resize_sr_kernel(product, (size[0], size[1])).to(old[POINTWISE].dtype)
        return {'sr.weight': kernel, 'sr.bias': bias, **norm}, 'multiplied'
    mean = torch.eye(dim, dtype=like.dtype, device=like.device)[:, :, None, None] / area
    return {'sr.weight': mean.expand(-1, -1, *size).contiguous(), 'sr.bias': bias, **norm}, 'started as means'
