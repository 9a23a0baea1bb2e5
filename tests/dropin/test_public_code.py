"""The public code's two models: pooled features of the classifier, maps of the backbone."""

import numpy as np
import pytest
import torch
from golden import golden_input, golden_positions, golden_state_dict, load_golden
from plain_twins import nest, twins
from small import HEADS, SVT, WINDOW, draw, images, make, plain_logits, plain_tokens
from torch.testing import assert_close

from mmtwins.dropin import segmentation_gvt
from mmtwins.dropin.public_code import PublicBackbone


@pytest.mark.parametrize('name', ['alt_gvt_small', 'pcpvt_base_v0'])
@torch.no_grad()
def test_features_of_the_classifier_are_the_mean_of_the_tokens(name: str) -> None:
    model, x = make(name), images()
    expected = plain_tokens(model, x).mean(1)
    features = model.forward_features(x)
    assert_close(features, expected, rtol=0, atol=1e-5)
    assert torch.equal(model.forward_head(features, pre_logits=True), features)
    logits = plain_logits(model, x)
    assert_close(model(x), logits, rtol=0, atol=1e-5 * logits.abs().max().item())


def test_rates_go_where_the_public_code_has_them() -> None:
    model = make('alt_gvt_small', drop_rate=0.3, drop_path_rate=0.8)
    assert model.head_drop.p == 0
    assert {drop.p for drop in model.pos_drops} == {0.3}
    assert {block.attn.proj_drop.p for stage in model.blocks for block in stage} == {0.3}
    model.reset_drop_path(0.4)
    rates = [(block.drop_path1.rate, block.drop_path2.rate) for stage in model.blocks for block in stage]
    assert rates == [(pytest.approx(0.05 * i), pytest.approx(0.05 * i)) for i in range(9)]


@torch.no_grad()
def test_maps_of_the_backbone_are_those_of_the_public_code() -> None:
    """With the weights as the public code has them, classifier included, and borders that it masks in its own way."""
    with torch.device('meta'):
        model = segmentation_gvt.alt_gvt_small().eval()
    model.load_state_dict(golden_state_dict('official_seg_svt_small'), assign=True)
    case = load_golden('official_seg_svt_small')['cases'][1]
    x = torch.from_numpy(golden_input(case['height'], case['width']))
    for actual, expected in zip(model.forward_features(x), case['stages'], strict=True):
        assert list(actual.shape) == expected['shape']
        sampled = actual.contiguous().view(-1)[golden_positions(actual.numel())].numpy()
        assert np.abs(sampled - np.array(expected['values'])).max() / expected['std'] < 2e-5


@torch.no_grad()
def test_maps_of_a_small_backbone() -> None:
    for extra_norm in (False, True):
        model, x = PublicBackbone(**SVT, extra_norm=extra_norm).eval(), images()
        model.load_state_dict(draw(model))
        maps = model(x)
        assert isinstance(maps, list)
        for one, other in zip(maps, twins(nest(model.state_dict()), x, HEADS, WINDOW), strict=True):
            assert one.is_contiguous()
            assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max().item())
        assert model.blocks[0][0].attn.window_padding == 'meituan'
