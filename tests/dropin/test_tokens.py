"""The layers on tokens: both ways to call them, and what programs change in them."""

import torch
from torch import nn
from torch.testing import assert_close

from mmtwins.dropin.tokens import TokenBlock, TokenPatchEmbed, TokenPositionEncoding, to_map
from mmtwins.models.attention import LocallyGroupedSelfAttention
from mmtwins.models.block import TwinsBlock
from mmtwins.models.layers import PatchEmbed, PositionEncodingGenerator


def tokens(height: int, width: int, dim: int = 8) -> torch.Tensor:
    return torch.randn(2, height * width, dim, generator=torch.Generator().manual_seed(3))


def test_a_patch_embedding_returns_tokens_and_their_size() -> None:
    embed, plain = TokenPatchEmbed(3, 8, 4), PatchEmbed(3, 8, 4, 'none')
    plain.load_state_dict(embed.state_dict())
    x = torch.randn(2, 3, 14, 21)
    out, size = embed(x)
    assert size == (3, 5)
    assert embed.patch_size == (4, 4)
    assert_close(out, plain(x.permute(0, 2, 3, 1)).flatten(1, 2))


def test_a_patch_embedding_may_get_another_stride() -> None:
    """As FlowDiffuser has it: stride 1 on a padded map gives one token per pixel; the size is one too large, as timm's."""
    embed = TokenPatchEmbed(3, 8, 2)
    embed.patch_size = (1, 1)
    embed.proj.stride = embed.patch_size
    x = nn.functional.pad(torch.randn(2, 3, 6, 4), (1, 0, 1, 0))
    out, size = embed(x)
    assert size == (7, 5)
    assert out.shape == (2, 6 * 4, 8)
    expected = nn.functional.conv2d(x, embed.proj.weight, embed.proj.bias).flatten(2).transpose(1, 2)
    assert_close(out, embed.norm(expected))


def test_blocks_and_position_encodings_take_the_size_as_timm_and_the_public_code_give_it() -> None:
    torch.manual_seed(0)
    x = tokens(9, 10)
    on_map = x.view(2, 9, 10, 8)
    block = TokenBlock(LocallyGroupedSelfAttention(8, 2, 7, 'zero'), 8, 2, 0.0, 0.0).eval()
    plain_block = TwinsBlock(LocallyGroupedSelfAttention(8, 2, 7, 'zero'), 8, 2, 0.0, 0.0).eval()
    peg, plain_peg = TokenPositionEncoding(8), PositionEncodingGenerator(8)
    for layer, plain in ((block, plain_block), (peg, plain_peg)):
        plain.load_state_dict(layer.state_dict())
        expected = plain(on_map).flatten(1, 2)
        for size in (((9, 10),), ([9, 10],), (torch.Size([9, 10]),), (9, 10)):
            assert_close(layer(x, *size), expected)
        transposed = x.transpose(1, 2).contiguous().transpose(1, 2)  # as other code's layers leave tokens
        assert_close(layer(transposed, (9, 10)), expected)
        assert not torch.allclose(layer(x, (10, 9)), expected)


def test_tokens_become_a_map() -> None:
    x = tokens(3, 5)
    assert torch.equal(to_map(x, (3, 5))[1, :, 2, 4], x[1, 14])
