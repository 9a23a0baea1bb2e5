"""Large feature maps by bands of rows, so that what is computed in between stays in the cache."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BAND_ELEMENTS = 2**21  # of the widest tensor in a band: 8 MiB in float32, the least time of 1 to 8 MiB


def in_bands(
    function: Callable[..., Tensor],
    *maps: Tensor,
    num_channels: int,
    multiple: int = 1,
    training: bool = False,
    recompute: bool = False,
) -> Tensor:
    """Apply a function to feature maps band by band, where nothing is kept for a gradient on a CPU.

    What the function computes in between then stays in the cache, and in memory that needs no page faults.

    Args:
        function: From (B, h, W, C) each to (B, h, W, C), row by row of what it is given.
        maps: Feature maps, (B, H, W, C).
        num_channels: Channels of the widest tensor that the function computes in between.
        multiple: Rows that belong together; a band has a multiple of them.
        training: Dropout draws for the whole map, also without a gradient: as where others compute a module again.
        recompute: Keep nothing for a gradient, but compute each band again.

    Returns:
        (B, H, W, C).
    """
    (batch, height, width, _), device = maps[0].shape, maps[0].device
    keeps_all = (torch.is_grad_enabled() or training) and not recompute
    if keeps_all or device.type != 'cpu' or torch.compiler.is_compiling():
        return function(*maps)
    units = math.ceil(height / multiple)
    num_bands = math.ceil(units / max(1, BAND_ELEMENTS // (batch * width * num_channels * multiple)))
    if num_bands == 1:
        return function(*maps)
    rows = math.ceil(units / num_bands) * multiple  # about equal: products of few tokens are slow
    bands = zip(*(x.split(rows, dim=1) for x in maps), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(function, *band, use_reentrant=False) for band in bands], dim=1)
    out = torch.empty_like(maps[0])
    for band, target in zip(bands, out.split(rows, dim=1), strict=True):
        target.copy_(function(*band))
    return out
