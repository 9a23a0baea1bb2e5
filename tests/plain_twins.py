"""Twins, UPerNet and AdamW once more, as plainly as possible, to compare training with.

Everything is a function of a dict of weights under their public names, and runs in the precision of these weights. It uses
PyTorch's convolutions, interpolation, softmax and autograd; attention, norms, losses and AdamW are written out. Nothing of
mmtwins, mmcv, MMSegmentation or MMEngine is used.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Any]  # a tensor, or more weights, by the next part of a name


class Batch(NamedTuple):
    """RGB images (B, 3, H, W) uint8, and classes of their pixels (B, H, W) int64 with 255 for none."""

    images: Tensor
    labels: Tensor


class Settings(NamedTuple):
    """What the names and shapes of weights do not say."""

    num_heads: Sequence[int]
    window_size: int
    pool_scales: Sequence[int]
    activation: Callable[[Tensor], Tensor]
    rate: float
    weight_decay: float
    warmup_steps: int
    total_steps: int


def nest(weights: Mapping[str, Tensor]) -> Weights:
    """``a.b.weight`` becomes ``['a']['b']['weight']``; what is numbered keeps its order."""
    tree: Weights = {}
    for name, value in weights.items():
        *path, last = name.split('.')
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def to_tokens(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


def to_map(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)


def linear(w: Weights, x: Tensor) -> Tensor:
    return x @ w['weight'].T + w['bias']


def layer_norm(w: Weights, x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / ((x**2).mean(-1, keepdim=True) + eps).sqrt() * w['weight'] + w['bias']


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Queries (B, N, C), keys and values (B, M, C) -> (B, N, C)."""
    q, k, v = (x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, N, d)
    weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)
    return (weights @ v).transpose(1, 2).flatten(2)


def attend_locally(w: Weights, x: Tensor, num_heads: int, size: int) -> Tensor:
    """Attention inside windows of ``size`` x ``size`` tokens; those at the border are smaller. (B, H, W, C) throughout."""
    rows = []
    for strip in linear(w['qkv'], x).split(size, dim=1):
        windows = strip.split(size, dim=2)
        outputs = [attend(*window.flatten(1, 2).chunk(3, dim=2), num_heads) for window in windows]
        rows.append(torch.cat([o.unflatten(1, window.shape[1:3]) for o, window in zip(outputs, windows)], dim=2))
    return linear(w['proj'], torch.cat(rows, dim=1))


def attend_globally(w: Weights, x: Tensor, num_heads: int) -> Tensor:
    """Attention of all tokens to one key and value per square of tokens. (B, H, W, C) throughout."""
    keys = x
    if 'sr' in w:
        weight, bias = w['sr']['weight'], w['sr']['bias']
        squares = F.conv2d(to_map(x), weight, bias, stride=weight.shape[-1])
        keys = layer_norm(w['norm'], to_tokens(squares), 1e-5)
    k, v = linear(w['kv'], keys.flatten(1, 2)).chunk(2, dim=2)
    attended = attend(linear(w['q'], x.flatten(1, 2)), k, v, num_heads)
    return linear(w['proj'], attended).view(x.shape)


def twins(w: Weights, x: Tensor, num_heads: Sequence[int], window_size: int) -> list[Tensor]:
    """Normalised images (B, 3, H, W) -> the maps of four stages, (B, C, H, W) each."""
    maps = []
    for i, blocks in enumerate(w['blocks'].values()):
        embed, peg = w['patch_embeds'][str(i)], w['pos_block'][str(i)]['proj']['0']
        x = to_tokens(F.conv2d(x, embed['proj']['weight'], embed['proj']['bias'], stride=4 if i == 0 else 2))
        x = layer_norm(embed['norm'], x, 1e-5)
        for j, block in enumerate(blocks.values()):
            attn, mlp, y = block['attn'], block['mlp'], layer_norm(block['norm1'], x, 1e-6)
            local = 'qkv' in attn
            x = x + (
                attend_locally(attn, y, num_heads[i], window_size) if local else attend_globally(attn, y, num_heads[i])
            )
            x = x + linear(mlp['fc2'], gelu(linear(mlp['fc1'], layer_norm(block['norm2'], x, 1e-6))))
            if j == 0:
                x = x + to_tokens(F.conv2d(to_map(x), peg['weight'], peg['bias'], padding=1, groups=x.shape[3]))
        if 'norm_list' in w:
            x = layer_norm(w['norm_list'][str(i)], x, 1e-6)
        x = to_map(x)
        maps.append(x)
    return maps


def convolve(w: Weights, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Convolution that keeps the size, batch norm as in training, activation; (B, C, H, W) throughout."""
    x = F.conv2d(x, w['conv']['weight'], padding=w['conv']['weight'].shape[-1] // 2)
    x = x - x.mean((0, 2, 3), keepdim=True)
    x = x / ((x**2).mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    return activation(x * w['bn']['weight'][:, None, None] + w['bn']['bias'][:, None, None])


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=False)


def upernet(w: Weights, maps: Sequence[Tensor], pool_scales: Sequence[int], activation: Callable) -> Tensor:
    """Logits in the size of the first map."""
    conv = partial(convolve, activation=activation)
    last = maps[-1]
    pooled = [conv(w['psp_modules'][str(i)]['1'], F.adaptive_avg_pool2d(last, s)) for i, s in enumerate(pool_scales)]
    top = conv(w['bottleneck'], torch.cat([last, *(resize(x, last.shape[2:]) for x in pooled)], dim=1))
    levels = [top]
    for i, x in reversed(list(enumerate(maps[:-1]))):
        levels.insert(0, conv(w['lateral_convs'][str(i)], x) + resize(levels[0], x.shape[2:]))
    outputs = [*(conv(level, x) for level, x in zip(w['fpn_convs'].values(), levels)), top]
    fused = conv(w['fpn_bottleneck'], torch.cat([resize(x, maps[0].shape[2:]) for x in outputs], dim=1))
    return F.conv2d(fused, w['conv_seg']['weight'], w['conv_seg']['bias'])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the pixels that have a class, by the number of all pixels."""
    logits = resize(logits, labels.shape[1:])
    known = labels != 255
    chosen = logits.log_softmax(1).gather(1, torch.where(known, labels, 0)[:, None])[:, 0]
    return -chosen[known].sum() / (labels.numel() + torch.finfo(torch.float32).eps)  # as MMSegmentation 1 keeps 0 away


def loss_of(w: Weights, batch: Batch, settings: Settings) -> Tensor:
    """The decode head's loss plus 0.4 times the auxiliary head's, which sees the third map."""
    # MMSegmentation keeps the mean and deviation of pixels in float32.
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    decode, auxiliary = w['decode_head'], w['auxiliary_head']
    dtype = decode['conv_seg']['weight'].dtype
    images = (batch.images.to(dtype) - mean.to(dtype)) / std.to(dtype)
    maps = twins(w['backbone'], images, settings.num_heads, settings.window_size)
    logits = upernet(decode, maps, settings.pool_scales, settings.activation)
    hidden = convolve(auxiliary['convs']['0'], maps[2], settings.activation)
    other_logits = F.conv2d(hidden, auxiliary['conv_seg']['weight'], auxiliary['conv_seg']['bias'])
    return cross_entropy(logits, batch.labels) + 0.4 * cross_entropy(other_logits, batch.labels)


def rate_at(step: int, settings: Settings) -> float:
    """Of a step, from 0: the published schedule of UPerNet."""
    rate = settings.rate * (1 - step / settings.total_steps)
    if step < settings.warmup_steps:
        rate *= 1 - (1 - step / settings.warmup_steps) * (1 - 1e-6)
    return rate


def train(
    weights: Mapping[str, Tensor], batches: Iterable[Batch], settings: Settings
) -> tuple[list[float], dict[str, Tensor]]:
    """Train with AdamW, one step per batch, in the precision of the weights.

    Returns:
        The loss before each step, and the weights after the last one.
    """
    shapes = {name: value.shape for name, value in weights.items()}
    x = torch.cat([value.flatten() for value in weights.values()])

    def cut(x: Tensor) -> dict[str, Tensor]:
        pieces = x.split([shape.numel() for shape in shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces)}

    # The published recipes spare norms and position encodings by their names.
    spared = {name: 'norm' in name or 'pos_block' in name for name in shapes}
    decay = torch.cat(
        [torch.full_like(value, 0 if spared[n] else settings.weight_decay).flatten() for n, value in weights.items()]
    )
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    losses = []
    for step, batch in enumerate(batches):
        x.requires_grad_()
        loss = loss_of(nest(cut(x)), batch, settings)
        losses.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, x)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean = first / (1 - 0.9 ** (step + 1))
        deviation = (second / (1 - 0.999 ** (step + 1))).sqrt()
        rate = rate_at(step, settings)
        x = x.detach() * (1 - rate * decay) - rate * mean / (deviation + 1e-8)
    return losses, cut(x)
