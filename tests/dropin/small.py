"""Small models of the drop-in, random weights for them, and what they compute by the plain reference."""

from typing import Any

import torch
from plain_twins import layer_norm, nest, twins
from torch import Tensor, nn

import mmtwins

HEADS = (1, 2, 3, 4)
SVT: dict[str, Any] = dict(embed_dims=(8, 16, 24, 32), depths=(2, 2, 3, 2), num_heads=HEADS, mlp_ratios=(2, 2, 2, 2))
SVT |= dict(wss=(2, 2, 2, 2), num_classes=5)
PCPVT = {key: value for key, value in SVT.items() if key != 'wss'}
WINDOW = 2  # tokens; divides the maps of images of 64 x 64 pixels


def draw(model: nn.Module) -> dict[str, Tensor]:
    """Random weights that leave no part of the model without effect."""
    random = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(value.shape, generator=random) * 0.2 + (name.endswith('.weight') and value.dim() == 1)
        for name, value in model.state_dict().items()
    }


def images(height: int = 64, width: int = 64, channels: int = 3, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(2))


def make(name: str = 'twins_svt_small', **arguments: Any) -> Any:
    """A small model with random weights, in eval mode."""
    sizes = PCPVT if 'pcpvt' in name else SVT
    model: Any = mmtwins.create_model(name, **{**sizes, **arguments})
    model.load_state_dict(draw(model))
    return model.eval()


def plain_maps(
    model: nn.Module, x: Tensor, window_size: int = WINDOW, num_heads: tuple[int, ...] = HEADS
) -> list[Tensor]:
    """The maps of all stages, without the final norm."""
    return twins(nest(model.state_dict()), x, num_heads, window_size)


def plain_tokens(model: nn.Module, x: Tensor) -> Tensor:
    """The normed tokens of the last stage, (B, N, C)."""
    tokens = plain_maps(model, x)[-1].flatten(2).transpose(1, 2)
    return layer_norm(nest(model.state_dict())['norm'], tokens, 1e-6)


def plain_logits(model: nn.Module, x: Tensor) -> Tensor:
    weights = model.state_dict()
    return plain_tokens(model, x).mean(1) @ weights['head.weight'].T + weights['head.bias']
