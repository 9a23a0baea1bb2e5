"""Costs of modules and whole models: counted exactly, and as published."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.analysis.cost import (
    Complexity,
    Cost,
    backbone_macs,
    best_window,
    build_model,
    calibrate,
    count,
    gsa_cost,
    gsa_macs,
    lsa_cost,
    lsa_macs,
    map_sizes,
    measure_blocks,
    num_keys,
    report_costs,
)
from mmtwins.engine.config import load_config

CONFIGS = Path(__file__).parents[2] / 'configs'
UPERNET = CONFIGS / 'ade20k' / 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'
FPN = CONFIGS / 'ade20k' / 'fpn_twins-svt-s_4xb4-80k_ade20k-512x512.py'
MASK_RCNN = CONFIGS / 'coco' / 'mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco.py'
RETINANET = CONFIGS / 'coco' / 'retinanet_twins-svt-s_fpn_8xb2-1x_coco.py'
EMBED_DIMS = dict(small=(64, 128, 256, 512), base=(96, 192, 384, 768), large=(128, 256, 512, 1024))
TINY = dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2))


def tiny_backbone(**kwargs) -> TwinsSVTBackbone:
    return TwinsSVTBackbone(arch=TINY, window_sizes=(7, 7), sr_ratios=(4, 2), out_indices=(0, 1), **kwargs)


def count_config(path: Path, height: int, width: int, **options) -> Complexity:
    for package in ('mmseg', 'mmdet', 'mmcv._ext'):
        if importlib.util.find_spec(package.partition('.')[0]) is None or importlib.util.find_spec(package) is None:
            pytest.skip(f'needs {package}')
    if not path.exists():
        pytest.skip(f'needs {path.name}')
    return count(build_model(load_config(str(path), options)), height, width)


# Exact ----------------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """One of each operation that counts, and some that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.up(self.depthwise(self.conv(x)).relu()))  # (1, 4, H, W)
        x = self.linear(x.flatten(2).transpose(1, 2))  # (1, N, 5)
        return scaled_dot_product_attention(x[:, None], x[:, None, ::2], x[:, None, ::2, :3]) @ x.new_ones(3, 2)


def test_every_operation_is_counted_by_its_definition() -> None:
    costs = count(Mixed(), 6, 10).costs
    tokens, keys = 60, 30
    expected = {
        'conv': Cost(3 * 8 * 9 + 8, 3 * 5 * 8 * 3 * 9, 3 * 5 * 8),
        'depthwise': Cost(8 * 9 + 8, 3 * 5 * 8 * 9, 3 * 5 * 8),
        'up': Cost(8 * 4 * 4 + 4, 3 * 5 * 8 * 4 * 4, 6 * 10 * 4),
        'norm': Cost(8, 0, 0),
        'linear': Cost(4 * 5 + 5, tokens * 4 * 5, tokens * 5),
    }
    own = Cost(0, tokens * keys * (5 + 3) + tokens * 3 * 2, tokens * 3 + tokens * 2)
    assert {name: cost for name, cost in costs.items() if name} == expected
    assert costs[''] == sum(expected.values(), own)


@pytest.mark.parametrize('size', [(64, 64), (61, 83)])
@pytest.mark.parametrize('window_padding', ['masked', 'zero', 'meituan'])
def test_counting_agrees_with_what_a_real_pass_computes(size: tuple[int, int], window_padding: str) -> None:
    # PyTorch's own counter, on real data and with attention that is not fused.
    attention = pytest.importorskip('torch.nn.attention')
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny_backbone(window_padding=window_padding).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), attention.sdpa_kernel(attention.SDPBackend.MATH), counter:
        model(torch.randn(1, 3, *size))
    assert 2 * count(model, *size).total.macs == counter.get_total_flops()


def test_the_model_stays_as_it_is() -> None:
    model = tiny_backbone(with_cp=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count(model, 64, 64)
    assert model.training
    assert not model._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.device('meta'):
        assert count(tiny_backbone(), 64, 64) == count(model, 64, 64)


def test_parts_add_up() -> None:
    complexity = count(tiny_backbone(), 64, 96)
    parts = [cost for name, cost in complexity.costs.items() if name and '.' not in name]
    assert sum(parts, Cost()) == complexity.total
    assert complexity.total.parameters == sum(p.numel() for p in tiny_backbone().parameters())


@pytest.mark.parametrize(('size', 'message'), [((31, 64), '31 x 64 pixels is too small'), ((0, 64), 'at least 1')])
def test_a_size_that_does_not_work_is_refused(size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count(tiny_backbone(), *size)


def test_a_model_that_needs_values_is_refused() -> None:
    class ValueDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[x > x.mean()]

    with pytest.raises(ValueError, match='ValueDependent cannot be counted at 8 x 8 pixels without computing'):
        count(ValueDependent(), 8, 8)


def test_a_model_whose_constructor_reads_values_is_counted() -> None:
    """Those of MMSegmentation's backbones read drop path rates, which are not there on the meta device."""
    pytest.importorskip('mmseg')
    pytest.importorskip('mmcv._ext')
    model = dict(type='SVT', embed_dims=[8, 8, 8], num_heads=[1, 1, 1], depths=[2, 2, 2])
    cfg = Config(dict(model=model, default_scope='mmseg'))
    with pytest.raises(RuntimeError), torch.device('meta'), DefaultScope.overwrite_default_scope('mmseg'):
        MODELS.build(cfg.model)
    model = build_model(cfg)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert count(model, 64, 64).total.macs > 0


# As published ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('arch', 'gmacs'), [('small', 2.9), ('base', 8.6), ('large', 15.1)])
def test_backbones_at_224(arch: str, gmacs: float) -> None:
    with torch.device('meta'):
        model = TwinsSVTBackbone(arch=arch)
    assert round(count(model, 224, 224).total.macs / 1e9, 1) == gmacs


@pytest.mark.parametrize(
    ('arch', 'parameters', 'gmacs'), [('small', 53.9, 228), ('base', 87.7, 261), ('large', 132.8, 297)]
)
def test_upernet(arch: str, parameters: float, gmacs: float) -> None:
    dims = EMBED_DIMS[arch]
    options = {
        'model.backbone.arch': arch,
        'model.decode_head.in_channels': dims,
        'model.auxiliary_head.in_channels': dims[2],
    }
    total = count_config(UPERNET, 512, 512, **options).total
    assert round(total.parameters / 1e6, 1) == parameters
    assert total.macs / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_semantic_fpn() -> None:
    assert round(count_config(FPN, 512, 512).total.parameters / 1e6, 1) == 27.8


# The published detectors carry the unused ImageNet classifier, 512 x 1000 weights and 1000 biases.
UNUSED_HEAD = 0.513


def test_retinanet() -> None:
    total = count_config(RETINANET, 800, 600).total
    assert 34.3 - UNUSED_HEAD - 0.05 <= total.parameters / 1e6 <= 34.3
    assert total.macs / 1e9 == pytest.approx(104, rel=0.03)


def test_mask_rcnn() -> None:
    costs = count_config(MASK_RCNN, 800, 600).costs
    assert 44.0 - UNUSED_HEAD <= costs[''].parameters / 1e6 <= 44.0
    assert costs[''].macs / 1e9 == pytest.approx(147.5, abs=0.05)
    # The published 164 G are met where the mask head's transposed convolution, 2 x 2 with stride 2, is charged per output
    # instead of per input: four times what it executes.
    upsample = costs['roi_head.mask_head.upsample'].macs
    assert (costs[''].macs + 3 * upsample) / 1e9 == pytest.approx(164, rel=0.01)


def test_the_number_of_proposals_counts() -> None:
    count_config(MASK_RCNN, 64, 64)
    model = build_model(load_config(str(MASK_RCNN)))
    few, many = (count(model, 64, 64, num_proposals=n).costs for n in (10, 1000))
    assert many['roi_head.bbox_head'].macs == 100 * few['roi_head.bbox_head'].macs
    assert many['roi_head.mask_head'].macs == 10 * few['roi_head.mask_head'].macs  # sees 100 at most


# tools/get_complexity.py ----------------------------------------------------------------------------------------------


def test_get_complexity_prints_and_writes_what_is_counted(run_tool, tmp_path: Path) -> None:
    complexity = count_config(UPERNET, 64, 64)
    done = run_tool(
        'get_complexity.py', UPERNET, '--shape', 64, '--depth', 1, '--json', tmp_path / 'new' / 'costs.json'
    )
    assert done.returncode == 0, done.stderr
    assert f'Parameters 53.86 M, {complexity.total.macs / 1e9:.2f} GMACs' in done.stdout
    assert 'decode_head' in done.stdout
    assert 'patch_embeds' not in done.stdout
    assert '1 MAC = 2 FLOPs' in done.stdout
    written = json.loads((tmp_path / 'new' / 'costs.json').read_text())
    assert written == json.loads(json.dumps(complexity.to_dict()))
    assert written['total']['flops'] == 2 * complexity.total.macs


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([UPERNET, '--shape', '16'], 'error: an image of 16 x 16 pixels is too small'),
        ([UPERNET, '--shape', '64', '--cfg-options', 'model.backbone.arch=huge'], "arch='huge' is unknown"),
    ],
)
def test_get_complexity_says_what_is_wrong_in_one_line(arguments: list, message: str, run_tool) -> None:
    count_config(UPERNET, 64, 64)
    done = run_tool('get_complexity.py', *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert 'Traceback' not in done.stderr


# Closed form ----------------------------------------------------------------------------------------------------------


def test_the_papers_cost_has_its_minimum_at_the_root() -> None:
    for height, width in ((224, 224), (56, 56), (50, 84)):
        k, _ = best_window(height, width)
        least = lsa_cost(height, width, 64, k, k) + gsa_cost(height, width, 64, k, k)
        assert least == pytest.approx(2 * height * width * 64 * (height * width) ** 0.5)
        for other in (0.9 * k, 1.1 * k):
            assert lsa_cost(height, width, 64, other, other) + gsa_cost(height, width, 64, other, other) > least
    assert lsa_cost(10, 20, 3, 4, 5) == 4 * 5 * 10 * 20 * 3
    assert gsa_cost(10, 20, 3, 4, 5) == 10**2 * 20**2 * 3 / (4 * 5)


def test_the_papers_own_numbers() -> None:
    assert best_window(224, 224) == (pytest.approx(14.97, abs=0.005), 15)
    assert best_window(56, 56) == (pytest.approx(56**0.5), 7)
    reports = report_costs('small', 224, 224)
    assert [(r.height, r.best_integer_k) for r in reports] == [(224, 15), (56, 7), (28, 5), (14, 4), (7, 3)]
    assert [r.keys for r in reports[1:]] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    assert [r.sr_keys for r in reports[1:]] == [(7, 7)] * 4


def counted_stages(model_class: type, **kwargs) -> list[int]:
    """MACs per stage by counting: a backbone ends with the last stage that it returns."""
    size = kwargs.pop('size')
    with torch.device('meta'):
        totals = [count(model_class(out_indices=(i,), **kwargs), *size).total.macs for i in range(4)]
    return [b - a for a, b in zip([0, *totals], totals)]


@pytest.mark.parametrize('window_padding', ['masked', 'zero', 'meituan'])
@pytest.mark.parametrize('size', [(224, 224), (225, 333), (512, 683), (96, 32)])
def test_closed_form_is_what_is_executed(size: tuple[int, int], window_padding: str) -> None:
    kwargs = dict(arch='small', window_padding=window_padding)
    stages = backbone_macs(height=size[0], width=size[1], **kwargs)
    assert [sum(stage.values()) for stage in stages] == counted_stages(TwinsSVTBackbone, size=size, **kwargs)


def test_closed_form_with_other_settings() -> None:
    kwargs = dict(arch='base', window_sizes=(9, 5, 4, 3), sr_ratios=(5, 3, 1, 2), patch_padding='corner', in_channels=4)
    closed = backbone_macs(height=179, width=301, **kwargs)
    with torch.device('meta'):
        assert sum(sum(s.values()) for s in closed) == count(TwinsSVTBackbone(**kwargs), 179, 301, 4).total.macs
    closed = backbone_macs('small', 179, 301, window_sizes=None)
    assert [sum(stage.values()) for stage in closed] == counted_stages(TwinsPCPVTBackbone, size=(179, 301))


def test_parts_of_the_closed_form() -> None:
    # A 10 x 7 map in windows of 4: 2 x 1 whole ones, two of 4 x 3, one of 2 x 4, one of 2 x 3.
    assert lsa_macs(10, 7, 8, 4)['attention'] == 2 * 8 * (2 * 16**2 + 2 * 12**2 + 8**2 + 6**2)
    assert lsa_macs(10, 7, 8, 4, 'zero')['attention'] == 2 * 8 * 70 * 16
    assert gsa_macs(10, 7, 8, 3) == dict(
        projections=(2 * 70 + 2 * 6) * 64, subsampling=6 * 9 * 64, attention=2 * 8 * 70 * 6
    )
    assert gsa_macs(10, 7, 8, 1) == dict(projections=4 * 70 * 64, subsampling=0, attention=2 * 8 * 70 * 70)


# Calibration ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('arch', ['small', 'base', 'large'])
def test_at_224_the_published_model_is_the_calibrated_one(arch: str) -> None:
    assert calibrate(arch, 224, 224) == dict(window_sizes=(7, 7, 7, 7), sr_ratios=(8, 4, 2, 1))


@pytest.mark.parametrize(('size', 'min_keys'), [((512, 512), 49), ((320, 448), 100), ((64, 64), 4), ((33, 65), 49)])
def test_nothing_allowed_is_cheaper_than_calibrated(size: tuple[int, int], min_keys: int) -> None:
    best = calibrate('small', *size, min_keys=min_keys)
    least = [sum(stage.values()) for stage in backbone_macs('small', *size, **best)]
    for i, (height, width) in enumerate(map_sizes(*size)):
        assert num_keys(height, width, best['sr_ratios'][i]) >= min_keys or best['sr_ratios'][i] == 1
        for r in range(1, min(height, width) + 1):
            unseen = 1 - num_keys(height, width, r) * r * r / (height * width)
            if r > 1 and (num_keys(height, width, r) < min_keys or unseen > 0.05):
                continue
            for k in range(max(r - 1, 1), max(height, width) + 1):
                if k * k < min_keys and k < max(height, width):
                    continue
                windows = {name: list(values) for name, values in best.items()}
                windows['window_sizes'][i], windows['sr_ratios'][i] = k, r
                assert sum(backbone_macs('small', *size, **windows)[i].values()) >= least[i], (i, k, r)
    with torch.device('meta'):
        model = TwinsSVTBackbone(**best)
        if min(size) >= model.min_input_side:
            assert count(model, *size).total.macs == sum(least)


def test_calibrate_refuses_what_makes_no_sense() -> None:
    for arguments in (dict(height=16), dict(min_keys=0), dict(max_unseen=2)):
        with pytest.raises(ValueError, match='give at least 32 x 32 pixels, one key and a share'):
            calibrate(**{'arch': 'small', 'height': 64, 'width': 64, **arguments})
    with pytest.raises(ValueError, match="arch='huge' is unknown"):
        calibrate('huge', 64, 64)


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('ade20k/upernet_twins-svt-s-calibrated_8xb2-160k_ade20k-512x512.py', (512, 512)),
        ('coco/mask-rcnn_twins-svt-s-calibrated_fpn_8xb2-1x_coco.py', (800, 1344)),
    ],
)
def test_calibrated_configs_are_what_calibrate_gives(name: str, size: tuple[int, int]) -> None:
    count_config(CONFIGS / name, 128, 128)
    backbone = load_config(str(CONFIGS / name)).model.backbone
    windows = calibrate(backbone.arch, *size, window_padding=backbone.window_padding)
    assert {key: tuple(backbone[key]) for key in windows} == windows
    with torch.device('meta'):
        saved = count(TwinsSVTBackbone(**windows), *size).total.macs / count(TwinsSVTBackbone(), *size).total.macs
    assert saved < 0.94


# tools/gsa_cost.py ----------------------------------------------------------------------------------------------------


def test_gsa_cost_shows_the_papers_numbers_and_draws(run_tool, tmp_path: Path) -> None:
    done = run_tool('gsa_cost.py', '--input', 224, 224, '--out', 'pictures')
    assert done.returncode == 0, done.stderr
    for text in ('14.97', '7.48', '8 x 8, 4 x 4, 2 x 2, 1 x 1 keys', '8 4 2 1, keeps at least 7 x 7'):
        assert text in ' '.join(done.stdout.split()), text
    assert (tmp_path / 'pictures' / 'cost.png').read_bytes().startswith(b'\x89PNG')


def test_gsa_cost_measures_over_k(run_tool, tmp_path: Path) -> None:
    done = run_tool('gsa_cost.py', '--input', 32, '--measure', '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r'stage 1, a local and a global block, cpu: k = \d+: \d+\.\d\d ms', ' '.join(done.stdout.split()))


def test_measured_k_are_counted_exactly() -> None:
    stage = report_costs(TINY, 64, 64)[1]
    measured = measure_blocks(stage, mlp_ratio=2, min_seconds=0.001)
    assert {stage.best_integer_k, stage.k} <= {m.k for m in measured}
    for m in measured:
        block = tiny_backbone(window_padding='masked').blocks[0]
        attention = (lsa_macs(16, 16, 8, m.k), gsa_macs(16, 16, 8, m.k))
        mlp = 2 * count(block[0].mlp, 16, 8, in_channels=16).total.macs
        assert m.macs == sum(sum(part.values()) for part in attention) + mlp
        assert m.seconds > 0


def test_gsa_cost_compares_and_updates_a_document(run_tool, tmp_path: Path) -> None:
    path = tmp_path / 'a.md'
    path.write_text('before\n<!-- comparison: begin -->\nold\n<!-- comparison: end -->\nafter\n')
    done = run_tool('gsa_cost.py', '--compare', 224, 512, '--out', tmp_path, '--update', path)
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    assert text.startswith('before\n<!-- comparison: begin -->\n| image')
    assert '| 512 x 512 | calibrated | 13 8 7 7 | 14 9 4 2 | 31.2 | 15.44 | 0.93 |\n' in text
    assert text.endswith('|\n<!-- comparison: end -->\nafter\n')
    assert 'old' not in text
    for name in ('comparison.png', 'idea.png'):
        assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')
    path.write_text('no markers')
    done = run_tool('gsa_cost.py', '--compare', 224, '--out', tmp_path, '--update', path)
    assert 'error: ' in done.stderr
    assert 'has no section between <!-- comparison: begin -->' in done.stderr


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--input', '16'], 'error: 16 x 16 pixels leave no token in the last stage'),
        (['--update', 'a.md'], '--update goes with --compare'),
    ],
)
def test_gsa_cost_says_what_is_wrong_in_one_line(arguments: list[str], message: str, run_tool) -> None:
    done = run_tool('gsa_cost.py', *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
