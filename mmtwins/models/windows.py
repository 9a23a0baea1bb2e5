"""Windows of local attention: where they lie on a feature map, and what happens where they do not fit.

The rule which padding tokens attend is here alone. A new padding mode is one entry of :data:`WINDOW_PADDINGS`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = int | tuple[int, int]  # side of a window or sub-window, or its rows and columns, in tokens


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a window or sub-window, in tokens; a number is the side of a square."""
    if isinstance(size, int):
        return size, size
    rows, columns = size
    return rows, columns


# By name: whether padding tokens attend, from whether the height and the width of a map need padding. Both are bool, or
# boolean tensors where the size is a symbol, so the rules use &, | and ^.
WINDOW_PADDINGS: dict[str, Callable] = {
    'masked': lambda pads_height, pads_width: False,
    'zero': lambda pads_height, pads_width: True,
    # The mask of the public ADE20K code covers everything, and so masks nothing, where one axis alone is padded.
    'meituan': lambda pads_height, pads_width: pads_height ^ pads_width,
}


def padding_attends(window_padding: str, height: int, width: int, size: Size) -> bool:
    """Whether the padding tokens that complete the windows at the border take part in attention.

    Args:
        window_padding: A key of :data:`WINDOW_PADDINGS`.
        height: H of the feature map, in tokens.
        width: W of the feature map, in tokens.
        size: Side of a window, or its rows and columns, in tokens.

    Returns:
        False also where ``size`` divides H and W, so that there is no padding.
    """
    rows, columns = as_pair(size)
    pads_height, pads_width = bool(height % rows), bool(width % columns)
    return (pads_height or pads_width) and WINDOW_PADDINGS[window_padding](pads_height, pads_width)


def num_windows(length: int, size: int) -> int:
    """Windows along an axis of ``length`` tokens, a last cut one included."""
    return (length + size - 1) // size


def pad_to_windows(x: Tensor, size: Size) -> Tensor:
    """Append zeros at the bottom and on the right: (B, H, W, C) -> (B, H', W', C), multiples of ``size``."""
    (height, width), (rows, columns) = x.shape[1:3], as_pair(size)
    bottom, right = num_windows(height, rows) * rows - height, num_windows(width, columns) * columns - width
    return F.pad(x, (0, 0, 0, right, 0, bottom))


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


def window_regions(height: int, width: int, size: Size) -> list[Region]:
    """Cut a feature map into regions of equal windows: the whole windows, and those that its borders cut off.

    Args:
        height: H, in tokens.
        width: W, in tokens.
        size: Side of a whole window, or its rows and columns, in tokens.

    Returns:
        One to four regions, row by row: one where ``size`` divides both H and W, two where it divides one of them.
    """
    whole_h, whole_w = as_pair(size)
    rest_h, rest_w = height % whole_h, width % whole_w
    rows = [(0, height - rest_h, whole_h), (height - rest_h, rest_h, rest_h)]
    columns = [(0, width - rest_w, whole_w), (width - rest_w, rest_w, rest_w)]
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


class WindowOrder(NamedTuple):
    """The order of tokens by window as indices, (B * windows * N,) and (B * H * W,).

    ``source`` is a token of the map for each token of all padded windows, ``is_real`` whether it is one or padding, and
    ``target`` the place of each token of the map among those of the windows.
    """

    source: Tensor
    is_real: Tensor
    target: Tensor


def order_by_index(batch: int, height: int, width: int, size: Size, device: torch.device) -> WindowOrder:
    """Cut a map into padded windows by indices: no operation depends on the size, so one graph serves all sizes.

    Args:
        batch: B.
        height: H, in tokens; an integer or a symbol, as the others.
        width: W, in tokens.
        size: Side of a window, or its rows and columns, in tokens.
        device: Where to build the indices.

    Returns:
        The order.
    """
    side_h, side_w = as_pair(size)
    rows, columns, area = num_windows(height, side_h), num_windows(width, side_w), side_h * side_w
    window, inside = _divide(torch.arange(batch * rows * columns * area, device=device), area)
    image, window = _divide(window, rows * columns)
    (row, column), (inside_h, inside_w) = _divide(window, columns), _divide(inside, side_w)
    row, column = row * side_h + inside_h, column * side_w + inside_w
    source = (image * height + row.clamp(max=height - 1)) * width + column.clamp(max=width - 1)
    is_real = (row < height) & (column < width)
    row, column = _divide(torch.arange(batch * height * width, device=device), width)
    image, row = _divide(row, height)
    (row, inside_h), (column, inside_w) = _divide(row, side_h), _divide(column, side_w)
    window = (image * rows + row) * columns + column
    return WindowOrder(source, is_real, window * area + inside_h * side_w + inside_w)


def key_mask(window_padding: str, is_real: Tensor, height: int, width: int, size: Size) -> Tensor:
    """Which keys of padded windows take part, for sizes that may be symbols.

    Args:
        window_padding: A key of :data:`WINDOW_PADDINGS`.
        is_real: Of :func:`order_by_index`.
        height: H of the map, in tokens.
        width: W of the map, in tokens.
        size: Side of a window, or its rows and columns, in tokens.

    Returns:
        (B * windows * N,) bool.
    """
    pads = [_as_tensor(length % side, is_real) > 0 for length, side in zip((height, width), as_pair(size))]
    attends = WINDOW_PADDINGS[window_padding](*pads)
    if isinstance(attends, Tensor):
        return is_real | attends
    return torch.ones_like(is_real) if attends else is_real  # a trace and torch 2.1 have no | of a tensor and a bool


def _as_tensor(number: int, like: Tensor) -> Tensor:
    """An integer or a symbol as a tensor; in a trace it is one."""
    return number if isinstance(number, Tensor) else torch.scalar_tensor(number, device=like.device)


def _divide(numbers: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder; ONNX has no remainder by a size that is a symbol."""
    quotient = numbers // divisor
    return quotient, numbers - quotient * divisor
