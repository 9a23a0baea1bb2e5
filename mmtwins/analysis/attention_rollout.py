"""Attention rollout: which parts of an image a token depends on, through all blocks and stages before it."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from ..models.layers import patch_size, stage_stride
from ..models.windows import as_pair, merge_windows, pad_to_windows, padding_attends, partition_windows, window_regions
from .attention_maps import blocks_of, check_points, choose_blocks, find_backbone, projections_of, representatives_of

MAX_WEIGHTS = 2**24  # attention weights held at once, all heads together: 64 MiB


class Rollout(NamedTuple):
    """Which pixels the token of one point depends on, in the output of one stage.

    Args:
        stage: Counted from 1.
        point: (x, y) in pixels of the network's input.
        stride: Side of a token of the stage, in pixels of the network's input.
        token: Row and column of the point's token.
        shares: (H, W) in float32, one per pixel of the network's input; they sum to 1.
    """

    stage: int
    point: tuple[float, float]
    stride: int
    token: tuple[int, int]
    shares: np.ndarray


@torch.no_grad()
def roll_out(
    model: nn.Module, images: Tensor, points: Sequence[tuple[float, float]], stages: Sequence[int] | None = None
) -> list[Rollout]:
    """Compute the attention rollout of chosen points: how much of them comes from each pixel.

    A share of 1 starts at the point's token in the output of a stage and goes back to the image. In each block, half of
    a token's share stays where it is (the residual connection), and half goes to its keys by their weights, averaged over
    the heads. A key of GSA passes its share on to the tokens of its sub-window in equal parts, and so does a token of a
    patch embedding to its patch. Padding gets nothing: what remains is divided by its sum. MLPs, norms, values and the
    3 x 3 convolution of the position encoding count as the identity.

    No matrix of all tokens with all tokens exists at any time: vectors go back through the attention of a few windows or
    queries at a time.

    Args:
        model: A Twins backbone, or a model that has one. It should be in eval mode.
        images: The backbone's input, (B, C, H, W); the first image counts.
        points: (x, y) in pixels of the image; pixel 0 reaches from 0 to 1. Beside the last whole patch, the nearest token
            counts.
        stages: Stages whose output to start from, counted from 1; None takes all.

    Returns:
        One rollout per point and stage, ordered by point, then stage.

    Raises:
        ValueError: There is no Twins backbone, stage, or no such point in the image.

    Source: Abnar and Zuidema (arXiv:2005.00928), section 3, with W = 0.5 A + 0.5 I.
    """
    backbone = find_backbone(model)
    wanted = sorted({stage for stage, _ in choose_blocks(backbone, stages, 'last')})
    points = list(dict.fromkeys((float(x), float(y)) for x, y in points))
    if not points:
        raise ValueError('no points to look from: give at least one (x, y)')
    check_points(points, images)
    inputs: dict[tuple[int, int], Tensor] = {}  # of attention modules, (H, W, C), by stage and block

    def record(place: tuple[int, int], module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[place] = args[0][0]

    blocks = [[block.attn for block in stage] for stage in blocks_of(backbone)[: wanted[-1]]]
    with ExitStack() as stack:
        for i, modules in enumerate(blocks):
            for j, module in enumerate(modules):
                stack.callback(module.register_forward_pre_hook(partial(record, (i, j))).remove)
        backbone(images[:1])

    tokens: dict[int, list[tuple[int, int]]] = {}
    shares = torch.zeros(0, 1, 1, device=images.device)
    with torch.autocast(images.device.type, enabled=False):
        for i in reversed(range(len(blocks))):
            height, width = inputs[i, 0].shape[:2]
            if i + 1 in wanted:
                stride = stage_stride(i)
                tokens[i + 1] = [
                    (min(int(y // stride), height - 1), min(int(x // stride), width - 1)) for x, y in points
                ]
                starts = torch.zeros(len(points), height, width, device=images.device)
                for start, token in zip(starts, tokens[i + 1]):
                    start[token] = 1
                shares = torch.cat([starts, shares]) if len(shares) else starts
            for j in reversed(range(len(blocks[i]))):
                shares = step_back(blocks[i][j], inputs.pop((i, j)).float(), shares)
            size = inputs[i - 1, 0].shape[:2] if i else images.shape[2:]
            shares = spread(shares, (patch_size(i), patch_size(i)), *size)
    maps = shares.unflatten(0, (len(wanted), len(points))).cpu().numpy()
    return [
        Rollout(stage, point, stage_stride(stage - 1), tokens[stage][number], maps[index, number])
        for number, point in enumerate(points)
        for index, stage in enumerate(wanted)
    ]


def step_back(module: nn.Module, x: Tensor, shares: Tensor) -> Tensor:
    """Take shares of the outputs of a block's attention back to its inputs: shares times (0.5 A + 0.5 I).

    Args:
        module: :class:`LocallyGroupedSelfAttention` or :class:`GlobalSubsampledAttention`.
        x: Input of the module, one feature map (H, W, C) in float32.
        shares: (R, H, W), R maps at once.

    Returns:
        (R, H, W), with the sums of ``shares``.
    """
    if isinstance(module, LocallyGroupedSelfAttention):
        return _through_windows(module, x, shares)
    assert isinstance(module, GlobalSubsampledAttention)
    return _through_representatives(module, x, shares)


def _through_windows(module: LocallyGroupedSelfAttention, x: Tensor, shares: Tensor) -> Tensor:
    """A token passes half of its share on to the tokens of its window."""
    (height, width), size = x.shape[:2], as_pair(module.window_size)
    maps = [x[None], shares.permute(1, 2, 0)[None], x.new_ones(1, height, width, 1)]  # the last: not padding
    if padding_attends(module.window_padding, height, width, size):
        maps = [pad_to_windows(one, size) for one in maps]
    regions = window_regions(maps[0].shape[1], maps[0].shape[2], size)
    parts = []
    for region in regions:
        tokens, before, is_real = (partition_windows(one, region) for one in maps)  # (windows, N, C or R or 1)
        after = torch.zeros_like(before)
        number = max(1, MAX_WEIGHTS // (module.num_heads * tokens.shape[1] ** 2))
        for some in before.flatten(1).any(dim=1).nonzero()[:, 0].split(number):
            weights = _mean_weights(module, tokens[some], tokens[some])
            kept = before[some] / (0.5 + 0.5 * weights @ is_real[some])
            after[some] = (0.5 * weights.mT @ kept + 0.5 * kept) * is_real[some]
        parts.append(after)
    return merge_windows(parts, regions)[0, :height, :width].permute(2, 0, 1)


def _through_representatives(module: GlobalSubsampledAttention, x: Tensor, shares: Tensor) -> Tensor:
    """A token passes half of its share on to all sub-windows, and each of these to its tokens."""
    keys = representatives_of(module, x)
    rows, columns, channels = keys.shape
    keys, queries, flat = keys.reshape(-1, channels), x.flatten(0, 1), shares.flatten(1)
    of_keys = flat.new_zeros(len(flat), len(keys))
    number = max(1, MAX_WEIGHTS // (module.num_heads * len(keys)))
    for some in flat.any(dim=0).nonzero()[:, 0].split(number):
        of_keys += flat[:, some] @ _mean_weights(module, queries[some], keys)
    return 0.5 * shares + 0.5 * spread(of_keys.unflatten(1, (rows, columns)), as_pair(module.sr_ratio), *x.shape[:2])


def _mean_weights(
    module: LocallyGroupedSelfAttention | GlobalSubsampledAttention, queries: Tensor, keys: Tensor
) -> Tensor:
    """Attention averaged over the heads: tokens (..., N, C) and (..., M, C) -> (..., N, M)."""
    query_layer, (weight, bias) = projections_of(module)
    dim = keys.shape[-1]
    q = F.linear(queries, *query_layer).unflatten(-1, (module.num_heads, -1)).transpose(-3, -2)  # (..., heads, N, d)
    k = F.linear(keys, weight[:dim], None if bias is None else bias[:dim])
    k = k.unflatten(-1, (module.num_heads, -1)).transpose(-3, -2)  # (..., heads, M, d)
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=-3)


def spread(shares: Tensor, sides: tuple[int, int], height: int, width: int) -> Tensor:
    """Divide the share of each cell among its tokens in equal parts.

    Args:
        shares: One per cell, (R, rows, columns).
        sides: Height and width of a cell, in tokens. The last row and column of cells may reach beyond the map.
        height: Of the map, in tokens.
        width: Of the map, in tokens. Tokens that no cell covers get 0.

    Returns:
        (R, height, width), with the sums of ``shares``.
    """
    for axis, (side, length) in enumerate(zip(sides, (height, width)), start=1):
        cells = shares.shape[axis]
        inside = (length - side * torch.arange(cells, device=shares.device)).clamp(max=side)  # tokens of each cell
        shares = (shares.movedim(axis, -1) / inside).repeat_interleave(side, dim=-1)[..., :length]
        shares = F.pad(shares, (0, length - shares.shape[-1])).movedim(-1, axis)
    return shares


def resample_shares(rollout: Rollout, scale: tuple[float, float], height: int, width: int) -> np.ndarray:
    """Convert the shares of a rollout from pixels of the network's input to those of the image that was resized to it.

    Args:
        rollout: The rollout.
        scale: Pixels of the network's input per pixel of the image, along x and y, as in
            :class:`mmtwins.analysis.inspection.Inspection`.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        (height, width) in float64. They sum to 1, less what lies on padding beside the resized image.
    """
    shares = rollout.shares.astype(np.float64)
    return _resample(_resample(shares, scale[1], height).T, scale[0], width).T


def _resample(shares: np.ndarray, scale: float, length: int) -> np.ndarray:
    """Resample the first axis: each new pixel gets what its interval holds."""
    up_to = np.insert(shares.cumsum(axis=0), 0, 0, axis=0)  # the sum before each edge of a pixel
    edges, places = np.arange(length + 1) * scale, np.arange(len(up_to))
    return np.diff(np.stack([np.interp(edges, places, sums) for sums in up_to.T], axis=1), axis=0)
