"""Attention rollout: equal to products of dense matrices, inside windows, and where the gradients of planted models point."""

import numpy as np
import pytest
import torch
from planted import plant
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.analysis import attention_rollout
from mmtwins.analysis.attention_maps import attend
from mmtwins.analysis.attention_rollout import Rollout, resample_shares, roll_out, spread
from mmtwins.models.attention import LocallyGroupedSelfAttention
from mmtwins.models.layers import map_sizes, patch_size
from mmtwins.models.windows import as_pair

TINY = dict(embed_dims=(8, 8, 12, 16), depths=(2, 3, 1, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(1, 1, 1, 1))


def make(family=TwinsSVTBackbone, arch=TINY, sharp=True, **options):
    """A small backbone with attention far from uniform."""
    torch.manual_seed(0)
    model = family(arch=arch, **{'sr_ratios': (3, 2, 2, 1), 'drop_path_rate': 0.0, **options}).eval()
    for name, parameter in model.named_parameters():
        if sharp and '.attn.' in name and '.norm.' not in name:
            nn.init.normal_(parameter, std=0.6)
    return model


def dense_rollouts(model, images, patch_padding):
    """Tokens of each stage by pixels: the product of all matrices, from the weights of each token on its own."""
    inputs = {}
    hooks = [
        block.attn.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0][0]}))
        for stage in model.blocks
        for block in stage
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    sizes = [tuple(images.shape[2:]), *map_sizes(*images.shape[2:], len(model.blocks), patch_padding)]
    product, found = np.eye(sizes[0][0] * sizes[0][1]), []
    for i, stage in enumerate(model.blocks):
        (before_h, before_w), (height, width) = sizes[i : i + 2]
        patches = np.zeros((height, width, before_h, before_w))
        for row, column in np.ndindex(height, width):
            patches[row, column, row * patch_size(i) :, column * patch_size(i) :][: patch_size(i), : patch_size(i)] = 1
        patches = patches.reshape(height * width, -1)
        product = patches / patches.sum(axis=1, keepdims=True) @ product
        for block in stage:
            product = dense_block(block.attn, inputs[block.attn]) @ product
        found.append(product.reshape(height, width, *sizes[0]))
    return found


def dense_block(module, x):
    """0.5 A + 0.5 I with rows normalised, (H W, H W), without the columns of padding."""
    height, width = x.shape[:2]
    matrix = np.zeros((height, width, height, width))
    for row, column in np.ndindex(height, width):
        weights = attend(module, x, row, column)[0].mean(dim=0).double().numpy()
        keys = matrix[row, column]
        if isinstance(module, LocallyGroupedSelfAttention):
            rows, columns = as_pair(module.window_size)
            part = keys[row // rows * rows :, column // columns * columns :][:rows, :columns]
            part += weights[: part.shape[0], : part.shape[1]]
        else:
            rows, columns = as_pair(module.sr_ratio)
            weights = np.repeat(np.repeat(weights, rows, axis=0), columns, axis=1) / (rows * columns)
            keys[: weights.shape[0], : weights.shape[1]] += weights
    matrix = 0.5 * matrix.reshape(height * width, -1) + 0.5 * np.eye(height * width)
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ('family', 'size', 'patch_padding', 'options'),
    [
        (TwinsSVTBackbone, (48, 56), 'none', dict(window_padding='masked')),
        (TwinsSVTBackbone, (51, 38), 'corner', dict(window_padding='zero')),
        (TwinsSVTBackbone, (50, 48), 'none', dict(window_padding='meituan', qkv_bias=False)),
        (TwinsPCPVTBackbone, (37, 53), 'corner', {}),
        (TwinsPCPVTBackbone, (37, 53), 'none', dict(sr_ratios=((2, 3), 2, 1, 1), subsampling='pool')),
    ],
)
def test_equal_to_products_of_dense_matrices(family, size, patch_padding, options, monkeypatch):
    """Of odd sizes, with windows cut and padded, and with few weights at once."""
    windows = {} if family is TwinsPCPVTBackbone else dict(window_sizes=(5, (2, 3), 2, 2))
    model = make(family, patch_padding=patch_padding, **windows, **options)
    images = torch.rand(2, 3, *size)
    points = [(0, 0), (size[1] - 0.5, size[0] - 1), (20, 13.5)]
    expected = dense_rollouts(model, images[:1], patch_padding)
    for limit in (2**24, 100):
        monkeypatch.setattr(attention_rollout, 'MAX_WEIGHTS', limit)
        found = roll_out(model, images, points)
        assert [(r.point, r.stage) for r in found] == [(point, stage) for point in points for stage in (1, 2, 3, 4)]
        for rollout in found:
            np.testing.assert_allclose(rollout.shares, expected[rollout.stage - 1][rollout.token], atol=1e-6)
            assert rollout.shares.sum() == pytest.approx(1, abs=1e-5) and rollout.shares.min() >= 0
            assert rollout.shares.dtype == np.float32 and rollout.stride == 2 ** (rollout.stage + 1)
    edge = (size[0] % 4 or None, size[1] % 4 or None) if patch_padding == 'none' else (None, None)
    for left, axis in zip(edge, (0, 1)):  # pixels that fill no patch
        assert left is None or not np.take(found[0].shares, range(-left, 0), axis=axis).any()


@pytest.mark.parametrize('window_padding', ['masked', 'zero', 'meituan'])
def test_local_attention_alone_stays_in_the_cell_of_the_window(window_padding):
    """Windows of 3 tokens of stages 1 and 2 are cells of 12 and 24 pixels. The gradient is zero outside, too."""
    arch = dict(embed_dims=(8, 16), depths=(1, 1), num_heads=(2, 2), mlp_ratios=(1, 1))
    torch.manual_seed(0)
    model = TwinsSVTBackbone(
        arch=arch, window_sizes=(3, 3), sr_ratios=(1, 1), out_indices=(0, 1), window_padding=window_padding
    ).eval()
    for position in model.pos_block:
        nn.init.zeros_(position.proj[0].weight)
    images = torch.rand(1, 3, 64, 80, requires_grad=True)
    point = (61, 30)
    features = model(images)
    for rollout, feature, cell in zip(roll_out(model, images, [point]), features, (12, 24)):
        gradient = torch.autograd.grad(
            feature[0, :, rollout.token[0], rollout.token[1]].std(), images, retain_graph=True
        )
        inside = np.zeros((64, 80), bool)
        inside[point[1] // cell * cell :, point[0] // cell * cell :][:cell, :cell] = True
        for shares in (rollout.shares, gradient[0][0].abs().sum(dim=0).numpy()):
            assert (shares[inside] > 0).all() and not shares[~inside].any()


def force(model, images, targets):
    """Make every attention look at one place, block by block, and what it finds count for more than the residual."""
    for (stage, block), target in targets.items():
        attention = model.blocks[stage][block].attn
        nn.init.eye_(attention.proj.weight)
        attention.proj.weight.data *= 30
        value = attention.qkv if isinstance(attention, LocallyGroupedSelfAttention) else attention.kv
        nn.init.orthogonal_(value.weight.data[-attention.proj.in_features :])
        keys = keys_of(model, attention, images)
        plant(attention, keys, [target] * attention.num_heads)


def keys_of(model, attention, images):
    """What the keys are made of: representatives (GSA), or the tokens of the window at the top left (LSA)."""
    seen = []
    with attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])), torch.no_grad():
        model(images)
    if isinstance(attention, LocallyGroupedSelfAttention):
        return seen[0][0, : attention.window_size, : attention.window_size]
    with torch.no_grad():
        return attention.norm(attention.sr(seen[0].permute(0, 3, 1, 2)).permute(0, 2, 3, 1))[0]


@pytest.mark.parametrize('family', [TwinsSVTBackbone, TwinsPCPVTBackbone])
def test_a_planted_far_region_decides_in_the_gradient_and_in_the_rollout(family):
    """Stage 2 looks at its sub-window (2, 0), stage 1 at its sub-window (0, 3): 16 x 16 pixels, far from both."""
    arch = dict(embed_dims=(24, 32), depths=(8, 8), num_heads=(2, 2), mlp_ratios=(1, 1))
    windows = {} if family is TwinsPCPVTBackbone else dict(window_sizes=(4, 4))
    torch.manual_seed(0)
    model = family(arch=arch, sr_ratios=(4, 2), out_indices=(0, 1), norm_after_stage=True, **windows).eval()
    for name, parameter in model.named_parameters():
        if 'pos_block' in name or '.mlp.fc2.' in name:
            nn.init.zeros_(parameter)
    images = torch.rand(1, 3, 64, 64)
    targets = {(stage, block): ((0, 3), (2, 0))[stage] for stage in (0, 1) for block in range(8)}
    if windows:  # local attention has small values: what it finds hardly counts
        for stage in model.blocks:
            for block in stage[::2]:
                nn.init.zeros_(block.attn.proj.weight)
        targets = {place: target for place, target in targets.items() if place[1] % 2}
    force(model, images, targets)
    images.requires_grad_()
    point = (50, 60)  # the token (7, 6) of stage 2
    found = roll_out(model, images, [point])
    for rollout, feature in zip(found, model(images)):
        weights = torch.randn(feature.shape[1])
        (gradient,) = torch.autograd.grad(
            (weights * feature[0, :, rollout.token[0], rollout.token[1]]).sum(), images, retain_graph=True
        )
        gradient = gradient[0].abs().sum(dim=0).numpy()
        for shares in (rollout.shares, gradient / gradient.sum()):
            assert shares[:16, 48:].sum() > 0.9
            assert shares[:16, 48:].min() > 10 * shares[16:32].max()
    if family is TwinsPCPVTBackbone:  # after n blocks, 0.5^n stays at the token
        assert found[0].shares[:16, 48:].sum() == pytest.approx(1 - 0.5**8, abs=1e-3)


def test_nothing_is_as_large_as_all_tokens_with_all_tokens():
    """At 256 x 256 pixels: 4096 tokens of stage 1, whose matrix would have 16.8 million weights."""

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for one in out if isinstance(out, tuple | list) else (out,):
                self.size = max(self.size, one.numel() if isinstance(one, torch.Tensor) else 0)
            return out

    model = TwinsSVTBackbone(arch=TINY).eval()
    with Largest() as largest:
        roll_out(model, torch.rand(1, 3, 256, 256), [(1, 1), (200, 100)])
    assert 2**15 < largest.size < 2**20


def test_the_model_is_left_alone():
    model = make()
    x = torch.rand(1, 3, 48, 48, requires_grad=True)
    expected = model(x)
    roll_out(nn.Sequential(nn.Identity(), model), x, [(3, 3)], stages=[2])
    assert all(torch.equal(a, b) for a, b in zip(model(x), expected))
    assert not any(module._forward_pre_hooks for module in model.modules()) and x.grad is None
    with pytest.raises(ValueError, match='too small'):
        roll_out(model, x[..., :8], [(3, 3)])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_half_precision_sums_to_one():
    model = make(sharp=False)
    images = torch.rand(1, 3, 64, 64)
    expected = roll_out(model, images, [(20, 20)])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        automatic = roll_out(model, images, [(20, 20)])
    lowered = roll_out(model.bfloat16(), images.bfloat16(), [(20, 20)])
    for reference, *others in zip(expected, automatic, lowered):
        for other in others:
            assert other.shares.dtype == np.float32 and other.shares.sum() == pytest.approx(1, abs=1e-5)
            np.testing.assert_allclose(other.shares, reference.shares, atol=0.05 * reference.shares.max())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(points=[]), 'no points'),
        (dict(points=[(64, 3)]), 'point 64 3 is outside the input of 64 x 64 pixels'),
        (dict(points=[(1, 1)], stages=[5]), 'stage 5: the backbone has stages 1 to 4'),
        (dict(points=[(1, 1)], stages=[]), 'at least one of each'),
    ],
)
def test_wrong_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        roll_out(make(sharp=False), torch.rand(1, 3, 64, 64), **arguments)
    with pytest.raises(ValueError, match='Linear has no Twins backbone'):
        roll_out(nn.Linear(2, 2), torch.rand(1, 3, 64, 64), [(1, 1)])


def test_cells_share_with_their_tokens():
    shares = torch.tensor([[[8.0, 4.0]]])
    assert spread(shares, (1, 2), 2, 5).tolist() == [[[4, 4, 2, 2, 0], [0, 0, 0, 0, 0]]]
    assert spread(shares, (2, 2), 1, 3).tolist() == [[[4, 4, 4]]]  # cut off: the last cell has one token
    assert spread(shares, (2, 2), 2, 4).tolist() == [[[2, 2, 1, 1], [2, 2, 1, 1]]]


def test_shares_of_the_image_are_those_of_the_input():
    """Twice as wide, 2/3 as high, with a column of padding."""
    shares = np.array([[1, 1, 2, 2, 9], [0, 3, 0, 3, 9]], np.float32)
    found = resample_shares(Rollout(1, (0, 0), 4, (0, 0), shares), (2.0, 2 / 3), 3, 2)
    np.testing.assert_allclose(found, [[4 / 3, 8 / 3], [2 / 3 + 1, 4 / 3 + 1], [2, 2]], rtol=1e-6)
