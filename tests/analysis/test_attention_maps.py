"""Attention of chosen points: the right weights, at the right place of the image, without a trace in the model."""

import numpy as np
import pytest
import torch
from planted import ARCH, input_of, plant, representatives_of
from torch import nn
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.analysis.attention_maps import attend, capture_attention
from mmtwins.models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention


def sharpen(module):
    """Weights so large that attention is far from uniform, and biases that are not zero."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return TwinsSVTBackbone(arch=ARCH, window_sizes=(7, 7, 7, 7), drop_path_rate=0.0).eval()


def output_of_weights(module, x):
    """The output of an attention module, from the weights and values of each token on its own."""
    out = torch.zeros_like(x)
    for row, column in np.ndindex(*x.shape[:2]):
        weights, values = attend(module, x, row, column)
        torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(module.num_heads))
        token = (weights[..., None] * values).sum(dim=(1, 2)).flatten()
        out[row, column] = linear(token, module.proj.weight, module.proj.bias)
    return out


@pytest.mark.parametrize('size', [(6, 6), (7, 5), (3, 7), (2, 2)])
@pytest.mark.parametrize('padding', ['masked', 'zero', 'meituan'])
@pytest.mark.parametrize('bias', [True, False])
def test_local_weights_give_the_output(size, padding, bias):
    torch.manual_seed(0)
    module = sharpen(LocallyGroupedSelfAttention(12, 3, window_size=3, window_padding=padding, qkv_bias=bias))
    x = torch.randn(*size, 12)
    torch.testing.assert_close(output_of_weights(module, x), module(x[None])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [(6, 6), (7, 5), (3, 8)])
@pytest.mark.parametrize('sr_ratio', [1, 2, 3])
@pytest.mark.parametrize('bias', [True, False])
def test_global_weights_give_the_output(size, sr_ratio, bias):
    torch.manual_seed(0)
    module = sharpen(GlobalSubsampledAttention(12, 3, sr_ratio=sr_ratio, qkv_bias=bias))
    x = torch.randn(*size, 12)
    torch.testing.assert_close(output_of_weights(module, x), module(x[None])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['conv', 'separable', 'pool'])
def test_rectangles_and_other_sub_samplings_give_the_output(kind):
    torch.manual_seed(0)
    x = torch.randn(5, 7, 12)
    gsa = sharpen(GlobalSubsampledAttention(12, 3, sr_ratio=(2, 3), subsampling=kind))
    torch.testing.assert_close(output_of_weights(gsa, x), gsa(x[None])[0], rtol=1e-4, atol=1e-5)
    padding = {'conv': 'masked', 'separable': 'zero', 'pool': 'meituan'}[kind]
    lsa = sharpen(LocallyGroupedSelfAttention(12, 3, window_size=(5, 3), window_padding=padding))
    torch.testing.assert_close(output_of_weights(lsa, x), lsa(x[None])[0], rtol=1e-4, atol=1e-5)


def test_rectangles_are_in_the_maps():
    arguments = dict(window_sizes=((3, 5),) * 4, sr_ratios=((4, 8), (2, 4), 1, 1), subsampling='pool')
    model = TwinsSVTBackbone(arch=ARCH, **arguments).eval()
    with torch.no_grad(), capture_attention(model, [(70, 50)], stages=[1]) as maps:
        model(torch.rand(1, 3, 72, 100))  # 18 x 25 tokens
    lsa, gsa = maps
    assert lsa.size == (3, 5) and lsa.origin == (12, 15) and lsa.weights.shape == (1, 3, 5) and lsa.key_size == (1, 1)
    assert gsa.size == gsa.key_size == (4, 8) and gsa.weights.shape == (1, 4, 3) and gsa.num_real == (4, 3)


def test_attend_refuses_other_modules():
    with pytest.raises(ValueError, match='Linear is neither'):
        attend(nn.Linear(2, 2), torch.zeros(3, 3, 2), 0, 0)


def test_planted_global_pattern(backbone):
    """Head 0 looks at the sub-window in row 1, column 2, which is at x = 64 to 96, y = 32 to 64 in the picture."""
    attention = backbone.blocks[1][1].attn
    x = torch.rand(1, 3, 96, 128)
    plant(attention, representatives_of(backbone, attention, x), [(1, 2), (0, 3)])
    with capture_attention(backbone, [(5, 90), (100.5, 3)], stages=[2]) as maps, torch.no_grad():
        backbone(x)
    assert [(m.point, m.block, m.kind) for m in maps] == [
        ((5, 90), 1, 'LSA'), ((5, 90), 2, 'GSA'), ((100.5, 3), 1, 'LSA'), ((100.5, 3), 2, 'GSA'),
    ]  # fmt: skip
    for found in maps[1::2]:
        assert found.weights.shape == (2, 3, 4) and found.weights.dtype == np.float32
        np.testing.assert_allclose(found.weights.sum(axis=(1, 2)), 1, rtol=1e-5)
        assert found.weights[0, 1, 2] > 0.99 and found.weights[1, 0, 3] > 0.99
        assert found.key_size == (4, 4) and found.map_size == (12, 16) and found.origin == (0, 0)
    assert maps[1].token == (11, 0) and maps[3].token == (0, 12)


def test_planted_local_pattern(backbone):
    """The window of the point is cut by the right border: 12 x 16 tokens, the last columns are 14 and 15."""
    attention = backbone.blocks[1][0].attn
    x = torch.rand(1, 3, 96, 128)
    window = input_of(backbone, attention, x)[0, :7, 14:]
    plant(attention, window, [(6, 0), (2, 1)])
    with capture_attention(backbone, [(127, 20)], stages=[2], blocks=[1]) as maps, torch.no_grad():
        backbone(x)
    (found,) = maps
    assert found.token == (2, 15) and found.origin == (0, 14) and found.weights.shape == (2, 7, 2)
    assert found.num_real == (7, 2) and not found.padding_share.any()
    assert found.weights[0, 6, 0] > 0.99 and found.weights[1, 2, 1] > 0.99


@pytest.mark.parametrize(
    ('padding', 'size', 'padded'),
    [
        ('zero', (96, 128), True),
        ('meituan', (96, 128), False),
        ('meituan', (112, 128), True),
        ('zero', (112, 56), False),
    ],
)
def test_padding_tokens_take_weight(padding, size, padded):
    """Stage 2 has 12 x 16, 14 x 16 or 14 x 7 tokens for windows of 7; ``'meituan'`` masks only where both are cut."""
    torch.manual_seed(0)
    model = TwinsSVTBackbone(arch=ARCH, window_padding=padding).eval()
    with capture_attention(model, [(size[1] - 1, 0)], stages=[2], blocks=[1]) as maps, torch.no_grad():
        model(torch.rand(1, 3, *size))
    (found,) = maps
    cut = 16 % 7 if size[1] == 128 else 7
    assert found.num_real == (7, cut)
    assert found.weights.shape[1:] == ((7, 7) if padded else (7, cut))
    assert (found.padding_share > 0.3).all() if padded else not found.padding_share.any()
    np.testing.assert_allclose(found.weights.sum(axis=(1, 2)), 1, rtol=1e-5)
    if padded:  # all padding tokens are the same key
        assert np.ptp(found.weights[:, :, cut:], axis=(1, 2)).max() < 1e-7


def test_default_is_the_last_of_each_kind(backbone):
    with capture_attention(backbone, [(0, 0)]) as maps, torch.no_grad():
        backbone(torch.rand(1, 3, 64, 64))
    assert [(m.stage, m.block, m.kind) for m in maps] == [
        (stage, block + (kind == 'GSA'), kind)
        for stage, block in ((1, 1), (2, 1), (3, 3), (4, 1))
        for kind in ('LSA', 'GSA')
    ]


def test_pcpvt_is_global_in_every_block():
    model = TwinsPCPVTBackbone(arch=ARCH).eval()
    x = torch.rand(1, 3, 64, 64)
    with (
        torch.no_grad(),
        capture_attention(model, [(0, 0)]) as last,
        capture_attention(model, [(9, 9)], [3], [1, 3]) as two,
    ):
        model(x)
    assert [(m.stage, m.block, m.kind) for m in last] == [(1, 2, 'GSA'), (2, 2, 'GSA'), (3, 4, 'GSA'), (4, 2, 'GSA')]
    assert [(m.stage, m.block, m.kind, m.weights.shape) for m in two] == [
        (3, 1, 'GSA', (4, 2, 2)),
        (3, 3, 'GSA', (4, 2, 2)),
    ]


def count_hooks(model):
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


class CountFused(TorchDispatchMode):
    """Counts the calls of fused attention."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 'scaled_dot_product' in str(function)
        return function(*args, **(kwargs or {}))


def test_capture_changes_nothing(backbone):
    """The same bits, through the same fused kernels, and no hook before or after."""
    x = torch.rand(2, 3, 72, 100)
    with torch.no_grad():
        with CountFused() as plain:
            expected = backbone(x)
        assert count_hooks(backbone) == 0
        with CountFused() as captured, capture_attention(backbone, [(70, 50)]):
            outputs = backbone(x)
        assert count_hooks(backbone) == 0
    assert plain.number == captured.number > 0
    assert all(torch.equal(a, b) for a, b in zip(expected, outputs))
    assert all(torch.equal(a, b) for a, b in zip(expected, backbone(x)))


@pytest.mark.parametrize('with_cp', [False, True])
def test_capture_while_training(with_cp):
    """Dropout draws the same numbers, gradients are the same, and checkpointing's second pass adds no map."""
    torch.manual_seed(0)
    model = TwinsSVTBackbone(arch=ARCH, drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.2, with_cp=with_cp).train()
    x = torch.rand(2, 3, 64, 64)
    grads = []
    for capture in (False, True):
        model.zero_grad()
        torch.manual_seed(1)
        if capture:
            with capture_attention(model, [(3, 3)]) as maps:
                model(x.requires_grad_())[-1].sum().backward()
        else:
            model(x.requires_grad_())[-1].sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads))
    assert len(maps) == 8


def test_exceptions_leave_no_hook(backbone):
    x = torch.rand(1, 3, 64, 64)
    with pytest.raises(RuntimeError, match='mine'), capture_attention(backbone, [(1, 1)]):
        raise RuntimeError('mine')
    assert count_hooks(backbone) == 0
    with pytest.raises(ValueError, match=r'point 64 3 is outside the input of 64 x 64 pixels'):  # noqa: SIM117
        with capture_attention(backbone, [(1, 1)]), capture_attention(backbone, [(64, 3)]):
            backbone(x)
    assert count_hooks(backbone) == 0
    with pytest.raises(ValueError, match='too small'), capture_attention(backbone, [(1, 1)]):
        backbone(x[..., :8])
    with pytest.raises(ValueError, match='expected images'), capture_attention(backbone, [(1, 1)]):
        backbone(x[0])
    assert count_hooks(backbone) == 0


def test_nested_and_repeated_captures(backbone):
    """Each capture has its own maps, those of the latest pass; the inner one's end leaves the outer one alone."""
    first, second = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad(), capture_attention(backbone, [(1, 1)]) as outer:
        with capture_attention(backbone, [(50, 50)], stages=[1]) as inner:
            assert outer == inner == []
            backbone(first)
        before = [m.weights for m in outer]
        assert len(outer) == 8 and len(inner) == 2 and inner[0].point == (50, 50)
        backbone(x=second)
        assert len(outer) == 8 and not np.array_equal(outer[0].weights, before[0])
        assert len(inner) == 2
    with torch.no_grad(), capture_attention(backbone, [(1, 1)]) as again:
        backbone(first)
    assert all(np.array_equal(m.weights, weights) for m, weights in zip(again, before))


def test_inside_a_larger_model(backbone):
    wrapped = nn.Sequential(nn.Identity(), backbone)
    with torch.no_grad(), capture_attention(wrapped, [(1, 1), (1, 1)], stages=[1]) as maps:
        wrapped(torch.rand(1, 3, 64, 64))
    assert len(maps) == 2  # a point given twice is one point


def test_half_precision(backbone):
    """Computed in float32, so that the weights of a head still sum to 1."""
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), capture_attention(backbone, [(20, 20)]) as maps:
        backbone(x)
        expected = list(maps)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            backbone(x)
        automatic = list(maps)
        backbone.bfloat16()(x.bfloat16())
    for found, autocast, reference in zip(maps, automatic, expected):
        assert found.weights.dtype == autocast.weights.dtype == np.float32
        np.testing.assert_allclose(found.weights.sum(axis=(1, 2)), 1, rtol=1e-5)
        np.testing.assert_allclose(autocast.weights, reference.weights, atol=0.05)
        np.testing.assert_allclose(found.weights, reference.weights, atol=0.05)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(points=[]), 'no points'),
        (dict(points=[(1, 1)], stages=[5]), r'stage 5: the backbone has stages 1 to 4'),
        (dict(points=[(1, 1)], stages=[]), 'at least one of each'),
        (dict(points=[(1, 1)], blocks=[]), 'at least one of each'),
        (dict(points=[(1, 1)], blocks=[3]), r'block 3: stage 1 has blocks 1 to 2'),
        (dict(points=[(1, 1)], blocks=[0]), r'block 0: stage 1 has blocks 1 to 2'),
        (dict(points=[(1, 1)], blocks='first'), "blocks='first': give 'last'"),
    ],
)
def test_wrong_choices(backbone, arguments, message):
    with pytest.raises(ValueError, match=message), capture_attention(backbone, **arguments):
        pass
    assert count_hooks(backbone) == 0


def test_no_twins_backbone():
    with pytest.raises(ValueError, match='Linear has no Twins backbone'), capture_attention(nn.Linear(2, 2), [(1, 1)]):
        pass


@pytest.mark.parametrize('patch_padding', ['none', 'corner'])
def test_point_in_an_incomplete_patch(patch_padding):
    """75 pixels are 18 patches of 4 and 3 pixels over: dropped, or completed with zeros."""
    model = TwinsSVTBackbone(arch=ARCH, patch_padding=patch_padding).eval()
    with torch.no_grad(), capture_attention(model, [(74, 5), (3, 5)], stages=[1], blocks=[1]) as maps:
        model(torch.rand(1, 3, 64, 75))
    assert maps[0].token == (1, 17 if patch_padding == 'none' else 18)
    assert maps[0].has_own_token == (patch_padding == 'corner')
    assert maps[1].token == (1, 0) and maps[1].has_own_token
