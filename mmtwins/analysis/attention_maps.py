"""Where a trained model looks: the attention weights of chosen points, captured while a forward pass runs."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from ..models.backbone import TwinsBackbone
from ..models.block import TwinsBlock
from ..models.layers import stage_stride
from ..models.windows import as_pair, pad_to_windows, padding_attends


class AttentionMap(NamedTuple):
    """What the token of one point attends to in one block.

    Args:
        stage: Counted from 1.
        block: Of the stage, counted from 1.
        kind: ``'LSA'`` or ``'GSA'``.
        point: (x, y) in pixels of the network's input.
        stride: Side of a token, in pixels of the network's input.
        map_size: H and W of the stage, in tokens.
        token: Row and column of the point's token.
        size: Rows and columns of a window (LSA) or of the sub-window that one key summarises (GSA), in tokens.
        origin: Row and column of the first token that has a key.
        weights: (heads, rows, columns) in float32, one per key; those of a head sum to 1. LSA: the tokens of the
            window, where padding tokens attend the whole window. GSA: one per sub-window.
    """

    stage: int
    block: int
    kind: str
    point: tuple[float, float]
    stride: int
    map_size: tuple[int, int]
    token: tuple[int, int]
    size: tuple[int, int]
    origin: tuple[int, int]
    weights: np.ndarray

    @property
    def key_size(self) -> tuple[int, int]:
        """Rows and columns that one key stands for, in tokens."""
        return self.size if self.kind == 'GSA' else (1, 1)

    @property
    def num_real(self) -> tuple[int, int]:
        """Rows and columns of keys that come from tokens; those beyond are padding."""
        rows, columns = (
            min(keys, (length - start) // side)
            for keys, length, start, side in zip(self.weights.shape[1:], self.map_size, self.origin, self.key_size)
        )
        return rows, columns

    @property
    def padding_share(self) -> np.ndarray:
        """(heads,) sum of the weights of padding tokens."""
        rows, columns = self.num_real
        padding = self.weights.copy()
        padding[:, :rows, :columns] = 0
        return padding.sum(axis=(1, 2))

    @property
    def has_own_token(self) -> bool:
        """Whether the point lies in its token. Otherwise it lies beside it, in a strip at the border that fills no patch."""
        return self.token == tuple(int(value // self.stride) for value in reversed(self.point))


@contextmanager
def capture_attention(
    model: nn.Module,
    points: Sequence[tuple[float, float]],
    stages: Sequence[int] | None = None,
    blocks: Sequence[int] | str = 'last',
) -> Iterator[list[AttentionMap]]:
    """Record what chosen points attend to, for every forward pass inside the ``with`` statement.

    The model computes what it always computes, through its fused attention: hooks see the input of an attention module,
    and the weights of the chosen tokens alone are computed from it once more, in float32. Whatever happens inside, the
    hooks are gone afterwards.

    Args:
        model: A Twins backbone, or a model that has one.
        points: (x, y) in pixels of the network's input, of the first image of a batch; pixel 0 reaches from 0 to 1.
        stages: Counted from 1; None takes all.
        blocks: Counted from 1 in each stage, or ``'last'``: the last LSA block and the last GSA block of each.

    Yields:
        The maps of the latest forward pass, ordered by point, stage and block; empty before the first one.

    Raises:
        ValueError: There is no Twins backbone, stage, block, or no such point in the input.
    """
    backbone = find_backbone(model)
    chosen = choose_blocks(backbone, stages, blocks)
    if not points:
        raise ValueError('no points to look from: give at least one (x, y)')
    points = list(dict.fromkeys((float(x), float(y)) for x, y in points))
    found: dict[tuple[int, int, int], AttentionMap] = {}  # by index of the point, stage and block
    maps: list[AttentionMap] = []

    def start(module: nn.Module, args: tuple, kwargs: dict) -> None:
        found.clear()
        maps.clear()
        check_points(points, (*args, *kwargs.values())[0])

    def record(stage: int, block: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for index, point in enumerate(points):
            found[index, stage, block] = _map_point(stage, block, module, inputs[0][0], point)
        maps[:] = [found[key] for key in sorted(found)]

    with ExitStack() as stack:
        stack.callback(backbone.register_forward_pre_hook(start, with_kwargs=True).remove)
        for stage, block in chosen:
            attention = blocks_of(backbone)[stage - 1][block - 1].attn
            stack.callback(attention.register_forward_pre_hook(partial(record, stage, block)).remove)
        yield maps


def find_backbone(model: nn.Module) -> TwinsBackbone:
    """The Twins backbone in a model; raises ValueError if there is none."""
    found = next((module for module in model.modules() if isinstance(module, TwinsBackbone)), None)
    if found is None:
        raise ValueError(f'{type(model).__name__} has no Twins backbone, and only its attention can be shown')
    return found


def blocks_of(backbone: TwinsBackbone) -> list[list[TwinsBlock]]:
    """The blocks of each stage."""
    stages: Any = backbone.blocks  # nn.ModuleList does not say what it holds
    return [list(stage) for stage in stages]


def choose_blocks(
    backbone: TwinsBackbone, stages: Sequence[int] | None, blocks: Sequence[int] | str
) -> list[tuple[int, int]]:
    """The chosen blocks of a backbone.

    Args:
        backbone: The backbone.
        stages: See :func:`capture_attention`.
        blocks: See :func:`capture_attention`.

    Returns:
        Stage and block, both counted from 1, in the order in which they run.

    Raises:
        ValueError: There is no such stage or block.
    """
    all_blocks = blocks_of(backbone)
    depths = [len(stage) for stage in all_blocks]
    chosen = []
    for stage in sorted(set(stages if stages is not None else range(1, len(depths) + 1))):
        if stage not in range(1, len(depths) + 1):
            raise ValueError(f'stage {stage}: the backbone has stages 1 to {len(depths)}')
        depth = depths[stage - 1]
        numbers: Iterable[int]
        if blocks == 'last':
            last = {type(block.attn): number for number, block in enumerate(all_blocks[stage - 1], start=1)}
            numbers = last.values()
        elif isinstance(blocks, str):
            raise ValueError(f"blocks={blocks!r}: give 'last' or numbers from 1")
        else:
            numbers = set(blocks)
        for number in sorted(numbers):
            if number not in range(1, depth + 1):
                raise ValueError(
                    f'block {number}: stage {stage} has blocks 1 to {depth}; choose other stages or blocks'
                )
            chosen.append((stage, number))
    if not chosen:
        raise ValueError('no stages or no blocks to look at: give at least one of each')
    return chosen


def check_points(points: Sequence[tuple[float, float]], images: Tensor) -> None:
    """Refuse points (x, y) outside of images (B, C, H, W), with a ValueError."""
    if images.dim() != 4:
        return  # the backbone raises the error
    height, width = images.shape[2:]
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f'point {x:g} {y:g} is outside the input of {width} x {height} pixels')


def _map_point(stage: int, block: int, module: nn.Module, x: Tensor, point: tuple[float, float]) -> AttentionMap:
    """What a point attends to, from the input of an attention module, (H, W, C)."""
    stride = stage_stride(stage - 1)
    height, width = x.shape[:2]
    row, column = min(int(point[1] // stride), height - 1), min(int(point[0] // stride), width - 1)
    weights, _ = attend(module, x, row, column)
    if isinstance(module, LocallyGroupedSelfAttention):
        kind, size = 'LSA', as_pair(module.window_size)
        origin = (row // size[0] * size[0], column // size[1] * size[1])
    else:
        assert isinstance(module, GlobalSubsampledAttention)
        kind, size, origin = 'GSA', as_pair(module.sr_ratio), (0, 0)
    return AttentionMap(
        stage, block, kind, point, stride, (height, width), (row, column), size, origin, weights.cpu().numpy()
    )


@torch.no_grad()
def attend(module: nn.Module, x: Tensor, row: int, column: int) -> tuple[Tensor, Tensor]:
    """Compute the attention weights of one token, which fused attention never shows.

    The values that they weigh come along: weighted, put through the module's ``proj``, they are its output for the token.

    Args:
        module: :class:`LocallyGroupedSelfAttention` or :class:`GlobalSubsampledAttention`.
        x: Input of the module, one feature map (H, W, C).
        row: Of the token.
        column: Of the token.

    Returns:
        Weights, (heads, rows, columns), and values, (heads, rows, columns, d), of every key, in float32.

    Source: Twins (arXiv:2104.13840), section 3.2; window padding as :class:`LocallyGroupedSelfAttention` describes it.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        if isinstance(module, LocallyGroupedSelfAttention):
            keys = _window_of(module, x, row, column)
        elif isinstance(module, GlobalSubsampledAttention):
            keys = representatives_of(module, x)
        else:
            raise ValueError(f'{type(module).__name__} is neither local nor global sub-sampled attention')
        query_layer, key_value_layer = projections_of(module)
        query = F.linear(x[row, column], *query_layer).view(module.num_heads, -1)
        rows, columns, channels = keys.shape
        projected = F.linear(keys.reshape(-1, channels), *key_value_layer)
        key, value = projected.view(rows * columns, 2, module.num_heads, -1).permute(1, 2, 0, 3)  # (heads, N, d)
        scores = (key @ query[:, :, None]).squeeze(-1) / query.shape[1] ** 0.5
        return scores.softmax(dim=-1).view(-1, rows, columns), value.unflatten(1, (rows, columns))


def projections_of(
    module: LocallyGroupedSelfAttention | GlobalSubsampledAttention,
) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
    """Weight and bias in float32 of the projection to queries, (C, C), and of that to keys and values, (2 C, C)."""
    if isinstance(module, GlobalSubsampledAttention):
        query, key_value = ((layer.weight.float(), _float(layer.bias)) for layer in (module.q, module.kv))
        return query, key_value
    weight, bias, dim = module.qkv.weight.float(), _float(module.qkv.bias), module.qkv.in_features
    return (weight[:dim], None if bias is None else bias[:dim]), (weight[dim:], None if bias is None else bias[dim:])


def _window_of(module: LocallyGroupedSelfAttention, x: Tensor, row: int, column: int) -> Tensor:
    """The tokens that a token of LSA attends to: its window, with the padding tokens where these attend."""
    rows, columns = as_pair(module.window_size)
    top, left = row // rows * rows, column // columns * columns
    window = x[top : top + rows, left : left + columns]
    if padding_attends(module.window_padding, x.shape[0], x.shape[1], (rows, columns)):
        window = pad_to_windows(window[None], (rows, columns))[0]
    return window


def representatives_of(module: GlobalSubsampledAttention, x: Tensor) -> Tensor:
    """What the keys of GSA are made of, one for each sub-window: (H, W, C) -> (H / rows, W / columns, C)."""
    if not module.subsamples:
        return x
    # The layers themselves are not called: their hooks must not see what is computed only for a figure.
    tokens = x.permute(2, 0, 1)[None]
    layers: Any = module.sr if isinstance(module.sr, nn.Sequential) else [module.sr]
    for layer in layers:
        if isinstance(layer, nn.AvgPool2d):
            tokens = F.avg_pool2d(tokens, layer.kernel_size)
        else:
            weight, bias = layer.weight.float(), _float(layer.bias)
            tokens = F.conv2d(tokens, weight, bias, layer.stride, groups=layer.groups)
    norm = module.norm
    return F.layer_norm(
        tokens[0].permute(1, 2, 0), norm.normalized_shape, _float(norm.weight), _float(norm.bias), norm.eps
    )


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()
