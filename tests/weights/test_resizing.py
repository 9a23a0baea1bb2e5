"""Sub-sampling kernels for other ratios."""

import pytest
import torch
from tiny import make_tiny, random_weights

from mmtwins import TwinsSVTBackbone
from mmtwins.weights.resizing import KernelChange, fit_sr_kernels, resize_in_channels, resize_sr_kernel

TINY = dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2))


def tiny_backbone(sr_ratios: tuple[int, int], window: int = 4) -> TwinsSVTBackbone:
    torch.manual_seed(0)
    return TwinsSVTBackbone(
        arch=TINY, window_sizes=(window, window), sr_ratios=sr_ratios, out_indices=(0, 1), drop_path_rate=0.0
    ).eval()


@pytest.mark.parametrize(('old', 'new'), [(8, 14), (8, 3), (4, 9), (2, 2), (3, 1)])
def test_the_sum_of_a_kernel_stays(old: int, new: int) -> None:
    weight = torch.randn(5, 6, old, old)
    resized = resize_sr_kernel(weight, new)
    assert resized.shape == (5, 6, new, new)
    torch.testing.assert_close(resized.sum((2, 3)), weight.sum((2, 3)))
    if old == new:
        assert torch.equal(resized, weight)
        assert resized.data_ptr() != weight.data_ptr()
    square = torch.randn(new, new, old, old)  # as many channels as the new ratio
    assert resize_sr_kernel(square, new).shape == (new, new, new, new)


def test_a_map_seen_at_another_resolution_gives_the_same_representatives() -> None:
    weight, x = torch.randn(5, 6, 4, 4).double(), torch.randn(1, 6, 12, 8).double()
    finer = x.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(
        torch.conv2d(finer, resize_sr_kernel(weight, 12), stride=12), torch.conv2d(x, weight, stride=4)
    )


def test_resizing_and_back_keeps_type_and_device() -> None:
    weight = torch.randn(2, 2, 4, 4, dtype=torch.float16)
    assert resize_sr_kernel(weight, 8).dtype == torch.float16
    # Doubling cuts each cell into four equal parts, and halving adds them up again.
    torch.testing.assert_close(resize_sr_kernel(resize_sr_kernel(weight, 8), 4), weight)


def test_windows_change_freely() -> None:
    weights = tiny_backbone((4, 2), window=4).state_dict()
    fitted, changes = fit_sr_kernels(weights, tiny_backbone((4, 2), window=7).state_dict())
    assert not changes
    assert all(fitted[name] is value for name, value in weights.items())


@pytest.mark.parametrize(
    ('old', 'new', 'expected'),
    [
        ((4, 2), (6, 2), KernelChange(4, 6, 'resized', count=1)),
        ((4, 1), (4, 3), KernelChange(1, 3, 'started as means', count=1)),
        ((4, 2), (4, 1), KernelChange(2, 1, 'dropped', count=1)),
    ],
)
def test_a_checkpoint_of_another_ratio_fits(old: tuple, new: tuple, expected: KernelChange) -> None:
    source, target = tiny_backbone(old), tiny_backbone(new)
    weights = source.state_dict()
    before = {name: value.clone() for name, value in weights.items()}
    fitted, (change,) = fit_sr_kernels(weights, target.state_dict())
    assert change == expected
    assert all(torch.equal(weights[name], value) for name, value in before.items())
    target.load_state_dict(fitted)  # strict
    untouched = [name for name in before if '.attn.sr.' not in name and '.attn.norm.' not in name]
    assert all(torch.equal(fitted[name], before[name]) for name in untouched)
    # On a constant image every sub-window is the same, so resized kernels give what the old ones gave.
    if change.action == 'resized':
        image = torch.ones(1, 3, 96, 96)
        for a, b in zip(source(image), target(image)):
            torch.testing.assert_close(a[..., 1:-1, 1:-1], b[..., 1:-1, 1:-1], atol=1e-4, rtol=1e-3)


def test_changes_are_in_the_order_of_blocks() -> None:
    weights = random_weights(make_tiny(sr_ratios=(8, 4, 2, 1)))
    _, changes = fit_sr_kernels(weights, make_tiny(sr_ratios=(4, 6, 1, 2)).state_dict())
    assert [(change.old, change.new) for change in changes] == [(8, 4), (4, 6), (2, 1), (1, 2)]


def test_a_mean_is_what_stands_in() -> None:
    target = tiny_backbone((4, 3))
    fitted, _ = fit_sr_kernels(tiny_backbone((4, 1)).state_dict(), target.state_dict())
    x = torch.randn(1, 16, 9, 6)
    means = torch.conv2d(x, fitted['blocks.1.1.attn.sr.weight'], fitted['blocks.1.1.attn.sr.bias'], stride=3)
    torch.testing.assert_close(means, torch.nn.functional.avg_pool2d(x, 3))
    assert (fitted['blocks.1.1.attn.norm.weight'] == 1).all()  # fresh
    assert (fitted['blocks.1.1.attn.norm.bias'] == 0).all()


@pytest.mark.parametrize('shape', [(8, 8, 4, 2), (8, 8, 2, 4), (8, 8), (), (4, 8, 2, 2), (8, 4, 2, 2)])
def test_a_damaged_or_foreign_kernel_is_left_to_the_check_of_shapes(shape: tuple[int, ...]) -> None:
    weights = dict(tiny_backbone((4, 2)).state_dict())
    weights['blocks.0.1.attn.sr.weight'] = torch.zeros(shape)
    fitted, changes = fit_sr_kernels(weights, tiny_backbone((6, 1)).state_dict())
    assert [change.action for change in changes] == ['dropped']  # the other stage's
    assert fitted['blocks.0.1.attn.sr.weight'] is weights['blocks.0.1.attn.sr.weight']


def test_a_block_without_keys_is_left_to_the_check_of_shapes() -> None:
    weights = dict(tiny_backbone((4, 1)).state_dict())
    del weights['blocks.1.1.attn.kv.weight']
    fitted, changes = fit_sr_kernels(weights, tiny_backbone((4, 3)).state_dict())
    assert not changes
    assert fitted.keys() == weights.keys()


def test_a_bias_without_a_kernel_is_left_to_the_check_of_shapes() -> None:
    weights = dict(tiny_backbone((4, 1)).state_dict(), **{'blocks.1.1.attn.sr.bias': torch.zeros(16)})
    fitted, changes = fit_sr_kernels(weights, tiny_backbone((6, 2)).state_dict())
    assert changes == (KernelChange(4, 6, 'resized', count=1),)
    assert 'blocks.1.1.attn.sr.weight' not in fitted


def test_another_architecture_is_left_to_the_check_of_shapes() -> None:
    torch.manual_seed(0)
    wide = TwinsSVTBackbone(
        arch={**TINY, 'embed_dims': (16, 32)}, window_sizes=(4, 4), sr_ratios=(2, 2), out_indices=(0, 1)
    )
    fitted, changes = fit_sr_kernels(wide.state_dict(), tiny_backbone((4, 2)).state_dict())
    assert not changes
    assert fitted.keys() == wide.state_dict().keys()


def test_a_first_layer_for_other_channels() -> None:
    weight = torch.randn(5, 3, 4, 4).half()
    assert resize_in_channels(weight, 3) is weight
    grey = torch.rand(1, 1, 4, 4)
    expected = (weight.float() * grey).sum((1, 2, 3))
    for channels in (1, 2, 4, 7):
        resized = resize_in_channels(weight, channels)
        assert resized.shape == (5, channels, 4, 4)
        assert resized.dtype == torch.float16
        if channels == 1:
            torch.testing.assert_close((resized.float() * grey).sum((1, 2, 3)), expected, rtol=0, atol=2e-2)
        else:
            order = [i % 3 for i in range(channels)]
            torch.testing.assert_close(resized.float(), weight.float()[:, order] * 3 / channels, rtol=2e-3, atol=2e-3)
