"""Windows of local attention: where they lie on a feature map, and what happens where they do not fit.

The rule which padding tokens attend is here alone. A new padding mode is one entry of :data:`WINDOW_PADDINGS`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# By name: whether padding tokens attend, from whether the height and the width of a map need padding. Both are bool, or
# boolean tensors where the size is a symbol, so the rules use &, | and ^.
WINDOW_PADDINGS: dict[str, Callable] = {
    'masked': lambda pads_height, pads_width: False,
    'zero': lambda pads_height, pads_width: True,
    # The mask of the public ADE20K code covers everything, and so masks nothing, where one axis alone is padded.
    'meituan': lambda pads_height, pads_width: pads_height ^ pads_width,
}


def padding_attends(window_padding: str, height: int, width: int, size: int) -> bool:
    """Whether the padding tokens that complete the windows at the border take part in attention.

    Args:
        window_padding: A key of :data:`WINDOW_PADDINGS`.
        height: H of the feature map, in tokens.
        width: W of the feature map, in tokens.
        size: Side of a window, in tokens.

    Returns:
        False also where ``size`` divides H and W, so that there is no padding.
    """
    pads_height, pads_width = bool(height % size), bool(width % size)
    return (pads_height or pads_width) and WINDOW_PADDINGS[window_padding](pads_height, pads_width)


def num_windows(length: int, size: int) -> int:
    """Windows along an axis of ``length`` tokens, a last cut one included."""
    return (length + size - 1) // size  # not -(-length // size): symbolic sizes keep it simple


def pad_to_windows(x: Tensor, size: int) -> Tensor:
    """Append zeros at the bottom and on the right: (B, H, W, C) -> (B, H', W', C), multiples of ``size``."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, num_windows(width, size) * size - width, 0, num_windows(height, size) * size - height))


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The top left of a feature map: (B, H', W', C) -> (B, H, W, C), contiguous.

    A slice would do, but whether it is contiguous depends on the size, and a graph for all sizes must not ask.
    """
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    return x.index_select(1, rows).index_select(2, columns)


class Region(NamedTuple):
    """A rectangle of a feature map that consists of equal windows, in tokens."""

    top: int
    left: int
    height: int
    width: int
    side_h: int
    side_w: int

    @property
    def num_tokens(self) -> int:
        return self.height * self.width

    def windows_of(self, x: Tensor) -> Tensor:
        """The windows in a feature map, as a view: (B, H, W, C) -> (B, rows, columns, side_h, side_w, C)."""
        x = x.narrow(1, self.top, self.height).narrow(2, self.left, self.width)
        shape = (self.height // self.side_h, self.side_h, self.width // self.side_w, self.side_w)
        return x.view(x.shape[0], *shape, x.shape[3]).transpose(2, 3)

    def map_of(self, windows: Tensor) -> Tensor:
        """Windows of this region put side by side: (B * rows * columns, N, C) -> (B, height, width, C)."""
        rows, columns = self.height // self.side_h, self.width // self.side_w
        batch = windows.shape[0] // (rows * columns)
        x = windows.reshape(batch, rows, columns, self.side_h, self.side_w, windows.shape[2]).transpose(2, 3)
        return x.reshape(batch, self.height, self.width, windows.shape[2])


def window_regions(height: int, width: int, size: int) -> list[Region]:
    """Cut a feature map into regions of equal windows: the whole windows, and those that its borders cut off.

    Args:
        height: H, in tokens.
        width: W, in tokens.
        size: Side of a whole window, in tokens.

    Returns:
        One to four regions, row by row: one where ``size`` divides both H and W, two where it divides one of them.
    """
    rest_h, rest_w = height % size, width % size
    rows = [(0, height - rest_h, size), (height - rest_h, rest_h, rest_h)]
    columns = [(0, width - rest_w, size), (width - rest_w, rest_w, rest_w)]
    return [
        Region(top, left, region_h, region_w, side_h, side_w)
        for top, region_h, side_h in rows
        for left, region_w, side_w in columns
        if region_h and region_w
    ]


def partition_windows(x: Tensor, region: Region) -> Tensor:
    """Cut a region of a feature map into its windows.

    Args:
        x: Feature map, (B, H, W, C).
        region: One of :func:`window_regions`.

    Returns:
        (B * windows, N, C) with the N tokens of a window in rows.

    Source: Twins (arXiv:2104.13840), section 3.2.
    """
    windows = region.windows_of(x)
    # -1, not shape[:3].numel(), which makes torch.export fix the batch.
    return windows.reshape(-1, region.side_h * region.side_w, x.shape[3])


def merge_windows(parts: Sequence[Tensor], regions: Sequence[Region]) -> Tensor:
    """Put the windows of all regions back into a feature map, the inverse of :func:`partition_windows`.

    Args:
        parts: Windows of each region, (B * windows, N, C).
        regions: All of a feature map, as :func:`window_regions` returns them.

    Returns:
        Feature map, (B, H, W, C).
    """
    maps = [region.map_of(part) for region, part in zip(regions, parts, strict=True)]
    if len(maps) == 1:
        return maps[0]
    rows: dict[int, list[Tensor]] = {}
    for region, part in zip(regions, maps, strict=True):
        rows.setdefault(region.top, []).append(part)
    return torch.cat([torch.cat(row, dim=2) for row in rows.values()], dim=1)


def key_mask(window_padding: str, batch: int, height: int, width: int, size: int, device: torch.device) -> Tensor:
    """Which keys of padded windows take part, built without a branch on the size: one graph serves all sizes.

    Args:
        window_padding: A key of :data:`WINDOW_PADDINGS`.
        batch: B.
        height: H of the map before padding, in tokens; an integer or a symbol.
        width: W of the map before padding, in tokens; an integer or a symbol.
        size: Side of a window, in tokens.
        device: Where to build it.

    Returns:
        (B * windows, 1, 1, N) bool, for heads and queries to share.
    """
    rows, columns = num_windows(height, size), num_windows(width, size)
    real_rows = torch.arange(rows * size, device=device) < height
    real_columns = torch.arange(columns * size, device=device) < width
    pads = [torch.scalar_tensor(length % size, device=device) > 0 for length in (height, width)]
    is_key = (real_rows[:, None] & real_columns) | WINDOW_PADDINGS[window_padding](*pads)
    is_key = is_key.view(rows, size, columns, size).transpose(1, 2).reshape(rows * columns, 1, 1, size * size)
    return is_key.repeat(batch, 1, 1, 1)
