"""Attention of chosen points: the right weights, at the right place of the image, without a trace in the model."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.analysis.attention_figures import draw_attention, pca_colours
from mmtwins.analysis.attention_maps import Inspection, attend, capture_attention, inspect_image, load_inferencer
from mmtwins.models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention

ARCH = dict(embed_dims=(16, 24, 32, 40), depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 5), mlp_ratios=(2, 2, 2, 2))
CONFIGS = Path(__file__).parents[2] / 'configs'
TOY_SEG = CONFIGS / 'toy/upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128.py'
TOY_DET = CONFIGS / 'toy/mask-rcnn_twins-svt-toy_fpn_1xb8-600iters_toy-coco.py'


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


def test_attend_refuses_other_modules():
    with pytest.raises(ValueError, match='Linear is neither'):
        attend(nn.Linear(2, 2), torch.zeros(3, 3, 2), 0, 0)


def plant(module, representatives, targets):
    """Make every query of head i attend to the representative ``targets[i]`` alone."""
    dim, heads = module.proj.in_features, module.num_heads
    is_local = isinstance(module, LocallyGroupedSelfAttention)
    weight, bias = (module.qkv.weight, module.qkv.bias) if is_local else (module.kv.weight, module.kv.bias)
    query_bias = module.qkv.bias[:dim] if is_local else module.q.bias
    query_weight = module.qkv.weight[:dim] if is_local else module.q.weight
    keys = slice(dim, 2 * dim) if is_local else slice(0, dim)
    flat = representatives.flatten(0, 1).double()
    with torch.no_grad():
        query_weight.zero_()
        query_bias.fill_(1)
        bias.data[keys] = 0
        weight.data[keys] = 0
        for head, (row, column) in enumerate(targets):
            wanted = torch.zeros(len(flat), dtype=torch.double)
            wanted[row * representatives.shape[1] + column] = 300
            solution = torch.linalg.lstsq(flat, wanted[:, None], driver='gelsd').solution[:, 0]
            weight.data[keys][head * dim // heads] = solution


def input_of(model, attention, x):
    seen = []
    with attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])), torch.no_grad():
        model(x)
    return seen[0]


def test_planted_global_pattern(backbone):
    """Head 0 looks at the sub-window in row 1, column 2, which is at x = 64 to 96, y = 32 to 64 in the picture."""
    attention = backbone.blocks[1][1].attn
    x = torch.rand(1, 3, 96, 128)
    tokens = input_of(backbone, attention, x)
    with torch.no_grad():
        representatives = attention.norm(attention.sr(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))[0]
    plant(attention, representatives, [(1, 2), (0, 3)])
    with capture_attention(backbone, [(5, 90), (100.5, 3)], stages=[2]) as maps, torch.no_grad():
        backbone(x)
    assert [(m.point, m.block, m.kind) for m in maps] == [
        ((5, 90), 1, 'LSA'), ((5, 90), 2, 'GSA'), ((100.5, 3), 1, 'LSA'), ((100.5, 3), 2, 'GSA'),
    ]  # fmt: skip
    for found in maps[1::2]:
        assert found.weights.shape == (2, 3, 4) and found.weights.dtype == np.float32
        np.testing.assert_allclose(found.weights.sum(axis=(1, 2)), 1, rtol=1e-5)
        assert found.weights[0, 1, 2] > 0.99 and found.weights[1, 0, 3] > 0.99
        assert found.key_side == 4 and found.map_size == (12, 16) and found.origin == (0, 0)
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


def test_pca_colours():
    """Three features of different strength, in three of four quarters, come out as three colours and a fourth."""
    rng = np.random.RandomState(0)
    directions = np.linalg.qr(rng.randn(10, 3))[0]
    feature = np.zeros((10, 8, 8))
    for quarter, direction in zip((np.s_[:4, :4], np.s_[:4, 4:], np.s_[4:, :4]), directions.T * (3, 2, 1)[0]):
        feature[(slice(None), *quarter)] = direction[:, None, None]
    colours, share = pca_colours(feature.astype(np.float32))
    assert colours.shape == (8, 8, 3) and colours.min() == 0 and colours.max() == 1 and share == pytest.approx(1)
    quarters = [colours[a, b] for a in (slice(4), slice(4, 8)) for b in (slice(4), slice(4, 8))]
    assert all(np.ptp(q, axis=(0, 1)).max() < 1e-6 for q in quarters)
    distances = [np.abs(a[0, 0] - b[0, 0]).max() for i, a in enumerate(quarters) for b in quarters[:i]]
    assert min(distances) > 0.2
    flat, share = pca_colours(np.ones((4, 3, 5)))
    assert np.isfinite(flat).all() and share == 0


@pytest.fixture(scope='session')
def toy_checkpoints(tmp_path_factory):
    """Weights of the toy segmentor and detector, not trained."""
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    from mmengine.registry import MODELS, DefaultScope

    from mmtwins.engine.launch import load_config

    paths = {}
    for config in (TOY_SEG, TOY_DET):
        cfg = load_config(str(config))
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            torch.manual_seed(0)
            model = MODELS.build({**cfg.model, '_scope_': cfg.default_scope})
        paths[config] = tmp_path_factory.mktemp('checkpoints') / 'toy.pth'
        torch.save(model.state_dict(), paths[config])
    return paths


def picture_with_a_bright_pixel(height, width, x, y):
    image = np.zeros((height, width, 3), np.uint8)
    image[y, x] = 255
    return image


@pytest.mark.parametrize(
    ('config', 'options', 'scale', 'input_size'),
    [
        (TOY_SEG, {}, (1, 1), (96, 150)),
        # Resized to twice the size, then padded to multiples of 32 below and on the right.
        (
            TOY_SEG,
            {
                'model.data_preprocessor.test_cfg': dict(size_divisor=32),
                'test_dataloader.dataset.pipeline': [
                    dict(type='LoadImageFromFile'),
                    dict(type='Resize', scale=(300, 192), keep_ratio=False),
                    dict(type='PackSegInputs'),
                ],
            },
            (2, 2),
            (192, 320),
        ),
        # keep_ratio into 128 x 128, and MMDetection's padding to multiples of 32.
        (TOY_DET, {}, (128 / 150, 82 / 96), (96, 128)),
    ],
)
def test_points_of_the_image_find_their_tokens(toy_checkpoints, config, options, scale, input_size):
    """The one bright pixel of the image is in the token that the point is said to be in."""
    inferencer = load_inferencer(config, toy_checkpoints[config], 'cpu', options)
    seen = []
    backbone = inferencer.model.backbone
    backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for x, y in ((0, 0), (147, 0), (71, 52), (127, 94)):
        image = picture_with_a_bright_pixel(96, 150, x, y)
        inspection = inspect_image(inferencer, image, [(x, y)], stages=[1], blocks=[1])
        assert inspection.input_size == input_size == tuple(seen[-1].shape[2:])
        np.testing.assert_allclose(inspection.scale, scale, rtol=1e-6)
        np.testing.assert_array_equal(inspection.image, image[..., ::-1])
        height, width = (round(side * factor) for side, factor in zip((96, 150), scale[::-1]))
        brightness = seen[-1][0].sum(dim=0)[:height, :width]
        row, column = divmod(int(brightness.argmax()), width)
        assert inspection.maps[0].token == (row // 4, column // 4)
        assert {stage: f.shape[0] for stage, f in inspection.features.items()} == {1: 32, 2: 64, 3: 128, 4: 192}


def test_errors_of_images_and_pipelines(toy_checkpoints, tmp_path):
    inferencer = load_inferencer(TOY_SEG, toy_checkpoints[TOY_SEG], 'cpu')
    image = np.zeros((96, 128, 3), np.uint8)
    for point in ((128, 5), (5, 96), (-1, 5)):
        with pytest.raises(
            ValueError, match='is outside the image of 128 x 96 pixels: x goes from 0 to 127, y from 0 to 95'
        ):
            inspect_image(inferencer, image, [(3, 3), point])
    with pytest.raises(FileNotFoundError, match=r'none\.jpg does not exist'):
        inspect_image(inferencer, tmp_path / 'none.jpg', [(3, 3)])
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(ValueError, match=r'text\.jpg cannot be read'):
        inspect_image(inferencer, tmp_path / 'text.jpg', [(3, 3)])
    load, pack = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')
    resize = dict(type='Resize', scale=(64, 64), keep_ratio=False)
    for steps, message in (
        ([load, dict(type='RandomFlip', prob=1.0), pack], 'crops or flips'),
        ([load, resize, dict(type='RandomCrop', crop_size=(32, 32)), pack], 'crops or flips'),
        (
            [load, resize, dict(pack, meta_keys=('img_path', 'ori_shape', 'img_shape'))],
            'have scale_factor in meta_keys',
        ),
    ):
        inferencer = load_inferencer(
            TOY_SEG, toy_checkpoints[TOY_SEG], 'cpu', {'test_dataloader.dataset.pipeline': steps}
        )
        with pytest.raises(ValueError, match=message):
            inspect_image(inferencer, image, [(3, 3)])


def test_errors_of_configs_and_checkpoints(toy_checkpoints, tmp_path):
    with pytest.raises(ValueError, match=r'checkpoint .*toy\.pth: '):
        load_inferencer(CONFIGS / 'ade20k/fpn_twins-svt-s_4xb4-80k_ade20k-512x512.py', toy_checkpoints[TOY_SEG], 'cpu')
    with pytest.raises(FileNotFoundError, match=r'none\.pth does not exist'):
        load_inferencer(TOY_SEG, tmp_path / 'none.pth', 'cpu')
    other = tmp_path / 'other.py'
    resnet = "dict(_delete_=True, type='ResNet', depth=18, num_stages=4)"
    other.write_text(f"_base_ = '{TOY_SEG}'\nmodel = dict(backbone={resnet})\n")
    with pytest.raises(ValueError, match='EncoderDecoder has no Twins backbone'):
        load_inferencer(other, toy_checkpoints[TOY_SEG], 'cpu')
    other.write_text("default_scope = 'mmpretrain'\n")
    with pytest.raises(ValueError, match="default_scope is 'mmpretrain', predictions need mmseg or mmdet"):
        load_inferencer(other, toy_checkpoints[TOY_SEG], 'cpu')


def test_any_public_checkpoint(toy_checkpoints, tmp_path):
    """A backbone alone, in mmseg's own names: attention needs no heads."""
    from mmtwins.weights.converting import from_native

    weights = torch.load(toy_checkpoints[TOY_SEG])
    backbone = {
        name.removeprefix('backbone.'): value for name, value in weights.items() if name.startswith('backbone.')
    }
    torch.save(from_native(backbone, 'mmseg'), tmp_path / 'mmseg.pth')
    loaded = load_inferencer(TOY_SEG, tmp_path / 'mmseg.pth', 'cpu').model.backbone.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in backbone.items())


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, path: (saved.append(self), save(self, path)))
    return saved


def axes_of(figure):
    """Panels with a heat map by title of their cell."""
    found = {}
    for band in figure.subfigs:
        for cell in band.subfigs:
            if cell._suptitle and any(axis.get_images() for axis in cell.axes):
                found.setdefault(band._suptitle.get_text(), {})[cell._suptitle.get_text()] = [
                    axis for axis in cell.axes if axis.get_images()
                ]
    return found


def test_figure_shows_the_planted_pattern(backbone, figures, tmp_path):
    """All weight on the sub-window in row 1, column 2 of 32 x 32 pixels, in an image of half the input's size."""
    attention = backbone.blocks[1][1].attn
    x = torch.rand(1, 3, 96, 128)
    tokens = input_of(backbone, attention, x)
    with torch.no_grad():
        representatives = attention.norm(attention.sr(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))[0]
    plant(attention, representatives, [(1, 2), (1, 2)])
    with capture_attention(backbone, [(100, 50), (5, 90)], stages=[2]) as maps, torch.no_grad():
        features = backbone(x)
    image = np.full((48, 60, 3), 128, np.uint8)  # 120 of the 128 columns, the others are padding
    inspection = Inspection(image, maps, {2: features[1][0].numpy()}, (96, 128), (2.0, 2.0))
    path = draw_attention(inspection, tmp_path / 'deep/attention.png', heads=True, features=True)
    assert path.stat().st_size > 10000
    (figure,) = figures
    panels = axes_of(figure)
    assert list(panels) == [
        'Output: three principal components as red, green, blue',
        *(
            f'{kind} from point {number} at x = {x}, y = {y}: {which}'
            for number, x, y in ((1, 50, 25), (2, 2, 45))
            for kind in ('LSA', 'GSA')
            for which in ('average of the heads', 'each head')
        ),
    ]
    (axis,) = panels['GSA from point 1 at x = 50, y = 25: average of the heads'][
        'stage 2, block 2: 12 x 16 tokens\nsub-windows of 4 x 4, 3 x 4 keys'
    ]
    assert axis.get_xlim() == (0, 64) and axis.get_ylim() == (48, 0) and axis.get_xlabel() == 'x (pixels)'
    heat = axis.get_images()[-1]
    assert heat.get_extent() == [0, 64, 48, 0] and heat.get_cmap().name == 'viridis'
    assert np.unravel_index(heat.get_array().argmax(), (3, 4)) == (1, 2) and heat.get_array().max() > 99
    lines = sorted({float(v) for c in axis.collections for path in c.get_paths() for v in path.vertices[:, 0]})
    assert lines == [0, 16, 32, 48, 64]  # the grid of sub-windows
    (axis,) = panels['LSA from point 1 at x = 50, y = 25: average of the heads'][
        'stage 2, block 1: 12 x 16 tokens\nwindow of 7 x 7'
    ]
    assert axis.get_xlim() == (28, 56) and axis.get_ylim() == (28, 0)
    each = panels['GSA from point 2 at x = 2, y = 45: each head']
    assert [len(axes) for axes in each.values()] == [2]


def test_figure_of_nothing(tmp_path):
    with pytest.raises(ValueError, match='no attention to draw'):
        draw_attention(Inspection(np.zeros((4, 4, 3), np.uint8), [], {}, (4, 4)), tmp_path / 'none.png')


def test_command_line(toy_checkpoints, toy_data, run_tool, tmp_path):
    image = next((toy_data / 'coco/val2017').glob('*.jpg'))
    done = run_tool(
        'visualize_attention.py', TOY_DET, toy_checkpoints[TOY_DET], image, '--points', 30, 40, 100, 90,
        '--out', 'deep/a.png', '--stages', 1, 3, '--features',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'deep/a.png').read_bytes().startswith(b'\x89PNG')


def test_errors_of_the_command_line(toy_checkpoints, toy_data, monkeypatch):
    """One line, no traceback."""
    tool = runpy.run_path(str(CONFIGS.parent / 'tools/visualize_attention.py'))
    image = next((toy_data / 'ade/images/validation').glob('*.jpg'))
    for name, message in (
        (image, 'error: point 30 128 is outside the image of 128 x 128 pixels: x goes from 0 to 127, y from 0 to 127'),
        (TOY_SEG, f'error: image {TOY_SEG} cannot be read: it is damaged or no image'),
    ):
        arguments = [TOY_SEG, toy_checkpoints[TOY_SEG], name, '--points', 30, 128, '--device', 'cpu']
        monkeypatch.setattr('sys.argv', ['visualize_attention.py', *map(str, arguments)])
        with pytest.raises(SystemExit, match=r'^error: ') as stopped:
            tool['main']()
        assert str(stopped.value) == message


def test_command_line_arguments(monkeypatch, capsys):
    tool = runpy.run_path(str(CONFIGS.parent / 'tools/visualize_attention.py'))
    for arguments, message in (
        (['--points', '1'], 'pairs of x and y, not 1 numbers'),
        (['--points', '1', '2', '--block', 'x'], '--block x: give last'),
    ):
        monkeypatch.setattr('sys.argv', ['visualize_attention.py', 'config', 'checkpoint', 'image', *arguments])
        with pytest.raises(SystemExit):
            tool['parse_args']()
        assert message in capsys.readouterr().err
    monkeypatch.setattr('sys.argv', ['x', 'config', 'checkpoint', 'image', '--points', *'1234', '--block', '9', '10'])
    args = tool['parse_args']()
    assert args.points == [(1, 2), (3, 4)] and args.block == [9, 10] and args.stages is None
