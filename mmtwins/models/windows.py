"""The order of tokens by window, and back."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


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
        return x.unflatten(2, (-1, self.side_w)).unflatten(1, (-1, self.side_h)).transpose(2, 3)


def window_regions(height: int, width: int, size: int) -> list[Region]:
    """Cut a feature map into regions of equal windows: the whole windows, and those that its borders cut off.

    Args:
        height: H, in tokens.
        width: W, in tokens.
        size: Side of a whole window, in tokens.

    Returns:
        One to four regions: one where ``size`` divides both H and W, two where it divides one of them.
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


def partition_windows(x: Tensor, regions: Sequence[Region]) -> Tensor:
    """Order the tokens of a feature map by window, in a single pass over memory.

    Args:
        x: Feature map, (B, H, W, C).
        regions: Of its size, as :func:`window_regions` returns them.

    Returns:
        (B * H * W, C): region after region, window after window.
    """
    tokens = x.new_empty(x.shape[0] * x.shape[1] * x.shape[2], x.shape[3])
    start = 0
    for region in regions:
        windows = region.windows_of(x)
        length = x.shape[0] * region.num_tokens
        tokens.narrow(0, start, length).view(windows.shape).copy_(windows)
        start += length
    return tokens


def merge_windows(parts: Sequence[Tensor], regions: Sequence[Region], shape: Sequence[int]) -> Tensor:
    """Put windows back into a feature map, the inverse of :func:`partition_windows`.

    Args:
        parts: The tokens of each region, in any shape.
        regions: As for :func:`partition_windows`.
        shape: (B, H, W, C).

    Returns:
        Feature map, (B, H, W, C).
    """
    x = parts[0].new_empty(shape)
    for region, part in zip(regions, parts, strict=True):
        windows = region.windows_of(x)
        windows.copy_(part.view(windows.shape))
    return x


class PartitionWindows(torch.autograd.Function):
    """:func:`partition_windows` with :func:`merge_windows` for a gradient: written as plain operations, each would copy twice."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, regions: Sequence[Region]) -> Tensor:
        ctx.shape, ctx.regions = x.shape, regions
        return partition_windows(x, regions)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        parts = grad.split([ctx.shape[0] * region.num_tokens for region in ctx.regions])
        return merge_windows(parts, ctx.regions, ctx.shape), None


class MergeWindows(torch.autograd.Function):
    """:func:`merge_windows` with :func:`partition_windows` for a gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, shape: torch.Size, regions: Sequence[Region], *parts: Tensor) -> Tensor:
        ctx.part_shapes, ctx.regions = [part.shape for part in parts], regions
        return merge_windows(parts, regions, shape)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts = partition_windows(grad, ctx.regions).split([shape[:2].numel() for shape in ctx.part_shapes])
        return None, None, *(part.view(shape) for part, shape in zip(parts, ctx.part_shapes, strict=True))
