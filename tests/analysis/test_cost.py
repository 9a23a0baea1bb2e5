"""Costs in closed form: the paper's, what is executed, and the windows that cost the least."""

from functools import cache, partial
from itertools import product

import pytest
import torch
from costs import CONFIGS, require_libraries
from tiny import TINY
from torch import nn

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.analysis.cost import (
    PUBLISHED_SR_RATIOS,
    backbone_macs,
    best_window,
    calibrate,
    gsa_cost,
    gsa_macs,
    lsa_cost,
    lsa_macs,
    num_keys,
    pareto_front,
    setting_of,
)
from mmtwins.analysis.counting import count
from mmtwins.engine.config import load_config
from mmtwins.models.layers import map_sizes

PARTS = {
    'patch_embed', 'peg', 'lsa_projections', 'lsa_attention', 'gsa_projections', 'gsa_subsampling', 'gsa_attention', 'mlp'
}  # fmt: skip


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


@cache
def build(model_class: type, **kwargs: object) -> nn.Module:
    """A backbone without data; the same one for the same arguments."""
    with torch.device('meta'):
        return model_class(**kwargs)


def counted_stages(model_class: type, size: tuple[int, int], **kwargs) -> list[int]:
    """MACs per stage by counting."""
    make = model_class if isinstance(kwargs['arch'], dict) else partial(build, model_class)
    complexity = count(make(**kwargs), *size)
    stages = [
        sum(complexity.costs[f'{part}.{i}'].macs for part in ('patch_embeds', 'blocks', 'pos_block')) for i in range(4)
    ]
    assert sum(stages) == complexity.total.macs
    return stages


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
    assert closed[3].keys() == PARTS
    closed = backbone_macs('small', 179, 301, window_sizes=None)
    assert closed[3].keys() == {part for part in PARTS if not part.startswith('lsa_')}
    assert [sum(stage.values()) for stage in closed] == counted_stages(
        TwinsPCPVTBackbone, size=(179, 301), arch='small'
    )


@pytest.mark.parametrize(
    ('subsampling', 'window_padding'),
    [
        ('conv', 'meituan'),
        ('separable', 'zero'),
        ('pool', 'masked'),
        (('pool', 'separable', 'conv', 'separable'), 'meituan'),
    ],
)
def test_rectangles_and_all_sub_samplings_in_closed_form(subsampling: str | tuple, window_padding: str) -> None:
    svt = dict(window_sizes=((7, 3), 5, (4, 9), (1, 2)), window_padding=window_padding, patch_padding='corner')
    common = dict(sr_ratios=((8, 5), (3, 4), (1, 2), 1), subsampling=subsampling, arch=TINY)
    for size in ((131, 203), (96, 203)):
        closed = [sum(stage.values()) for stage in backbone_macs(height=size[0], width=size[1], **common, **svt)]
        assert closed == counted_stages(TwinsSVTBackbone, size, **common, **svt)
    closed = [sum(stage.values()) for stage in backbone_macs(height=131, width=203, window_sizes=None, **common)]
    assert closed == counted_stages(TwinsPCPVTBackbone, (131, 203), **common)


def test_sub_sampling_costs_by_kind() -> None:
    # 3 x 2 sub-windows of 3 x 3 tokens. An average only adds, and additions are no MACs, as the counter has it.
    keys, dim = 6, 8
    macs = {kind: gsa_macs(10, 7, dim, 3, kind)['subsampling'] for kind in ('conv', 'separable', 'pool')}
    assert macs == dict(conv=keys * dim * dim * 9, separable=keys * (dim * 9 + dim * dim), pool=0)
    assert count(nn.AvgPool2d(3), 10, 7, dim).total.macs == 0
    assert gsa_macs(10, 7, dim, (1, 1), 'separable')['subsampling'] == 0
    assert num_keys(10, 7, (5, 2)) == 2 * 3
    with pytest.raises(ValueError, match="subsampling='max' is unknown"):
        gsa_macs(10, 7, 8, 3, 'max')


@pytest.mark.parametrize('name', ['window_sizes', 'sr_ratios'])
def test_the_closed_form_needs_one_value_per_stage(name: str) -> None:
    with pytest.raises(ValueError, match=rf'{name}=\(7, 7, 7\) does not match the 4 stages'):
        backbone_macs('small', 64, 64, **{name: (7, 7, 7)})


def test_parts_of_the_closed_form() -> None:
    # A 10 x 7 map in windows of 4: 2 x 1 whole ones, two of 4 x 3, one of 2 x 4, one of 2 x 3.
    assert lsa_macs(10, 7, 8, 4)['attention'] == 2 * 8 * (2 * 16**2 + 2 * 12**2 + 8**2 + 6**2)
    assert lsa_macs(10, 7, 8, 4, 'zero')['attention'] == 2 * 8 * (12 * 8) * 16  # padding tokens ask too
    assert gsa_macs(10, 7, 8, 3) == dict(
        projections=(2 * 70 + 2 * 6) * 64, subsampling=6 * 9 * 64, attention=2 * 8 * 70 * 6
    )
    assert gsa_macs(10, 7, 8, 1) == dict(projections=4 * 70 * 64, subsampling=0, attention=2 * 8 * 70 * 70)


@pytest.mark.parametrize('arch', ['small', 'base', 'large'])
def test_at_224_the_published_model_is_the_calibrated_one(arch: str) -> None:
    assert calibrate(arch, 224, 224) == dict(window_sizes=(7, 7, 7, 7), sr_ratios=PUBLISHED_SR_RATIOS)


@pytest.mark.parametrize(('size', 'min_keys'), [((512, 512), 49), ((320, 448), 101), ((64, 64), 4), ((33, 65), 49)])
def test_nothing_allowed_is_cheaper_than_calibrated(size: tuple[int, int], min_keys: int) -> None:
    best = calibrate('small', *size, min_keys=min_keys)
    least = [sum(stage.values()) for stage in backbone_macs('small', *size, **best)]
    for i, (height, width) in enumerate(map_sizes(*size)):
        assert num_keys(height, width, best['sr_ratios'][i]) >= min_keys or best['sr_ratios'][i] == 1
        assert best['window_sizes'][i] ** 2 >= min_keys or best['window_sizes'][i] >= max(height, width)
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


SMALL = dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2))


@cache
def all_settings(kind: str, height: int, width: int, min_keys: int) -> list[tuple]:
    """(MACs, parameters, keys, windows, ratios) of everything that is allowed, by counting parameters of each model."""
    maps = map_sizes(height, width, 2)
    stages = []
    for size in maps:
        stage = []
        for r, k in product(range(1, min(size) + 1), range(1, max(size) + 1)):
            keys = num_keys(*size, r)
            enough = r == 1 or (keys >= min_keys and 1 - keys * r * r / (size[0] * size[1]) <= 0.05)
            if enough and (k * k >= min_keys or k == max(size)) and r <= k + 1:
                stage.append((k, r, keys))
        stages.append(stage)
    found = []
    for (k1, r1, keys1), (k2, r2, keys2) in product(*stages):
        macs = sum(
            sum(stage.values()) for stage in backbone_macs(SMALL, height, width, (k1, k2), (r1, r2), subsampling=kind)
        )
        model = weights_of(kind, r1, r2)
        found.append((macs, model, min(keys1, keys2), (k1, k2), (r1, r2)))
    return found


@cache
def weights_of(kind: str, r1: int, r2: int) -> int:
    with torch.device('meta'):
        model = TwinsSVTBackbone(
            arch=SMALL, window_sizes=(7, 7), sr_ratios=(r1, r2), subsampling=kind, out_indices=(0, 1)
        )
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize('kind', ['conv', 'separable', 'pool'])
def test_the_front_is_what_brute_force_finds(kind: str) -> None:
    for height, width, min_keys in ((64, 64, 4), (48, 48, 9)):
        everything = all_settings(kind, height, width, min_keys)
        costs = {setting[:3] for setting in everything}
        expected = {
            one
            for one in costs
            if not any(a[0] <= one[0] and a[1] <= one[1] and a[2] >= one[2] for a in costs if a != one)
        }
        front = pareto_front(SMALL, height, width, min_keys, subsampling=kind)
        assert {setting[:3] for setting in front} == expected
        assert len(front) == len(expected) >= 4
        assert [setting.macs for setting in front] == sorted(setting.macs for setting in front)
        places = {setting[3:]: setting[:3] for setting in everything}
        for setting in front:
            assert places[setting.window_sizes, setting.sr_ratios] == setting[:3]
            assert setting.arguments['subsampling'] == (kind, kind)


def test_calibration_within_bounds_is_the_best_of_everything_allowed() -> None:
    everything = all_settings('conv', 40, 64, 4)
    places = {setting[3:]: setting[:3] for setting in everything}
    at = partial(calibrate, SMALL, 40, 64, 4)

    def found(**bounds) -> tuple[int, int, int]:
        windows = at(**bounds)
        return places[windows['window_sizes'], windows['sr_ratios']]

    cheapest = min(macs for macs, *_ in everything)
    assert found()[0] == found(max_params=10**9)[0] == cheapest
    for most in sorted({parameters for _, parameters, *_ in everything})[:4]:
        assert found(max_params=most)[0] == min(one[0] for one in everything if one[1] <= most)
    for most in (cheapest, round(1.05 * cheapest), round(1.2 * cheapest)):
        assert found(max_macs=most)[1] == min(one[1] for one in everything if one[0] <= most)
        within = [one for one in everything if one[0] <= most and one[1] <= 12000]
        keys = max(one[2] for one in within)
        assert found(max_macs=most, max_params=12000) == min(one[:3] for one in within if one[2] == keys)
    with pytest.raises(ValueError, match=f'max_macs=1000: no windows are within this. The fewest MACs are {cheapest}'):
        at(max_macs=1000)
    with pytest.raises(ValueError, match='max_params=1, max_macs=2: no windows'):
        at(max_macs=2, max_params=1)


def test_calibrate_knows_the_sub_sampling() -> None:
    dear, cheap = (calibrate('small', 512, 512, subsampling=kind) for kind in ('conv', 'pool'))
    assert dear == dict(window_sizes=(13, 8, 7, 7), sr_ratios=(14, 9, 4, 2))
    assert cheap == dict(window_sizes=(13, 7, 7, 7), sr_ratios=(14, 8, 4, 2))
    mixed = calibrate('small', 512, 512, subsampling=('conv', 'pool', 'conv', 'pool'))
    assert mixed['sr_ratios'] == (14, 8, 4, 2)
    with pytest.raises(ValueError, match="subsampling='max' is unknown"):
        calibrate('small', 64, 64, subsampling='max')


def test_a_given_setting_has_the_costs_of_its_model() -> None:
    given = dict(window_sizes=(5, 6, 7, 8), sr_ratios=(4, 3, 2, 1), subsampling=('pool', 'conv', 'separable', 'conv'))
    setting = setting_of('small', 128, 160, **given)
    whole = count(build(TwinsSVTBackbone, **given), 128, 160).total
    assert setting[:3] == (whole.macs, whole.parameters, 20) and setting.arguments == given


def test_calibrate_refuses_what_makes_no_sense() -> None:
    for arguments in (dict(height=16), dict(min_keys=0), dict(max_unseen=2), dict(max_unseen=-0.1)):
        with pytest.raises(ValueError, match='give at least 32 x 32 pixels, one key and a share'):
            calibrate(**{'arch': 'small', 'height': 64, 'width': 64, **arguments})
    for least in (dict(height=32, width=32), dict(min_keys=1), dict(max_unseen=0), dict(max_unseen=1)):  # allowed
        calibrate(**{'arch': 'small', 'height': 64, 'width': 64, **least})
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
    require_libraries()
    backbone = load_config(str(CONFIGS / name)).model.backbone
    windows = calibrate(backbone.arch, *size, window_padding=backbone.window_padding)
    assert {key: tuple(backbone[key]) for key in windows} == windows
    with torch.device('meta'):
        saved = count(TwinsSVTBackbone(**windows), *size).total.macs / count(TwinsSVTBackbone(), *size).total.macs
    assert saved < 0.94
