"""Where a trained model looks: the attention weights of chosen points, captured while a forward pass runs."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine.launch import load_config
from ..inference.inferencers import build_inferencer, check_device, prepare_config
from ..models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from ..models.backbone import TwinsBackbone
from ..weights.applying import load_weights
from ..weights.loading import load_safely, naming_checkpoint


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
        side: Side of a window (LSA) or of the sub-window that one key summarises (GSA), in tokens.
        origin: Row and column of the first token that has a key.
        weights: (heads, rows, columns) in float32, one per key; those of a head sum to 1. LSA: the tokens of the
            window, where padding tokens attend the whole window of ``side`` x ``side``. GSA: one per sub-window.
    """

    stage: int
    block: int
    kind: str
    point: tuple[float, float]
    stride: int
    map_size: tuple[int, int]
    token: tuple[int, int]
    side: int
    origin: tuple[int, int]
    weights: np.ndarray

    @property
    def key_side(self) -> int:
        """Side of the square that one key stands for, in tokens."""
        return self.side if self.kind == 'GSA' else 1

    @property
    def num_real(self) -> tuple[int, int]:
        """Rows and columns of keys that come from tokens; those beyond are padding."""
        rows, columns = (
            min(keys, (size - start) // self.key_side)
            for keys, size, start in zip(self.weights.shape[1:], self.map_size, self.origin)
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
        """Whether the point lies in its token; else in the strip at the border that fills no patch, beside it."""
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
    chosen = _choose_blocks(backbone, stages, blocks)
    if not points:
        raise ValueError('no points to look from: give at least one (x, y)')
    points = list(dict.fromkeys((float(x), float(y)) for x, y in points))
    found: dict[tuple[int, int, int], AttentionMap] = {}  # by index of the point, stage and block
    maps: list[AttentionMap] = []

    def start(module: nn.Module, args: tuple, kwargs: dict) -> None:
        found.clear()
        maps.clear()
        _check_points(points, (*args, *kwargs.values())[0])

    def record(stage: int, block: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for index, point in enumerate(points):
            found[index, stage, block] = _map_point(stage, block, module, inputs[0][0], point)
        maps[:] = [found[key] for key in sorted(found)]

    with ExitStack() as stack:
        stack.callback(backbone.register_forward_pre_hook(start, with_kwargs=True).remove)
        for stage, block in chosen:
            attention = backbone.blocks[stage - 1][block - 1].attn
            stack.callback(attention.register_forward_pre_hook(partial(record, stage, block)).remove)
        yield maps


def find_backbone(model: nn.Module) -> TwinsBackbone:
    """The Twins backbone in a model; raises ValueError if there is none."""
    found = next((module for module in model.modules() if isinstance(module, TwinsBackbone)), None)
    if found is None:
        raise ValueError(f'{type(model).__name__} has no Twins backbone, and only its attention can be shown')
    return found


def _choose_blocks(
    backbone: TwinsBackbone, stages: Sequence[int] | None, blocks: Sequence[int] | str
) -> list[tuple[int, int]]:
    """Stage and block, both counted from 1, in the order in which they run."""
    depths = [len(stage) for stage in backbone.blocks]
    chosen = []
    for stage in sorted(set(stages if stages is not None else range(1, len(depths) + 1))):
        if stage not in range(1, len(depths) + 1):
            raise ValueError(f'stage {stage}: the backbone has stages 1 to {len(depths)}')
        depth = depths[stage - 1]
        if blocks == 'last':
            last = {type(block.attn): number for number, block in enumerate(backbone.blocks[stage - 1], start=1)}
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


def _check_points(points: Sequence[tuple[float, float]], images: Tensor) -> None:
    if images.dim() != 4:
        return  # the backbone says what is wrong
    height, width = images.shape[2:]
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f'point {x:g} {y:g} is outside the input of {width} x {height} pixels')


def _map_point(stage: int, block: int, module: nn.Module, x: Tensor, point: tuple[float, float]) -> AttentionMap:
    """What a point attends to, from the input of an attention module, (H, W, C)."""
    stride = 4 * 2 ** (stage - 1)
    height, width = x.shape[:2]
    row, column = min(int(point[1] // stride), height - 1), min(int(point[0] // stride), width - 1)
    weights, _ = attend(module, x, row, column)
    if isinstance(module, LocallyGroupedSelfAttention):
        kind, side = 'LSA', module.window_size
        origin = (row // side * side, column // side * side)
    else:
        kind, side, origin = 'GSA', module.sr_ratio, (0, 0)
    return AttentionMap(
        stage, block, kind, point, stride, (height, width), (row, column), side, origin, weights.cpu().numpy()
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
            query_weight, key_value_weight = module.qkv.weight.float().tensor_split([x.shape[-1]])
            query_bias, key_value_bias = (
                (None, None) if module.qkv.bias is None else module.qkv.bias.float().tensor_split([x.shape[-1]])
            )
        elif isinstance(module, GlobalSubsampledAttention):
            keys = _representatives_of(module, x)
            query_weight, key_value_weight = module.q.weight.float(), module.kv.weight.float()
            query_bias, key_value_bias = (_float(layer.bias) for layer in (module.q, module.kv))
        else:
            raise ValueError(f'{type(module).__name__} is neither local nor global sub-sampled attention')
        query = F.linear(x[row, column], query_weight, query_bias).view(module.num_heads, -1)
        rows, columns, channels = keys.shape
        projected = F.linear(keys.reshape(-1, channels), key_value_weight, key_value_bias)
        key, value = projected.view(rows * columns, 2, module.num_heads, -1).permute(1, 2, 0, 3)  # (heads, N, d)
        scores = (key @ query[:, :, None]).squeeze(-1) / query.shape[1] ** 0.5
        return scores.softmax(dim=-1).view(-1, rows, columns), value.unflatten(1, (rows, columns))


def _window_of(module: LocallyGroupedSelfAttention, x: Tensor, row: int, column: int) -> Tensor:
    """The tokens that a token of LSA attends to: its window, with the padding tokens where these attend."""
    size = module.window_size
    top, left = row // size * size, column // size * size
    window = x[top : top + size, left : left + size]
    needs_padding = [length % size > 0 for length in x.shape[:2]]
    if module.window_padding == 'zero' or (module.window_padding == 'meituan' and sum(needs_padding) == 1):
        window = F.pad(window, (0, 0, 0, size - window.shape[1], 0, size - window.shape[0]))
    return window


def _representatives_of(module: GlobalSubsampledAttention, x: Tensor) -> Tensor:
    """The representatives of all sub-windows: (H, W, C) -> (H / sr, W / sr, C)."""
    if module.sr_ratio == 1:
        return x
    # The layers themselves are not called: they may carry hooks, which are not to see what is computed only for show.
    tokens = F.conv2d(x.permute(2, 0, 1)[None], module.sr.weight.float(), _float(module.sr.bias), module.sr_ratio)
    norm = module.norm
    return F.layer_norm(
        tokens[0].permute(1, 2, 0), norm.normalized_shape, _float(norm.weight), _float(norm.bias), norm.eps
    )


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


class Inspection(NamedTuple):
    """An image and what the backbone makes of it.

    Args:
        image: (H, W, 3) RGB uint8, as in the file.
        maps: As :func:`capture_attention` yields them.
        features: Stage, counted from 1: its output, (C_i, H_i, W_i), for the stages that the backbone returns.
        input_size: Height and width of the network's input, in pixels; what lies beyond the resized image is padding.
        scale: Pixels of the network's input per pixel of the image, along x and y.
    """

    image: np.ndarray
    maps: list[AttentionMap]
    features: dict[int, np.ndarray]
    input_size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)


def load_inferencer(
    config: str | Path, checkpoint: str | Path, device: str | None = None, cfg_options: dict | None = None
) -> Any:
    """Build the inferencer of MMSegmentation or MMDetection for a config, with the weights of a checkpoint.

    Args:
        config: Config file; its ``default_scope`` decides which library.
        checkpoint: Of that config, or any public Twins checkpoint: the heads do not matter here.
        device: Such as ``'cpu'`` or ``'cuda'``; None takes a GPU if there is one.
        cfg_options: Changes to the config, as ``--cfg-options`` of the tools.

    Returns:
        ``MMSegInferencer`` or ``DetInferencer``.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The library is not installed.
        ValueError: The device is not there, the config has no Twins backbone, or the checkpoint does not fit.
    """
    cfg = load_config(str(config), cfg_options)
    prepare_config(cfg, config)
    content = load_safely(str(checkpoint))
    inferencer = build_inferencer(cfg, check_device(device))
    backbone = find_backbone(inferencer.model)
    with naming_checkpoint(checkpoint):
        load_weights(backbone, content, for_predictions=False)
    return inferencer


@torch.no_grad()
def inspect_image(
    inferencer: Any,
    image: str | Path | np.ndarray,
    points: Sequence[tuple[int, int]],
    stages: Sequence[int] | None = None,
    blocks: Sequence[int] | str = 'last',
) -> Inspection:
    """Run a model's backbone on an image, prepared by the config's test pipeline, and see what points attend to.

    Args:
        inferencer: ``MMSegInferencer`` or ``DetInferencer``, such as :func:`load_inferencer` builds.
        image: File, or (H, W, 3) BGR uint8 as OpenCV reads it.
        points: (x, y) in pixels of the image.
        stages: See :func:`capture_attention`.
        blocks: See :func:`capture_attention`.

    Returns:
        Image, maps and features.

    Raises:
        ValueError: The image cannot be read, a point is outside, or the test pipeline crops or flips.
    """
    picture = image if isinstance(image, np.ndarray) else _read_image(image)
    height, width = picture.shape[:2]
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f'point {x} {y} is outside the image of {width} x {height} pixels: x goes from 0 to {width - 1}, y '
                f'from 0 to {height - 1}'
            )
    batch = next(iter(inferencer.preprocess([image if isinstance(image, np.ndarray) else str(image)])))
    if not isinstance(batch, dict):
        batch = batch[1]  # DetInferencer's comes with what it was made from
    data = inferencer.model.data_preprocessor(batch, False)
    scale = _scale_of(data['data_samples'][0].metainfo, (height, width))
    backbone = find_backbone(inferencer.model)
    # A pixel is meant by its centre.
    moved = [((x + 0.5) * scale[0], (y + 0.5) * scale[1]) for x, y in points]
    with capture_attention(backbone, moved, stages, blocks) as maps:
        features = backbone(data['inputs'])
    return Inspection(
        np.ascontiguousarray(picture[..., ::-1]),
        maps,
        {index + 1: feature[0].float().cpu().numpy() for index, feature in zip(backbone.out_indices, features)},
        tuple(data['inputs'].shape[2:]),
        scale,
    )


def _read_image(path: str | Path) -> np.ndarray:
    import mmcv

    if not Path(path).is_file():
        raise FileNotFoundError(f'image {path} does not exist')
    try:
        picture = mmcv.imread(str(path))
    except Exception as error:  # a damaged file fails anywhere in the decoder
        raise ValueError(f'image {path} cannot be read: {error}') from None
    if picture is None:
        raise ValueError(f'image {path} cannot be read: it is damaged or no image')
    return picture


def _scale_of(metainfo: dict, size: tuple[int, int]) -> tuple[float, float]:
    """Pixels of the network's input per pixel of the image along x and y, from what a test pipeline noted."""
    if tuple(metainfo['ori_shape'][:2]) != size:
        raise ValueError(f'the test pipeline loads the image as {metainfo["ori_shape"]}, not as {size}')
    shape = metainfo['img_shape'][:2]
    scale = metainfo.get('scale_factor')
    if scale is None and tuple(shape) != size:
        raise ValueError(
            f'the test pipeline makes {shape} of {size} pixels without noting how: let it resize without cropping, and '
            'have scale_factor in meta_keys of its last step'
        )
    scale = (1.0, 1.0) if scale is None else (float(scale[0]), float(scale[1]))
    resized = (round(size[0] * scale[1]), round(size[1] * scale[0]))
    if metainfo.get('flip') or any(found < wanted for found, wanted in zip(shape, resized)):
        raise ValueError('the test pipeline crops or flips the image, so no token can be named for a point')
    return scale
