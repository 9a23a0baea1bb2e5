"""TwinsSVTBackbone and TwinsPCPVTBackbone: parity with the public code, arguments, training behaviour, precision, bad input."""

import copy
import itertools

import numpy as np
import pytest
import torch
from golden import golden_input, golden_positions, golden_state_dict, load_golden
from mmengine.registry import MODELS
from torch.testing import assert_close

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.models.architectures import ARCHITECTURES, PCPVT_ARCHITECTURES
from mmtwins.models.attention import GlobalSubsampledAttention

TINY = dict(embed_dims=(8, 16, 24, 32), depths=(2, 2, 3, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
GOLDEN_CASES = [
    pytest.param(name, padding, case, id=f'{name}-{padding}-{case["height"]}x{case["width"]}')
    for name, padding in [
        ('official_seg_svt_small', 'masked'),
        ('official_seg_svt_small', 'meituan'),
        ('official_seg_svt_base', 'masked'),
        ('official_det_svt_small', 'zero'),
        ('official_det_svt_large', 'zero'),
        ('official_seg_pcpvt_small', None),
        ('official_seg_pcpvt_large', None),
    ]
    for case in load_golden(name)['cases']
]
ON_GPU = pytest.param(
    'cuda', marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')]
)


def make_pcpvt(**kwargs) -> TwinsPCPVTBackbone:
    torch.manual_seed(0)
    return TwinsPCPVTBackbone(**{'arch': TINY, **kwargs})


def make_tiny(**kwargs) -> TwinsSVTBackbone:
    torch.manual_seed(0)
    return TwinsSVTBackbone(**{'arch': TINY, **kwargs})


@pytest.mark.parametrize(('name', 'window_padding', 'case'), GOLDEN_CASES)
def test_features_equal_the_public_code(name: str, window_padding: str | None, case: dict) -> None:
    golden = load_golden(name)
    if golden['family'] == 'pcpvt':
        model = TwinsPCPVTBackbone(arch=golden['arch']).eval()
    else:
        model = TwinsSVTBackbone(arch=golden['arch'], window_padding=window_padding).eval()
    model.load_state_dict(golden_state_dict(name))
    with torch.no_grad():
        maps = model(torch.from_numpy(golden_input(case['height'], case['width'])))
    assert len(maps) == len(case['stages']) == 4
    for actual, expected in zip(maps, case['stages'], strict=True):
        assert list(actual.shape) == expected['shape']
        sampled = actual.contiguous().view(-1)[golden_positions(actual.numel())].numpy()
        error = np.abs(sampled - np.array(expected['values'])).max() / expected['std']
        assert error < 2e-5
        assert abs(actual.mean().item() - expected['mean']) < 2e-5 * expected['std']
        assert abs(actual.double().std().item() / expected['std'] - 1) < 1e-4


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_parameter_names_and_shapes_are_the_public_ones(arch: str) -> None:
    name = {'small': 'official_seg_svt_small', 'base': 'official_seg_svt_base', 'large': 'official_det_svt_large'}[arch]
    public = {k: v for k, v in load_golden(name)['parameters'].items() if not k.startswith(('norm.', 'head.'))}
    with torch.device('meta'):
        model = TwinsSVTBackbone(arch=arch)
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == public


@pytest.mark.parametrize('arch', ['small', 'large'])
def test_pcpvt_parameter_names_and_shapes_are_the_public_ones(arch: str) -> None:
    public = load_golden(f'official_seg_pcpvt_{arch}')['parameters']
    with torch.device('meta'):
        model = TwinsPCPVTBackbone(arch=arch)
    own = {k: list(v.shape) for k, v in model.state_dict().items()}
    assert own == {k: v for k, v in public.items() if not k.startswith(('norm.', 'head.'))}


@pytest.mark.parametrize(('arch', 'millions'), [('small', 23.59), ('base', 43.31), ('large', 60.48)])
def test_pcpvt_parameter_counts(arch: str, millions: float) -> None:
    with torch.device('meta'):
        model = TwinsPCPVTBackbone(arch=arch)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize('arch', PCPVT_ARCHITECTURES)
def test_pcpvt_sub_samples_in_every_block_and_norms_no_stage(arch: str) -> None:
    with torch.device('meta'):
        model = TwinsPCPVTBackbone(arch=arch)
    for stage, sr_ratio in zip(model.blocks, (8, 4, 2, 1), strict=True):
        assert all(type(block.attn) is GlobalSubsampledAttention and block.attn.sr_ratio == sr_ratio for block in stage)
    assert [len(stage) for stage in model.blocks] == list(PCPVT_ARCHITECTURES[arch]['depths'])
    assert not any(name.startswith('norm_list') for name, _ in model.named_parameters())
    rates = [block.drop_path1.rate for stage in model.blocks for block in stage]
    assert rates == pytest.approx(np.linspace(0, 0.2, len(rates)))


def test_pcpvt_takes_the_common_arguments() -> None:
    x = torch.randn(2, 1, 37, 50)
    model = make_pcpvt(in_channels=1, patch_padding='corner', qkv_bias=False, with_cp=True, frozen_stages=0,
                       drop_rate=0.1, attn_drop_rate=0.1, out_indices=(1, 2), norm_after_stage=True)  # fmt: skip
    maps = model(x)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 5, 7), (2, 24, 3, 4)]
    sum(m.sum() for m in maps).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name.split('.')[1] == '0'), name
    for kwargs, message in [
        (dict(arch='tiny'), "arch='tiny' is unknown: choose one of small, base, large"),
        (dict(sr_ratios=(8, 4)), r'sr_ratios=\(8, 4\) does not match the 4 stages'),
        (dict(drop_path_rate=1), 'drop_path_rate=1 is not a rate'),
        (dict(attn_drop_rate=-0.1), 'attn_drop_rate=-0.1 is not a rate'),
    ]:
        with pytest.raises(ValueError, match=message):
            make_pcpvt(**kwargs)
    with pytest.raises(TypeError, match='window_sizes'):
        make_pcpvt(window_sizes=(7, 7, 7, 7))


@pytest.mark.parametrize(('arch', 'millions'), [('small', 23.55), ('base', 55.30), ('large', 98.25)])
def test_parameter_counts(arch: str, millions: float) -> None:
    # No unused ImageNet head inside, as in the public code.
    with torch.device('meta'):
        model = TwinsSVTBackbone(arch=arch)
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_resolves_from_both_libraries_registries() -> None:
    for backbone in (TwinsSVTBackbone, TwinsPCPVTBackbone):
        cfg = dict(type=backbone.__name__, arch=TINY)
        assert type(MODELS.build(cfg)) is backbone
        for library in ('mmseg', 'mmdet'):
            registry = pytest.importorskip(f'{library}.registry').MODELS
            assert type(registry.build(cfg)) is backbone
            assert type(registry.build(dict(cfg, type=backbone))) is backbone


@pytest.mark.parametrize('indices', [c for n in range(1, 5) for c in itertools.combinations(range(4), n)])
def test_out_indices_in_any_subset(indices: tuple[int, ...]) -> None:
    full = make_tiny().eval()
    x = torch.randn(2, 3, 64, 96)
    model = make_tiny(out_indices=indices)
    model.load_state_dict(full.state_dict(), strict=False)
    expected = full(x)
    maps = model.eval()(x)
    assert len(maps) == len(indices)
    for actual, i in zip(maps, indices, strict=True):
        assert_close(actual, expected[i], rtol=0, atol=0)
    # Every parameter gets a gradient: DDP works without find_unused_parameters.
    sum(m.sum() for m in model.train()(x)).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_out_indices_keep_the_order_given() -> None:
    x = torch.randn(1, 3, 64, 64)
    assert [m.shape[1] for m in make_tiny(out_indices=[3, 0])(x)] == [32, 8]


def test_stage_norms_on_all_none_or_some_stages() -> None:
    x = torch.randn(1, 3, 64, 64)
    without = make_tiny(norm_after_stage=False).eval()
    last_only = make_tiny(norm_after_stage=(False, False, False, True)).eval()
    assert not any(name.startswith('norm_list') for name in without.state_dict())
    assert {n for n in last_only.state_dict() if n.startswith('norm_list')} == {
        'norm_list.3.weight',
        'norm_list.3.bias',
    }
    last_only.load_state_dict(without.state_dict(), strict=False)
    *raw, raw_last = without(x)
    *others, normed_last = last_only(x)
    assert all(torch.equal(a, b) for a, b in zip(others, raw, strict=True))
    normed = torch.nn.functional.layer_norm(raw_last.permute(0, 2, 3, 1), (32,), eps=1e-6)
    assert_close(normed_last, normed.permute(0, 3, 1, 2))


def test_the_normed_map_goes_into_the_next_stage() -> None:
    model = make_tiny().eval()
    first, second = model(torch.randn(1, 3, 64, 64))[:2]
    x = model.patch_embeds[1](first.permute(0, 2, 3, 1))
    x = model.pos_block[1](model.blocks[1][0](x))
    assert_close(second, model.norm_list[1](model.blocks[1][1](x)).permute(0, 3, 1, 2))


def test_norm_eps_are_the_public_ones() -> None:
    for name, module in make_tiny().named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            expected = 1e-5 if name.startswith('patch_embeds') or name.endswith('attn.norm') else 1e-6
            assert module.eps == expected, name


@pytest.mark.parametrize(('size', 'expected'), [((70, 101), (17, 25)), ((64, 96), (16, 24)), ((67, 35), (16, 8))])
def test_patch_padding_none_drops_what_fills_no_patch(size: tuple[int, int], expected: tuple[int, int]) -> None:
    model = make_tiny().eval()
    x = torch.randn(1, 3, *size)
    maps = model(x)
    height, width = expected
    for m in maps:
        assert m.shape[2:] == (height, width)
        height, width = height // 2, width // 2
    assert_close(maps[0], model(x[:, :, : 4 * expected[0], : 4 * expected[1]])[0], rtol=0, atol=0)


def test_patch_padding_corner_completes_patches_with_zeros() -> None:
    model = make_tiny(patch_padding='corner').eval()
    x = torch.randn(1, 3, 70, 101)
    maps = model(x)
    assert [tuple(m.shape[2:]) for m in maps] == [(18, 26), (9, 13), (5, 7), (3, 4)]
    padded = torch.nn.functional.pad(x, (0, 3, 0, 2))
    assert_close(maps[0], model(padded)[0], rtol=0, atol=0)


def test_drop_path_acts_once_per_branch_at_the_linear_rates() -> None:
    model = make_tiny(drop_path_rate=0.4)
    blocks = [block for stage in model.blocks for block in stage]
    assert [b.drop_path1.rate for b in blocks] == pytest.approx(np.linspace(0, 0.4, 9))
    # Survival of each branch, measured: mmseg applies its DropPath twice, so that a rate of 0.4 acts as 0.64.
    block = blocks[-1].train()
    draws = 20000
    x = torch.randn(1, 1, 1, 32).expand(draws, 1, 1, 32)
    with torch.no_grad():
        attended = x + block.attn(block.norm1(x)) / 0.6
        for y in (x, attended):
            block_out = y + block.mlp(block.norm2(y)) / 0.6
            assert not torch.allclose(block_out, y)
        out = block(x)
        kept_x = (out == x).all(dim=-1).float().mean().item()
        only_attention = torch.isclose(out, attended, rtol=1e-4, atol=1e-5).all(dim=-1).float().mean().item()
    assert kept_x == pytest.approx(0.4 * 0.4, abs=0.01)  # five standard errors are 0.013
    assert only_attention == pytest.approx(0.6 * 0.4, abs=0.012)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 3])
def test_frozen_stages_freeze(frozen_stages: int) -> None:
    model = make_tiny(frozen_stages=frozen_stages, drop_rate=0.1).train()
    if frozen_stages < 3:
        sum(m.sum() for m in model(torch.randn(1, 3, 64, 64))).backward()
    for name, parameter in model.named_parameters():
        is_frozen = int(name.split('.')[1]) <= frozen_stages
        assert parameter.requires_grad != is_frozen, name
        assert (parameter.grad is None) == is_frozen, name
    for name, module in model.named_modules():
        parts = name.split('.')
        if len(parts) > 1:
            assert module.training == (int(parts[1]) > frozen_stages), name


def test_frozen_stages_drop_nothing() -> None:
    model = make_tiny(frozen_stages=1, drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5).train()
    x = torch.randn(2, 3, 64, 64)
    first, second = model(x), model(x)
    assert [torch.equal(a, b) for a, b in zip(first, second, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize('drop_path_rate', [0.0, 0.5])
def test_checkpointing_gives_equal_outputs_and_gradients(drop_path_rate: float) -> None:
    x = torch.randn(2, 3, 70, 64)
    results = []
    for with_cp in (False, True):
        model = make_tiny(with_cp=with_cp, drop_path_rate=drop_path_rate, drop_rate=0.1).train()
        image = x.clone().requires_grad_()
        torch.manual_seed(1)
        maps = model(image)
        sum((m * m).sum() for m in maps).backward()
        results.append((maps, image.grad, [p.grad for p in model.parameters()]))
    assert_close(results[0], results[1], rtol=0, atol=0)


def test_checkpointing_keeps_fewer_activations() -> None:
    def count_saved(with_cp: bool) -> int:
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            make_tiny(with_cp=with_cp).train()(torch.randn(1, 3, 64, 64))
        return sum(saved)

    assert count_saved(True) < count_saved(False) / 2


@pytest.mark.parametrize('device', ['cpu', ON_GPU])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('window_padding', ['masked', 'zero', 'meituan'])
def test_half_precision_modules_and_autocast_run(dtype: torch.dtype, window_padding: str, device: str) -> None:
    # mmseg's fp32 mask makes a half or bfloat16 module fail.
    if device == 'cpu' and dtype == torch.float16 and torch.__version__.startswith('2.1.'):
        pytest.skip('torch 2.1 has no convolution of float16 on CPUs')
    model = make_tiny(window_padding=window_padding).eval().to(device)
    x = torch.randn(1, 3, 72, 100, device=device)
    tolerance = 0.02 if dtype == torch.float16 else 0.15
    with torch.no_grad():
        expected = model(x)
        half = copy.deepcopy(model).to(dtype)(x.to(dtype))
        with torch.autocast(device, dtype=dtype):
            autocast = model(x)
    for full, low, mixed in zip(expected, half, autocast, strict=True):
        assert low.dtype == dtype
        assert (low.float() - full).abs().max() < tolerance * full.std()
        assert (mixed.float() - full).abs().max() < tolerance * full.std()


@pytest.mark.usefixtures('two_threads')
@pytest.mark.parametrize('device', ['cpu', ON_GPU])
def test_autocast_trains(device: str) -> None:
    model = make_tiny(window_padding='zero', drop_path_rate=0.0).to(device)
    x, grads = torch.randn(2, 3, 70, 64, device=device), []
    for enabled in (False, True):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=enabled):
            loss = sum(m.float().square().mean() for m in model(x))
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    largest = max(grad.abs().max() for grad in grads[0])
    assert all((a - b).abs().max() < 0.05 * largest for a, b in zip(*grads, strict=True))


def test_maps_feed_roi_align() -> None:
    # mmcv's RoIAlign reads channels-last memory as if it were contiguous, without an error.
    ops = pytest.importorskip('mmcv.ops')
    feature = make_tiny().eval()(torch.randn(2, 3, 64, 96))[0]
    rois = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0], [1.0, 8.0, 4.0, 12.0, 8.0]])
    pooled = ops.roi_align(feature, rois, (1, 1), 1.0, 1, 'avg', False)[:, :, 0, 0]
    # One sample in the middle of a RoI with corners on pixel centres is that pixel's feature.
    assert_close(pooled, torch.stack([feature[0, :, 2, 2], feature[1, :, 6, 10]]))
    assert all(m.is_contiguous() for m in make_tiny()(torch.randn(2, 3, 70, 101)))


def test_no_mask_is_kept() -> None:
    assert not list(make_tiny().buffers())


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = TwinsSVTBackbone()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
        elif isinstance(module, torch.nn.Conv2d):
            fan_out = module.kernel_size[0] ** 2 * module.out_channels / module.groups
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.12), name
        elif isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all(), name
        else:
            continue
        assert (module.bias == 0).all(), name


def test_other_stage_counts_and_options() -> None:
    arch = dict(embed_dims=[8, 16], depths=[1, 2], num_heads=[1, 2], mlp_ratios=[2, 2])
    model = TwinsSVTBackbone(
        arch=arch, window_sizes=[4, 5], sr_ratios=[2, 1], out_indices=[0, 1], qkv_bias=False, in_channels=1
    )
    assert not any('qkv.bias' in n or '.q.bias' in n or 'kv.bias' in n for n in model.state_dict())
    maps = model(torch.randn(2, 1, 37, 50))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 9, 12), (2, 16, 4, 6)]


def test_init_cfg_loads_a_checkpoint(tmp_path) -> None:
    source = make_tiny()
    torch.manual_seed(5)
    torch.save({'state_dict': {f'backbone.{k}': torch.randn_like(v) for k, v in source.state_dict().items()}},
               tmp_path / 'whole.pth')  # fmt: skip
    checkpoint = torch.load(tmp_path / 'whole.pth')['state_dict']
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'whole.pth'), prefix='backbone.')
    model = make_tiny(init_cfg=init_cfg)
    model.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, checkpoint[f'backbone.{name}'])


def test_foreign_checkpoint_is_refused(tmp_path) -> None:
    torch.save({'state_dict': {'conv1.weight': torch.zeros(64, 3, 7, 7)}}, tmp_path / 'resnet.pth')
    model = make_tiny(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet.pth')))
    with pytest.raises(
        ValueError, match=r'no weight in the checkpoint fits.*patch_embeds.*conv1\.weight \(64, 3, 7, 7\)'
    ):
        model.init_weights()


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='tiny'), "arch='tiny' is unknown: choose one of small, base, large"),
        (dict(arch=dict(embed_dims=(8,))), 'a dict of exactly'),
        (dict(arch=7), 'arch=7: give one of small'),
        (dict(arch=dict(TINY, depths=(1, 1))), r"arch\['depths'\].*does not match the 4 stages"),
        (dict(arch=dict(TINY, num_heads=(3, 2, 3, 4))), 'not divisible by num_heads.*8 channels.*3 heads'),
        (dict(window_padding='Masked'), "window_padding='Masked' is unknown: choose one of masked, zero, meituan"),
        (dict(patch_padding='same'), "patch_padding='same' is unknown: choose one of none, corner"),
        (dict(window_sizes=(7, 7)), r'window_sizes=\(7, 7\) does not match the 4 stages'),
        (dict(window_sizes=7), 'window_sizes=7 does not match the 4 stages'),
        (dict(window_sizes=(7, 7, 0, 7)), 'positive integer'),
        (dict(sr_ratios=(8, 4, 2, 1, 1)), 'sr_ratios=.*does not match the 4 stages'),
        (dict(arch=dict(TINY, embed_dims=64)), r"arch\['embed_dims'\]=64 does not match"),
        (dict(arch=dict(TINY, depths=(2, 2, 2.5, 2))), r"arch\['depths'\].*positive integer"),
        (dict(window_sizes='7777'), "window_sizes='7777' does not match"),
        (dict(window_sizes=(7, 7, 7.5, 7)), 'window_sizes=.*give a positive integer per stage'),
        (dict(in_channels=0), 'in_channels=0: give the number of channels'),
        (
            dict(norm_after_stage=(True, False)),
            r'norm_after_stage=\(True, False\): give one bool, or one for each of 4',
        ),
        (dict(norm_after_stage=None), 'norm_after_stage=None: give one bool'),
        (dict(drop_path_rate=None), 'drop_path_rate=None is not a rate'),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\): give different stages out of 0 to 3'),
        (dict(out_indices=(-1,)), 'out_indices'),
        (dict(out_indices=(1, 1)), 'out_indices'),
        (dict(out_indices=()), 'out_indices'),
        (dict(out_indices=3), 'out_indices=3'),
        (dict(frozen_stages=4), 'frozen_stages=4 is out of range: the stages are 0 to 3'),
        (dict(frozen_stages=-2), 'frozen_stages=-2'),
        (dict(drop_path_rate=1.5), 'drop_path_rate=1.5 is not a rate'),
    ],
)
def test_wrong_arguments_are_refused_with_value_and_remedy(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_tiny(**kwargs)


@pytest.mark.parametrize('size', [(31, 64), (64, 31), (1, 1)])
def test_too_small_an_image_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f'{size[0]} x {size[1]} pixels is too small: the smallest input is 32 x 32'):
        make_tiny()(torch.randn(1, 3, *size))


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (63, 32), (101, 77)])
@pytest.mark.parametrize('window_padding', ['masked', 'zero', 'meituan'])
@pytest.mark.parametrize('patch_padding', ['none', 'corner'])
def test_odd_sizes_run(size: tuple[int, int], window_padding: str, patch_padding: str) -> None:
    maps = make_tiny(window_padding=window_padding, patch_padding=patch_padding)(torch.randn(2, 3, *size))
    assert all(torch.isfinite(m).all() for m in maps)


def test_smallest_input_follows_the_sub_sampling() -> None:
    with pytest.raises(ValueError, match='the smallest input is 64 x 64'):
        make_tiny(sr_ratios=(16, 4, 2, 1))(torch.randn(1, 3, 48, 48))


def test_wrong_channel_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images of shape \(B, 3, H, W\), got \(1, 1, 64, 64\).*'color'"):
        make_tiny()(torch.randn(1, 1, 64, 64))
