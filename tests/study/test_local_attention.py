"""The LSA-only backbone: no token sees another window but through position encodings."""

import pytest
import torch

from mmtwins.models.attention import LocallyGroupedSelfAttention
from mmtwins.study.local_attention import TwinsLocalBackbone

ARCH = dict(embed_dims=(8, 16), depths=(2, 1), num_heads=(1, 2), mlp_ratios=(2, 2))


def test_every_block_is_local_and_an_end_of_the_image_does_not_reach_the_other() -> None:
    torch.manual_seed(0)
    backbone = TwinsLocalBackbone(arch=ARCH, window_sizes=(3, 2), drop_path_rate=0.0).double().eval()
    attentions = [block.attn for blocks in backbone.blocks for block in blocks]
    assert [type(attention) for attention in attentions] == [LocallyGroupedSelfAttention] * 3
    assert [attention.window_size for attention in attentions] == [3, 3, 2]
    image = torch.randn(1, 3, 128, 128, dtype=torch.double)
    changed = image.clone()
    changed[..., 100:] = 0
    for out, other in zip(backbone(image), backbone(changed)):
        assert torch.equal(out[..., : out.shape[3] // 4], other[..., : out.shape[3] // 4])
        assert not torch.equal(out, other)


def test_wrong_windows_are_refused() -> None:
    with pytest.raises(ValueError, match=r'window_sizes=\(7,\) does not match the 2 stages'):
        TwinsLocalBackbone(arch=ARCH, window_sizes=(7,))
