"""Small backbones and whole models with random weights."""

import torch
from torch import Tensor, nn

from mmtwins import TwinsSVTBackbone
from mmtwins.models.backbone import TwinsBackbone

TINY = dict(embed_dims=(8, 16, 24, 32), depths=(2, 2, 3, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
LAST_NORM_ONLY = (False, False, False, True)


def make_tiny(family: type[TwinsBackbone] = TwinsSVTBackbone, **kwargs) -> TwinsBackbone:
    return family(**{'arch': TINY, **kwargs}).eval()


def random_weights(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(value.shape) for name, value in model.state_dict().items()}


def assert_equal(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)


def tiny_classifier() -> dict[str, Tensor]:
    """As the public code saves an ImageNet classifier."""
    norm = {'norm.weight': torch.randn(32), 'norm.bias': torch.randn(32)}
    head = {'head.weight': torch.randn(10, 32), 'head.bias': torch.randn(10)}
    return {**random_weights(make_tiny(norm_after_stage=False)), **norm, **head}


class Dense(nn.Module):
    """A whole model in miniature."""

    def __init__(self, num_classes: int = 5, channels: int = 32, **heads: nn.Module) -> None:
        super().__init__()
        self.backbone = make_tiny()
        self.decode_head = nn.ModuleDict(dict(bottleneck=nn.Conv2d(channels, 8, 1), conv_seg=nn.Linear(8, num_classes)))
        for name, head in heads.items():
            self.add_module(name, head)
