"""Layers beside attention, and the geometry of patches."""

import pytest
import torch
from torch.testing import assert_close

from mmtwins import TwinsSVTBackbone
from mmtwins.models.layers import (
    MIN_INPUT_SIDE,
    DropPath,
    Mlp,
    PatchEmbed,
    PositionEncodingGenerator,
    drop_path_rates,
    map_sizes,
    num_patches,
    patch_size,
    stage_stride,
)


def test_geometry_of_patches() -> None:
    assert [patch_size(stage) for stage in range(4)] == [4, 2, 2, 2]
    assert [stage_stride(stage) for stage in range(4)] == [4, 8, 16, 32]
    assert MIN_INPUT_SIDE == 32
    assert [num_patches(9, 4, padding) for padding in ('none', 'corner')] == [2, 3]
    assert [num_patches(8, 4, padding) for padding in ('none', 'corner')] == [2, 2]


@pytest.mark.parametrize('patch_padding', ['none', 'corner'])
@pytest.mark.parametrize('size', [(64, 96), (70, 101), (33, 47)])
def test_map_sizes_are_those_of_the_maps(size: tuple[int, int], patch_padding: str) -> None:
    arch = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
    maps = TwinsSVTBackbone(arch=arch, patch_padding=patch_padding)(torch.randn(1, 3, *size))
    assert [tuple(m.shape[2:]) for m in maps] == map_sizes(*size, patch_padding=patch_padding)


@pytest.mark.parametrize('patch_padding', ['none', 'corner'])
def test_a_patch_becomes_a_token(patch_padding: str) -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(3, 8, 4, patch_padding)
    x = torch.randn(2, 10, 13, 3)
    tokens = embed(x)
    assert tokens.shape == ((2, 2, 3, 8) if patch_padding == 'none' else (2, 3, 4, 8))
    patch = x[1, 4:8, 8:12].permute(2, 0, 1).reshape(1, -1)
    expected = embed.norm(patch @ embed.proj.weight.reshape(8, -1).T + embed.proj.bias)
    assert_close(tokens[1, 1, 2], expected[0], rtol=1e-5, atol=1e-5)


def test_the_position_encoding_adds_a_depthwise_convolution() -> None:
    torch.manual_seed(0)
    peg, x = PositionEncodingGenerator(8), torch.randn(2, 5, 6, 8)
    conv = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), peg.proj[0].weight, peg.proj[0].bias, padding=1, groups=8)
    assert_close(peg(x), x + conv.permute(0, 2, 3, 1))


def test_the_mlp_is_linear_gelu_linear() -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(8, 16, 0.0), torch.randn(2, 3, 4, 8)
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    assert_close(mlp(x), gelu @ mlp.fc2.weight.T + mlp.fc2.bias, rtol=1e-5, atol=1e-6)
    mlp.act = torch.nn.Identity()
    assert_close(mlp(x), hidden @ mlp.fc2.weight.T + mlp.fc2.bias, rtol=1e-5, atol=1e-6)


def test_the_mlp_drops_after_each_linear_layer_in_training() -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(8, 16, 0.5), torch.randn(400, 8)
    dropped = (mlp(x) == 0).float().mean().item()
    assert dropped == pytest.approx(0.5, abs=0.05)
    assert not (mlp.eval()(x) == 0).any()


def test_drop_path_keeps_the_mean_and_rests_in_eval() -> None:
    torch.manual_seed(0)
    drop_path, x = DropPath(0.3), torch.ones(20000, 1, 1, 2)
    out = drop_path(x)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert torch.equal(out[..., 0], out[..., 1])
    assert out.mean().item() == pytest.approx(1, abs=0.025)
    assert drop_path.eval()(x) is x
    assert 'rate=0.300' in repr(drop_path)


def test_drop_path_rises_from_0_to_the_highest_rate() -> None:
    assert drop_path_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.3, 1) == [0]
