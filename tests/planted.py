"""Attention whose weights are known."""

import torch
from torch import Tensor, nn

from mmtwins.models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention

ARCH = dict(embed_dims=(16, 24, 32, 40), depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 5), mlp_ratios=(2, 2, 2, 2))


def plant(module: nn.Module, representatives: Tensor, targets: list[tuple[int, int]]) -> None:
    """Make every query of head i attend to the representative ``targets[i]`` alone."""
    dim, heads = module.proj.in_features, module.num_heads
    is_local = isinstance(module, LocallyGroupedSelfAttention)
    weight, bias = (module.qkv.weight, module.qkv.bias) if is_local else (module.kv.weight, module.kv.bias)
    query_bias = module.qkv.bias[:dim] if is_local else module.q.bias
    query_weight = module.qkv.weight[:dim] if is_local else module.q.weight
    keys = slice(dim, 2 * dim) if is_local else slice(0, dim)
    flat = representatives.flatten(0, 1).double()
    with torch.no_grad():
        query_weight.zero_()
        query_bias.fill_(1)
        bias.data[keys] = 0
        weight.data[keys] = 0
        for head, (row, column) in enumerate(targets):
            wanted = torch.zeros(len(flat), dtype=torch.double)
            wanted[row * representatives.shape[1] + column] = 300
            solution = torch.linalg.lstsq(flat, wanted[:, None], driver='gelsd').solution[:, 0]
            weight.data[keys][head * dim // heads] = solution


def input_of(model: nn.Module, attention: nn.Module, x: Tensor) -> Tensor:
    """What an attention module of a model gets."""
    seen = []
    with attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])), torch.no_grad():
        model(x)
    return seen[0]


def representatives_of(model: nn.Module, attention: GlobalSubsampledAttention, x: Tensor) -> Tensor:
    """What the keys of a global attention of a model are made of, (H / sr, W / sr, C)."""
    tokens = input_of(model, attention, x)
    with torch.no_grad():
        return attention.norm(attention.sr(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))[0]
