"""Sub-sampling kernels for other ratios."""

import pytest
import torch
from tiny import make_tiny, random_weights

from mmtwins import TwinsSVTBackbone
from mmtwins.weights.resizing import (
    KernelChange,
    fit_sr_kernels,
    lacks_subsampling_alone,
    resize_in_channels,
    resize_sr_kernel,
)

TINY = dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2))


def tiny_backbone(sr_ratios: tuple, window: int = 4, **kwargs) -> TwinsSVTBackbone:
    torch.manual_seed(0)
    return TwinsSVTBackbone(
        arch=TINY, window_sizes=(window, window), sr_ratios=sr_ratios, out_indices=(0, 1), drop_path_rate=0.0, **kwargs
    ).eval()


def randomised(kind: str, sr_ratios: tuple = (4, 1)) -> TwinsSVTBackbone:
    """Two stages, of which the first sub-samples unless told otherwise; no weight is as initialised."""
    model = tiny_backbone(sr_ratios, subsampling=kind)
    model.load_state_dict(random_weights(model))
    return model


def refit(source: TwinsSVTBackbone, kind: str, sr_ratios: tuple = (4, 1)) -> tuple[TwinsSVTBackbone, KernelChange]:
    """A backbone of another kind with the weights of a source, and the one change that this took."""
    target = tiny_backbone(sr_ratios, subsampling=kind)
    fitted, (change,) = fit_sr_kernels(source.state_dict(), target.state_dict())
    target.load_state_dict(fitted)
    for name, value in source.state_dict().items():
        if '.attn.sr.' not in name and '.attn.norm.' not in name:
            assert torch.equal(fitted[name], value), name
    return target, change


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


def test_rectangular_kernels_keep_sums_and_resize_each_axis_alone() -> None:
    weight = torch.randn(5, 6, 2, 6)
    torch.testing.assert_close(resize_sr_kernel(weight, (3, 4)).sum((2, 3)), weight.sum((2, 3)))
    wider = resize_sr_kernel(weight, (2, 12))
    torch.testing.assert_close(wider, weight.repeat_interleave(2, dim=3) / 2)
    torch.testing.assert_close(resize_sr_kernel(weight, (1, 6)), weight.sum(2, keepdim=True))
    for kind in ('conv', 'separable'):
        source = randomised(kind, ((4, 2), 1))
        target, change = refit(source, kind, ((2, 6), 1))
        assert change == KernelChange((4, 2), (2, 6), 'resized', count=1, kinds=(kind, kind))
        of_source, of_target = (model.blocks[0][1].attn.sr for model in (source, target))
        if kind == 'separable':
            assert torch.equal(of_source.pointwise.weight, of_target.pointwise.weight)
            of_source, of_target = of_source.depthwise, of_target.depthwise
        torch.testing.assert_close(of_target.weight, resize_sr_kernel(of_source.weight, (2, 6)))


def test_a_separable_convolution_as_a_convolution_computes_the_same() -> None:
    source, image = randomised('separable'), torch.randn(1, 3, 96, 96)
    target, change = refit(source, 'conv')
    assert change == KernelChange(4, 4, 'multiplied', count=1, kinds=('separable', 'conv'))
    torch.testing.assert_close(target(image), source(image), rtol=1e-3, atol=1e-4)
    target, change = refit(source, 'conv', ((2, 4), 1))
    assert change == KernelChange(4, (2, 4), 'multiplied', count=1, kinds=('separable', 'conv'))
    part = source.blocks[0][1].attn.sr
    product = part.pointwise.weight * part.depthwise.weight.transpose(0, 1)
    torch.testing.assert_close(target.blocks[0][1].attn.sr.weight, resize_sr_kernel(product, (2, 4)))


@pytest.mark.parametrize('kind', ['conv', 'separable'])
def test_convolutions_start_as_the_average_that_they_replace(kind: str) -> None:
    source, image = randomised('pool'), torch.randn(1, 3, 96, 96)
    target, change = refit(source, kind)
    assert change == KernelChange(None, 4, 'started as means', count=1, kinds=('pool', kind))
    torch.testing.assert_close(target(image), source(image), rtol=1e-3, atol=1e-4)  # the norm is the source's


def test_a_convolution_as_a_separable_one_keeps_what_it_makes_of_constant_cells() -> None:
    source = randomised('conv', ((4, 2), 1))
    target, change = refit(source, 'separable', ((4, 2), 1))
    assert change == KernelChange((4, 2), (4, 2), 'started as means', count=1, kinds=('conv', 'separable'))
    cells = torch.randn(1, 8, 3, 5).repeat_interleave(4, 2).repeat_interleave(2, 3)
    given, expected = (model.blocks[0][1].attn.sr for model in (target, source))
    torch.testing.assert_close(given(cells), expected(cells), rtol=1e-4, atol=1e-4)
    assert (given.depthwise.weight == 1 / 8).all()
    assert torch.equal(target.blocks[0][1].attn.norm.weight, source.blocks[0][1].attn.norm.weight)


@pytest.mark.parametrize('kind', ['conv', 'separable'])
def test_an_average_takes_no_kernel_and_keeps_the_norm(kind: str) -> None:
    source = randomised(kind)
    target, change = refit(source, 'pool', (6, 1))
    assert change == KernelChange(4, None, 'dropped', count=1, kinds=(kind, 'pool'))
    assert torch.equal(target.blocks[0][1].attn.norm.weight, source.blocks[0][1].attn.norm.weight)


@pytest.mark.parametrize('kind', ['conv', 'separable', 'pool'])
def test_where_one_of_the_two_does_not_sub_sample(kind: str) -> None:
    ratio = None if kind == 'pool' else 4
    plain = randomised(kind, (1, 1))
    target, change = refit(plain, kind)
    assert change == KernelChange(1, ratio, 'started as means', count=1, kinds=(kind, kind))
    attn, x = target.blocks[0][1].attn, torch.randn(1, 8, 12, 8)
    torch.testing.assert_close(attn.sr(x), torch.nn.functional.avg_pool2d(x, 4))
    assert (attn.norm.weight == 1).all() and (attn.norm.bias == 0).all()  # fresh
    target, change = refit(randomised(kind), kind, (1, 1))
    assert change == KernelChange(ratio, 1, 'dropped', count=1, kinds=(kind, kind))


def test_averages_over_other_sub_windows_have_the_same_weights() -> None:
    weights = randomised('pool').state_dict()
    fitted, changes = fit_sr_kernels(weights, tiny_backbone(((2, 6), 1), subsampling='pool').state_dict())
    assert not changes and all(fitted[name] is value for name, value in weights.items())


def test_weights_in_half_precision_stay_so() -> None:
    for kind in ('conv', 'separable', 'pool'):
        weights = {name: value.half() for name, value in randomised(kind).state_dict().items()}
        for other in ('conv', 'separable', 'pool'):
            fitted, _ = fit_sr_kernels(weights, tiny_backbone((2, 1), subsampling=other).state_dict())
            assert {value.dtype for value in fitted.values()} == {torch.float16}


def test_an_incomplete_separable_convolution_is_left_to_the_check_of_shapes() -> None:
    weights = randomised('separable').state_dict()
    for name in ('depthwise.weight', 'pointwise.weight', 'pointwise.bias'):
        damaged = {key: value for key, value in weights.items() if key != f'blocks.0.1.attn.sr.{name}'}
        fitted, changes = fit_sr_kernels(damaged, tiny_backbone((4, 1)).state_dict())
        assert not changes and fitted.keys() == damaged.keys()
    damaged = {**weights, 'blocks.0.1.attn.sr.pointwise.weight': torch.zeros(8, 4, 1, 1)}
    assert not fit_sr_kernels(damaged, tiny_backbone((4, 1)).state_dict())[1]


def test_what_is_missing_where_a_kind_has_no_weights() -> None:
    full = [*tiny_backbone((4, 1)).state_dict()]
    for kind, ratios in (('pool', (4, 1)), ('conv', (1, 1))):
        assert lacks_subsampling_alone(tiny_backbone(ratios, subsampling=kind).state_dict(), full)
    assert not lacks_subsampling_alone(full, full)
    assert not lacks_subsampling_alone([name for name in full if 'mlp' not in name and '.sr.' not in name], full)


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


@pytest.mark.parametrize('shape', [(8, 8, 4), (8, 8), (), (4, 8, 2, 2), (8, 4, 2, 2)])
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
